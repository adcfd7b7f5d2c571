"""Byte-level byte-pair encoding.

Text is cut into chunks (split.py, cutting.py), a chunk is its bytes, and merges replace
two neighbouring tokens inside a chunk by one (applying.py). Where all 256 bytes are
tokens, any bytes can be encoded and come back exactly; where only those are that the
training text had, another byte is an error. Lossy is one choice alone: a tokenizer that
is case-insensitive lower-cases text first.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from femtogpt.errors import FemtoError
from femtogpt.tokenizer.formats import BPEData, from_huggingface, spell, to_huggingface
from femtogpt.tokenizer.protocol import (
    as_bytes,
    check_ids,
    pack_ids,
    unknown_byte,
)
from femtogpt.tokenizer.room import Room
from femtogpt.tokenizer.split import check_split
from femtogpt.tokenizer.stream import (
    between_chunks,
    between_pieces,
    encode_blocks,
    encode_unchunked,
    lowered,
)

BLOCK = 1 << 19  # bytes of a text that one thread encodes at a time, or ids to decode


class BPETokenizer:
    """Byte-level BPE over `data`; make one with `train_bpe` or `from_json`.

    `special_tokens` maps the spelling of each special token, reserved ones included,
    to its id. `num_learnt` is the number of the other tokens: the 256 bytes and one
    a merge; it is less than `train_bpe` was asked for if pairs ran out.
    """

    name = "bpe"

    def __init__(self, data: BPEData):
        check_split(data.split)
        self.data = data
        self.vocab_size = len(data.pieces)
        self.special_tokens = data.special_tokens
        self.num_learnt = self.vocab_size - len(self.special_tokens)
        special_ids = set(self.special_tokens.values())
        ordinary = {p: id for id, p in enumerate(data.pieces) if id not in special_ids}
        taken = {spell(piece) for piece in ordinary} if special_ids else set()
        for special in self.special_tokens:
            if special in taken:  # one spelling cannot have two ids in tokenizer.json
                raise FemtoError(
                    f"the special token {special!r} is an ordinary token too; give it a name "
                    "that texts do not have, such as <|endoftext|>"
                )
        self._byte_ids = np.array([ordinary.get(bytes([byte]), -1) for byte in range(256)])
        self._tables = None  # for the encoders
        self._encoders = []  # those that no thread uses now
        # Piece p is _store[_starts[p]:_starts[p + 1]].
        self._store = np.frombuffer(b"".join(data.pieces), np.uint8)
        self._lengths = np.array([len(piece) for piece in data.pieces], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)])

    def encode(self, text: str | bytes, allow_special: bool = False) -> np.ndarray:
        """The ids of `text`: (n,) uint16 or uint32.

        The letters of a special token in `text` are letters, unless `allow_special`:
        then they are that token.
        """
        data = as_bytes(text)
        if not (allow_special and self.special_tokens):
            return self._encode_ordinary(data)
        # The longest first: of <|a|> and <|a|>b in one place, the longer is meant.
        names = sorted((s.encode() for s in self.special_tokens), key=len, reverse=True)
        special, out = b"(" + b"|".join(map(re.escape, names)) + b")", []
        for number, part in enumerate(re.split(special, data)):
            if number % 2:  # re.split puts what its group matched at the odd places
                out.append(pack_ids([self.special_tokens[part.decode()]], self.vocab_size))
            else:
                out.append(self._encode_ordinary(part))
        return np.concatenate(out)

    def encode_blocks(self, blocks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """`encode` of the blocks joined, in parts, on as many threads as there are processors."""
        if not self.data.case_sensitive:
            blocks = lowered(blocks)
        if self.data.split != "none":
            cut = between_chunks(self.data.split)
            return encode_blocks(blocks, cut, self._encode_whole, os.cpu_count() or 1)
        if self.is_canonical():
            return encode_unchunked(blocks, self._encode_whole, self.data.pieces)
        return encode_blocks(blocks, between_pieces(self.data.pieces), self._encode_whole)

    def _encode_ordinary(self, data: bytes) -> np.ndarray:
        if len(data) > BLOCK:
            view = memoryview(data)
            blocks = (view[i : i + BLOCK] for i in range(0, len(data), BLOCK))
            return np.concatenate(list(self.encode_blocks(blocks)))
        if not self.data.case_sensitive:
            data = b"".join(lowered([data]))
        return self._encode_whole(data)

    def _encode_whole(self, data: bytes) -> np.ndarray:
        self._check_bytes(data)
        return self._with_encoder(lambda encoder: encoder.encode(data))

    def _check_bytes(self, data: bytes) -> None:
        unknown = self._byte_ids < 0
        if unknown.any():
            found = unknown[np.frombuffer(data, np.uint8)]
            if found.any():
                raise unknown_byte(
                    data, int(found.argmax()),
                    "was in no text that this tokenizer was trained on with --base seen; remove "
                    "it, or train one with --base all"
                )

    def is_canonical(self) -> bool:
        """Whether merges make of each token's own piece that token; for what we learn they do."""
        ordinary = np.ones(self.vocab_size, bool)
        ordinary[list(self.special_tokens.values())] = False
        return self._with_encoder(
            lambda encoder: encoder.is_canonical(self._store, self._starts, ordinary))

    def _with_encoder(self, use):
        """use(encoder), with one that no other thread has meanwhile."""
        from femtogpt.tokenizer.applying import Encoder, Tables  # numba, which takes a while

        try:
            encoder = self._encoders.pop()
        except IndexError:
            if self._tables is None:
                self._tables = Tables(self.data, self._byte_ids)
            encoder = Encoder(self._tables, self.data.split)
        try:
            return use(encoder)
        finally:
            self._encoders.append(encoder)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The pieces of `ids`, joined. Raises FemtoError for an id out of range."""
        from femtogpt.tokenizer.tokens import join_parts

        ids, text, room = np.asarray(ids).reshape(-1), io.BytesIO(), Room()
        for i in range(0, len(ids), BLOCK):  # not all of them once more as int64
            some = check_ids(ids[i : i + BLOCK], self.vocab_size)
            out = room.array("bytes", int(self._lengths[some].sum()), np.uint8)
            join_parts(some, self._store, self._starts, out)
            text.write(out)
        return text.getvalue()  # which is no copy, as joined parts would be

    def piece(self, id: int) -> bytes:
        """The bytes that `id` stands for; a special token's are its name."""
        return self.data.pieces[check_ids([id], self.vocab_size)[0]]

    def to_huggingface(self) -> dict:
        """The content of Hugging Face's `tokenizer.json`; see formats.to_huggingface."""
        return to_huggingface(self.data)

    def to_json(self) -> dict:
        """{"kind": "bpe", "huggingface": the content of a `tokenizer.json`}."""
        return {"kind": self.name, "huggingface": self.to_huggingface()}

    @classmethod
    def from_json(cls, obj: dict) -> BPETokenizer:
        """The tokenizer that `to_json` wrote. Raises FemtoError if it is damaged."""
        return cls(from_huggingface(obj.get("huggingface")))
