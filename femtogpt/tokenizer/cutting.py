"""Where the chunks of a text end: what the patterns of split.py say, in two passes.

First the class of each character, then, in one walk, where classes change; a regular
expression tries one alternative after the other.
"""

from __future__ import annotations

import numpy as np

from femtogpt.layers.numeric import allocation_free, kernel
from femtogpt.tokenizer.characters import (
    CLASS,
    INSIDE,
    LETTER,
    NUMBER,
    OTHER,
    SPACE,
    character_before,
    classes,
    classify,
)
from femtogpt.tokenizer.room import Room

BLOCK = 4096  # bytes that are looked at together
FRESH = 255  # in place of the class before, where a chunk begins whatever comes
_APOSTROPHE, _BLANK, _NEWLINE, _RETURN = b"' \n\r"
_S, _T, _M, _D, _R, _V, _E, _L = b"stmdrvel"


@allocation_free
def contraction_end(data, i, any_case):
    """Where 's 't 're 've 'm 'll 'd ends, of which data[i] is the apostrophe, or i."""
    n, fold = len(data), 0x20 if any_case else 0
    if i + 1 >= n:
        return i
    first = data[i + 1] | fold
    if first in (_S, _T, _M, _D):
        return i + 2
    if i + 2 >= n:
        return i
    second = data[i + 2] | fold
    if (second == _E and first in (_R, _V)) or (second == _L and first == _L):
        return i + 3
    # In any case, ſ (U+017F) is an s.
    return i + 3 if any_case and data[i + 1] == 0xC5 and data[i + 2] == 0xBF else i


@kernel
def gpt2_begins(data, kinds, begins):
    """Writes where each chunk of data, (n,) uint8 with n >= 1, begins; returns how many there are.

    kinds: (n + 1,), what classify gives, and SPACE. begins: (n + 1,).

    A byte's neighbours tell whether a chunk begins at it: where the class changes, unless a blank
    before it goes with it; and at the last of a run of white space. So there is nothing for the
    processor to foretell, as in a walk from chunk to chunk, which takes four times as long (Xeon).
    """
    n, count = len(data), 1
    flags = np.empty(BLOCK, np.bool_)
    begins[0] = 0
    for start in range(1, n, BLOCK):
        stop = min(start + BLOCK, n)
        left, here = kinds[start - 1 : stop - 1], kinds[start:stop]
        right, before = kinds[start + 1 : stop + 1], data[start - 1 : stop - 1]
        for k in range(stop - start):
            space = here[k] & CLASS == SPACE
            changes = left[k] & CLASS != here[k] & CLASS
            flags[k] = (changes & (space | (before[k] != _BLANK))
                        | space & (right[k] & CLASS != SPACE))
        for k in range(stop - start):
            begins[count] = start + k
            count += flags[k]
    return settled(data, kinds, begins, count)


@allocation_free
def settled(data, kinds, begins, count):
    """Of places from gpt2_begins: those inside white space of several bytes go to its first, and
    contractions are chunks. Returns how many there are."""
    kept = k = 0
    while k < count:
        i = begins[k]
        k += 1
        while kinds[i] & INSIDE:
            i -= 1
        if kept > 0 and begins[kept - 1] == i:
            continue
        begins[kept] = i
        kept += 1
        if data[i] == _APOSTROPHE:
            end = contraction_end(data, i, False)
            if end > i:
                while k < count and begins[k] < end:
                    k += 1
                if end < len(data) and (k == count or begins[k] > end):
                    k -= 1
                    begins[k] = end  # where the letters after the apostrophe began
    return kept


