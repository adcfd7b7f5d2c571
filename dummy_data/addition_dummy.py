"""Additions, one a line: can a model learn to calculate?

    python3 dummy_data/addition_dummy.py > dataset.txt

prints 8000 lines `a + b = c;`, with a and b uniform in 0..100. That makes 10,201 pairs
(a, b), about half of which a dataset lacks: on those a model cannot answer by heart.
"""

import random
import re
from collections.abc import Iterator

LARGEST = 100
LINES = 8000
# [0-9] rather than \d, which would also take the digits of other scripts.
FORM = re.compile("([0-9]+) ?\\+ ?([0-9]+) ?= ?([0-9]+);")


def generate(rng: random.Random, lines: int = LINES) -> Iterator[str]:
    """The dataset, line by line."""
    for _ in range(lines):
        a, b = rng.randint(0, LARGEST), rng.randint(0, LARGEST)
        yield f"{a} + {b} = {a + b};\n"


def has_form(line: str) -> bool:
    """Does the line look like an addition, be it right or wrong?"""
    return FORM.fullmatch(line) is not None


def is_true(line: str) -> bool:
    """Is the line an addition, and right?"""
    match = FORM.fullmatch(line)
    if match is None:
        return False
    try:
        a, b, c = map(int, match.groups())
    except ValueError:  # Python reads no number of more than 4300 digits
        return False
    return a + b == c


def form(text: str) -> tuple[int, int]:
    """How many lines of a generated text look like additions, out of how many.

    The first and the last line may be cut, so they are not judged.
    """
    lines = text.split("\n")[1:-1]
    return sum(map(has_form, lines)), len(lines)


def true_sums(text: str) -> tuple[int, int]:
    """How many additions in a generated text are right, out of the lines that look like one."""
    lines = [line for line in text.split("\n")[1:-1] if has_form(line)]
    return sum(map(is_true, lines)), len(lines)


def held_out_pairs(dataset_text: str, rng: random.Random, count: int) -> list[tuple[int, int]]:
    """`count` different pairs (a, b) that the dataset does not add up.

    Fewer, if the dataset leaves fewer. (3, 4) is held out even if 4 + 3 is in the dataset.
    """
    # Looking ahead for b, so that in "1 + 2 + 3" the pair (2, 3) is found too.
    seen = set(re.findall("([0-9]+) ?\\+ ?(?=([0-9]+))", dataset_text))
    numbers = range(LARGEST + 1)
    unseen = [(a, b) for a in numbers for b in numbers if (str(a), str(b)) not in seen]
    return rng.sample(unseen, min(count, len(unseen)))


def prompt(a: int, b: int) -> str:
    """What to ask a model.

    Without the newline "3 + 4 = " could be the end of "13 + 4 = ", and 17 a fair answer.
    """
    return f"\n{a} + {b} = "


def answer(a: int, b: int) -> str:
    """How the text has to go on after `prompt(a, b)`."""
    return f"{a + b};"


if __name__ == "__main__":
    from script import parser, write

    args = parser(__doc__, LINES).parse_args()
    write(generate(random.Random(args.seed), args.lines))
