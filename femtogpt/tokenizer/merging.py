"""Merging one chunk: of the merges that can be made the earliest learnt goes first.

And of its places the leftmost.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from femtogpt.layers.numeric import allocation_free, kernel
from femtogpt.tokenizer.hashing import mix, pair_key, slot_of
from femtogpt.tokenizer.tokens import END, before, join

SHORT = 64  # bytes in which looking at all pairs again is quickest
NEVER = (1 << 26) - 1  # the rank of a pair that no merge joins
GONE = np.uint32(0xFFFFFFFF)  # in place of a rank and a place: nothing waits there
QUEUES = 4096  # bytes for which the queues of merge_long are worth their making
OVERLAP = 3  # tokens of two parts, more where they have none in common


class Merges(NamedTuple):
    """Merges as the kernels take them. A rank is a merge's place in their order."""

    merges: np.ndarray  # (n, 3) left, right, what they become
    table: np.ndarray  # (2**k, 2) uint64, a hash table of pair_key and rank
    marks: np.ndarray  # (2**k / 8,) uint64, bits: where 0, a pair is not in the table
    byte_ids: np.ndarray  # (256,) the token of each byte; of one that has none V, never merged
    byte_ranks: np.ndarray  # (256, 256) int32, rank_of two bytes' tokens
    lengths: np.ndarray  # (V + 1,) bytes of each token


@allocation_free
def enter_merges(m):
    """Fills the table, marks and byte_ranks of m, the first two zeros, by its merges."""
    for rank in range(len(m.merges)):
        key = pair_key(m.merges[rank, 0], m.merges[rank, 1])
        slot = slot_of(key, m.table[:, 0])
        m.table[slot, 0], m.table[slot, 1] = key, rank
        word, bit = mark_of(key, m.marks)
        m.marks[word] |= bit
    for i in range(256):
        for j in range(256):
            m.byte_ranks[i, j] = rank_of(m.byte_ids[i], m.byte_ids[j], m.table, m.marks)


@allocation_free
def mark_of(key, marks):
    """The word and the bit of marks that say whether a pair may be a merge."""
    place = mix(key) >> np.uint64(20) & np.uint64(64 * len(marks) - 1)
    return place >> np.uint64(6), np.uint64(1) << (place & np.uint64(63))


@allocation_free
def rank_of(left, right, table, marks):
    """When (left, right) is merged, or NEVER. The marks, which stay in the cache, know most."""
    key = pair_key(left, right)
    word, bit = mark_of(key, marks)
    if marks[word] & bit == 0:
        return NEVER
    mask = np.uint64(len(table) - 1)
    slot = mix(key) & mask
    while table[slot, 0] != 0:
        if table[slot, 0] == key:
            return np.int64(table[slot, 1])
        slot = (slot + np.uint64(1)) & mask
    return NEVER


@allocation_free
def waits(rank, place):
    """What merge_short compares: the earliest merge is the least, then the leftmost place."""
    return np.uint32(rank << 6 | place)


@allocation_free
def least(waiting, stop):
    """The least of waiting[:stop], 16 at a time, which are one or two vectors."""
    found = GONE
    for block in range(0, stop, 16):
        for i in range(16):
            found = min(found, waiting[block + i])
    return found


@allocation_free
def merge_short(data, ids, m, waiting, following, preceding):
    """Writes the tokens of data, (n,) uint8 with 1 <= n <= SHORT, to ids; returns how many.

    The other three: scratch, (SHORT + 1,), waiting uint32. A token stays where its first
    byte was; what waits is looked at 16 at a time, which are one or two vectors.
    """
    table, marks, merges = m.table, m.marks, m.merges
    n = len(data)
    stop = n + 15 & ~15
    for i in range(n - 1, stop):
        waiting[i] = GONE
    for i in range(n):
        ids[i], following[i], preceding[i] = m.byte_ids[data[i]], i + 1, i - 1
        if i + 1 < n:
            waiting[i] = waits(np.int64(m.byte_ranks[data[i], data[i + 1]]), i)
    count = n
    while True:
        first = least(waiting, stop)
        if first >= waits(NEVER, 0):
            break
        i = np.int64(first) & 63
        ids[i] = merges[np.int64(first) >> 6, 2]
        j, h = np.int64(following[i]), np.int64(preceding[i])
        end = np.int64(following[j])
        waiting[i], waiting[j], following[i] = GONE, GONE, end
        count -= 1
        if end < n:
            preceding[end] = i
            waiting[i] = waits(rank_of(ids[i], ids[end], table, marks), i)
        if h >= 0:
            waiting[h] = waits(rank_of(ids[h], ids[i], table, marks), h)
    i = 0
    for k in range(count):
        ids[k] = ids[i]
        i = following[i]
    return count


