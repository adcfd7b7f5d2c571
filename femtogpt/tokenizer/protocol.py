"""What every tokenizer offers, and the few helpers that they share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from femtogpt.errors import FemtoError


class Tokenizer(Protocol):
    """A two-way map between text and token ids in [0, vocab_size).

    `name` is one of 'byte', 'ascii', 'char', 'bpe', 'pathpiece', 'pieces', and is
    the "kind" that `to_json` stores.
    """

    name: str
    vocab_size: int

    def encode(self, text: str | bytes) -> np.ndarray:
        """The ids of `text`: (n,), uint16 if vocab_size <= 65536, else uint32.

        Text is UTF-8 if given as bytes. Raises FemtoError if the tokenizer cannot
        spell it.
        """
        ...

    def encode_blocks(self, blocks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """`encode` of the blocks joined, in parts, without joining more than it takes.

        Raises Unspellable, with its place in the whole text, as `encode` does.
        """
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The pieces of `ids`, joined. Raises FemtoError for an id out of range."""
        ...

    def piece(self, id: int) -> bytes:
        """What one token stands for. Raises FemtoError for an id out of range."""
        ...

    def to_json(self) -> dict:
        """All that `from_json` needs, as plain JSON types, with a "kind" key."""
        ...

    @classmethod
    def from_json(cls, obj: dict) -> Tokenizer:
        """The tokenizer that `to_json` wrote. Raises FemtoError if `obj` is damaged."""
        ...


class Unspellable(FemtoError):
    """A place of a text, by line and column, that a tokenizer cannot spell."""

    def __init__(self, what: str, line: int, column: int, way_out: str):
        super().__init__(f"{what} at line {line}, column {column} {way_out}")
        self.what, self.line, self.column, self.way_out = what, line, column, way_out

    def after(self, line: int, column: int) -> Unspellable:
        """The same in a longer text, whose part at hand begins at `line` and `column`."""
        column = self.column + (column - 1 if self.line == 1 else 0)
        return Unspellable(self.what, line + self.line - 1, column, self.way_out)


def pack_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    """`ids` as (n,) of the narrowest type the datasets use: uint16, else uint32."""
    return np.asarray(ids, dtype=np.uint16 if vocab_size <= 65536 else np.uint32)


def check_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    """`ids` as (n,) int64, all in [0, vocab_size), or FemtoError naming the culprit."""
    array = np.asarray(ids).reshape(-1)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise FemtoError(f"token ids must be integers in 0..{vocab_size - 1}")
    for id in (array.min(), array.max()):
        if not 0 <= id < vocab_size:
            raise FemtoError(
                f"token id {id} is not in this tokenizer, whose ids are 0..{vocab_size - 1}; "
                "decode with the tokenizer that made the ids"
            )
    return array.astype(np.int64)


def newline_id(tokenizer: Tokenizer) -> int | None:
    """The id of the newline; None where the vocabulary has no token of just that."""
    try:
        ids = tokenizer.encode("\n")
    except FemtoError:
        return None
    return int(ids[0]) if len(ids) == 1 else None


def as_bytes(text: str | bytes) -> bytes:
    """UTF-8 of `text`; a str may carry invalid bytes the surrogateescape way."""
    if not isinstance(text, str):
        # Through memoryview, for bytes(5) would be five zeros and no error.
        return bytes(memoryview(text))
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Unspellable(
            describe(text[error.start]), *place(text, error.start),
            "of the text is half a character (a lone surrogate), which UTF-8 cannot spell; "
            "remove it"
        ) from None


def describe(character: str) -> str:
    """One character for a message: its repr and its code point."""
    return f"{character!r} (U+{ord(character):04X})"


def place(text: str | bytes, index: int) -> tuple[int, int]:
    """Line and column of text[index], both from 1; columns count characters."""
    newline = "\n" if isinstance(text, str) else b"\n"
    line = text[text.rfind(newline, 0, index) + 1 : index]
    if not isinstance(line, str):
        line = line.decode("utf-8", "replace")
    return text.count(newline, 0, index) + 1, len(line) + 1


def unknown_byte(data: bytes, at: int, way_out: str) -> Unspellable:
    """That data[at] cannot be spelled: names the character it is part of, and its place."""
    start = at
    while start > max(0, at - 3) and data[start] & 0xC0 == 0x80:
        start -= 1
    what = f"byte 0x{data[at]:02X}"
    for length in range(at - start + 1, 5):
        try:
            character = data[start : start + length].decode()
        except UnicodeDecodeError:
            continue
        if len(character) == 1:
            what = f"character {describe(character)}"
            at = start
            break
    return Unspellable(what, *place(data, at), way_out)
