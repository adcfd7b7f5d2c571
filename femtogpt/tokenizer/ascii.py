"""ASCII characters as tokens: 101 ids, for plain English and code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from femtogpt.tokenizer.protocol import as_bytes, check_ids, pack_ids
from femtogpt.tokenizer.stream import encode_blocks, whole_characters

# In code point order: \t \n \x0b \x0c \r, then the 95 printable characters.
CHARACTERS = bytes([*range(0x09, 0x0E), *range(0x20, 0x7F)])
UNKNOWN = b"<unk>"
UNKNOWN_ID = len(CHARACTERS)


class AsciiTokenizer:
    """100 ASCII characters (ids 0..99) and `<unk>` (id 100).

    Every other character of a text, and every byte that is no valid UTF-8, becomes
    one `<unk>`. That is lossy: `<unk>` decodes to the five letters "<unk>", so that a
    reader sees the gap. The letters "<unk>" in a text are five ordinary characters.
    """

    name = "ascii"
    vocab_size = len(CHARACTERS) + 1

    def __init__(self):
        self._ids = np.full(129, UNKNOWN_ID, np.uint16)  # [128]: all beyond ASCII
        self._ids[list(CHARACTERS)] = np.arange(len(CHARACTERS))
        self._pieces = [bytes([c]) for c in CHARACTERS] + [UNKNOWN]

    def encode(self, text: str | bytes) -> np.ndarray:
        """One id a character: (n,) uint16."""
        text = as_bytes(text).decode("utf-8", "surrogateescape")
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        return pack_ids(self._ids[np.minimum(points, 128)], self.vocab_size)

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
