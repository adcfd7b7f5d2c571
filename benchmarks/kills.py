"""Kills training at random moments and counts what was lost: nothing should be.

    python benchmarks/kills.py                       200 kills, some ten minutes
    python benchmarks/kills.py --kills 20 --json
    python benchmarks/kills.py --memory-cgroup /sys/fs/cgroup/memory

A run of 300 steps is killed and resumed until it is through, then another begins. A third of the
kills come at a random time, a third inside a save (faults.py), a third by lack of memory: by
the kernel's OOM killer where a memory cgroup is given that we may make groups in, else by
RLIMIT_AS, so that an allocation fails. Each process has its own number of threads and its own
--save-every, some write a log or samples. After every kill the model, and the best beside it,
must load; while they train a second process reads the model again and again. At the end the
files must be, to the byte, those of a run that was never killed.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests")]

STEPS = 300
FEMTOGPT = [sys.executable, "-c", "from femtogpt.cli import main; main(prog_name='femtogpt')"]
OPTIONS = [f"--steps={STEPS}", "--batch-size=8", "--dropout=0.1", "--warmup-steps=5",
           "--val-fraction=0.1", "--eval-every=10", "--sample-every=0"]
KINDS = ("time", "save", "memory")
LAST_MOMENT = 12_000  # of faults.py, about as many as a whole run has


def run_whole(folder, options):
    subprocess.run([*FEMTOGPT, "train", "--model=whole.safetensors", *options], cwd=folder,
                   check=True, stderr=subprocess.DEVNULL)


class MemoryGroup:
    """A memory cgroup (version 1 or 2) of ours, in which another program takes what is left."""

    HOG = ("import sys; open(sys.argv[1], 'w').write('0'); "
           "open('/proc/self/oom_score_adj', 'w').write('-1000'); "
           "taken = [bytearray(4 << 20) for _ in range(64)]; input()")

    def __init__(self, root):
        self.path = Path(root) / f"femtogpt-kills-{os.getpid()}"
        self.path.mkdir()
        first = (self.path / "memory.max").exists()
        self.limit = self.path / ("memory.max" if first else "memory.limit_in_bytes")
        self.usage = self.path / ("memory.current" if first else "memory.usage_in_bytes")

    def add(self, process):
        (self.path / "cgroup.procs").write_text(str(process.pid))
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")

    def starve(self, process):
        """Until the kernel has killed the process."""
        self.limit.write_text(str(int(self.usage.read_text()) + (16 << 20)))
        with subprocess.Popen([sys.executable, "-c", self.HOG, self.path / "cgroup.procs"],
                              stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as hog:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            hog.kill()
        self.limit.write_text(str(1 << 40))

    def close(self):
        self.path.rmdir()


class Reader(threading.Thread):
    """Loads the model again and again while others train it."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.loads, self.steps, self.failures = path, 0, set(), []
        self.stopping = threading.Event()

    def run(self):
        from femtogpt import checkpoint

        while not self.stopping.wait(0.002):
            try:
                model = checkpoint.load(self.path)
            except Exception as error:  # whatever it is, it is what we look for
                self.failures.append(repr(error))
                continue
            self.loads += 1
            self.steps.add(model.step)
            if model.recovered or len(model.history.losses) != model.step:
                self.failures.append(f"not one whole file at step {model.step}")


