"""Encoding a text block by block: cut only where the cut changes no token."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from femtogpt.tokenizer.protocol import Unspellable, place
from femtogpt.tokenizer.split import lower


def encode_blocks(
    blocks: Iterable[bytes],
    cut: Callable[[bytes], int],
    encode: Callable[[bytes], np.ndarray],
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Arrays of ids that together are `encode` of all `blocks` joined.

    cut(data) is the last place of `data` (0: none is known) where a text that begins with
    it may be cut, whatever follows. Places in errors count from the first block. With
    more than one thread `encode` works on several parts at a time.
    """
    line, column = 1, 1
    for block, encoded in ahead(recut(blocks, cut), encode, threads):
        try:
            yield encoded()
        except Unspellable as error:
            raise error.after(line, column) from None
        lines, last = place(block, len(block))
        line, column = line + lines - 1, last + (column - 1 if lines == 1 else 0)


def ahead(blocks: Iterable[bytes], function: Callable, threads: int):
    """Each block, and a function that gives what `function` makes of it, begun on some thread
    before."""
    if threads == 1:
        for block in blocks:
            yield block, partial(function, block)
        return
    with ThreadPoolExecutor(threads) as pool:
        begun = deque()
        for block in blocks:
            begun.append((block, pool.submit(function, block).result))
            if len(begun) > threads:
                yield begun.popleft()
        yield from begun


def encode_unchunked(
    blocks: Iterable[bytes], encode: Callable[[bytes], np.ndarray], pieces: Sequence[bytes]
) -> Iterator[np.ndarray]:
    """Arrays of ids that together are `encode` of all `blocks` joined, for BPE without chunks.

    pieces: id -> bytes; every token must be what merges make of its piece.
    """
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    in_order = sorted(pieces)
    text, enough = b"", 0
    for block in recut(blocks, len):
        text += block
        if len(text) < enough:
            continue
        ids = encode(text)
        sure = _sure(text, ids, encode, lengths, in_order)
        yield ids[:sure]
        text = text[int(lengths[ids[:sure]].sum()) :]
        # Looking again only when there is twice as much keeps all work linear.
        enough = 0 if sure else 2 * len(text)
    yield encode(text)


def _sure(text, ids, encode, lengths, in_order):
    """How many of ids = encode(text) stand whatever the text goes on with.

    Any stretch of a text's tokens is what `encode` makes of their pieces alone, and tokens
    are right if each two neighbours are. So a longer text's tokens, up to one that spans
    this text's end, are those of this text up to where that one begins: which is where
    what is left of this text begins one of the pieces. What all of these beginnings of
    this text have in common is sure. They are looked at from a token on that all have.
    """
    longest, ends = len(max(in_order, key=len)), np.cumsum(lengths[ids])
    margin = 4 * longest
    while True:
        k = int(np.searchsorted(ends, len(text) - margin))  # whole tokens before the margin
        begin = int(ends[k - 1]) if k else 0
        tail, agreed = text[begin:], len(ids) - k
        for end in range(max(0, len(tail) - longest + 1), len(tail)):
            if agreed and _begins_one(tail[end:], in_order):
                shorter = encode(tail[:end])[:agreed]
                differ = shorter != ids[k : k + len(shorter)]
                agreed = int(differ.argmax()) if differ.any() else len(shorter)
        if agreed or k == 0:
            return k + agreed
        margin *= 4


def _begins_one(start, in_order):
    """Whether a piece begins with `start` and goes on. in_order: the pieces, sorted."""
    place = bisect_right(in_order, start)
    return place < len(in_order) and in_order[place].startswith(start)


def recut(blocks: Iterable[bytes], cut: Callable[[bytes], int]) -> Iterator[bytes]:
    """The text of `blocks`, cut where `cut` says; a stretch that has no such place is whole."""
    rest, enough = bytearray(), 0
    for block in blocks:
        rest += block
        if len(rest) < enough:
            continue
        at = cut(rest)
        if at:
            yield bytes(rest[:at])
            del rest[:at]
        # Looking again only when there is twice as much keeps the whole search linear.
        enough = 0 if at else 2 * len(rest)
    if rest:
        yield bytes(rest)


def whole_characters(data: bytes) -> int:
    """The last place of `data` that is not inside a character of UTF-8, valid or not.

    Before a byte that continues no character one begins. After four that do nothing is
    open, for a character has at most three, and the fourth is a wrong byte by itself.
    """
    for back in range(1, min(4, len(data)) + 1):
        if data[-back] & 0xC0 != 0x80:
            return len(data) - back
    return len(data) if len(data) >= 4 else 0


def between_pieces(pieces: Sequence[bytes]) -> Callable[[bytes], int]:
    """A cut between two bytes that no piece has side by side, and not inside a character.

    No token spans such a place. So a greedy match that begins before it is the same
    without what follows; and no merge crosses it, so merges on either side, each still by
    rank and from the left, know nothing of the other.
    """
    together = np.zeros((256, 256), bool)
    together[:, 0x80:0xC0] = True  # what continues a character, for the messages' sake
    for piece in pieces:
        values = np.frombuffer(piece, np.uint8)
        together[values[:-1], values[1:]] = True

    def cut(data: bytes) -> int:
        values = np.frombuffer(data, np.uint8)
        apart = ~together[values[:-1], values[1:]]
        return len(apart) - int(apart[::-1].argmax()) if apart.any() else 0

    return cut


def between_chunks(split: str) -> Callable[[bytes], int]:
    """A cut between two chunks of a pre-split by pattern; see cutting.last_cut."""
    from femtogpt.tokenizer.cutting import classes, last_cut  # numba, which takes a while

    def cut(data: bytes) -> int:
        values = np.frombuffer(data, np.uint8)[: whole_characters(data)]
        return last_cut(values, split == "gpt4", classes())

    return cut


def lowered(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The text of `blocks` in lower case."""
    for block in recut(blocks, whole_characters):
        text = lower(block.decode("utf-8", "surrogateescape"))
        yield text.encode("utf-8", "surrogateescape")
