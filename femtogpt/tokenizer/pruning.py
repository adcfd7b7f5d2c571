"""Training a PathPiece vocabulary: too many pieces, learnt by merges; then the idlest go."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from femtogpt.errors import FemtoError
from femtogpt.tokenizer.formats import BPEData
from femtogpt.tokenizer.pathpiece import STRETCH, PathPieceTokenizer
from femtogpt.tokenizer.protocol import as_bytes
from femtogpt.tokenizer.stream import lowered, recut
from femtogpt.tokenizer.training import train_bpe

SURPLUS = 4  # pieces learnt for each that stays
SHARE = 0.05  # of the pieces there are that go at a time; less is slower and no better
SAMPLE = 1 << 24  # bytes of text to learn from


def train_pathpiece(
    texts: Iterable[str | bytes | Iterable[bytes]],
    vocab_size: int,
    *,
    split: str = "none",
    base: str = "all",
    case_sensitive: bool = True,
    special_tokens: Iterable[str] = (),
    reserve_tokens: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PathPieceTokenizer:
    """Learn a vocabulary of `vocab_size` pieces that spells `texts` with few of them.

    As `train_bpe` would with `split`, SURPLUS times as many pieces are learnt. Then, again
    and again, the texts are encoded with the fewest pieces, and a SHARE goes: those by
    which the texts would grow least, each alone, were they spelled with the fewest others.
    Single bytes stay. Arguments, errors and special tokens are as for `train_bpe`;
    `progress` is called now and then with how many pieces were learnt or dropped, and how
    many will be.

    Memory: 10 bytes a byte of text, of which at most SAMPLE are learnt from, evenly taken.
    """
    if base == "all" and vocab_size < 256:  # before the text is read
        raise FemtoError(f"--vocab-size must be at least 256 (the bytes), not {vocab_size}")
    sample, seen = [], np.full(256, base == "all")
    total = (2 * SURPLUS - 1) * vocab_size

    def sampled():  # once train_bpe has looked at its arguments
        _sample(texts, case_sensitive, sample, seen)
        yield from sample

    def tell(done, _=None):
        if progress is not None:
            progress(done, total)

    data = train_bpe(sampled(), max(256, SURPLUS * vocab_size), split=split, base=base,
                     special_tokens=special_tokens, reserve_tokens=reserve_tokens,
                     progress=tell).data
    singles = [bytes([byte]) for byte in np.flatnonzero(seen).tolist()]
    if vocab_size < len(singles):
        raise FemtoError(f"--vocab-size must be at least {len(singles)} (the bytes in the "
                         f"text), not {vocab_size}")
    learnt = data.pieces[: len(data.pieces) - len(data.special_tokens)]
    # A stretch that was left out may have more bytes; and two merges may make one piece.
    pieces = _prune(list(dict.fromkeys([*singles, *learnt])), vocab_size, sample,
                    lambda left: tell(total - left))
    special = {name: len(pieces) + i for i, name in enumerate(data.special_tokens)}
    pieces += [name.encode() for name in special]
    return PathPieceTokenizer(BPEData(pieces, [], special, "none", case_sensitive))


def _prune(pieces, vocab_size, sample, progress):
    """Those `vocab_size` of pieces that are to stay, in their order."""
    from femtogpt.tokenizer.shortest import ID, NONE, build_trie, costs_without, fewest, trace

    lengths = np.array([len(piece) for piece in pieces], np.int64)
    store = np.frombuffer(b"".join(pieces), np.uint8)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    trie, nodes = build_trie(
        store, starts, np.array(sorted(range(len(pieces)), key=pieces.__getitem__)))
    room = max(STRETCH, int(lengths.max())) + 1
    cost, last = np.empty(room, np.int32), np.empty(room, np.int32)
    without = np.empty(len(pieces), np.int64)
    stay = np.arange(len(pieces))
    while len(stay) > vocab_size:
        progress(len(stay) - vocab_size)
        count = np.zeros(len(pieces), np.int64)
        for stretch in sample:
            fewest(np.frombuffer(stretch, np.uint8), trie, cost, last)
            ids = np.empty(cost[len(stretch)], np.int32)
            trace(len(stretch), last, lengths, ids)
            count += np.bincount(ids, minlength=len(pieces))
        costs_without(store, starts, trie, nodes, cost, last, without)
        grows = (count * (without - 1))[stay]
        grows[lengths[stay] == 1] = np.iinfo(np.int64).max
        # In a tie what was learnt later goes first.
        order = np.lexsort((-stay, grows))
        gone = stay[order[: min(len(stay) - vocab_size, max(1, int(SHARE * len(stay))))]]
        trie[nodes[gone], ID] = NONE
        stay = np.setdiff1d(stay, gone)
    return [pieces[id] for id in stay.tolist()]


def _sample(texts, case_sensitive, stretches, seen):
    """Adds to stretches an even SAMPLE of the texts; to seen, (256,), all bytes there are."""
    number, size, every = 0, 0, 1
    for text in texts:
        blocks = [as_bytes(text)] if isinstance(text, str | bytes) else text
        if not case_sensitive:
            blocks = lowered(blocks)
        for part in recut(blocks, lambda data: len(data) // STRETCH * STRETCH):
            for i in range(0, len(part), STRETCH):
                stretch = part[i : i + STRETCH]
                seen[np.frombuffer(stretch, np.uint8)] = True
                if number % every == 0:
                    stretches.append(stretch)
                    size += len(stretch)
                number += 1
                while size > SAMPLE:
                    del stretches[1::2]
                    every, size = 2 * every, sum(map(len, stretches))
