"""Encoding a text block by block: cut only where the cut changes no token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from femtogpt.tokenizer.protocol import Unspellable, place
from femtogpt.tokenizer.split import last_cut, lower


def encode_blocks(
    blocks: Iterable[bytes],
    cut: Callable[[bytes], int],
    encode: Callable[[bytes], np.ndarray],
) -> Iterator[np.ndarray]:
    """Arrays of ids that together are `encode` of all `blocks` joined.

    cut(data) is the last place of `data` (0: none is known) where a text that begins with
    it may be cut, whatever follows. Places in errors count from the first block.
    """
    line, column = 1, 1
    for block in recut(blocks, cut):
        try:
            yield encode(block)
        except Unspellable as error:
            raise error.after(line, column) from None
        lines, last = place(block, len(block))
        line, column = line + lines - 1, last + (column - 1 if lines == 1 else 0)


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
    """A cut between two chunks of a pre-split by pattern; see split.CUTS."""

    def cut(data: bytes) -> int:
        text = data[: whole_characters(data)].decode("utf-8", "surrogateescape")
        return len(text[: last_cut(text, split)].encode("utf-8", "surrogateescape"))

    return cut


def lowered(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The text of `blocks` in lower case."""
    for block in recut(blocks, whole_characters):
        text = lower(block.decode("utf-8", "surrogateescape"))
        yield text.encode("utf-8", "surrogateescape")
