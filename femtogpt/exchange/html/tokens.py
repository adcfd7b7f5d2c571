"""A tokenizer as JSON for tokenizer.js."""

import numpy as np

from ...tokenizer import (
    AsciiTokenizer,
    BPETokenizer,
    CharTokenizer,
    LowercaseTokenizer,
    PathPieceTokenizer,
    PiecesTokenizer,
    ReservedTokenizer,
)
from ...tokenizer.ascii import UNKNOWN_ID
from ...tokenizer.characters import LETTER, NUMBER, SPACE, classes
from ...tokenizer.pieces import UNKNOWN
from ...tokenizer.split import lower


def tokenizer_data(tokenizer):
    """All that tokenizer.js needs, as plain JSON types. Bytes are strings of U+0000 to U+00FF.

    how      "characters", "greedy", "fewest" or "merges": which of its ways to encode
    pieces   id -> bytes
    special  ids that no text yields
    unknown  the id of what cannot be spelled, or null: it is refused
    lower    null, or character -> what it is first replaced by
    merges   left, right, what they become; one merge after the other
    split    null, "gpt2" or "gpt4";  classes: the ranges of letters, numbers and white space
    """
    pieces, lowers = [tokenizer.piece(id) for id in range(tokenizer.vocab_size)], False
    while isinstance(tokenizer, LowercaseTokenizer | ReservedTokenizer):
        lowers |= isinstance(tokenizer, LowercaseTokenizer)
        tokenizer = tokenizer.inner
    special = list(range(tokenizer.vocab_size, len(pieces)))  # reserved
    data = {"how": "merges", "unknown": None, "merges": [], "split": None, "classes": None}
    if isinstance(tokenizer, AsciiTokenizer | CharTokenizer):
        data["how"] = "characters"
        if isinstance(tokenizer, AsciiTokenizer):
            special.append(UNKNOWN_ID)
    elif isinstance(tokenizer, PiecesTokenizer):
        data["how"] = "greedy"
        if UNKNOWN in tokenizer.pieces:
            data["unknown"] = tokenizer.pieces.index(UNKNOWN)
    elif isinstance(tokenizer, PathPieceTokenizer):
        data["how"] = "fewest"
    if isinstance(tokenizer, BPETokenizer):  # and PathPieceTokenizer, which is one
        special += tokenizer.special_tokens.values()
        lowers |= not tokenizer.data.case_sensitive
        data["merges"] = [id for merge in tokenizer.data.merges for id in merge]
        if tokenizer.data.split != "none":
            data["split"] = tokenizer.data.split
            data["classes"] = [_ranges(kind) for kind in (LETTER, NUMBER, SPACE)]
    if data["unknown"] is not None:
        special.append(data["unknown"])
    return data | {"pieces": [piece.decode("latin-1") for piece in pieces], "special": special,
                   "lower": _lower_cases() if lowers else None}


def _ranges(kind):
    """The characters of a class as what stands between the brackets of a regular expression.

    A browser's own \\p{L} is as young as its Unicode, and its \\s has U+FEFF but not U+0085.
    """
    inside = np.concatenate([[False], classes() == kind, [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1]).reshape(-1, 2).tolist()
    return "".join(f"\\u{{{first:x}}}-\\u{{{end - 1:x}}}" for first, end in edges)


def _lower_cases():
    """Every character that `lower` changes -> what it becomes."""
    characters = (chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    return {c: lower(c) for c in characters if lower(c) != c}
