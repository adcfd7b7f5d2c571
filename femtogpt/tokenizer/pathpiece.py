"""PathPiece: a text as the fewest pieces of a vocabulary that spell it.

Schmidt et al. 2024, "Tokenization Is More Than Compression". Bytes are pieces, so any text
can be spelled, or with base 'seen' any that has no other byte. shortest.py finds the path;
pruning.py learns a vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from femtogpt.errors import FemtoError, short
from femtogpt.tokenizer.bpe import BPETokenizer
from femtogpt.tokenizer.formats import BPEData, from_huggingface, to_huggingface
from femtogpt.tokenizer.protocol import Unspellable, pack_ids, place
from femtogpt.tokenizer.stream import lowered, whole_characters

STRETCH = 1 << 16  # bytes of a text to look at together: what that takes stays in the cache
# Sums of it are exact, so that Hugging Face, which adds up floats, sees the ties we see.
SCORE = -1.0


class PathPieceTokenizer(BPETokenizer):
    """The fewest pieces; of several ways the one whose last piece is longest, and so on back.

    Vocabulary, special tokens and case are those of byte-level BPE without merges and
    pre-split, and so are decoding and what it says of bytes it has no token for.
    """

    name = "pathpiece"

    def __init__(self, data: BPEData):
        if data.merges or data.split != "none":
            raise FemtoError("a pathpiece tokenizer has neither merges nor a pre-split")
        super().__init__(data)
        special = set(self.special_tokens.values())
        ordinary = [id for id in range(self.vocab_size) if id not in special]
        pieces = data.pieces
        self._order = np.array(sorted(ordinary, key=pieces.__getitem__), np.int64)
        for a, b in zip(self._order[:-1].tolist(), self._order[1:].tolist(), strict=True):
            if pieces[a] == pieces[b]:
                raise FemtoError(f"ids {a} and {b} are the same piece {short(pieces[a])}")
        for byte in set(b"".join([pieces[id] for id in ordinary])):
            if self._byte_ids[byte] < 0:  # else a text might have no path
                raise FemtoError(f"byte 0x{byte:02X} is in a piece but has no token of its own")
        self._trie = None

    def encode_blocks(self, blocks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """`encode` of the blocks joined, in parts; holds back what is not sure yet."""
        if not self.data.case_sensitive:
            blocks = lowered(blocks)
        line, column, text, enough = 1, 1, bytearray(), 0
        for stretch in _stretches(blocks):
            text += stretch if stretch is not None else b""
            if stretch is not None and len(text) < enough:
                continue
            part = bytes(text if stretch is None else text[: whole_characters(text)])
            try:
                ids, used = self._fewest(part, stretch is None)
            except Unspellable as error:
                raise error.after(line, column) from None
            yield ids
            del text[:used]
            # Looking again only when there is a multiple of it keeps all work linear.
            enough = 4 * len(text)
            lines, behind = place(part[:used], used)
            line, column = line + lines - 1, behind + (column - 1 if lines == 1 else 0)

    def _encode_ordinary(self, data):
        return np.concatenate([pack_ids([], self.vocab_size), *self.encode_blocks([data])])

    def _fewest(self, data, whole):
        """(ids, bytes they spell): of all data, or of as much as is sure if more follows."""
        from femtogpt.tokenizer.shortest import build_trie, fewest, sure, trace  # numba

        self._check_bytes(data)
        if self._trie is None:
            self._trie, _ = build_trie(self._store, self._starts, self._order)
        values, n = np.frombuffer(data, np.uint8), len(data)
        cost, last = np.empty(n + 1, np.int32), np.empty(n + 1, np.int32)
        node = fewest(values, self._trie, cost, last)
        used = n if whole else sure(values, self._trie, node, last, self._lengths)
        ids = np.empty(cost[used], np.uint16 if self.vocab_size <= 65536 else np.uint32)
        trace(used, last, self._lengths, ids)
        return ids, used

    def to_huggingface(self) -> dict:
        """The content of a `tokenizer.json`: a Unigram model in which all scores are equal.

        Special tokens stand in its vocabulary with a score so low that none is ever taken.
        """
        obj = to_huggingface(self.data)
        special = set(self.special_tokens.values())
        vocab = [[name, SCORE if id not in special else SCORE * 2**30]
                 for name, id in obj["model"]["vocab"].items()]
        return {**obj, "model": {"type": "Unigram", "unk_id": None, "vocab": vocab,
                                 "byte_fallback": False}}

    @classmethod
    def from_json(cls, obj: dict) -> PathPieceTokenizer:
        """The tokenizer that `to_json` wrote, or that `to_huggingface` did, under "huggingface".

        Raises FemtoError if it is damaged or a Unigram model of another kind.
        """
        obj = obj.get("huggingface")
        model = obj.get("model") if isinstance(obj, dict) else None
        if not isinstance(model, dict) or model.get("type") != "Unigram":
            raise FemtoError('a pathpiece tokenizer needs a "model" of type Unigram')
        if model.get("unk_id") is not None or model.get("byte_fallback"):
            raise FemtoError('its model has an "unk_id" or "byte_fallback", which femtogpt '
                             "cannot do; unset them")
        names = _read_vocab(model.get("vocab"), obj.get("added_tokens"))
        bpe = {"type": "BPE", "vocab": names, "merges": []}
        return cls(from_huggingface({**obj, "model": bpe}))


def _read_vocab(vocab: object, added: object) -> dict[str, int]:
    """Name -> id of a Unigram model's [name, score] pairs, all with one score but the added."""
    added = {token.get("content") for token in added if isinstance(token, dict)
             and isinstance(token.get("content"), str)} if isinstance(added, list) else ()
    names: dict[str, int] = {}
    scores = set()
    for id, entry in enumerate(vocab if isinstance(vocab, list) else [None]):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str) or (
                type(entry[1]) not in (int, float)):
            raise FemtoError('the "vocab" of a Unigram model must be a list of [token, score]')
        name, score = entry
        if name in names:
            raise FemtoError(f"ids {names[name]} and {id} are the same token {short(name)}")
        names[name] = id
        if name not in added:
            scores.add(score)
    if len(scores) > 1 or not all(score < 0 for score in scores):
        raise FemtoError("its tokens have different scores, or none below 0; of Unigram models "
                         "femtogpt reads those that are for the fewest tokens, all scores equal")
    return names


def _stretches(blocks: Iterable[bytes]) -> Iterator[memoryview | None]:
    """The blocks in parts of at most STRETCH bytes, then None."""
    for block in blocks:
        view = memoryview(block)
        for i in range(0, len(view), STRETCH):
            yield view[i : i + STRETCH]
    yield None
