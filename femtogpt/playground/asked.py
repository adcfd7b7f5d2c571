"""What a browser may ask: JSON, every field of it checked. A model is its number, never a path."""

import json
import math
from typing import NamedTuple

MOST_BYTES = 64_000  # of a request's body
MOST_PROMPT = 20_000  # characters; the model's context is less, as a rule
MOST_TOKENS = 10_000  # to generate at a time
MOST_STOP = 200  # characters
MOST_SEEN = 256  # tokens whose attention is told: L x NH x n x n bytes
LARGEST_SEED = 2**63 - 1


class Refused(Exception):
    """A request that is not answered: .status (HTTP's) and a sentence that says why."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Settings(NamedTuple):
    """What `femtogpt generate` has as options. None stands for no top-k, top-p, stop or seed."""

    model: int
    prompt: str
    count: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    stop: str | None


class Seen(NamedTuple):
    """Tokens whose attention is asked for."""

    model: int
    ids: list


def _whole(low, high):
    return lambda value: type(value) is int and low <= value <= high


def _number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _text(least, most):
    def check(value):
        if not isinstance(value, str) or not least <= len(value) <= most:
            return False
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return check


def _seed(value):
    """JavaScript has no whole numbers that large: digits will do."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return _whole(0, LARGEST_SEED)(value)


# Of each field: what it is if it is not given, what it may be, and the words for that.
MODEL = (0, _whole(0, 99), "a model's number")
SETTINGS = {
    "model": MODEL,
    "prompt": ("", _text(0, MOST_PROMPT), f"text of up to {MOST_PROMPT:,} characters"),
    "count": (100, _whole(1, MOST_TOKENS), f"a whole number from 1 to {MOST_TOKENS:,}"),
    "temperature": (0.5, lambda v: _number(v) and v >= 0, "a number, 0 or more"),
    "top_k": (None, _whole(1, 2**31), "a whole number, 1 or more"),
    "top_p": (None, lambda v: _number(v) and 0 < v <= 1, "a number above 0, at most 1"),
    "seed": (None, _seed, "a whole number from 0 to 2^63 - 1"),
    "stop": (None, _text(1, MOST_STOP), f"text of 1 to {MOST_STOP} characters"),
}
SEEN = {
    "model": MODEL,
    "ids": (None, lambda v: isinstance(v, list) and 1 <= len(v) <= MOST_SEEN
            and all(map(_whole(0, 2**31), v)), f"1 to {MOST_SEEN} token ids"),
}


def settings_of(body):
    """Settings of a request's body (bytes). Raises Refused."""
    asked = Settings(**_checked(body, SETTINGS))
    return asked if asked.seed is None else asked._replace(seed=int(asked.seed))


def seen_of(body):
    """Seen of a request's body (bytes). Raises Refused."""
    asked = Seen(**_checked(body, SEEN))
    if asked.ids is None:
        raise Refused(400, "ids is missing")
    return asked


def _checked(body, fields):
    """name -> value, as many as fields has."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):  # not UTF-8, too, and numbers of thousands of digits
        raise Refused(400, "the request is not JSON") from None
    if not isinstance(asked, dict):
        raise Refused(400, "the request is not a JSON object")
    for name in asked:
        if name not in fields:
            raise Refused(400, f"the request has a field that is none: {name[:80]!r}")
    values = {}
    for name, (default, check, words) in fields.items():
        values[name] = default if asked.get(name) is None else asked[name]
        if values[name] is not default and not check(values[name]):
            raise Refused(400, f"{name.replace('_', '-')} must be {words}")
    return values
