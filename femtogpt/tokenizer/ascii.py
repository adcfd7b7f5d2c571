"""ASCII characters as tokens: 101 ids, for plain English and code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from femtogpt.tokenizer.protocol import as_bytes, check_ids, pack_ids, unknown_byte
from femtogpt.tokenizer.stream import encode_blocks, whole_characters

# In code point order: \t \n \x0b \x0c \r, then the 95 printable characters.
CHARACTERS = bytes([*range(0x09, 0x0E), *range(0x20, 0x7F)])
UNKNOWN = b"<unk>"
UNKNOWN_ID = len(CHARACTERS)


class AsciiTokenizer:
    """100 ASCII characters (ids 0..99), and `<unk>` (id 100), which no text yields.

    femtoGPT's vocabulary has that token for what it cannot spell; so models are of one size.
    Here a text comes back exactly or is refused.
    """

    name = "ascii"
    vocab_size = len(CHARACTERS) + 1

    def __init__(self):
        self._ids = np.full(256, UNKNOWN_ID, np.uint16)
        self._ids[list(CHARACTERS)] = np.arange(len(CHARACTERS))
        self._pieces = [bytes([c]) for c in CHARACTERS] + [UNKNOWN]

    def encode(self, text: str | bytes) -> np.ndarray:
        """One id a character: (n,) uint16. Raises FemtoError for any other character or byte."""
        data = as_bytes(text)
        ids = self._ids[np.frombuffer(data, np.uint8)]
        unknown = ids == UNKNOWN_ID
        if unknown.any():
            raise unknown_byte(
                data, int(unknown.argmax()),
                f"is not among the {UNKNOWN_ID} characters of ascii; remove it from the text, or "
                "start a model with --tokenizer byte"
            )
        return pack_ids(ids, self.vocab_size)

    def encode_blocks(self, blocks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """`encode` of the blocks joined, in parts."""
        return encode_blocks(blocks, whole_characters, self.encode)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The characters of `ids`. Raises FemtoError for an id out of range."""
        return b"".join([self._pieces[i] for i in check_ids(ids, self.vocab_size).tolist()])

    def piece(self, id: int) -> bytes:
        """The character that `id` stands for, or b"<unk>"."""
        return self.decode([id])

    def to_json(self) -> dict:
        """{"kind": "ascii"}: there is nothing else to know."""
        return {"kind": self.name}

    @classmethod
    def from_json(cls, obj: dict) -> AsciiTokenizer:
        """An AsciiTokenizer; `obj` holds nothing but its kind."""
        return cls()