@allocation_free
def merge_parts(data, ids, m, part, waiting, following, preceding):
    """Writes the tokens of data, (n,) uint8, to ids, part by part; returns how many.

    part: scratch, (n,) or longer. For the others see merge_short.
    Parts overlap by some tokens. Where both have the same token in the same place, those up
    to it of the one and those behind it of the other are the tokens of all. For merges know
    nothing of what is beside the two they join: so any stretch of a text's tokens is what
    its bytes alone become; and tokens are a text's if each two neighbours are what their
    bytes alone become: the first merge across a boundary would be made of these two alone.
    """
    count, end, back = 0, 0, OVERLAP
    while end < len(data):
        kept, begin = max(0, count - back), end
        for k in range(kept, count):
            begin -= m.lengths[ids[k]]
        size = SHORT if 2 * (end - begin) <= SHORT else max(QUEUES, 4 * (end - begin))
        stop = min(len(data), begin + size)
        if stop - begin <= SHORT:
            found = merge_short(data[begin:stop], part, m, waiting, following, preceding)
        else:
            found = merge_long(data[begin:stop], part, m)
        first = 0
        if begin > 0:
            i, j = common(ids[kept:count], part[:found], m.lengths)
            if i < 0:
                back *= 2
                continue
            kept, first = kept + i + 1, j + 1
        count = kept
        for k in range(first, found):
            ids[count] = part[k]
            count += 1
        end, back = stop, OVERLAP
    return count


@allocation_free
def common(tokens, others, lengths):
    """The first token that stands in both where the same byte is: its two places, or -1, -1."""
    i, j, at, other_at = 0, 0, 0, 0
    while i < len(tokens) and j < len(others):
        if at == other_at and tokens[i] == others[j]:
            return i, j
        if at < other_at:
            at += lengths[tokens[i]]
            i += 1
        else:
            other_at += lengths[others[j]]
            j += 1
    return -1, -1


@kernel
def merge_long(data, ids, m):
    """Writes the tokens of data, (n,) uint8, to ids; returns how many.

    One queue of places for each merge, and a bit that says where one waits. A pair is
    born when its younger token is: so a queue fills from left to right, and only queues
    of later merges fill. (In a file of others it may be otherwise: then the queue is
    sorted, and the earlier merge is gone back to.) That takes time in proportion to n.
    """
    n, merges, lengths, table, marks = len(data), m.merges, m.lengths, m.table, m.marks
    token = np.empty(n + 2, np.int32)
    token[0] = token[n + 1] = END
    heads, tails = np.empty(len(merges), np.int32), np.empty(len(merges), np.int32)
    sorted_ = np.empty(len(merges), np.bool_)
    waiting = np.zeros(len(merges) // 64 + 1, np.uint64)
    places, following = np.empty(3 * n, np.int32), np.empty(3 * n, np.int32)
    queued = 0
    for i in range(n):
        token[i + 1] = m.byte_ids[data[i]]
    for i in range(1, n):
        rank = np.int64(m.byte_ranks[data[i - 1], data[i]])
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
            for place, other in ((h, rank_of(token[h], new, table, marks) if token[h] != END
                                  else NEVER),
                                 (i, rank_of(new, token[end], table, marks) if token[end] != END
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


@allocation_free
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
