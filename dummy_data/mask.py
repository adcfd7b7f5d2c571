"""A filter that spoils a text a little: does a model trained on it learn less?

    python3 dummy_data/simple_dummy.py | python3 dummy_data/mask.py > dataset.txt

replaces each character of the text, newlines too, by `x` with probability 0.001.
"""

import argparse
import errno
import os
import random
import sys
from collections.abc import Iterator

THRESHOLD = 0.001
REPLACEMENT = "x"


def mask(
    rng: random.Random, text: str, threshold: float = THRESHOLD, replacement: str = REPLACEMENT
) -> str:
    """The text, each character replaced with probability `threshold`."""
    return "".join(replacement if rng.random() < threshold else c for c in text)


def probability(text: str) -> float:
    """The argument of --threshold; argparse words the complaint about a bad one."""
    if not 0 <= float(text) <= 1:
        raise ValueError
    return float(text)


def write(pieces: Iterator[str]) -> None:
    """Print the pieces: no traceback after `| head`."""
    try:
        sys.stdout.writelines(pieces)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # EINVAL: what Windows says
            raise
        # The reader has gone. What is still buffered would be written, and fail, once
        # more when Python exits, so it goes nowhere instead.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--threshold",
        type=probability,
        default=THRESHOLD,
        help="the probability of a replacement (default: %(default)s)",
    )
    parser.add_argument(
        "--replacement",
        default=REPLACEMENT,
        metavar="TEXT",
        help="what a character is replaced by (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, help="same seed, same data (default: different each time)"
    )
    args = parser.parse_args()
    # What is not masked goes through as it is: line ends of any kind, and bytes that are
    # not UTF-8 (each of these counts as a character).
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    rng = random.Random(args.seed)
    write(mask(rng, line, args.threshold, args.replacement) for line in sys.stdin)


if __name__ == "__main__":
    main()
