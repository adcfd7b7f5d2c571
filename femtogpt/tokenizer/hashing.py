"""Hash tables with open addressing in plain arrays of 2**k keys, 0 where free."""

from __future__ import annotations

import numpy as np

from femtogpt.layers.numeric import allocation_free

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: Knuth's multiplicative hash


@allocation_free
def mix(key):
    """A number in which all bits of `key` tell."""
    mixed = key * MULTIPLIER
    return mixed ^ mixed >> np.uint64(32)


@allocation_free
def slot_of(key, keys):
    """Where `key`, not 0, is in `keys`, (2**k,) uint64, or where it goes; one must be free."""
    mask = np.uint64(len(keys) - 1)
    slot = mix(key) & mask
    while keys[slot] != key and keys[slot] != 0:
        slot = (slot + np.uint64(1)) & mask
    return slot


@allocation_free
def pair_key(left, right):
    """A key that a pair of ids has alone."""
    return (np.uint64(left) << np.uint64(32) | np.uint64(right)) + np.uint64(1)
