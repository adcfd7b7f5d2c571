"""Ten small tasks, one a line: copying, shifting, and looking at the line before.

    python3 dummy_data/simple_dummy2.py > dataset.txt

prints 50000 lines such as `fadeb1fad;`: data, action, result and `;`. The data are 4 to 8
letters out of a-f, the action is a digit, and says what the result is:

    0  nothing
    1  the first three letters of the data
    2  the last three letters of the data
    3  the first three letters, each moved six letters on (a to g, b to h ... f to l)
    4  the last three letters, each moved six letters on
    5 6 7 8  the same as 1 2 3 4, but with the data of the previous line
    9  the letter z

The first line has no previous line, so its action is none of 5 6 7 8.
"""

import random
from collections.abc import Iterator

LETTERS = "abcdef"
SIX_ON = str.maketrans("abcdef", "ghijkl")
LINES = 50000

PROMPT_LENGTH = 60
# At least two lines before the question: a text's first line may be the end of a longer
# one, and only the newline before a line tells that its data are whole.
LINES_BEFORE = (2, 10)


def result(action: int, data: str, previous_data: str | None) -> str:
    """What an action makes of a line's data and of the previous line's."""
    if 5 <= action <= 8:
        if previous_data is None:
            raise ValueError(f"action {action} needs a previous line")
        return result(action - 4, previous_data, None)
    if action == 0:
        return ""
    if action == 1:
        return data[:3]
    if action == 2:
        return data[-3:]
    if action == 3:
        return data[:3].translate(SIX_ON)
    if action == 4:
        return data[-3:].translate(SIX_ON)
    if action == 9:
        return "z"
    raise ValueError(f"there is no action {action}")


def new_data(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(4, 8)))


def new_action(rng: random.Random, previous_data: str | None) -> int:
    return rng.choice([0, 1, 2, 3, 4, 9] if previous_data is None else range(10))


def generate(rng: random.Random, lines: int = LINES) -> Iterator[str]:
    """The dataset, line by line."""
    previous_data = None
    for _ in range(lines):
        data, action = new_data(rng), new_action(rng, previous_data)
        yield f"{data}{action}{result(action, data, previous_data)};\n"
        previous_data = data


def new_line(
    rng: random.Random, previous_data: str | None, seen: set[str], action: int | None = None
) -> tuple[str, str, str]:
    """A line that is not in `seen`, as its data, its question and the rest of it."""
    for _ in range(10000):
        data = new_data(rng)
        chosen = new_action(rng, previous_data) if action is None else action
        question, rest = f"{data}{chosen}", result(chosen, data, previous_data) + ";"
        if question + rest not in seen:
            return data, question, rest
    raise ValueError("the training data holds nearly every line there is: none is left to ask for")


def prompts(
    rng: random.Random, action: int, count: int, training_text: str
) -> list[tuple[str, str]]:
    """`count` questions about an action, each as (prompt, expected).

    A prompt is the last 60 characters of up to ten fresh lines and a new line's data and
    action. `expected` is all that is left of the new line: its result and `;`. None of
    the lines, the new one included, is a line of the training data.
    """
    seen = set(training_text.split())
    questions = []
    for _ in range(count):
        text, data = "", None
        for _ in range(rng.randint(*LINES_BEFORE)):
            data, question, rest = new_line(rng, data, seen)
            text += question + rest + "\n"
        _, question, rest = new_line(rng, data, seen, action)
        # A line has 14 characters at most, so the previous line is never cut.
        questions.append(((text + question)[-PROMPT_LENGTH:], rest))
    return questions


def is_right(generated: str, expected: str) -> bool:
    """Is what was generated after a prompt, up to the newline, what was expected?

    Generate up to the newline, or else at least one character more than expected.
    """
    return generated.split("\n")[0] == expected


if __name__ == "__main__":
    from script import parser, write

    args = parser(__doc__, LINES).parse_args()
    write(generate(random.Random(args.seed), args.lines))
