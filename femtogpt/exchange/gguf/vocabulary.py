"""A tokenizer as llama.cpp's "gpt2", byte-level BPE, with the same id for the same text.

Merges there are of spellings, and what they make need not be a token: so a character of several
bytes is a token that merges lead to, and bytes alone are BPE without merges. One token more than
ours stands at the end, NEVER's in layout.py: it ends a text.
"""

from typing import NamedTuple

from ...errors import FemtoError
from ...tokenizer import (
    AsciiTokenizer,
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    LowercaseTokenizer,
    PathPieceTokenizer,
    ReservedTokenizer,
)
from ...tokenizer.formats import bytes_without_token, spell
from ...tokenizer.protocol import newline_id

NORMAL, CONTROL = 1, 3  # what no text yields is CONTROL
# GPT-4's is Llama 3's pattern too, but that takes whole words without merges, and adds a token.
PATTERNS = {"gpt2": "gpt-2", "gpt4": "dbrx"}


class Vocabulary(NamedTuple):
    """names (V + 1): each token's, in the byte alphabet. special: ids that no text yields. merges:
    "left right". split: 'gpt2' or 'gpt4'."""

    names: list
    special: set
    merges: list
    split: str


def vocabulary(tokenizer):
    """The Vocabulary of a tokenizer. Raises FemtoError where none gives the same ids."""
    V, inner = tokenizer.vocab_size, tokenizer
    while isinstance(inner, ReservedTokenizer):
        inner = inner.inner
    reserved = range(inner.vocab_size, V)
    names, special, merges, split = _inner(inner)
    names = [*names, *(tokenizer.piece(id).decode() for id in reserved)]
    end = "<|end|>"
    while end in names:
        end = f"<{end}>"
    names.append(end)
    if len(set(names)) < len(names):
        raise FemtoError("two of its tokens have one name, which cannot have two ids there")
    # None at all it refuses; this one joins nothing, for no text has the end.
    return Vocabulary(names, {*special, *reserved, V}, merges or [f"{end} {end}"], split)


def _inner(tokenizer):
    bpe = isinstance(tokenizer, BPETokenizer)
    if isinstance(tokenizer, LowercaseTokenizer) or (bpe and not tokenizer.data.case_sensitive):
        raise FemtoError("llama.cpp lower-cases no text, as its tokenizer does")
    if isinstance(tokenizer, ByteTokenizer):
        return [spell(bytes([byte])) for byte in range(256)], {}, [], "gpt2"
    if isinstance(tokenizer, AsciiTokenizer | CharTokenizer):
        pieces = [tokenizer.piece(id) for id in range(tokenizer.vocab_size)]
        unknown = isinstance(tokenizer, AsciiTokenizer)  # its last, which no merge leads to
        merges = [(piece[:i], piece[i : i + 1]) for piece in pieces[: len(pieces) - unknown]
                  for i in range(1, len(piece))]
        return [spell(piece) for piece in pieces], {}, _spelled(dict.fromkeys(merges)), "gpt2"
    if bpe and not isinstance(tokenizer, PathPieceTokenizer):
        data = tokenizer.data
        if data.split == "none" and data.merges:
            raise FemtoError("llama.cpp always cuts text before it merges, and its tokenizer's "
                             "merges cross words (train-bpe --split gpt2 or gpt4)")
        names = [spell(piece) for piece in data.pieces]
        for name, id in data.special_tokens.items():
            names[id] = name
        merges = [(data.pieces[left], data.pieces[right]) for left, right, _ in data.merges]
        split = data.split if data.split != "none" else "gpt2"
        return names, data.special_tokens.values(), _spelled(merges), split
    raise FemtoError(f"llama.cpp has no tokenizer that cuts text as its own ({tokenizer.name}) "
                     "does; byte, ascii, char and bpe can go")


def _spelled(merges):
    return [f"{spell(left)} {spell(right)}" for left, right in merges]


def metadata(tokenizer):
    """The tokenizer's keys and values. A text begins with a newline where that is a token, as
    `generate` begins it."""
    names, special, merges, split = vocabulary(tokenizer)
    newline = newline_id(tokenizer)
    end = len(names) - 1
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": PATTERNS[split],
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [CONTROL if id in special else NORMAL
                                      for id in range(len(names))],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": end if newline is None else newline,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.add_bos_token": newline is not None,
        "tokenizer.ggml.add_eos_token": False,
    }


def notes(tokenizer):
    """Sentences on what llama.cpp does otherwise."""
    inner, said = tokenizer, []
    while isinstance(inner, ReservedTokenizer):
        inner = inner.inner
    if isinstance(inner, AsciiTokenizer | CharTokenizer):
        said.append("characters without a token, which femtogpt refuses, llama.cpp drops without "
                    "a word")
    if isinstance(inner, BPETokenizer) and bytes_without_token(inner.data):
        said.append("bytes without a token, which femtogpt refuses, llama.cpp drops without a word")
    if isinstance(inner, ByteTokenizer | BPETokenizer):
        said.append("bytes that are no UTF-8 llama.cpp reads as U+FFFD")
    return said
