"""The distinct chunks of a text, numbered: what training counts and encoding merges once."""

from __future__ import annotations

import numpy as np

from femtogpt.layers.numeric import allocation_free
from femtogpt.tokenizer.hashing import MULTIPLIER, slot_of
from femtogpt.tokenizer.room import Room

LONGEST_PACKED = 7  # bytes of a chunk that are its own key
LONG = np.uint64(0xFF << 56)  # in the key of a longer one


@allocation_free
def bytes_at(words, i, length):
    """The bytes i to i + length, 1 to 8 of them, of words, (n,) uint64, as one number."""
    shift = np.uint64(8 * (i & 7))
    low = words[i >> 3] >> shift
    high = words[(i >> 3) + 1] << (np.uint64(63) - shift) << np.uint64(1)
    return (low | high) & (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - 8 * length))


@allocation_free
def key_of(words, begin, end):
    """A number that a chunk of up to 7 bytes shares with no other chunk, a longer with few."""
    length = end - begin
    if length <= LONGEST_PACKED:
        return bytes_at(words, begin, length) | np.uint64(length) << np.uint64(56)
    key = np.uint64(length)
    while begin < end:
        key = (key ^ bytes_at(words, begin, min(8, end - begin))) * MULTIPLIER
        key ^= key >> np.uint64(29)
        begin += 8
    return key | LONG


@allocation_free
def same(data, begin, store, start, length):
    """Whether data[begin:][:length] is store[start:][:length]."""
    k = 0
    while k < length and data[begin + k] == store[start + k]:
        k += 1
    return k == length


@allocation_free
def number_chunks(data, words, ends, first, keys, numbers, store, starts, count, out):
    """Numbers the chunks of data from the first-th on, and stores those not met before.

    words: data as numbers of 8 bytes, with one more. ends, out: where each chunk ends, and
    its number. keys, numbers: (2**k,) a hash table of key_of and number. store, starts:
    chunk c is store[starts[c]:starts[c + 1]], for c < count. Returns (chunks done, count);
    done is less than all where the table or the store must grow first.
    """
    i = ends[first - 1] if first else 0
    for c in range(first, len(ends)):
        end = ends[c]
        length = end - i
        if 2 * count >= len(keys) or starts[count] + length > len(store):
            return c, count
        key = key_of(words, i, end)
        while True:
            slot = slot_of(key, keys)
            if keys[slot] == 0:
                keys[slot], numbers[slot] = key, count
                start = starts[count]
                for k in range(length):
                    store[start + k] = data[i + k]
                count += 1
                starts[count] = start + length
                break
            if length <= LONGEST_PACKED:
                break
            start = starts[numbers[slot]]
            if (starts[numbers[slot] + 1] - start == length
                    and same(data, i, store, start, length)):
                break
            key = (key + np.uint64(1)) | LONG  # another chunk has this key
        out[c] = numbers[slot]
        i = end
    return len(ends), count


def grown(array: np.ndarray, length: int) -> np.ndarray:
    """The array with room behind it (np.resize would fill that)."""
    larger = np.empty(length, array.dtype)
    larger[: len(array)] = array
    return larger


class Chunks:
    """The distinct chunks of the texts it was shown, numbered in the order met.

    Chunk c is store[starts[c]:starts[c + 1]], for c < count.
    """

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        """Forgets all chunks."""
        self.count = 0
        self._keys, self._numbers = np.zeros(1 << 14, np.uint64), np.empty(1 << 14, np.int32)
        self.store, self.starts = np.empty(1 << 16, np.uint8), np.zeros((1 << 13) + 1, np.int64)

    def number(self, data: np.ndarray, ends: np.ndarray, room: Room | None = None) -> np.ndarray:
        """The number of each chunk of data, (n,) uint8, that ends where `ends` says: int32.

        room: where that may stand, until it is asked for the next.
        """
        room = room or Room()
        out, done = room.array("numbers", len(ends), np.int32), 0
        words = room.array("words", len(data) // 8 + 2, np.uint64)
        words[-2:] = 0
        words.view(np.uint8)[: len(data)] = data
        while True:
            done, self.count = number_chunks(data, words, ends, done, self._keys, self._numbers,
                                             self.store, self.starts, self.count, out)
            if done == len(ends):
                return out
            self._grow(int(ends[done] - (ends[done - 1] if done else 0)))

    def _grow(self, length):
        """Makes room for a chunk of that length: doubles whichever of the two is too small."""
        used = int(self.starts[self.count])
        if 2 * self.count >= len(self._keys):
            keys, numbers = self._keys, self._numbers
            self._keys = np.zeros(2 * len(keys), np.uint64)
            self._numbers = np.empty(2 * len(keys), np.int32)
            rehash(keys, numbers, self._keys, self._numbers)
            self.starts = grown(self.starts, len(keys) + 1)
        else:
            self.store = grown(self.store[:used], max(2 * len(self.store), used + length))


@allocation_free
def rehash(keys, numbers, new_keys, new_numbers):
    """Puts the entries of one hash table into another, which is empty."""
    for k in range(len(keys)):
        if keys[k] != 0:
            slot = slot_of(keys[k], new_keys)
            new_keys[slot], new_numbers[slot] = keys[k], numbers[k]
