"""The tokens of one chunk from left to right, by longest matches: those that merges make of it.

Merges know nothing of what is beside the two they join (merge_parts says what follows), so tokens
are a chunk's if each two neighbours are what their bytes alone become. Here the next token is the
longest that the chunk goes on with and that fits behind the one before; where none fits, the one
before is taken back for a shorter. What was taken back is not come to again, so the time is in
proportion to the bytes: one look a byte and some a token, where merging looks at each pair again
and again. From SHORTEST bytes on that is quicker (up to 3.5 times, two cores of a Xeon). Shown
by van Antwerpen and Neubeck ("So many tokens, so little time", 2024).

It takes merges such as are learnt: each token is made by one of them, of older tokens, and is
what its own bytes become. Of others there is no_matcher.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from femtogpt.layers.numeric import allocation_free
from femtogpt.tokenizer.formats import BPEData
from femtogpt.tokenizer.hashing import mix
from femtogpt.tokenizer.merging import NEVER, Merges, rank_of

SHORTEST = 17  # bytes of a chunk
LEFT, RIGHT, RANK = range(3)
FIRST, PARENT = range(2)  # a node's child by byte b is FIRST + b, if that has it for PARENT
MOST_NODES = 1 << 24  # whose numbers fit a key beside a byte


class Matcher(NamedTuple):
    """All pieces as a tree of bytes, and what each token is made of."""

    cells: np.ndarray  # (n, 2) int32: FIRST, PARENT of a node
    nodes: np.ndarray  # (n,) int32, the token whose piece leads there from node 0, or -1
    shorter: np.ndarray  # (V + 1,) int32, the longest other token that a token begins with, or -1
    made: np.ndarray  # (V + 1, 3) int32, the merge that makes it: left, right, rank, -1 for none


@allocation_free
def child_slot(node, byte, children):
    """Where the child of a node by a byte is in the hash table, or where it goes."""
    key = np.uint64(node) << np.uint64(8) | np.uint64(byte)
    mask = np.uint64(len(children) - 1)
    slot = mix(key) & mask
    while children[slot] != 0 and children[slot] >> np.uint64(32) != key + np.uint64(1):
        slot = (slot + np.uint64(1)) & mask
    return slot


@allocation_free
def plant(store, starts, ordinary, children, nodes):
    """Enters each ordinary piece, store[starts[p]:starts[p + 1]]; how many nodes there are."""
    count = 1
    nodes[0] = -1
    for p in range(len(starts) - 1):
        if not ordinary[p]:
            continue
        node = 0
        for i in range(starts[p], starts[p + 1]):
            slot = child_slot(node, store[i], children)
            if children[slot] == 0:
                key = (np.uint64(node) << np.uint64(8) | np.uint64(store[i])) + np.uint64(1)
                children[slot] = key << np.uint64(32) | np.uint64(count)
                nodes[count] = -1
                count += 1
            node = np.int64(children[slot] & np.uint64(0xFFFFFFFF))
        nodes[node] = p
    return count


@allocation_free
def pack(entries, nodes, cells, tokens, place):
    """Puts the nodes of plant's tree where FIRST and PARENT can say it; how many cells are used,
    or 0 where there are too few.

    entries: of plant's table, in order, so by parent and byte. place: scratch, where each node
    is. An only child goes to the first free cell, others to where all of them find theirs free.
    Nodes that were planted early, whose tokens are frequent, lie together.
    """
    low = high = 256  # below it what has no children finds none
    place[0] = 0
    cells[:, FIRST], cells[:, PARENT], tokens[:] = 0, -1, -1
    k = 0
    while k < len(entries):
        key = entries[k] >> np.uint64(32)
        parent = np.int64((key - np.uint64(1)) >> np.uint64(8))
        end = k
        while end < len(entries) and np.int64(
                ((entries[end] >> np.uint64(32)) - np.uint64(1)) >> np.uint64(8)) == parent:
            end += 1
        while low < high and cells[low, PARENT] >= 0:
            low += 1
        at = low if end == k + 1 else max(low, high - 256)
        lowest = np.int64((key - np.uint64(1)) & np.uint64(255))
        fits = False
        while not fits:
            first = at - lowest
            if first + 256 > len(cells):
                return 0
            fits = True
            for e in range(k, end):
                byte = np.int64(((entries[e] >> np.uint64(32)) - np.uint64(1)) & np.uint64(255))
                if cells[first + byte, PARENT] >= 0:
                    fits = False
                    break
            at += 1
        cells[place[parent], FIRST] = first
        for e in range(k, end):
            byte = np.int64(((entries[e] >> np.uint64(32)) - np.uint64(1)) & np.uint64(255))
            child = np.int64(entries[e] & np.uint64(0xFFFFFFFF))
            place[child] = first + byte
            cells[first + byte, PARENT] = place[parent]
            tokens[first + byte] = nodes[child]
            high = max(high, first + byte + 1)
        k = end
    return high + 256


@allocation_free
def longest(data, begin, end, cells, nodes, none):
    """The longest token that data[begin:end] begins with, or `none`."""
    node, found = 0, none
    for i in range(begin, end):
        child = np.int64(cells[node, FIRST]) + data[i]
        if cells[child, PARENT] != node:
            break
        node = child
        if nodes[node] >= 0:
            found = np.int64(nodes[node])
    return found


@allocation_free
def stay_apart(left, right, table, marks, made):
    """Whether, until their bytes have become these two tokens, no merge goes across from one to
    the other.

    Undoes the two, the younger first, down to the bytes beside the boundary: two that stood
    there together would be merged before either is merged with its other neighbour. (With the
    same merge for both, the leftmost place goes first.)
    """
    left_ends = right_ends = NEVER
    while True:
        if made[left, RANK] > made[right, RANK]:
            left_ends, left = np.int64(made[left, RANK]), np.int64(made[left, RIGHT])
        elif made[right, RANK] >= 0:
            right_ends, right = np.int64(made[right, RANK]), np.int64(made[right, LEFT])
        else:
            return True
        rank = rank_of(left, right, table, marks)
        if rank < left_ends and rank <= right_ends:
            return False


@allocation_free
def match_longest(data, ids, m, matcher, open_):
    """Writes the tokens of data, (n,) uint8, to ids; returns how many. open_: scratch, (n + 1,)
    bool: the places where a token may end."""
    cells, nodes, shorter, made = matcher
    table, marks, lengths = m.table, m.marks, m.lengths
    n, count, at, none = len(data), 0, 0, len(shorter) - 1  # none: a byte that is no token
    open_[: n + 1] = True
    token = longest(data, 0, n, cells, nodes, none)
    while at < n:
        end = at + lengths[token]
        if open_[end] and (count == 0 or (
                rank_of(ids[count - 1], token, table, marks) == NEVER
                and stay_apart(np.int64(ids[count - 1]), token, table, marks, made))):
            ids[count] = token
            count, at = count + 1, end
            token = longest(data, at, n, cells, nodes, none)
        elif shorter[token] >= 0:
            token = np.int64(shorter[token])
        else:
            open_[at] = False
            count -= 1
            token = np.int64(ids[count])
            at -= lengths[token]
    return count


@allocation_free
def find_shorter(store, starts, ordinary, cells, nodes, shorter):
    """Fills shorter."""
    shorter[:] = -1
    for p in range(len(starts) - 1):
        if ordinary[p]:
            shorter[p] = longest(store, starts[p], starts[p + 1] - 1, cells, nodes, -1)


@allocation_free
def all_stay_apart(merges, table, marks, made):
    """Whether merges make of each token's bytes that token."""
    k = 0
    while k < len(merges) and stay_apart(np.int64(merges[k, LEFT]), np.int64(merges[k, RIGHT]),
                                         table, marks, made):
        k += 1
    return k == len(merges)


