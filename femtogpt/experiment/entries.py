"""The entries: what to train, on what, and when it has succeeded; and what the log tells of it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from ..config import GPTConfig
from ..errors import FemtoError
from ..tensors import count_parameters

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

    @property
    def config(self):
        """Its GPTConfig; None where the text decides the vocabulary."""
        if self.tokenizer == "char":
            return None
        V = 256 if self.tokenizer == "byte" else next(iter(self.tokenizer.values()))
        return GPTConfig(V, **self.shape)


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


def nearest_in_log(parameters):
    """The log's experiments whose models come nearest to so many parameters: a dict of their
    "parameters", and of each its number among "experiments" and the log's "steps"."""
    sizes = {entry.number: count_parameters(entry.config)
             for entry in entries().values() if entry.log}
    nearest = min(sizes.values(), key=lambda size: abs(math.log(size / parameters)))
    numbers = [number for number, size in sizes.items() if size == nearest]
    return {"parameters": nearest, "experiments": numbers,
            "steps": [entry.log["steps"] for entry in find(numbers)]}
