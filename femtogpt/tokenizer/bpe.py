"""Byte-level byte-pair encoding: learning merges and applying them.

Text is cut into chunks (split.py), a chunk is its bytes, and merges replace two
neighbouring tokens inside a chunk by one. All 256 bytes are tokens, so any bytes can
be encoded and come back exactly, unless the tokenizer is case-insensitive: that
lower-cases text first, and is the one lossy choice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np

from femtogpt.errors import FemtoError
from femtogpt.tokenizer.formats import BPEData, from_huggingface, spell, to_huggingface
from femtogpt.tokenizer.protocol import as_bytes, check_ids, pack_ids
from femtogpt.tokenizer.split import check_split, split_chunks
from femtogpt.tokenizer.stream import between_chunks, between_pieces, encode_blocks, lowered

# Stand in for tokens in the linked lists below; no merge has them.
END, DEAD = -1, -2

# Words are short and come again; a longer chunk is not worth its memory.
CACHE_CHUNKS, CACHE_LENGTH = 1 << 17, 64


class BPETokenizer:
    """Byte-level BPE over `data`; make one with `train_bpe` or `from_json`.

    `special_tokens` maps the spelling of each special token, reserved ones included,
    to its id. `num_learnt` is the number of the other tokens: the 256 bytes and one
    a merge; it is less than `train_bpe` was asked for if pairs ran out.
    """

    name = "bpe"

    def __init__(self, data: BPEData):
        check_split(data.split)
        self.data = data
        self.vocab_size = len(data.pieces)
        self.special_tokens = data.special_tokens
        self.num_learnt = self.vocab_size - len(self.special_tokens)
        special_ids = set(self.special_tokens.values())
        ordinary = {p: id for id, p in enumerate(data.pieces) if id not in special_ids}
        taken = {spell(piece) for piece in ordinary} if special_ids else set()
        for special in self.special_tokens:
            if special in taken:  # one spelling cannot have two ids in tokenizer.json
                raise FemtoError(
                    f"the special token {special!r} is an ordinary token too; give it a name "
                    "that texts do not have, such as <|endoftext|>"
                )
        self._byte_ids = [ordinary[bytes([byte])] for byte in range(256)]
        self._merges = {(l, r): (rank, new) for rank, (l, r, new) in enumerate(data.merges)}
        self._cache: dict[str, list[int]] = {}
        # The longest first: of <|a|> and <|a|>b in one place, the longer is meant.
        names = sorted((s.encode() for s in self.special_tokens), key=len, reverse=True)
        self._special = re.compile(b"(" + b"|".join(map(re.escape, names)) + b")")

    def encode(self, text: str | bytes, allow_special: bool = False) -> np.ndarray:
        """The ids of `text`: (n,) uint16 or uint32.

        The letters of a special token in `text` are letters, unless `allow_special`:
        then they are that token.
        """
        data = as_bytes(text)
        out: list[int] = []
        if not (allow_special and self.special_tokens):
            self._encode_ordinary(data, out)
            return pack_ids(out, self.vocab_size)
        for number, part in enumerate(self._special.split(data)):
            if number % 2:  # re.split puts what its group matched at the odd places
                out.append(self.special_tokens[part.decode()])
            else:
                self._encode_ordinary(part, out)
        return pack_ids(out, self.vocab_size)

    def encode_blocks(self, blocks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """`encode` of the blocks joined, in parts."""
        if not self.data.case_sensitive:
            blocks = lowered(blocks)  # `encode` will find nothing more to lower
        split = self.data.split
        cut = between_pieces(self.data.pieces) if split == "none" else between_chunks(split)
        return encode_blocks(blocks, cut, self.encode)

    def _encode_ordinary(self, data: bytes, out: list[int]) -> None:
        cache = self._cache
        for chunk in split_chunks(data, self.data.split, self.data.case_sensitive):
            ids = cache.get(chunk)
            if ids is None:
                raw = chunk.encode("utf-8", "surrogateescape")
                ids = apply_merges([self._byte_ids[byte] for byte in raw], self._merges)
                if len(chunk) <= CACHE_LENGTH:
                    if len(cache) >= CACHE_CHUNKS:
                        cache.clear()
                    cache[chunk] = ids
            out.extend(ids)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The pieces of `ids`, joined. Raises FemtoError for an id out of range."""
        pieces = self.data.pieces
        return b"".join([pieces[i] for i in check_ids(ids, self.vocab_size).tolist()])

    def piece(self, id: int) -> bytes:
        """The bytes that `id` stands for; a special token's are its name."""
        return self.decode([id])

    def to_huggingface(self) -> dict:
        """The content of Hugging Face's `tokenizer.json`; see formats.to_huggingface."""
        return to_huggingface(self.data)

    def to_json(self) -> dict:
        """{"kind": "bpe", "huggingface": the content of a `tokenizer.json`}."""
        return {"kind": self.name, "huggingface": self.to_huggingface()}

    @classmethod
    def from_json(cls, obj: dict) -> BPETokenizer:
        """The tokenizer that `to_json` wrote. Raises FemtoError if it is damaged."""
        return cls(from_huggingface(obj.get("huggingface")))


