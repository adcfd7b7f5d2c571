"""Made-up words, one a line: the simplest data to try a model on.

    python3 dummy_data/simple_dummy.py > dataset.txt

prints 8000 words, each followed by `;`. The rules a model has to find out:

- a word starts with a consonant, out of b c d f g h j k;
- consonants and vowels (a e i o u) alternate;
- no letter comes twice in a word;
- a word's first letter is none of the three previous words' first letters;
- a word ends at length 4 with probability one half, else at length 6.
"""

import random
from collections.abc import Iterator

CONSONANTS = "bcdfghjk"
VOWELS = "aeiou"
LINES = 8000


def new_word(rng: random.Random, recent: list[str]) -> str:
    """A word that starts with none of the letters in `recent`."""
    word = rng.choice([c for c in CONSONANTS if c not in recent])
    length = 4 if rng.random() < 0.5 else 6
    while len(word) < length:
        alphabet = VOWELS if len(word) % 2 else CONSONANTS
        word += rng.choice([c for c in alphabet if c not in word])
    return word


def generate(rng: random.Random, lines: int = LINES) -> Iterator[str]:
    """The dataset, line by line."""
    recent: list[str] = []
    for _ in range(lines):
        word = new_word(rng, recent)
        recent = [*recent, word[0]][-3:]
        yield word + ";\n"


def is_word(word: str) -> bool:
    """Does the word keep the rules that concern it alone?"""
    return (
        len(word) in (4, 6)
        and len(set(word)) == len(word)
        and all(c in (VOWELS if i % 2 else CONSONANTS) for i, c in enumerate(word))
    )


def valid_lines(text: str) -> tuple[int, int]:
    """How many lines of a generated text keep all the rules, out of how many.

    The first and the last line may be cut, so they are not judged, nor is any line by
    them: a line's previous words are the up to three lines before it that are known
    to be whole. They count as they were generated, whether they keep the rules or not.
    """
    lines = text.split("\n")[1:-1]
    kept = 0
    for i, line in enumerate(lines):
        recent = [previous[:1] for previous in lines[max(0, i - 3) : i]]
        if line.endswith(";") and is_word(line[:-1]) and line[0] not in recent:
            kept += 1
    return kept, len(lines)


if __name__ == "__main__":
    from script import parser, write

    args = parser(__doc__, LINES).parse_args()
    write(generate(random.Random(args.seed), args.lines))
