"""Applying byte-pair merges: of those that can be made the earliest learnt goes first.

And of its places the leftmost. Each distinct chunk is merged once, then copied.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from femtogpt.layers.numeric import kernel
from femtogpt.tokenizer.chunks import Chunks
from femtogpt.tokenizer.cutting import chunk_ends
from femtogpt.tokenizer.formats import BPEData
from femtogpt.tokenizer.hashing import pair_key, slot_of
from femtogpt.tokenizer.tokens import END, before, join, join_parts

SHORT = 64  # bytes of a chunk in which looking at all pairs again is quickest
NEVER = 1 << 40  # the rank of a pair that no merge joins
KEPT_BYTES = 1 << 25  # of chunks whose tokens are kept for the next text


@kernel
def enter_merges(merges, keys, ranks):
    """Fills a hash table, keys, zeros, and ranks, (2**k,), with merges (n, 3)."""
    for rank in range(len(merges)):
        key = pair_key(merges[rank, 0], merges[rank, 1])
        slot = slot_of(key, keys)
        keys[slot], ranks[slot] = key, rank


@kernel
def rank_of(left, right, keys, ranks):
    """When (left, right) is merged, or NEVER."""
    slot = slot_of(pair_key(left, right), keys)
    return np.int64(ranks[slot]) if keys[slot] != 0 else NEVER


@kernel
def merge_short(ids, n, merges, keys, ranks, scratch):
    """Merges ids[:n] in place, n <= SHORT; returns how many are left. scratch: (SHORT,)."""
    for i in range(n - 1):
        scratch[i] = rank_of(ids[i], ids[i + 1], keys, ranks)
    while True:
        best, rank = 0, np.int64(NEVER)
        for i in range(n - 1):
            if scratch[i] < rank:
                best, rank = i, scratch[i]
        if rank == NEVER:
            return n
        ids[best] = merges[rank, 2]
        n -= 1
        for i in range(best + 1, n):
            ids[i], scratch[i - 1] = ids[i + 1], scratch[i]
        if best > 0:
            scratch[best - 1] = rank_of(ids[best - 1], ids[best], keys, ranks)
        if best + 1 < n:
            scratch[best] = rank_of(ids[best], ids[best + 1], keys, ranks)


@kernel
def merge_long(ids, n, merges, keys, ranks, lengths):
    """Merges ids[:n], single bytes, in place; returns how many are left.

    One queue of places for each merge, and a bit that says where one waits. A pair is
    born when its younger token is: so a queue fills from left to right, and only queues
    of later merges fill. (In a file of others it may be otherwise: then the queue is
    sorted, and the earlier merge is gone back to.) That takes time in proportion to n.
    """
    token = np.empty(n + 2, np.int32)
    token[0] = token[n + 1] = END
    heads, tails = np.empty(len(merges), np.int32), np.empty(len(merges), np.int32)
    sorted_ = np.empty(len(merges), np.bool_)
    waiting = np.zeros(len(merges) // 64 + 1, np.uint64)
    places, following = np.empty(3 * n, np.int32), np.empty(3 * n, np.int32)
    queued = 0
    for i in range(n):
        token[i + 1] = ids[i]
    for i in range(1, n):
        rank = rank_of(token[i], token[i + 1], keys, ranks)
        if rank != NEVER:
            enqueue(rank, i, queued, heads, tails, sorted_, waiting, places, following)
            queued += 1
    word = 0
    while word < len(waiting):
        if waiting[word] == 0:
            word += 1
            continue
        rank = 64 * word
        while waiting[word] >> np.uint64(rank - 64 * word) & np.uint64(1) == 0:
            rank += 1
        if not sorted_[rank]:
            sort_queue(heads[rank], places, following)
            sorted_[rank] = True
        left, right, new = merges[rank]
        length, back = lengths[left], False
        while heads[rank] >= 0 and not back:
            i = np.int64(places[heads[rank]])
            heads[rank] = following[heads[rank]]
            j = i + length
            if token[i] != left or token[j] != right:
                continue  # one of the two has been merged away since
            end = j + lengths[right]
            join(token, i, j, end, new)
            h = before(token, i)
            for place, other in ((h, rank_of(token[h], new, keys, ranks) if token[h] != END
                                  else NEVER),
                                 (i, rank_of(new, token[end], keys, ranks) if token[end] != END
                                  else NEVER)):
                if other != NEVER:
                    enqueue(other, place, queued, heads, tails, sorted_, waiting, places,
                            following)
                    queued += 1
                    back |= other < rank
                    word = min(word, other // 64)
        if heads[rank] < 0:
            waiting[rank // 64] &= ~(np.uint64(1) << np.uint64(rank % 64))
    i, count = 1, 0
    while token[i] != END:
        ids[count] = token[i]
        i += lengths[token[i]]
        count += 1
    return count


@kernel
def enqueue(rank, place, number, heads, tails, sorted_, waiting, places, following):
    """Lets `place` wait for a merge, as entry `number` of all queues."""
    bit = np.uint64(1) << np.uint64(rank % 64)
    places[number], following[number] = place, -1
    if waiting[rank // 64] & bit and heads[rank] >= 0:
        sorted_[rank] &= places[tails[rank]] <= place
        following[tails[rank]] = number
    else:
        heads[rank], sorted_[rank] = number, True
        waiting[rank // 64] |= bit
    tails[rank] = number


@kernel
def sort_queue(head, places, following):
    """Puts the places of a queue in order."""
    count, entry = 0, head
    while entry >= 0:
        count, entry = count + 1, following[entry]
    found, entry = np.empty(count, np.int32), head
    for k in range(count):
        found[k] = places[entry]
        entry = following[entry]
    found.sort()
    entry = head
    for k in range(count):
        places[entry] = found[k]
        entry = following[entry]


@kernel
def merge_chunks(store, starts, first, count, byte_ids, merges, keys, ranks, lengths, ids, ends):
    """Tokens of the chunks from `first` to count: chunk c's are ids[ends[c]:ends[c + 1]]."""
    scratch = np.empty(SHORT, np.int64)
    for c in range(first, count):
        begin, n = ends[c], starts[c + 1] - starts[c]
        for k in range(n):
            ids[begin + k] = byte_ids[store[starts[c] + k]]
        if n <= SHORT:
            n = merge_short(ids[begin:], n, merges, keys, ranks, scratch)
        else:
            n = merge_long(ids[begin:], n, merges, keys, ranks, lengths)
        ends[c + 1] = begin + n


