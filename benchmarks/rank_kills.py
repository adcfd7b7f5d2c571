"""Kills one of several ranks that train, and counts what was lost: nothing should be. Linux.

    python benchmarks/rank_kills.py                  100 kills, some ten minutes
    python benchmarks/rank_kills.py --kills 12 --json

A run of 60 steps under mpiexec is killed and resumed until it is through, then another begins.
Each time there are 2, 3 or 4 ranks, and one of them, the first as often as another, gets SIGKILL:
a third while they start, a third at a random moment of a random step, a third while the first
one is at a random moment (faults.py) of a save. Then every process of that mpiexec, itself
included, must end within 30 seconds, it must be said that one was killed, and which (but where
they had not met yet: mpiexec alone knows of those), the model must load and be no older than it
was, and the next ones must go on from it. At the end the files must be, to the byte, those of a
run that was never killed, on one process.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from shutil import which

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests")]

STEPS = 60
FEMTOGPT = [sys.executable, "-c", "from femtogpt.cli import main; main(prog_name='femtogpt')"]
OPTIONS = [f"--steps={STEPS}", "--batch-size=8", "--dropout=0.1", "--warmup-steps=5",
           "--val-fraction=0.1", "--eval-every=10"]
MOMENTS = ("start", "step", "save")
LAST_MOMENT = 1500  # of faults.py, about as many as a whole run has
LONGEST = 30.0  # seconds until all have ended
MARK = "FEMTOGPT_RANK_KILLS"  # in the environment of all that a session starts


class Session:
    """mpiexec and the ranks that it starts, of one training."""

    def __init__(self, folder, ranks, threads, options, fault=None):
        self.folder, self.ranks, self.mark = folder, ranks, os.urandom(8).hex()
        train = ["train", "--model=model.safetensors", "--sample-every=0", "--log=log",
                 f"--threads={threads}", *options]
        first = FEMTOGPT if fault is None else [sys.executable, str(HERE / "faults.py"), str(fault)]
        self.logged = self.lines()
        self.output = folder / "output"
        scripts = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [which("mpiexec", path=scripts), "-n", "1", *first, *train,
                 ":", "-n", str(ranks - 1), *FEMTOGPT, *train],
                cwd=folder, stdout=output, stderr=subprocess.STDOUT,
                env=os.environ | {MARK: self.mark, "FEMTOGPT_FAULT": "SIGSTOP"})

    def lines(self):
        log = self.folder / "log"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def processes(self):
        """{rank, or -id of what is none: id} of all that live."""
        found = {}
        # A rank's own children, which have all its environment, come after it.
        for place in sorted(Path("/proc").glob("[0-9]*"), key=lambda place: int(place.name)):
            try:
                values = dict(pair.split(b"=", 1) for pair in
                              (place / "environ").read_bytes().split(b"\0") if b"=" in pair)
            except OSError:
                continue
            if values.get(MARK.encode()) == self.mark.encode():
                rank, process = int(values.get(b"PMI_RANK", -1)), int(place.name)
                found[-process if rank in (-1, *found) else rank] = process
        return found

    def stopped(self, rank):
        process = self.processes().get(rank)
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def await_(self, what):
        """Whether what() came true before all had ended."""
        while self.process.poll() is None:
            if what():
                return True
            time.sleep(0.003)
        return False

    def seconds_to_end(self):
        """How long it takes until all have; None if longer than LONGEST: they are killed then."""
        began = time.monotonic()
        while self.process.poll() is None or self.processes():
            if time.monotonic() - began > LONGEST:
                for process in self.processes().values():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                self.process.wait()
                return None
            time.sleep(0.003)
        return time.monotonic() - began

    def said(self):
        return self.output.read_text()


def kill_once(session, moment, victim, rng, start):
    """The id of the rank that was killed, None where the run was through before."""
    if moment == "start":
        until = time.monotonic() + rng.uniform(0.2, start)
        reached = session.await_(lambda: time.monotonic() > until)
    elif moment == "step":
        wanted = session.logged + rng.randint(1, STEPS // 2)
        reached = session.await_(lambda: session.lines() >= wanted)
        time.sleep(rng.uniform(0, 0.05))
    else:
        reached = session.await_(lambda: session.stopped(0))
    processes = session.processes() if reached else {}
    try:
        os.kill(processes[victim], signal.SIGKILL)
    except (KeyError, ProcessLookupError):  # it ended meanwhile
        return None
    finally:
        if moment == "save" and 0 in processes:
            with contextlib.suppress(ProcessLookupError):  # mpiexec may have been quicker
                os.kill(processes[0], signal.SIGCONT)
    return processes[victim]


def table(rows):
    """The counts, and seconds until all had ended, by the rank that was killed and the moment."""
    yield "| killed | while | kills | seconds until all ended: median | longest | lost | unequal |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for (rank, moment), row in sorted(rows.items()):
        if not row["seconds"]:
            continue
        ended = [s for s in row["seconds"] if s is not None]
        longest = f"over {LONGEST:g}" if len(ended) < len(row["seconds"]) else f"{max(ended):.2f}"
        middle = f"{statistics.median(ended):.2f}" if ended else ""
        yield (f"| {rank} | {moment} | {len(row['seconds'])} | {middle} | {longest} | "
               f"{row['lost']} | {row['unequal']} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from small import fresh_model, text

    from femtogpt import checkpoint

    rng = random.Random(options.seed)
    rows = collections.defaultdict(lambda: {"seconds": [], "lost": 0, "unequal": 0})
    faults = dict.fromkeys(("late", "not_named", "lost", "did_not_go_on", "unequal_runs"), 0)
    result = {"kills": 0, "runs": 0, "killed_before_they_met": 0, **faults}

    def wrong(what, session=None):
        result[what] += 1
        print(f"{what}: after kill {result['kills']}\n{session.said() if session else ''}",
              file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        path, best = folder / "model.safetensors", folder / "model.best.safetensors"
        (folder / "dataset.txt").write_text(text())
        checkpoint.save(fresh_model(num_tokens=64), path)  # for a batch of four shards
        fresh = path.read_bytes()
        subprocess.run([*FEMTOGPT, "train", "--model=model.safetensors", *OPTIONS], cwd=folder,
                       check=True, stderr=subprocess.DEVNULL)
        whole = [path.read_bytes(), best.read_bytes()]

        def anew():
            best.unlink(missing_ok=True)
            checkpoint.replace(path, [fresh], keep_previous=False)

        anew()
        began = time.monotonic()  # all compiled by now: how long it takes to the first step
        session = Session(folder, 3, 1, OPTIONS)
        session.await_(lambda: session.lines() > session.logged)
        start = time.monotonic() - began
        session.seconds_to_end()
        anew()
        step, hit = 0, set()
        while result["kills"] < options.kills or step:
            ending = result["kills"] >= options.kills
            moment = MOMENTS[result["kills"] % 3]
            ranks = rng.randint(2, 4)
            victim = 0 if rng.random() < 0.5 else rng.randint(1, ranks - 1)
            session = Session(
                folder, ranks, rng.choice((1, 2)),
                [f"--save-every={rng.randint(1, 4)}", *([] if step else OPTIONS)],
                rng.randint(1, LAST_MOMENT) if moment == "save" and not ending else None)
            killed = None if ending else kill_once(session, moment, victim, rng, start)
            seconds = session.seconds_to_end() if killed or not ending else session.process.wait()
            row = rows["first" if victim == 0 else "other", moment]
            if killed:
                result["kills"] += 1
                if result["kills"] % 10 == 0:
                    print(f"{result['kills']} kills", file=sys.stderr)
                row["seconds"].append(seconds)
                hit.add(("first" if victim == 0 else "other", moment))
                if seconds is None:
                    wrong("late", session)
                said = session.said()
                named = re.search(rf"process (\d) of {ranks}, .* ended without a word", said)
                if named is None:
                    result["killed_before_they_met"] += 1
                if "signal 9" not in said or (
                        int(named[1]) != victim if named else moment != "start"):
                    wrong("not_named", session)
            elif session.process.returncode:
                wrong("did_not_go_on", session)
                break
            try:
                found = checkpoint.load(path).step
                if best.exists():
                    checkpoint.load(best)
                if found < step:
                    raise ValueError(f"step {step} became {found}")
                step = found
            except Exception as error:  # whatever it is, it is what we look for
                print(repr(error), file=sys.stderr)
                row["lost"] += 1
                wrong("lost", session)
                anew()
                step = 0
            if step == STEPS:  # though one may have been killed after the last save
                result["runs"] += 1
                if [path.read_bytes(), best.read_bytes()] != whole:
                    wrong("unequal_runs")
                    for key in hit:
                        rows[key]["unequal"] += 1
                anew()
                step, hit = 0, set()
    if options.json:
        print(json.dumps(result | {"rows": [dict(rank=rank, moment=moment, **row)
                                            for (rank, moment), row in sorted(rows.items())]}))
    else:
        print(*table(rows), *(f"{name.replace('_', ' ')}: {value}"
                              for name, value in result.items()), sep="\n")
    sys.exit(any(result[name] for name in faults))


if __name__ == "__main__":
    main()