def train_bpe(
    texts: Iterable[bytes],
    vocab_size: int,
    *,
    split: str = "gpt2",
    reserve_tokens: int = 0,
    case_sensitive: bool = True,
    special_tokens: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> BPETokenizer:
    """Learn `vocab_size` tokens from `texts`: the 256 bytes (ids 0..255) and merges.

    Each merge joins the pair of neighbours that occurs most often (in a tie that of
    the smallest left id, then right id), until there are `vocab_size` tokens or no
    pair occurs twice. After them come `special_tokens`, then `reserve_tokens` tokens
    <|reserved_0|>, <|reserved_1|>, ... for later use. Special tokens' letters in
    `texts` are learnt from like any others. `progress` is called with the number of
    merges made and wanted. Raises FemtoError for sizes that cannot be and for no text.
    """
    check_split(split)
    if vocab_size < 256:
        raise FemtoError(f"--vocab-size must be at least 256 (the bytes), not {vocab_size}")
    if reserve_tokens < 0:
        raise FemtoError(f"--reserve-tokens must be 0 or more, not {reserve_tokens}")
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(split_chunks(as_bytes(text), split, case_sensitive))
    if not chunks:
        raise FemtoError("there is no text to learn tokens from; give a --dataset that has some")
    counts = {chunk.encode("utf-8", "surrogateescape"): n for chunk, n in chunks.items()}
    pieces = [bytes([byte]) for byte in range(256)]
    merges = []
    for left, right in learn_merges(counts, vocab_size - 256, progress):
        merges.append((left, right, len(pieces)))
        pieces.append(pieces[left] + pieces[right])
    special = {}
    for name in (*special_tokens, *(f"<|reserved_{i}|>" for i in range(reserve_tokens))):
        if not name or name in special:
            raise FemtoError(f"the special token {name!r} is empty or named twice")
        special[name] = len(pieces)
        try:
            pieces.append(name.encode())
        except UnicodeEncodeError:
            raise FemtoError(f"the special token {name!r} is no valid UTF-8") from None
    return BPETokenizer(BPEData(pieces, merges, special, split, case_sensitive))


def learn_merges(
    chunks: Mapping[bytes, int],
    num_merges: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[int, int]]:
    """At most `num_merges` pairs of ids, in the order learnt; merge k makes id 256 + k.

    `chunks` says how often each distinct chunk occurs. In `aaa` the pair `aa` counts
    twice, but merging, from the left, joins it once.
    """
    # All chunks one after the other, each closed by END, as a doubly linked list over
    # positions: a merge leaves its token at the left position and kills the right one.
    token: list[int] = []
    weight: list[int] = []
    for chunk, count in chunks.items():
        token += chunk
        token.append(END)
        weight += [count] * (len(chunk) + 1)
    after = list(range(1, len(token) + 1))
    before = list(range(-1, len(token) - 1))  # before the first: token[-1], an END

    counts: Counter[tuple[int, int]] = Counter()
    places: dict[tuple[int, int], list[int]] = {}
    for i, pair in enumerate(pairwise(token)):
        if END not in pair:
            counts[pair] += weight[i]
            places.setdefault(pair, []).append(i)

    # A pair's count never rises after the merge that bears it, so one entry a pair is
    # enough: if its count has fallen since, it goes back with the count of now.
    heap = [(-count, *pair) for pair, count in counts.items()]
    heapify(heap)
    merges: list[tuple[int, int]] = []
    while heap and len(merges) < num_merges:
        count, left, right = heappop(heap)
        pair = (left, right)
        if counts[pair] < 2:
            continue
        if counts[pair] != -count:
            heappush(heap, (-counts[pair], left, right))
            continue
        new = 256 + len(merges)
        merges.append(pair)
        born: set[tuple[int, int]] = set()
        # Places are in order (all were noted in one sweep), some no longer true.
        for i in places.pop(pair):
            j = after[i]
            if token[i] != left or token[j] != right:
                continue
            h, k = before[i], after[j]
            for old, fresh, place in (
                ((token[h], left), (token[h], new), h),
                ((right, token[k]), (new, token[k]), i),
            ):
                if END not in old:
                    counts[old] -= weight[i]
                    counts[fresh] += weight[i]
                    places.setdefault(fresh, []).append(place)
                    born.add(fresh)
            token[i], token[j] = new, DEAD
            after[i], before[k] = k, i
        del counts[pair]
        for fresh in born:
            heappush(heap, (-counts[fresh], *fresh))
        if progress is not None:
            progress(len(merges), num_merges)
    return merges


def apply_merges(ids: list[int], merges: Mapping[tuple[int, int], tuple[int, int]]) -> list[int]:
    """`ids` of one chunk after all merges; `merges` is (left, right) -> (rank, joined).

    The merge of the lowest rank goes first, and of its places the leftmost.
    """
    n = len(ids)
    token = [*ids, END]
    after = list(range(1, n + 1))
    before = list(range(-1, n))
    heap = []  # rank and place in one number, the rank first
    for i, pair in enumerate(pairwise(ids)):
        if pair in merges:
            heap.append(merges[pair][0] * n + i)
    heapify(heap)
    while heap:
        rank, i = divmod(heappop(heap), n)
        if token[i] == DEAD:
            continue
        j = after[i]
        found = merges.get((token[i], token[j]))
        if found is None or found[0] != rank:
            continue  # one of the two has been merged away since
        k = after[j]
        token[i], token[j] = found[1], DEAD
        after[i], before[k] = k, i
        for place, pair in ((before[i], (token[before[i]], token[i])), (i, (token[i], token[k]))):
            if pair in merges:
                heappush(heap, merges[pair][0] * n + place)
    return [id for id in token[:n] if id != DEAD]