def kill_once(kind, rng, folder, first, group, seconds):
    """Starts a trainer and kills it, if it isn't through before. Returns its exit code and how
    it really ended: "time", "save", "memory" or "through"."""
    arguments = ["train", "--model=model.safetensors", f"--save-every={rng.randint(1, 4)}",
                 f"--threads={rng.choice((1, 2, 3, 8))}", *(OPTIONS if first else [])]
    if not first and rng.random() < 0.5:
        arguments += ["--log=log", f"--sample-every={rng.choice((0, 3))}"]
    command = FEMTOGPT
    if kind == "save":
        command = [sys.executable, str(HERE / "faults.py"), str(rng.randint(1, LAST_MOMENT))]
    process = subprocess.Popen([*command, *arguments], cwd=folder, stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True)
    if group and kind == "memory":
        group.add(process)
    if kind != "save":
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.3, seconds))
    if process.poll() is None and kind == "memory":
        if group:
            group.starve(process)
        else:
            import resource

            with contextlib.suppress(OSError):
                size = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * 4096
                limit = size + (1 << 20)  # of a process just ending the size is 0
                resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
    if process.poll() is None and kind != "save":
        process.kill()
        kind = "time" if kind == "time" or not group else kind
    said = process.communicate()[1]
    if process.returncode == 0:
        return 0, "through", said
    return process.returncode, kind, said


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--recipe", choices=("standard", "femto"), default="standard")
    parser.add_argument("--memory-cgroup", help="a mounted memory cgroup's folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from small import fresh_model, text

    from femtogpt import checkpoint

    OPTIONS.append(f"--optimizer={options.optimizer}")
    rng = random.Random(options.seed)
    result = {"kills": 0, **dict.fromkeys(KINDS, 0), "runs": 0, "lost_models": 0,
              "other_endings": 0, "unequal_runs": 0}
    group = MemoryGroup(options.memory_cgroup) if options.memory_cgroup else None
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        path, best = folder / "model.safetensors", folder / "model.best.safetensors"
        (folder / "dataset.txt").write_text(text())
        checkpoint.save(fresh_model(recipe=options.recipe), folder / "whole.safetensors")
        fresh = (folder / "whole.safetensors").read_bytes()
        run_whole(folder, OPTIONS)
        began = time.monotonic()  # again, all compiled: how long one takes
        checkpoint.save(fresh_model(recipe=options.recipe), folder / "whole.safetensors")
        run_whole(folder, [*OPTIONS, "--save-every=2"])
        seconds = time.monotonic() - began
        whole = [(folder / f"whole{part}.safetensors").read_bytes() for part in ("", ".best")]
        path.write_bytes(fresh)
        reader = Reader(path)
        reader.start()
        first = True
        while result["kills"] < options.kills or not first:
            if result["kills"] < options.kills:
                kind = KINDS[result["kills"] % 3]
                code, ending, said = kill_once(kind, rng, folder, first, group, seconds)
            else:  # to the end, to be compared
                code, ending, said = kill_once("time", rng, folder, first, None, 600)
            if ending != "through":
                result["kills"] += 1
                result[ending] += 1
                # Where RLIMIT_AS hits an import or LLVM, they end in their own ways.
                if code != -signal.SIGKILL and "femtogpt: out of memory" not in said:
                    result["other_endings"] += 1
            step = None
            for file in (best, path):
                try:
                    step = checkpoint.load(file).step if file.exists() else None
                except Exception as error:
                    result["lost_models"] += 1
                    print(repr(error), file=sys.stderr)
            first = step == 0
            if step == STEPS:  # though it may have been killed after its last save
                result["runs"] += 1
                if [path.read_bytes(), best.read_bytes()] != whole:
                    result["unequal_runs"] += 1
                for file in folder.glob("model.*"):
                    if file != path:
                        file.unlink()
                checkpoint.replace(path, [fresh], keep_previous=False)
                first = True
        reader.stopping.set()
        reader.join()
    if group:
        group.close()
    result |= {"by": "oom killer" if group else "RLIMIT_AS", "loads": reader.loads,
               "steps_seen": len(reader.steps), "failed_loads": len(reader.failures),
               "seconds_of_a_run": round(seconds, 1)}
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name.replace('_', ' ')}: {value}")
    for failure in reader.failures[:3]:
        print(failure, file=sys.stderr)
    sys.exit(bool(result["lost_models"] or result["unequal_runs"] or result["failed_loads"]))


if __name__ == "__main__":
    main()