class Merges(NamedTuple):
    """Merges as the kernels take them."""

    byte_ids: np.ndarray  # (256,), the token of each byte
    merges: np.ndarray  # (n, 3) left, right, what they become
    keys: np.ndarray  # (2**k,) hash table of pairs, and
    ranks: np.ndarray  # (2**k,) the merge of each
    lengths: np.ndarray  # (V,) bytes of each token


def tabulate(data: BPEData, byte_ids: np.ndarray) -> Merges:
    """The Merges of a tokenizer. byte_ids: (256,), the token of each byte."""
    merges = np.array(data.merges, np.int64).reshape(-1, 3)
    size = 1 << (2 * len(merges) + 1).bit_length()
    keys, ranks = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    enter_merges(merges, keys, ranks)
    lengths = np.array([len(piece) for piece in data.pieces], np.int64)
    return Merges(byte_ids, merges, keys, ranks, lengths)


class Encoder:
    """Encodes texts by merges, remembering the chunks it met. Not for two threads at once."""

    def __init__(self, merges: Merges, split: str):
        self._merges, self._split = merges, split
        self._dtype = np.uint16 if len(merges.lengths) <= 65536 else np.uint32
        self._chunks = Chunks()
        self._ids, self._ends = np.empty(0, np.int32), np.zeros(1, np.int64)

    def encode(self, data: bytes) -> np.ndarray:
        """The ids of data, a whole text: (n,) uint16 or uint32."""
        values, chunks = np.frombuffer(data, np.uint8), self._chunks
        if len(chunks.store) > KEPT_BYTES:
            chunks.clear()
            self._ids, self._ends = np.empty(0, np.int32), np.zeros(1, np.int64)
        known = chunks.count
        numbers = chunks.number(values, chunk_ends(values, self._split))
        if len(self._ends) < len(chunks.starts):
            self._ends = np.resize(self._ends, len(chunks.starts))
        if len(self._ids) < len(chunks.store):
            self._ids = np.resize(self._ids, len(chunks.store))
        self._merge(chunks.store, chunks.starts, known, chunks.count, self._ids, self._ends)
        out = np.empty(len(values), self._dtype)
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
        merge_chunks(store, starts, first, count, *self._merges, ids, ends)
