"""Learning byte-pair merges: which two neighbours occur most often, again and again.

Sennrich, Haddow and Birch 2016, with three facts that make it fast. A pair is born when its
younger token is, all at once, and from then on its count only falls: so each pair is in the
heap once, and is counted again only when it comes to the top, where a count that still holds
is the largest there is. Its places are noted in order, so that `aaa` is joined from the left.
And a pair that occurs only once is not noted at all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from femtogpt.layers.numeric import allocation_free, entry
from femtogpt.tokenizer.hashing import pair_key, slot_of
from femtogpt.tokenizer.tokens import END, before, join

# A pair of neighbours: how often it occurred when last counted, its ids, and where it is
# noted that it stands, places[begin : begin + noted].
PAIR = np.dtype([("count", np.int64), ("left", np.int32), ("right", np.int32),
                 ("begin", np.int32), ("noted", np.int32)])
DONE, PLACES_FULL, PAIRS_FULL, TOKEN_TOO_LONG, WORKED = range(5)
WORK = 1 << 22  # places looked at between two words of progress
ROOM = 1 << 16  # for places and pairs, beside what the text's bytes need
PLENTY = 1 << 23  # of places, 32 MB: more room is not taken without need


@allocation_free
def goes_first(p, q):
    """Whether pair p is merged before pair q: more often; else smaller left, then right id."""
    if p.count != q.count:
        return p.count > q.count
    if p.left != q.left:
        return p.left < q.left
    return p.right < q.right


@allocation_free
def replace_top(heap, size):
    """Makes heap[1:size] a heap again, with heap[size] added."""
    i = 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and goes_first(heap[child + 1], heap[child]):
            child += 1
        if not goes_first(heap[child], heap[size]):
            break
        heap[i] = heap[child]
        i = child
    heap[i] = heap[size]


@allocation_free
def push(heap, size):
    """Makes heap[:size] a heap with heap[size] added; its last place is needed to move it."""
    heap[-1] = heap[size]
    i = size
    while i > 0 and goes_first(heap[-1], heap[(i - 1) // 2]):
        heap[i] = heap[(i - 1) // 2]
        i = (i - 1) // 2
    heap[i] = heap[-1]


@allocation_free
def keep_true(token, weights, stride, lengths, pair, places, to):
    """Writes those of a pair's places where it still stands to places[to:].

    Returns (how many, how often it occurs).
    """
    left, right, length = pair.left, pair.right, lengths[pair.left]
    kept, count = 0, np.int64(0)
    for k in range(pair.begin, pair.begin + pair.noted):
        i = places[k]
        true = np.int64((token[i] == left) & (token[i + length] == right))
        places[to + kept] = i  # and no branch, which would be mispredicted every other time
        kept += true
        count += true * weights[i * stride]
    return kept, count


@allocation_free
def join_all(token, lengths, pair, places, new):
    """Joins a pair at its places, from the left; keeps the places where it did: how many."""
    left, right, length, kept = pair.left, pair.right, lengths[pair.left], 0
    for k in range(pair.begin, pair.begin + pair.noted):
        i = places[k]
        j = i + length
        if token[i] == left and token[j] == right:  # not so at the second place of `aaa`
            join(token, i, j, j + lengths[right], new)
            places[pair.begin + kept] = i
            kept += 1
    return kept


@allocation_free
def count_pairs(token, weights, stride, lengths, keys, count, number):
    """Enters each pair of neighbours, how often it occurs, and at how many places.

    keys, zeros, count, number: (2**k,), a hash table. Returns how many pairs there are, or
    -1 where the table is too small.
    """
    i, pairs = 1, 0
    while i < len(token) - 1:
        j = i + (lengths[token[i]] if token[i] != END else 1)
        if token[i] != END and token[j] != END:
            key = pair_key(token[i], token[j])
            slot = slot_of(key, keys)
            if keys[slot] == 0:
                if 2 * pairs >= len(keys):
                    return -1
                keys[slot], count[slot], number[slot] = key, 0, 0
                pairs += 1
            count[slot] += weights[i * stride]
            number[slot] += 1
        i = j
    return pairs


@allocation_free
def note_pairs(token, lengths, keys, count, number, heap, places):
    """Notes the pairs that occur twice; returns (how many, places in use)."""
    size = used = 0
    for slot in range(len(keys)):
        if keys[slot] == 0:
            continue
        if count[slot] < 2:
            number[slot] = -1
            continue
        pair = heap[size]
        pair.left = np.int64((keys[slot] - np.uint64(1)) >> np.uint64(32))
        pair.right = np.int64((keys[slot] - np.uint64(1)) & np.uint64(0xFFFFFFFF))
        pair.count, pair.begin, pair.noted = count[slot], used, number[slot]
        push(heap, size)
        size += 1
        used, number[slot] = used + number[slot], used
    i = 1
    while i < len(token) - 1:
        j = i + (lengths[token[i]] if token[i] != END else 1)
        if token[i] != END and token[j] != END:
            slot = slot_of(pair_key(token[i], token[j]), keys)
            if number[slot] >= 0:
                places[number[slot]] = i
                number[slot] += 1
        i = j
    return size, used


@entry
def learn(token, longest, weights, stride, lengths, heap, places, state, merges, first, want,
          patience):
    """Merges until `want` are made or no pair occurs twice (DONE), or says what it waits for.

    token: the text, as in tokens.py, which can hold tokens of `longest` bytes; what stands at
    i occurs weights[i * stride] times.
    lengths: (ids,), bytes of each token. heap: the pairs to choose from. state: (how many
    they are, places in use, merges made), kept up to date. Merge k, the pair of ids
    merges[k], makes id first + k. patience: places to look at before WORKED.
    """
    size, used, made = state
    work, why, ids = 0, DONE, len(lengths)
    # What the new token meets at its left, by id, and at its right, by ids + id.
    count, number = np.zeros(2 * ids, np.int64), np.zeros(2 * ids, np.int64)
    met = np.empty(2 * ids, np.int64)
    sides, at = np.empty(0, np.int32), np.empty(0, np.int32)
    while made < want and size > 0:
        if work > patience:
            why = WORKED
            break
        pair = heap[0]
        work += pair.noted + 1
        pair.noted, true = keep_true(token, weights, stride, lengths, pair, places, pair.begin)
        if true < pair.count:
            pair.count = true
            if true < 2:
                size -= 1
            else:
                heap[size] = pair
            replace_top(heap, size)
            continue
        if used + 2 * pair.noted > len(places):
            why = PLACES_FULL
        elif size + 2 * min(pair.noted, first + made) + 1 > len(heap):
            why = PAIRS_FULL
        new = first + made
        length = lengths[pair.left] + lengths[pair.right]
        if length > longest:
            why = TOKEN_TOO_LONG
        if why != DONE:
            break
        lengths[new], merges[made, 0], merges[made, 1] = length, pair.left, pair.right
        begin, end = pair.begin, pair.begin + join_all(token, lengths, pair, places, new)
        size, made = size - 1, made + 1
        replace_top(heap, size)

        found = fresh_places = 0
        if len(sides) < 2 * (end - begin):
            sides, at = np.empty(2 * (end - begin), np.int32), np.empty(2 * (end - begin), np.int32)
        for k in range(begin, end):
            i = places[k]
            for side in range(2):
                j = i + length if side else before(token, i)
                # Of two new tokens in a row the right one notes the pair.
                if token[j] == END or (side and token[j] == new):
                    continue
                other = side * ids + token[j]
                if number[other] == 0:
                    met[found] = other
                    found += 1
                number[other] += 1
                count[other] += weights[i * stride]
                sides[fresh_places], at[fresh_places] = other, i if side else j
                fresh_places += 1
        for m in range(found):
            other = met[m]
            if count[other] < 2:
                number[other] = -1
                continue
            fresh = heap[size]
            fresh.left = new if other >= ids else other
            fresh.right = other - ids if other >= ids else new
            fresh.count, fresh.begin, fresh.noted = count[other], used, number[other]
            push(heap, size)
            size += 1
            used, number[other] = used + number[other], used
        for k in range(fresh_places):
            other = sides[k]
            if number[other] >= 0:
                places[number[other]] = at[k]
                number[other] += 1
        for m in range(found):
            count[met[m]] = number[met[m]] = 0
    state[0], state[1], state[2] = size, used, made
    return why


@entry
def close_gaps(token, lengths, heap, order, places):
    """Drops the places where a pair stands no more, and moves the others up: how many.

    order: the pairs, by where their places begin.
    """
    used, weights = 0, np.ones(1, np.int64)  # for how many they are is not asked
    for p in order:
        pair = heap[p]
        pair.noted, _ = keep_true(token, weights, 0, lengths, pair, places, used)
        pair.begin = used
        used += pair.noted
    return used


def learn_merges(
    token: np.ndarray,
    weights: np.ndarray,
    lengths: np.ndarray,
    num_merges: int,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """At most `num_merges` pairs of ids, in the order learnt: (n, 2).

    Merge k makes id len(lengths) + k. token: (n,), a text as in tokens.py, which is worked in,
    of the type that id_type gives. weights: (n,), how often what stands there occurs, or (1,)
    for all the same. lengths: bytes of each token in it.
    In `aaa` the pair `aa` counts twice, but merging, from the left, joins it once.
    progress is called now and then with the number of merges made and wanted.
    """
    stride, base = int(len(weights) > 1), len(lengths)
    lengths = np.concatenate([lengths, np.ones(num_merges, np.int64)])
    slots = 1 << 13
    while True:
        keys, count = np.zeros(slots, np.uint64), np.empty(slots, np.int64)
        number = np.empty(slots, np.int32)
        found = count_pairs(token, weights, stride, lengths, keys, count, number)
        if found >= 0:
            break
        slots *= 4
    noted = number[(keys != 0) & (count >= 2)]
    room, largest = int(noted.sum(dtype=np.int64)), int(noted.max(initial=0))
    # Merges end more places than they make: with this much places need not grow, which may be
    # a copy. Where they are few, there is room to do without closing gaps, which takes a while.
    places = np.empty(room + max(room // 16 + 2 * largest, min(2 * room, PLENTY), ROOM), np.int32)
    heap = np.recarray(found + ROOM, PAIR)
    size, used = note_pairs(token, lengths, keys, count, number, heap, places)
    del keys, count, number, noted
    merges = np.empty((num_merges, 2), np.int64)
    state = np.array([size, used, 0])
    while True:
        why = learn(token, np.iinfo(token.dtype).max, weights, stride, lengths, heap, places,
                    state, merges, base, num_merges, WORK)
        if progress is not None:
            progress(int(state[2]), num_merges)
        if why == DONE:
            return merges[: state[2]]
        if why == PLACES_FULL:
            order = np.argsort(heap.begin[: state[0]])
            state[1] = close_gaps(token, lengths, heap, order, places)
            needed = state[1] + 2 * heap[0].noted
            if needed > 0.98 * len(places):
                places.resize(needed + len(places) // 8, refcheck=False)
        if why == PAIRS_FULL:
            larger = np.recarray(2 * len(heap), PAIR)  # what is not used yet takes no memory
            larger[: state[0]] = heap[: state[0]]
            heap = larger
        if why == TOKEN_TOO_LONG:
            token = token.astype(np.int32)
