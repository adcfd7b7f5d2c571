"""What `femtogpt estimate` says of a shape, beside what steps of it then take.

    python benchmarks/estimates.py          configurations A to F of steps.py

The estimate is a process of its own, run before and after the steps: two runs of it, and the
steps between, tell what the machine's drift is.
"""

import argparse
import json
import subprocess

import contest
from steps import CONFIGURATIONS

from femtogpt.machine import available_processors


def estimate(shape):
    """What the command says of a shape, as a dict."""
    V, T, C, L, NH, batch_size = shape
    command = [*contest.FEMTOGPT, "estimate", "--json", f"--reserve-tokens={V - 256}",
               f"--num-tokens={T}", f"--embedding-degree={C}", f"--num-layers={L}",
               f"--num-heads={NH}", f"--batch-size={batch_size}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("configurations", nargs="*", default=list("ABCDEF"))
    parser.add_argument("--seconds", type=float, default=10, help="of steps, for each")
    options = parser.parse_args()
    threads = available_processors()
    print(f"{contest.machine()}, {threads} threads, muon", "", sep="\n")
    contest.print_heading("", "before ms", "after ms", "steps ms", "before/", "after/", "MB said",
                          "MB held", "others")
    for name in options.configurations:
        shape = CONFIGURATIONS[name]
        with contest.Contestant("ours", threads, shape, "muon") as ours:
            before = estimate(shape)
            load = contest.alternate([ours], options.seconds)
            after = estimate(shape)
        ms = [1000 * told["seconds_a_step"] for told in (before, after)]
        print(contest.row(name, *(f"{m:.1f}" for m in ms), f"{ours.median:.1f}",
                          *(f"{m / ours.median:.2f}" for m in ms),
                          f"{before['memory_to_train_bytes'] / 2**20:.0f}",
                          contest.shown(ours.answer["resident_mb"], ".0f"),
                          contest.shown(load["others"], ".0%")), flush=True)


if __name__ == "__main__":
    main()