def no_matcher() -> Matcher:
    """One without nodes, of a tokenizer that merges chunks of any length."""
    nothing = np.zeros((0, 3), np.int32)
    return Matcher(nothing[:, :2].copy(), nothing[:, 0].copy(), nothing[:, 0].copy(), nothing)


def make_matcher(data: BPEData, m: Merges) -> Matcher:
    """The Matcher of a tokenizer; no_matcher where its merges are not such as are learnt."""
    V, new = len(data.pieces), m.merges[:, 2]
    made = np.full((V + 1, 3), -1, np.int32)
    made[new] = np.column_stack([m.merges[:, :2], np.arange(len(new))])
    ordinary = np.ones(V, bool)
    ordinary[list(data.special_tokens.values())] = False
    older = made[m.merges[:, :2], RANK].max(1, initial=-1) < np.arange(len(new))
    unmade = ordinary & (made[:V, RANK] < 0) & (m.lengths[:V] != 1)
    # (Of two merges to one piece, or of two tokens with one, its bytes can become but one.)
    if not (ordinary[new].all() and older.all() and not unmade.any()
            and all_stay_apart(m.merges, m.table, m.marks, made)):
        return no_matcher()
    store = np.frombuffer(b"".join(data.pieces), np.uint8)
    starts = np.concatenate([[0], np.cumsum(m.lengths[:V])])
    if len(store) >= MOST_NODES:
        return no_matcher()
    children = np.zeros(1 << (2 * len(store) + 1).bit_length(), np.uint64)
    nodes, shorter = np.empty(len(store) + 1, np.int32), np.empty(V + 1, np.int32)
    count = plant(store, starts, ordinary, children, nodes)
    entries = np.sort(children[children != 0])
    room, used = 2 * count, 0
    while used == 0:
        room *= 2
        cells, tokens = np.empty((room, 2), np.int32), np.empty(room, np.int32)
        used = pack(entries, nodes, cells, tokens, np.empty(count, np.int64))
    cells, tokens = cells[:used].copy(), tokens[:used].copy()
    find_shorter(store, starts, ordinary, cells, tokens, shorter)
    return Matcher(cells, tokens, shorter, made)
