"""How a training step scales: threads, batch, context, vocabulary.

    python benchmarks/scaling.py
    python benchmarks/scaling.py batch context --json

Ours only, AdamW, each point in a process of its own. The share is of numpy's sgemm on as many
threads, at most as many as there are processors.
"""

import argparse
import json

import contest
from steps import CONFIGURATIONS, measure

from femtogpt.machine import available_processors

WIDTH, LAYERS, HEADS = 192, 8, 8  # E's
VOCABULARY, CONTEXT = 1054, 80
TOKENS = 4096  # in a batch, whatever the context


def shape(vocabulary=VOCABULARY, context=CONTEXT, batch_size=32):
    return vocabulary, context, WIDTH, LAYERS, HEADS, batch_size


def points(threads):
    """Group -> [(what varies, shape, threads)]."""
    return {
        "threads": [(f"{name}, {count}", CONFIGURATIONS[name], count)
                    for name in "AE" for count in (1, 2, 4, 8)],
        "batch": [(size, shape(batch_size=size), threads) for size in (8, 16, 32, 64, 128)],
        "context": [(context, shape(context=context, batch_size=TOKENS // context), threads)
                    for context in (64, 256, 1024)],
        "vocabulary": [(size, shape(vocabulary=size), threads) for size in (1054, 8192, 50257)],
    }


def main():
    available = available_processors()
    groups = points(available)
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("groups", nargs="*", default=list(groups), help=", ".join(groups))
    parser.add_argument("--seconds", type=float, default=10, help="for each point")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(groups):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    if not options.json:
        print(f"{contest.machine()}. More than {available} threads share processors: marked *")
    for group in options.groups:
        if not options.json:
            print()
            contest.print_heading(group, "ms", "us/token", "GFLOPS", "of sgemm", "MB", "others")
        for varied, numbers, threads in groups[group]:
            result = measure(numbers, threads, options.seconds)
            tokens = numbers[1] * numbers[5]
            if options.json:
                print(json.dumps({"group": group, "varied": varied, "shape": numbers,
                                  "threads": threads, "oversubscribed": threads > available,
                                  **result, "machine": contest.machine()}), flush=True)
                continue
            print(contest.row(
                f"{varied}{'*' * (threads > available)}", f"{result['ms']:.1f}",
                f"{1000 * result['ms'] / tokens:.1f}", f"{result['gflops']:.0f}",
                f"{result['share_of_peak']:.0%}", contest.shown(result["resident_mb"], ".0f"),
                contest.shown(result["others"], ".0%")), flush=True)


if __name__ == "__main__":
    main()
