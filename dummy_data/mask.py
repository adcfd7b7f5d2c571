"""A filter that spoils a text a little: does a model trained on it learn less?

    python3 dummy_data/simple_dummy.py | python3 dummy_data/mask.py > dataset.txt

replaces each character of the text, newlines too, by `x` with probability 0.001.
"""

import random

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


if __name__ == "__main__":
    import sys

    from script import parser, write

    options = parser(__doc__)
    options.add_argument(
        "--threshold",
        type=probability,
        default=THRESHOLD,
        help="the probability of a replacement (default: %(default)s)",
    )
    options.add_argument(
        "--replacement",
        default=REPLACEMENT,
        metavar="TEXT",
        help="what a character is replaced by (default: %(default)s)",
    )
    args = options.parse_args()
    # What is not masked goes through as it is: line ends of any kind, and bytes that are
    # not UTF-8 (each of these counts as a character).
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    rng = random.Random(args.seed)
    write(mask(rng, line, args.threshold, args.replacement) for line in sys.stdin)
