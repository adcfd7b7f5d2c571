"""Characters of UTF-8 bytes, and which of them are letters, numbers and white space.

`unicode16.txt` holds the ranges of the categories L and N of Unicode 16.0, those that
tokenizers and tiktoken cut by; a younger Unicode would cut young letters elsewhere.
White space is the property White_Space, which has not changed since Unicode 6.3.
"""

from functools import cache
from pathlib import Path

import numpy as np

from femtogpt.layers.numeric import allocation_free

OTHER, LETTER, NUMBER, SPACE = range(4)
CLASS, INSIDE = 3, 4  # bits of a byte's kind: its character's class; whether it is not its first
_WHITE_SPACE = "9-D 20 85 A0 1680 2000-200A 2028-2029 202F 205F 3000"


@cache
def classes():
    """The class of every code point: (0x110000,) uint8."""
    table = np.full(0x110000, OTHER, np.uint8)
    letters, numbers = (Path(__file__).parent / "unicode16.txt").read_text("ascii").splitlines()
    for kind, ranges in ((LETTER, letters), (NUMBER, numbers), (SPACE, _WHITE_SPACE)):
        for part in ranges.split():
            first, _, last = part.partition("-")
            table[int(first, 16) : int(last or first, 16) + 1] = kind
    return table


@allocation_free
def character_at(data, i, n, classes):
    """(class, length in bytes) of the character of data[:n], uint8, that begins at i.

    A byte that begins none, or one cut short, is a character by itself: OTHER, 1. (That
    is how Python's surrogateescape sees it, but for where it ends one error and begins
    the next.) The forms are those of table 3-7 of the Unicode standard.
    """
    first = np.int64(data[i])
    if first < 0x80:
        return classes[first], 1
    length = 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2
    if first < 0xC2 or first > 0xF4 or i + length > n:
        return np.uint8(OTHER), 1
    point = first & (0x7F >> length)
    for k in range(1, length):
        byte = np.int64(data[i + k])
        if byte & 0xC0 != 0x80:
            return np.uint8(OTHER), 1
        point = point << 6 | byte & 0x3F
    # Neither longer than need be, nor a surrogate, nor beyond Unicode.
    if length == 3 and (point < 0x800 or 0xD800 <= point < 0xE000):
        return np.uint8(OTHER), 1
    if length == 4 and (point < 0x10000 or point > 0x10FFFF):
        return np.uint8(OTHER), 1
    return classes[point], length


@allocation_free
def classify(data, classes, kinds):
    """Writes the kind of each byte of data, (n,) uint8, to kinds, (n,)."""
    n, i = len(data), 0
    while i < n:
        if data[i] < 0x80:
            kinds[i] = classes[data[i]]
            i += 1
            continue
        if 0xE1 <= data[i] <= 0xEC and i + 2 < n:  # most of Asia's, 3 bytes whatever they are
            second, third = np.int64(data[i + 1]), np.int64(data[i + 2])
            if second & 0xC0 == 0x80 and third & 0xC0 == 0x80:
                point = (np.int64(data[i]) & 15) << 12 | (second & 63) << 6 | third & 63
                kinds[i] = classes[point]
                kinds[i + 1] = kinds[i + 2] = classes[point] | INSIDE
                i += 3
                continue
        kinds[i], length = character_at(data, i, n, classes)
        kinds[i + 1 : i + length] = kinds[i] | INSIDE
        i += length


@allocation_free
def character_before(data, end, classes):
    """(class, length in bytes) of the character of data[:end] that ends there; end >= 1."""
    if data[end - 1] < 0x80:
        return classes[data[end - 1]], 1
    for length in range(min(4, end), 1, -1):
        kind, found = character_at(data, end - length, end, classes)
        if found == length:
            return kind, length
    kind, _ = character_at(data, end - 1, end, classes)
    return kind, 1
