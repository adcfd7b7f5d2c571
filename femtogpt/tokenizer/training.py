"""Training a BPE tokenizer: text to distinct chunks, their counts to merges."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import numpy as np

from femtogpt.errors import FemtoError
from femtogpt.tokenizer.bpe import BPETokenizer
from femtogpt.tokenizer.formats import BPEData
from femtogpt.tokenizer.protocol import as_bytes
from femtogpt.tokenizer.stream import ahead, between_chunks, lowered, recut

BASES = ("all", "seen")
# 'super': half of the merges within the chunks of GPT-2's, then half across them (Liu et al.
# 2025, SuperBPE). Its file has no pre-split: it is merges alone, in order.
TRAINED_SPLITS = ("gpt2", "gpt4", "super", "none")
FIRST_SPLIT = {"super": "gpt2"}
BLOCK = 1 << 20  # bytes of a text that are looked at together


def train_bpe(
    texts: Iterable[str | bytes | Iterable[bytes]],
    vocab_size: int,
    *,
    split: str = "gpt2",
    base: str = "all",
    case_sensitive: bool = True,
    special_tokens: Iterable[str] = (),
    reserve_tokens: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BPETokenizer:
    """Learn `vocab_size` tokens from `texts`, each a whole or in blocks: bytes and merges.

    split: one of TRAINED_SPLITS, between which no merge goes (see split.py, and there).
    The first tokens are all 256 bytes, or with base 'seen' those that occur in `texts`
    (a text with another byte can't be encoded then). Each merge joins the pair of
    neighbours that occurs most often (in a tie that of the smallest left id, then right
    id), until there are `vocab_size` tokens or no pair occurs twice. After them come
    `special_tokens`, then `reserve_tokens` tokens <|reserved_0|>, <|reserved_1|>, ... for
    later use. Special tokens' letters in `texts` are learnt from like any others.
    `progress` is called now and then with the number of merges made and wanted.

    Memory: the distinct chunks, whatever the size of the texts; without chunks ('none',
    'super') some 8 bytes a byte of text, or 10 with more than 32768 tokens. Raises
    FemtoError for sizes that cannot be and for no text.
    """
    if split not in TRAINED_SPLITS:
        raise FemtoError(f"unknown pre-split {split!r}; choose one of {', '.join(TRAINED_SPLITS)}")
    if base not in BASES:
        raise FemtoError(f"--base must be one of {', '.join(BASES)}, not {base!r}")
    if reserve_tokens < 0:
        raise FemtoError(f"--reserve-tokens must be 0 or more, not {reserve_tokens}")
    if base == "all" and vocab_size < 256:  # before the text is read
        raise FemtoError(f"--vocab-size must be at least 256 (the bytes), not {vocab_size}")
    names = [*special_tokens, *(f"<|reserved_{i}|>" for i in range(reserve_tokens))]
    _check_names(names)
    texts = map(_blocks, texts)
    if not case_sensitive:
        texts = map(lowered, texts)
    if split == "super":
        texts = [b"".join(text) for text in texts]  # they are needed twice
    store, starts, counts = _distinct_chunks(map(_blocks, texts), FIRST_SPLIT.get(split, split))
    if len(store) == 0:
        raise FemtoError("there is no text to learn tokens from; give a --dataset that has some")
    seen = np.zeros(256, bool)
    for i in range(0, len(store), BLOCK):  # numpy makes int64 of what it counts
        seen |= np.bincount(store[i : i + BLOCK], minlength=256) > 0
    base_bytes = np.flatnonzero(seen | (base == "all"))
    pieces, merges = [bytes([byte]) for byte in base_bytes.tolist()], []
    if vocab_size < len(pieces):
        raise FemtoError(f"--vocab-size must be at least {len(pieces)} (the bytes in the text), "
                         f"not {vocab_size}")
    wanted = vocab_size - len(pieces)
    token, weights = _laid_out(store, starts, counts, base_bytes, vocab_size)
    del store, starts, counts
    within = (wanted + 1) // 2 if split == "super" else wanted
    _learn(token, weights, pieces, merges, within, wanted, progress)
    if split == "super":
        first = BPETokenizer(BPEData(pieces[:], merges[:], {}, "none", True))
        token, weights = _tokens_of(first, texts, vocab_size), np.ones(1, np.int32)
        _learn(token, weights, pieces, merges, wanted - len(merges), wanted, progress)
    special = {name: len(pieces) + i for i, name in enumerate(names)}
    pieces += [name.encode() for name in names]
    file_split = "none" if split == "super" else split
    return BPETokenizer(BPEData(pieces, merges, special, file_split, case_sensitive))


def _learn(token, weights, pieces, merges, count, wanted, progress):
    """Adds up to `count` merges, and their pieces, that token teaches."""
    from femtogpt.tokenizer.learning import learn_merges  # numba, which takes a while

    before, told = len(merges), None
    if progress is not None:
        def told(done, _):
            progress(before + done, wanted)
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    # Two lists of numbers, not thousands of pairs, which the garbage collector would look through.
    lefts, rights = learn_merges(token, weights, lengths, count, told).T.tolist()
    merges += zip(lefts, rights, range(len(pieces), len(pieces) + len(lefts)), strict=True)
    for left, right in zip(lefts, rights, strict=True):
        pieces.append(pieces[left] + pieces[right])


def choose_split(
    texts: Iterable[str | bytes], vocab_size: int, **options
) -> tuple[str, dict[str, float]]:
    """The split with which `texts` are the fewest tokens: its name, and all bytes a token.

    A split that makes at most a hundredth more tokens is preferred if it comes earlier in
    TRAINED_SPLITS: it encodes faster, and more programs can do it. options: of train_bpe.
    """
    texts = [as_bytes(text) for text in texts]
    size, found = sum(map(len, texts)), {}
    for split in TRAINED_SPLITS:
        tokenizer = train_bpe(texts, vocab_size, split=split, **options)
        found[split] = size / max(1, sum(len(tokenizer.encode(text)) for text in texts))
    best = max(found.values())
    return next(split for split, value in found.items() if value >= 0.99 * best), found


def _check_names(names):
    seen = set()
    for name in names:
        if not name or name in seen:
            raise FemtoError(f"the special token {name!r} is empty or named twice")
        seen.add(name)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise FemtoError(f"the special token {name!r} is no valid UTF-8") from None


def _blocks(text: str | bytes | Iterable[bytes]) -> Iterable[bytes]:
    if not isinstance(text, str | bytes):
        return text
    data = as_bytes(text)
    return (data[i : i + BLOCK] for i in range(0, len(data), BLOCK))


def _distinct_chunks(texts, split):
    """Chunk c is store[starts[c]:starts[c + 1]] and occurs counts[c] times."""
    from femtogpt.tokenizer.cutting import chunk_ends

    if split == "none":
        store, starts = bytearray(), [0]
        for text in texts:
            for block in text:
                store += block
            starts.append(len(store))
        return np.frombuffer(store, np.uint8), np.array(starts), np.ones(1, np.int64)
    # Each thread cuts and counts by itself: what comes out does not tell in which order.
    tallies = [_Tally() for _ in range(min(2, os.cpu_count() or 1))]

    def count(part):
        tally = tallies.pop()  # which no other thread has now
        values = np.frombuffer(part, np.uint8)
        tally.add(values, chunk_ends(values, split, tally.room))
        tallies.append(tally)

    for text in texts:
        for _, counted in ahead(recut(text, between_chunks(split)), count, len(tallies)):
            counted()
    first, *others = tallies
    for other in others:
        first.add(other.chunks.store, other.chunks.starts[1 : other.chunks.count + 1], other.counts)
    store, starts = first.chunks.store, first.chunks.starts[: first.chunks.count + 1]
    return store[: starts[-1]], starts, first.counts


class _Tally:
    """Chunks, and how often each was met."""

    def __init__(self):
        from femtogpt.tokenizer.chunks import Chunks
        from femtogpt.tokenizer.room import Room

        self.chunks, self.counts, self.room = Chunks(), np.zeros(0, np.int64), Room()

    def add(self, values, ends, times=None):
        """Counts the chunks of values that end at `ends`, each once, or `times` of them, (n,)."""
        numbers, before = self.chunks.number(values, ends, self.room), self.counts
        self.counts = np.bincount(numbers, times, self.chunks.count).astype(np.int64)
        self.counts[: len(before)] += before


def _laid_out(store, starts, counts, base_bytes, vocab_size):
    """(token, weights) for learn_merges."""
    from femtogpt.tokenizer.tokens import id_type, lay_out

    ids = np.zeros(256, np.int32)
    ids[base_bytes] = np.arange(len(base_bytes))
    token = np.empty(len(store) + len(starts), id_type(vocab_size, 1))
    narrow = np.int32 if counts.max() < 2**31 else np.int64  # less to fetch from memory
    weights = np.empty(len(token) if len(counts) > 1 else 1, narrow)
    lay_out(store, starts, ids, counts, token, weights)
    return token, weights


def _tokens_of(tokenizer, texts, vocab_size):
    """`texts` as tokens for learn_merges, END around each."""
    from femtogpt.tokenizer.tokens import END, id_type, lay_out_tokens

    lengths = np.array([len(piece) for piece in tokenizer.data.pieces], np.int64)
    size = sum(map(len, texts)) + len(texts) + 1
    token = np.full(size, END, id_type(vocab_size, int(lengths.max())))
    place = 1
    for text in texts:
        lay_out_tokens(tokenizer.encode(text), lengths, token[place : place + len(text)])
        place += len(text) + 1
    return token
