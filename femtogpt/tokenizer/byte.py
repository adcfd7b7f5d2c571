"""Bytes as tokens: 256 ids, nothing to learn, nothing lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from femtogpt.tokenizer.protocol import as_bytes, check_ids, pack_ids


class ByteTokenizer:
    """Token id = byte value. Any bytes come back exactly."""

    name = "byte"
    vocab_size = 256

    def encode(self, text: str | bytes) -> np.ndarray:
        """The bytes of `text`: (n,) uint16."""
        return pack_ids(np.frombuffer(as_bytes(text), dtype=np.uint8), self.vocab_size)

    def encode_blocks(self, blocks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """`encode` of the blocks joined, a block at a time."""
        return map(self.encode, blocks)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that `ids` number. Raises FemtoError for an id out of range."""
        return check_ids(ids, self.vocab_size).astype(np.uint8).tobytes()

    def piece(self, id: int) -> bytes:
        """The one byte that `id` stands for."""
        return self.decode([id])

    def to_json(self) -> dict:
        """{"kind": "byte"}: there is nothing else to know."""
        return {"kind": self.name}

    @classmethod
    def from_json(cls, obj: dict) -> ByteTokenizer:
        """A ByteTokenizer; `obj` holds nothing but its kind."""
        return cls()
