"""How long whole processes take: help, a first step, and the first ones after installing.

    python benchmarks/startup.py
    python benchmarks/startup.py --json

Medians of several runs, from the start of the process to its end, and its peak memory. The
model is `femtogpt init`'s, the text dummy_data/simple_dummy.py's. "first" means that no
kernel is compiled yet, each time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from contest import (
    FEMTOGPT,
    HERE,
    cold_process,
    machine,
    print_heading,
    row,
    shown,
    whole_process,
)

from femtogpt.cli import COMMANDS

TRAIN = ("train", "--steps", "1")
GENERATE = ("generate", "--count", "1", "--prompt", "bad", "--seed", "1")
FIRST_RUNS = 3  # each compiles everything


def measure(process, arguments, folder, runs):
    """The median of a command's runs, as a dict."""
    results = [process([*FEMTOGPT, *arguments], folder) for _ in range(runs)]
    if None in results:
        return {"seconds": None, "slowest": None, "peak_mb": None, "runs": runs}
    seconds, peaks, _ = zip(*results, strict=True)
    return {"seconds": statistics.median(seconds), "slowest": max(seconds),
            "peak_mb": None if None in peaks else max(peaks), "runs": runs}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(machine(), end="\n\n")
        print_heading("seconds", "slowest", "peak MB", "command")
    with tempfile.TemporaryDirectory() as folder:
        with Path(folder, "dataset.txt").open("wb") as text:
            generator = HERE.parent / "dummy_data" / "simple_dummy.py"
            subprocess.run([sys.executable, str(generator)], stdout=text, check=True)
        for arguments in (("init",), TRAIN, GENERATE):  # a model, and warm kernels
            whole_process([*FEMTOGPT, *arguments], folder)
        work = [(whole_process, (*command, "--help"), options.runs)
                for command in ((), *((name,) for name in COMMANDS))]
        work += [(whole_process, arguments, options.runs) for arguments in (TRAIN, GENERATE)]
        work += [(cold_process, arguments, min(options.runs, FIRST_RUNS))
                 for arguments in (TRAIN, GENERATE)]
        for process, arguments, runs in work:
            result = measure(process, arguments, folder, runs)
            first = process is cold_process
            command = " ".join(("femtogpt", *arguments))
            if options.json:
                print(json.dumps({"command": command, "first": first, **result,
                                  "machine": machine()}), flush=True)
            else:
                print(row(shown(result["seconds"], ".2f"), shown(result["slowest"], ".2f"),
                          shown(result["peak_mb"], ".0f"), f"{command}{', first' * first}"),
                      flush=True)


if __name__ == "__main__":
    main()
