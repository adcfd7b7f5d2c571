"""A dataset's characters as tokens, in code point order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from femtogpt.errors import FemtoError
from femtogpt.tokenizer.protocol import Unspellable, check_ids, describe, pack_ids, place
from femtogpt.tokenizer.stream import encode_blocks, whole_characters


class CharTokenizer:
    """Token id = place of the character in `characters`, a sorted string of distinct ones."""

    name = "char"

    def __init__(self, characters: str):
        points = _code_points(characters)
        if len(points) == 0:
            raise FemtoError("a char tokenizer needs at least one character; its text is empty")
        if np.any(points[1:] <= points[:-1]):
            raise FemtoError("a char tokenizer's characters must be distinct and sorted")
        self.characters = characters
        self.vocab_size = len(points)
        # Code point -> id; vocab_size for all others, and the last stands for all beyond.
        self._ids = np.full(int(points[-1]) + 2, self.vocab_size, np.uint32)
        self._ids[points] = np.arange(self.vocab_size)
        self._pieces = [c.encode() for c in characters]

    def encode(self, text: str | bytes) -> np.ndarray:
        """One id a character: (n,) uint16 or uint32.

        Raises FemtoError for a character the dataset did not have, and for bytes that
        are no valid UTF-8.
        """
        text = _as_text(text)
        points = _code_points(text)  # (n,)
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        unknown = ids == self.vocab_size
        if unknown.any():
            at = int(unknown.argmax())
            raise Unspellable(
                f"character {describe(text[at])}", *place(text, at),
                f"is not among the {self.vocab_size} characters of this char tokenizer; remove "
                "it from the text, or start a model with --tokenizer byte or bpe"
            )
        return pack_ids(ids, self.vocab_size)

    def encode_blocks(self, blocks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """`encode` of the blocks joined, in parts."""
        return encode_blocks(blocks, whole_characters, self.encode)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The characters of `ids` in UTF-8. Raises FemtoError for an id out of range."""
        return b"".join([self._pieces[i] for i in check_ids(ids, self.vocab_size).tolist()])

    def piece(self, id: int) -> bytes:
        """The character that `id` stands for, in UTF-8."""
        return self.decode([id])

    def to_json(self) -> dict:
        """{"kind": "char", "characters": str}."""
        return {"kind": self.name, "characters": self.characters}

    @classmethod
    def from_json(cls, obj: dict) -> CharTokenizer:
        """The tokenizer that `to_json` wrote. Raises FemtoError if it is damaged."""
        characters = obj.get("characters")
        if not isinstance(characters, str):
            raise FemtoError('a char tokenizer needs a "characters" string')
        return cls(_as_text(characters))


def train_char(text: str | bytes) -> CharTokenizer:
    """The tokenizer of the characters that occur in `text`.

    Raises FemtoError if `text` is empty or no valid UTF-8.
    """
    return CharTokenizer("".join(sorted(set(_as_text(text)))))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _as_text(text: str | bytes) -> str:
    try:
        if isinstance(text, str):
            text.encode()
            return text
        return bytes(text).decode()
    except UnicodeError as error:
        raise Unspellable(
            "the text is not valid UTF-8", *place(text, error.start),
            "and a char tokenizer needs characters; use --tokenizer byte or bpe"
        ) from None
