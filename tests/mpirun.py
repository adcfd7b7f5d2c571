"""Trainings under mpiexec, for the tests of ranks and of their faults."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from small import ROOT, SIZES, environment, text

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join(
    [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
mpi = pytest.mark.skipif(MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
                         reason="needs mpiexec and mpi4py")
in_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(),
                             reason="looks for ranks in /proc")
OPTIONS = ["train", "--dropout=0.1", "--batch-size=8", "--val-fraction=0.1", "--eval-every=10"]
FEMTOGPT = [sys.executable, "-m", "femtogpt"]
TRAIN = [*FEMTOGPT, *OPTIONS]
# What --code of begin() may use: its rank, and the command, which it has to call.
BEFORE = """
import os
from femtogpt.cli import main, ranks, train
from femtogpt.launch import NUMBERS
rank = int(next(os.environ[name] for name in NUMBERS if name in os.environ))
"""


def fill(folder):
    """dataset.txt, and a model: start."""
    (folder / "dataset.txt").write_text(text(6000))
    subprocess.run([*FEMTOGPT, "init", "--tokenizer=char", *SIZES, "--num-layers=2",
                    "--num-tokens=64", "--model=start"],
                   cwd=folder, check=True, env=environment(), stdout=subprocess.DEVNULL)
    return folder


def begin(folder, ranks, model, *arguments, code=None):
    """mpiexec -n ranks femtogpt train, as a process. code: what each does before, in Python."""
    command = TRAIN if code is None else [sys.executable, "-c", f"{BEFORE}{code}\nmain()", *OPTIONS]
    return subprocess.Popen(
        [MPIEXEC, "-n", str(ranks), *command, f"--model={model}", *arguments], cwd=folder,
        env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True)


def finish(process, exit_code=0):
    """What it said, at its end."""
    try:
        out, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == exit_code, out
    return out


def processes(model):
    """The ids of the ranks that train a model, in the order of their start (Linux)."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"--model={model}".encode() in command and b"mpiexec" not in command[0]:
            found.append(int(place.name))
    return sorted(found)


def all_ended(model):
    """Whether none of them is left soon after mpiexec has ended, which kills the last in passing.
    """
    until = time.monotonic() + 10
    while processes(model) and time.monotonic() < until:
        time.sleep(0.01)
    return not processes(model)
