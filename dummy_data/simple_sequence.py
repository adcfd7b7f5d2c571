"""One long sequence that repeats: what is the next character?

    python3 dummy_data/simple_sequence.py > dataset.txt

prints, 2000 times and with no newline, a letter of `abcdefgh` in turn and then, twice, a
character of `@#$%^` in turn: `a@@b##c$$d%%e^^f@@...`. As 8 and 5 are coprime, it takes
40 times, 120 characters, until the sequence repeats.
"""

import random
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


if __name__ == "__main__":
    from script import parser, write

    args = parser(__doc__, LINES).parse_args()
    write(generate(random.Random(args.seed), args.lines))
