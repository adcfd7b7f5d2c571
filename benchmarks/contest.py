"""What the benchmarks share: contestants in processes of their own, and the machine's facts.

A contestant is a process of contestants.py: its threads and its memory are its own, and it
sleeps until it is asked for so many steps. This side imports neither numpy nor numba.
"""

import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from femtogpt.machine import processor_name

HERE = Path(__file__).resolve().parent
PAUSE = 0.25  # seconds before a turn: PyTorch's and OpenBLAS's threads spin after their work
TURN_MS = 600
DROPPED_MS = 100  # of a turn: the caches still hold the others' numbers
ROUNDS = 3  # at least, whatever the seconds
FEMTOGPT = [sys.executable, "-c", "from femtogpt.cli import main; main()"]  # as installed
PRODUCT = 1536  # the width of the products that sgemm's peak is measured with


class Contestant:
    """A process that does steps when it is asked to. A context manager.

    kind: "ours", "torch" or "sgemm". shape: (V, T, C, L, NH, batch size). environment: a
    dict, beside our own. precision: float32, or bf16, PyTorch's by its autocast. text: a file to
    train on [default: random tokens]. folder: where contestants.py is. ready: what the
    process said of itself, after two steps; answer: the last, with its peak resident memory and
    the processors' seconds it used.
    """

    def __init__(self, kind, threads, shape=None, optimizer="adamw", environment=None,
                 precision="float32", text=None, folder=HERE):
        options = {"threads": threads, "shape": shape, "optimizer": optimizer,
                   "precision": precision, "text": text}
        command = [sys.executable, str(folder / "contestants.py"), kind, json.dumps(options)]
        self.kind, self.ms = kind, []
        for _ in range(2):
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=os.environ | (environment or {}))
            self.ready = self.answer = self._read()
            if not self.ready["compiled"]:
                break
            self.close()  # compiling took memory; the next process finds all in the cache
        else:
            sys.exit("the cache of compiled kernels can't be written: memory would be numba's")
        self.about = min(self.ready["ms"])

    def ask(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        self.answer = self._read()
        return self.answer

    def turn(self):
        """Steps for about TURN_MS, at least one; what they took is added to self.ms."""
        time.sleep(PAUSE)
        dropped = round(DROPPED_MS / self.about)
        ms = self.ask(dropped + math.ceil((TURN_MS - DROPPED_MS) / self.about))["ms"]
        self.ms += ms[dropped:]
        self.about = min(ms)

    @property
    def median(self):
        return statistics.median(self.ms)

    @property
    def gflops(self):
        """Of an sgemm contestant: its best."""
        return 2 * PRODUCT**3 / min(self.ms) / 1e6

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the process of {self.kind} ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def alternate(contestants, seconds):
    """Turns of one after the other for about `seconds`. Returns what other processes did to
    the machine meanwhile (Linux; elsewhere None): the share of all processors' time that
    they had, "others", and that the host gave to other machines, "stolen"."""
    def used():
        return time.process_time() + sum(c.ask(0)["cpu_seconds"] for c in contestants)

    before, own, began = _processors(), used(), time.perf_counter()
    rounds = 0
    while rounds < ROUNDS or time.perf_counter() < began + seconds:
        for contestant in contestants:
            contestant.turn()
        rounds += 1
    after, own = _processors(), used() - own
    if not before or not after:
        return {"others": None, "stolen": None}
    capacity = os.cpu_count() * (time.perf_counter() - began)
    return {"others": max(0, after[0] - before[0] - own) / capacity,
            "stolen": (after[1] - before[1]) / capacity}


def _processors():
    """Seconds that all processors were (busy, stolen) since the start; None if not told."""
    try:
        line = Path("/proc/stat").read_text().split("\n")[0]
    except OSError:
        return None
    user, nice, system, _, _, irq, soft, stolen = (
        int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in line.split()[1:9])
    return user + nice + system + irq + soft, stolen


def peers(folder):
    """([(name, environment)], [what is missing and why]): the ways to run PyTorch here.

    On AMD processors the MKL inside PyTorch takes slow paths, unless it believes that it
    runs on Intel's. "opened" makes it believe so: a shared object, built into `folder`, is
    loaded before MKL and answers its question.
    """
    if importlib.util.find_spec("torch") is None:
        return [], ["PyTorch is not installed: ours alone"]
    installed = [("torch", {})]
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return installed, ["PyTorch opened: only on Linux and x86-64"]
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return installed, ["PyTorch opened: there is no C compiler (cc, gcc, clang) to build it"]
    path = str(Path(folder, "opened.so"))
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", path], check=True,
                   input="int mkl_serv_intel_cpu_true(void) { return 1; }\n", text=True)
    preload = ":".join(filter(None, (path, os.environ.get("LD_PRELOAD"))))
    return [*installed, ("opened", {"LD_PRELOAD": preload})], []


def whole_process(command, cwd, environment=None):
    """Runs a command to its end: (seconds, peak resident MB or None, what it printed)."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, env=os.environ | (environment or {}))
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            peak = maxrss_mb(usage)
        else:  # Windows
            process.wait()
            peak = None
        seconds = time.perf_counter() - began
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}:\n{text}")
    return seconds, peak, text


def maxrss_mb(usage):
    """Peak resident memory of a resource usage: bytes on macOS, KiB elsewhere."""
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def cold_process(command, cwd):
    """whole_process() as if femtogpt was just installed: its cache of compiled kernels is
    empty. None where that can't be had (the cache is not where XDG_CACHE_HOME says)."""
    with tempfile.TemporaryDirectory() as cache:
        result = whole_process(command, cwd, {"XDG_CACHE_HOME": cache})
        return result if any(Path(cache).rglob("*.nbi")) else None


def machine():
    """Processor, system and versions, in a line."""
    name, system = processor_name(), f"{platform.system()} {platform.release()}"
    versions = [f"Python {platform.python_version()}"]
    for package in ("numpy", "numba", "torch"):
        if importlib.util.find_spec(package):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return f"{name}, {os.cpu_count()} processors, {system}, {', '.join(versions)}"


def shown(value, form):
    """A number as text; "n/a" where there is none."""
    return "n/a" if value is None else format(value, form)


def row(*cells):
    """A line of a Markdown table; its columns meet where the cells are short."""
    return "| " + " | ".join(f"{cell:>9}" for cell in cells) + " |"


def print_heading(*cells):
    print(row(*cells))
    print(row(*["---:"] * len(cells)))
