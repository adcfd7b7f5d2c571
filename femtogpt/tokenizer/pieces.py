"""A given vocabulary of strings, matched greedily: what femtoGPT's JSON files hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from femtogpt.errors import FemtoError, short
from femtogpt.tokenizer.protocol import as_bytes, check_ids, pack_ids, unknown_byte
from femtogpt.tokenizer.stream import between_pieces, encode_blocks

UNKNOWN = b"<unk>"


class PiecesTokenizer:
    """Token id = place in `pieces`, a list of distinct byte strings.

    At each place of a text the longest piece that fits is taken. If `pieces` has
    b"<unk>", each byte that no piece spells becomes that token (lossy); the letters
    "<unk>" in a text are never taken for it.
    """

    name = "pieces"

    def __init__(self, pieces: Sequence[bytes]):
        if len(pieces) == 0:
            raise FemtoError("the vocabulary is empty; it needs at least one piece")
        self.pieces = list(pieces)
        self.vocab_size = len(self.pieces)
        self._ids: dict[bytes, int] = {}
        for id, piece in enumerate(self.pieces):
            if not piece:
                raise FemtoError(f"the piece with id {id} is empty; give it a text or remove it")
            if piece in self._ids:
                raise FemtoError(
                    f"ids {self._ids[piece]} and {id} are the same piece {short(piece)}"
                )
            self._ids[piece] = id
        self._unknown = self._ids.pop(UNKNOWN, None)
        # The lengths worth trying after each first byte, longest first.
        lengths: list[set[int]] = [set() for _ in range(256)]
        for piece in self._ids:
            lengths[piece[0]].add(len(piece))
        self._lengths = [sorted(some, reverse=True) for some in lengths]

    def encode(self, text: str | bytes) -> np.ndarray:
        """Greedy longest match from left to right: (n,) uint16 or uint32.

        Raises FemtoError for a byte that no piece spells, if there is no b"<unk>".
        """
        data = as_bytes(text)
        out: list[int] = []
        i = 0
        while i < len(data):
            for length in self._lengths[data[i]]:
                id = self._ids.get(data[i : i + length])
                # A slice that the end of the text cut short fits a shorter piece, which
                # is right, but then `length` is not its length.
                if id is not None:
                    out.append(id)
                    i += len(self.pieces[id])
                    break
            else:
                if self._unknown is None:
                    raise unknown_byte(
                        data, i,
                        'is not in the vocabulary; remove it from the text, or add it or "<unk>" '
                        "to the vocabulary"
                    )
                out.append(self._unknown)
                i += 1
        return pack_ids(out, self.vocab_size)

    def encode_blocks(self, blocks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """`encode` of the blocks joined, in parts."""
        return encode_blocks(blocks, between_pieces(self.pieces), self.encode)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The pieces of `ids`, joined. Raises FemtoError for an id out of range."""
        return b"".join([self.pieces[i] for i in check_ids(ids, self.vocab_size).tolist()])

    def piece(self, id: int) -> bytes:
        """What `id` stands for."""
        return self.decode([id])

    def to_json(self) -> dict:
        """{"kind": "pieces", "pieces": [[byte, ...], ...]}."""
        return {"kind": self.name, "pieces": [list(piece) for piece in self.pieces]}

    @classmethod
    def from_json(cls, obj: dict) -> PiecesTokenizer:
        """The tokenizer that `to_json` wrote. Raises FemtoError if it is damaged."""
        pieces = obj.get("pieces")
        if not isinstance(pieces, list):
            raise FemtoError('a pieces tokenizer needs a "pieces" list')
        return cls([_bytes_of(id, piece) for id, piece in enumerate(pieces)])

    @classmethod
    def from_strings(cls, strings: list) -> PiecesTokenizer:
        """From a JSON array of strings, id = place. Raises FemtoError if it is damaged."""
        pieces = []
        for id, string in enumerate(strings):
            if not isinstance(string, str):
                raise FemtoError(f"item {id} is not a string; the vocabulary must be strings")
            pieces.append(as_bytes(string))
        return cls(pieces)

    @classmethod
    def from_femtogpt(cls, obj: dict) -> PiecesTokenizer:
        """From femtoGPT's JSON object, id -> list of bytes. Raises FemtoError if damaged."""
        for id in range(len(obj)):
            if str(id) not in obj:
                raise FemtoError(f"id {id} is missing; {len(obj)} pieces need ids from 0 on")
        return cls([_bytes_of(id, obj[str(id)]) for id in range(len(obj))])


def _bytes_of(id: int, numbers: object) -> bytes:
    if not isinstance(numbers, list) or not all(
        type(number) is int and 0 <= number < 256 for number in numbers
    ):
        raise FemtoError(f"the piece with id {id} must be a list of bytes (0..255)")
    return bytes(numbers)
