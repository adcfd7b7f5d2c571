"""The entries: what to train, on what, and when it has succeeded; and what the log tells of it."""

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import FemtoError

_FILE = Path(__file__).with_name("entries.json")


@dataclass(frozen=True)
class Entry:
    """One entry of entries.json.

    parameters: how many, as the log rounds them. tokenizer: "byte", "char", {"bpe": size} or
    {"char": size}, filled up with reserved tokens.
    shape: GPTConfig's fields. train: steps, and options of the run where the log or the
    machine asks for them (seconds ends it earlier). data: a generator of dummy_data,
    "shakespeare", or {"crates": [...]}. task: what judges it (see measures.py).
    prompt: what the sample in its result begins with. goal: measure -> its bound, a number,
    or {"entry": n}, as good as that entry's, or {"rival": n}, better than that entry's model
    trained on this one's data for as long. log: steps, loss, minutes, verdict; None: ours.
    """

    number: int
    title: str
    parameters: str
    tokenizer: object
    shape: dict
    train: dict
    data: object
    task: str
    prompt: str
    goal: dict
    log: dict | None

    @property
    def name(self):
        return f"#{self.number} {self.title}"


def entries():
    """All entries, by number."""
    return {entry["number"]: Entry(**entry)
            for entry in json.loads(_FILE.read_text(encoding="utf-8"))}


def find(numbers):
    """The entries of these numbers, in order. Raises FemtoError for a number there is not."""
    known = entries()
    for number in numbers:
        if number not in known:
            raise FemtoError(f"there is no experiment {number}: `femtogpt experiment list` shows "
                             f"those there are, 1 to {max(known)}")
    return [known[number] for number in numbers]
