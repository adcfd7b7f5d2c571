"""One long sequence that repeats: what is the next character?

    python3 dummy_data/simple_sequence.py > dataset.txt

prints, 2000 times and with no newline, a letter of `abcdefgh` in turn and then, twice, a
character of `@#$%^` in turn: `a@@b##c$$d%%e^^f@@...`. As 8 and 5 are coprime, it takes
40 times, 120 characters, until the sequence repeats.
"""

import argparse
import errno
import os
import random
import sys
from collections.abc import Iterator

LETTERS = "abcdefgh"
SIGNS = "@#$%^"
LINES = 2000
PERIOD = 120  # in characters


def line(i: int) -> str:
    """The three characters of the i-th time."""
    return LETTERS[i % len(LETTERS)] + SIGNS[i % len(SIGNS)] * 2


def generate(rng: random.Random | None = None, lines: int = LINES) -> Iterator[str]:
    """The dataset, three characters at a time.

    Nothing in it is random: `rng` is there so that all generators are called alike.
    """
    for i in range(lines):
        yield line(i)


def character(position: int) -> str:
    return line(position // 3)[position % 3]


def continuation(phase: int, count: int) -> str:
    """The `count` characters from position `phase` on, if the sequence had no end.

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


def number_of_lines(text: str) -> int:
    """The argument of --lines; argparse words the complaint about a bad one."""
    if int(text) < 0:
        raise ValueError
    return int(text)


def write(pieces: Iterator[str]) -> None:
    """Print the pieces: the same bytes on every system, and no traceback after `| head`."""
    # Windows would print "\r\n", and both it and the environment may choose another encoding.
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
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
        "--seed", type=int, help="taken for the sake of likeness: nothing here is random"
    )
    parser.add_argument(
        "--lines",
        type=number_of_lines,
        default=LINES,
        help="how many times, three characters each (default: %(default)s)",
    )
    args = parser.parse_args()
    write(generate(random.Random(args.seed), args.lines))


if __name__ == "__main__":
    main()
