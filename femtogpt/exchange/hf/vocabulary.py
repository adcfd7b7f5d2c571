"""A tokenizer as the files that AutoTokenizer reads, with the same id for the same text.

Bytes are byte-level BPE without merges. Characters, and given pieces, are words to Hugging Face:
text is cut into single characters, or by an expression that tries the pieces, the longest first,
and each word has its id. A word without one is the unknown token's, or an error where we have
none either. What no text yields (reserved ids, special tokens) no text yields there: special
tokens are cut like any text unless tokenizer(..., split_special_tokens=False) asks for them.
"""

import re

from ...errors import FemtoError
from ...tokenizer import (
    AsciiTokenizer,
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    LowercaseTokenizer,
    PiecesTokenizer,
    ReservedTokenizer,
)
from ...tokenizer.formats import BPEData, bytes_without_token, spell, to_huggingface
from ...tokenizer.pathpiece import SCORE
from ...tokenizer.pieces import UNKNOWN

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": False}


def tokenizer_json(tokenizer):
    """The content of tokenizer.json. Raises FemtoError where none gives the same ids."""
    if isinstance(tokenizer, ReservedTokenizer):
        return _reserved(tokenizer_json(tokenizer.inner), tokenizer)
    if isinstance(tokenizer, LowercaseTokenizer):
        return tokenizer_json(tokenizer.inner) | {"normalizer": {"type": "Lowercase"}}
    if isinstance(tokenizer, ByteTokenizer):
        data = BPEData([bytes([byte]) for byte in range(256)], [], {}, "none", True)
        return to_huggingface(data)
    if isinstance(tokenizer, BPETokenizer):  # pathpiece is one too
        return tokenizer.to_huggingface()
    if isinstance(tokenizer, AsciiTokenizer | CharTokenizer):
        names = [tokenizer.piece(id).decode() for id in range(tokenizer.vocab_size)]
        return _words(names, _cut(r"[\s\S]"), {"type": "Fuse"})
    if isinstance(tokenizer, PiecesTokenizer):
        return _pieces(tokenizer.pieces)
    raise FemtoError(f"a tokenizer of kind {tokenizer.name} cannot go")


def tokenizer_config(num_tokens):
    """The content of tokenizer_config.json. No token is named to be special in it: such a token
    would be cut out of texts, or added to them."""
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": num_tokens,
            "clean_up_tokenization_spaces": False, "split_special_tokens": True,
            "model_input_names": ["input_ids", "attention_mask"]}


def notes(tokenizer):
    """Sentences on what Hugging Face does otherwise."""
    inner = tokenizer
    while isinstance(inner, ReservedTokenizer | LowercaseTokenizer):
        inner = inner.inner
    if isinstance(inner, BPETokenizer) and bytes_without_token(inner.data):
        return ["bytes without a token, which femtogpt refuses, other programs drop without a word"]
    if isinstance(inner, AsciiTokenizer):
        return ["characters beyond ASCII, which femtogpt refuses, are <unk> to other programs"]
    return []


def _cut(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
            "invert": False}


def _words(names, pre_tokenizer, decoder):
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": pre_tokenizer, "post_processor": None,
        "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": {name: id for id, name in enumerate(names)},
                  "unk_token": UNKNOWN.decode()},
    }


def _pieces(pieces):
    names = [spell(piece) for piece in pieces]
    longest_first = sorted((piece for piece in pieces if piece != UNKNOWN), key=len, reverse=True)
    pattern = "|".join([*(re.escape(spell(piece)) for piece in longest_first), r"[\s\S]"])
    cut = {"type": "Sequence", "pretokenizers": [BYTE_LEVEL, _cut(pattern)]}
    return _words(names, cut, BYTE_LEVEL)


def _reserved(obj, tokenizer):
    """obj with the reserved ids, in a place of the vocabulary that no text leads to."""
    first = tokenizer.inner.vocab_size
    names = [tokenizer.piece(id).decode() for id in range(first, tokenizer.vocab_size)]
    model, vocab = obj["model"], obj["model"]["vocab"]
    taken = {name for name, _ in vocab} if isinstance(vocab, list) else vocab
    if any(name in taken for name in names):
        raise FemtoError(f"{names[0]} is a token of the vocabulary too, and one name cannot have "
                         "two ids in tokenizer.json")
    if isinstance(vocab, list):
        vocab = [*vocab, *([name, SCORE * 2**30] for name in names)]
    else:
        vocab = vocab | {name: first + i for i, name in enumerate(names)}
    return obj | {"model": model | {"vocab": vocab}}
