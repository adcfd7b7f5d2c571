"""How long a step takes in two versions of femtogpt, in turns.

    python benchmarks/versions.py 009a878 a581017 F
    python benchmarks/versions.py 2b02956 HEAD 1054,1024,192,8,8,4
    python benchmarks/versions.py HEAD HEAD A E F --optimizers adamw muon

Of steps.py's configurations, or of V,T,C,L,NH,batch. Commits of this repository, checked out into
a temporary folder; each in a process of its own, as in steps.py. What a change did, without the
machine's own moods.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import contest
from steps import CONFIGURATIONS

from femtogpt.machine import available_processors

REPOSITORY = Path(__file__).resolve().parents[1]


def check_out(commit, folder):
    """The folder of a commit's files, below folder."""
    tree = Path(folder, commit)
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", REPOSITORY, tree], check=True)
    subprocess.run(["git", "-C", tree, "checkout", "--quiet", commit], check=True)
    return str(tree)


def shape_of(name):
    """(name, shape) of a configuration's name, or of V,T,C,L,NH,batch."""
    if name in CONFIGURATIONS:
        return name, CONFIGURATIONS[name]
    numbers = tuple(map(int, name.split(",")))
    if len(numbers) != 6:
        raise ValueError(name)
    return name, numbers


def measure(trees, optimizers, shape, threads, seconds, precision="float32", text=None):
    """(milliseconds, resident MB) of each."""
    contestants = [contest.Contestant("ours", threads, shape, optimizer, {"PYTHONPATH": tree},
                                      precision, text, Path(tree, "benchmarks"))
                   for tree, optimizer in zip(trees, optimizers, strict=True)]
    try:
        contest.alternate(contestants, seconds)
        return [(c.median, c.answer["resident_mb"]) for c in contestants]
    finally:
        for contestant in contestants:
            contestant.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("old", help="a commit, from f27a9a9 on")
    parser.add_argument("new")
    parser.add_argument("configurations", nargs="+", type=shape_of,
                        help=f"{', '.join(CONFIGURATIONS)} or V,T,C,L,NH,batch")
    parser.add_argument("--threads", type=int, default=available_processors())
    parser.add_argument("--optimizers", nargs=2, choices=("adamw", "muon"),
                        default=("adamw", "adamw"), help="of old and new [default: adamw]")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--text", metavar="FILE",
                        help="to train on: its bytes, letters or BPE [default: random tokens]")
    parser.add_argument("--seconds", type=float, default=30, help="for each configuration")
    options = parser.parse_args()
    print(contest.machine(), "\n")
    contest.print_heading("", "old ms", "new ms", "new/old", "old MB", "new MB")
    with tempfile.TemporaryDirectory() as folder:
        trees = [check_out(commit, f"{folder}/{side}") for side, commit in
                 (("old", options.old), ("new", options.new))]
        for name, shape in options.configurations:
            (old, before), (new, after) = measure(
                trees, options.optimizers, shape, options.threads, options.seconds,
                options.precision, options.text)
            memory = (contest.shown(before, ".0f"), contest.shown(after, ".0f"))
            print(contest.row(name, f"{old:.1f}", f"{new:.1f}", f"{new / old:.3f}", *memory),
                  flush=True)


if __name__ == "__main__":
    main()