@allocation_free
def gpt4_begins(data, kinds, begins):
    """Writes where each chunk of data, (n,) uint8, begins; returns how many there are.

    kinds: (n,), what classify gives. begins: (n,).
    """
    n, i, count, digits = len(data), 0, 0, 0
    before = FRESH  # the class of the character before, in the same chunk if it can be
    # The character before begins a chunk and is a blank; or one that may stand before a word.
    blank = loose = False
    while i < n:
        kind = kinds[i]
        if kind == before and kind != NUMBER:  # the chunk goes on: most bytes
            while i < n and kinds[i] & CLASS == kind:
                i += 1
            blank = loose = False
            continue
        if kind == SPACE:
            if (data[i] == _NEWLINE or data[i] == _RETURN) and before == OTHER:
                while i < n and (data[i] == _NEWLINE or data[i] == _RETURN):
                    i += 1  # newlines behind punctuation are its
                before, blank, loose = FRESH, False, False
                continue
            begin = last = newline_end = i
            while i < n and kinds[i] & CLASS == SPACE:
                if kinds[i] == SPACE:
                    last = i
                    if data[i] == _NEWLINE or data[i] == _RETURN:
                        newline_end = i + 1
                i += 1
            begins[count] = begin
            count += 1
            before, blank, loose = FRESH, False, False
            if newline_end > begin:  # \s*[\r\n]+
                i = newline_end
            elif i < n:  # \s+(?!\S), and the last may go with what follows
                if last > begin:
                    begins[count] = last
                    count += 1
                blank, loose = data[last] == _BLANK, True
            continue
        if kind & INSIDE:
            i += 1
            continue
        if kind == NUMBER:  # no more than three together, and nothing before them
            digits = digits + 1 if before == NUMBER and digits < 3 else 1
            new = digits == 1
        else:
            new = kind != before and not (loose if kind == LETTER else blank)
        begins[count] = i
        count += new
        before = kind
        if data[i] == _APOSTROPHE and new:
            end = contraction_end(data, i, True)
            if end > i:
                i, before, blank, loose = end, FRESH, False, False
                continue
        blank, loose = False, new and kind == OTHER
        i += 1
    return count


@allocation_free
def last_cut(data, gpt4, classes):
    """The last place of data, (n,) uint8, where a text that begins with it may be cut, or 0.

    Cut between two chunks, whatever the text goes on with: what is left of the place
    splits alone as it does with more behind it (what is right of a chunk's end never
    looks back). A mark is all but white space here.
    Between a mark and white space: a run of marks ends there as it does at a text's end.
    Only gpt4's punctuation takes white space, newlines, along. And (?!\\S), which looks
    ahead, is asked behind white space only, and that is not what ends here.
    gpt4, between a newline and a mark: of the white space that ends here, what
    punctuation has not taken along goes whole to \\s*[\\r\\n]+, whether a mark or the
    text's end follows.
    """
    i = len(data)
    if i == 0:
        return 0
    right, length = character_before(data, i, classes)
    i -= length
    while i > 0:
        left, length = character_before(data, i, classes)
        newline_right = data[i] == _NEWLINE or data[i] == _RETURN
        newline_left = data[i - 1] == _NEWLINE or data[i - 1] == _RETURN
        if left != SPACE and right == SPACE and not (gpt4 and newline_right):
            return i
        if gpt4 and newline_left and right != SPACE:
            return i
        i -= length
        right = left
    return 0


def chunk_ends(data: np.ndarray, split: str, room: Room | None = None) -> np.ndarray:
    """Where each chunk of data, (n,) uint8, ends, as a whole text is cut: int64.

    room: where that may stand, until it is asked for the next.
    """
    if split == "none" or len(data) == 0:
        return np.array([len(data)][: len(data)], np.int64)
    room = room or Room()
    kinds = room.array("kinds", len(data) + 1, np.uint8)
    begins = room.array("begins", len(data) + 1, np.int64)
    kinds[-1] = SPACE
    classify(data, classes(), kinds)
    count = (gpt4_begins if split == "gpt4" else gpt2_begins)(data, kinds, begins)
    begins[count] = len(data)
    return begins[1 : count + 1]


def split_chunks(data: bytes, split: str) -> list[bytes]:
    """The chunks of `data`; joined they are `data` again. split: one of SPLITS."""
    ends = chunk_ends(np.frombuffer(data, np.uint8), split).tolist()
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
