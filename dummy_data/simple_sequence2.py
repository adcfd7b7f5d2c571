"""Lines that repeat very late: can a model count along in five circles at once?

    python3 dummy_data/simple_sequence2.py > dataset.txt

prints 2000 lines. Line i holds, in this order, the i-th character (in a circle) of `abc`,
of `defg`, of `hijkl`, of `mnopqrs` twice, of `tuvwxyz0123`, then `;` and a newline. The
lengths 3, 4, 5, 7 and 11 are coprime, so the whole repeats after 4620 lines only.

Each character, `;` and newline too, is then replaced with probability 0.002 by a random
letter, digit, `;` or newline, unless `--no-noise` is given.
"""

import random
import string
from collections.abc import Iterator

LINES = 2000
NOISE = 0.002
NOISE_CHARACTERS = string.ascii_lowercase + string.digits + ";\n"
PERIOD = 4620 * 8  # in characters


def line(i: int) -> str:
    """The i-th line without noise: eight characters, the newline included."""
    circles = "abc", "defg", "hijkl", "mnopqrs", "mnopqrs", "tuvwxyz0123"
    return "".join(circle[i % len(circle)] for circle in circles) + ";\n"


def generate(rng: random.Random, lines: int = LINES, noise: bool = True) -> Iterator[str]:
    """The dataset, line by line."""
    for i in range(lines):
        if noise:
            yield "".join(
                rng.choice(NOISE_CHARACTERS) if rng.random() < NOISE else c for c in line(i)
            )
        else:
            yield line(i)


def character(position: int) -> str:
    return line(position // 8)[position % 8]


def continuation(phase: int, count: int) -> str:
    """The `count` characters from position `phase` on, if the sequence had no end and no noise.

    A negative phase counts back from the start, as if it had no beginning either.
    """
    return "".join(character(i) for i in range(phase, phase + count))


def score(generated: str, phase: int, count: int = 200) -> tuple[int, int]:
    """How many of `count` characters were continued correctly, and `count`.

    `generated` is what came after a prompt that ends just before position `phase`, such as
    `continuation(phase - 40, 40)`. A missing character is a wrong one, one too many is
    not looked at.
    """
    pairs = zip(generated, continuation(phase, count), strict=False)
    return sum(a == b for a, b in pairs), count


if __name__ == "__main__":
    import argparse

    from script import parser, write

    options = parser(__doc__, LINES)
    options.add_argument(
        "--noise",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="replace a few characters by random ones (default: yes)",
    )
    args = options.parse_args()
    write(generate(random.Random(args.seed), args.lines, args.noise))
