"""Encoding by byte-pair merges: each distinct chunk is merged once, then copied."""

from __future__ import annotations

import threading
from itertools import chain

import numpy as np

from femtogpt.layers.numeric import entry
from femtogpt.tokenizer.chunks import Chunks, grown
from femtogpt.tokenizer.cutting import chunk_ends
from femtogpt.tokenizer.formats import BPEData
from femtogpt.tokenizer.matching import SHORTEST, make_matcher, match_longest, no_matcher
from femtogpt.tokenizer.merging import (
    QUEUES,
    SHORT,
    Merges,
    enter_merges,
    merge_parts,
    merge_short,
)
from femtogpt.tokenizer.room import Room
from femtogpt.tokenizer.tokens import join_parts

MATCHED_BYTES = 1 << 17  # of distinct chunks to match, from which on a matcher pays (some 20 ms)
KEPT_BYTES = 1 << 25  # of chunks whose tokens are kept for the next text; a whole text is not


@entry
def merge_chunks(store, starts, first, count, m, matcher, ids, ends):
    """Tokens of the chunks from `first` to count: chunk c's are ids[ends[c]:ends[c + 1]]."""
    longest = SHORT
    for c in range(first, count):
        longest = max(longest, starts[c + 1] - starts[c])
    part, waiting = np.empty(longest, np.int32), np.empty(SHORT + 1, np.uint32)
    following, preceding = np.empty(SHORT + 1, np.uint8), np.empty(SHORT + 1, np.int8)
    open_, matches = np.empty(QUEUES + 1, np.bool_), len(matcher.nodes) > 0
    for c in range(first, count):
        data, to = store[starts[c] : starts[c + 1]], ids[ends[c] :]
        if matches and SHORTEST <= len(data) <= QUEUES:
            n = match_longest(data, to, m, matcher, open_)
        elif len(data) <= SHORT:
            n = merge_short(data, to, m, waiting, following, preceding)
        else:
            n = merge_parts(data, to, m, part, waiting, following, preceding)
        ends[c + 1] = ends[c] + n


def tabulate(data: BPEData, byte_ids: np.ndarray) -> Merges:
    """The Merges of a tokenizer. byte_ids: (256,), the token of each byte, or -1."""
    numbers = chain.from_iterable(data.merges)  # np.array takes twice as long to look at them
    merges = np.fromiter(numbers, np.int32, 3 * len(data.merges)).reshape(-1, 3)
    slots = max(8, 1 << (2 * len(merges) + 1).bit_length())
    lengths = np.array([*map(len, data.pieces), 1], np.int64)
    m = Merges(merges, np.zeros((slots, 2), np.uint64), np.zeros(slots // 8, np.uint64),
               np.where(byte_ids < 0, len(data.pieces), byte_ids),
               np.empty((256, 256), np.int32), lengths)
    enter_merges(m)
    return m


class Tables:
    """What the encoders of one tokenizer share."""

    def __init__(self, data: BPEData, byte_ids: np.ndarray):
        """byte_ids: as in tabulate."""
        self.merges, self.matcher = tabulate(data, byte_ids), no_matcher()
        self._data, self._lock = data, threading.Lock()

    def prepare_matcher(self) -> None:
        """Makes the matcher, once; while another thread does, all goes on without."""
        if self._lock.acquire(blocking=False):
            try:
                if self._data is not None:
                    self.matcher, self._data = make_matcher(self._data, self.merges), None
            finally:
                self._lock.release()


class Encoder:
    """Encodes texts by merges, remembering the chunks it met. Not for two threads at once."""

    def __init__(self, tables: Tables, split: str):
        self._tables, self._split, self._long = tables, split, 0
        self._dtype = np.uint16 if len(tables.merges.lengths) - 1 <= 65536 else np.uint32
        self._chunks, self._room = Chunks(), Room()
        self._ids, self._ends = np.empty(0, np.int32), np.zeros(1, np.int64)

    def encode(self, data: bytes) -> np.ndarray:
        """The ids of data, a whole text: (n,) uint16 or uint32."""
        values, chunks, room = np.frombuffer(data, np.uint8), self._chunks, self._room
        if len(chunks.store) > (0 if self._split == "none" else KEPT_BYTES):
            chunks.clear()
            self._ids, self._ends = np.empty(0, np.int32), np.zeros(1, np.int64)
        known = chunks.count
        numbers = chunks.number(values, chunk_ends(values, self._split, room), room)
        if len(self._ends) < len(chunks.starts):
            self._ends = grown(self._ends, len(chunks.starts))
        if len(self._ids) < len(chunks.store):
            self._ids = grown(self._ids, len(chunks.store))
        lengths = np.diff(chunks.starts[known : chunks.count + 1])
        self._long += lengths[(lengths >= SHORTEST) & (lengths <= QUEUES)].sum()
        if self._long > MATCHED_BYTES:
            self._tables.prepare_matcher()
        self._merge(chunks.store, chunks.starts, known, chunks.count, self._ids, self._ends)
        out = room.array("ids", len(values), self._dtype)
        return out[: join_parts(numbers, self._ids, self._ends, out)].copy()

    def is_canonical(self, store: np.ndarray, starts: np.ndarray, ordinary: np.ndarray) -> bool:
        """Whether merges make of each token's own piece that token, as merges that we learn do.

        Piece p is store[starts[p]:starts[p + 1]]. ordinary: (V,), which are no special tokens.
        """
        ids, ends = np.empty(len(store), np.int32), np.zeros(len(starts), np.int64)
        self._merge(store, starts, 0, len(starts) - 1, ids, ends)
        alone = np.diff(ends) == 1
        return bool((alone & (ids[ends[:-1]] == np.arange(len(alone))))[ordinary].all())

    def _merge(self, store, starts, first, count, ids, ends):
        merge_chunks(store, starts, first, count, self._tables.merges, self._tables.matcher, ids,
                     ends)
