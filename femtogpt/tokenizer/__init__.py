"""Text to token ids and back: byte, ascii, char, bpe, and given pieces."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from femtogpt.errors import FemtoError
from femtogpt.tokenizer.adapted import LowercaseTokenizer, ReservedTokenizer
from femtogpt.tokenizer.ascii import AsciiTokenizer
from femtogpt.tokenizer.bpe import BPETokenizer
from femtogpt.tokenizer.byte import ByteTokenizer
from femtogpt.tokenizer.char import CharTokenizer, train_char
from femtogpt.tokenizer.pieces import PiecesTokenizer
from femtogpt.tokenizer.protocol import Tokenizer
from femtogpt.tokenizer.split import SPLITS
from femtogpt.tokenizer.training import BASES, TRAINED_SPLITS, choose_split, train_bpe

__all__ = [
    "BASES",
    "SPLITS",
    "TRAINED_SPLITS",
    "AsciiTokenizer",
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "LowercaseTokenizer",
    "PiecesTokenizer",
    "ReservedTokenizer",
    "Tokenizer",
    "choose_split",
    "load_tokenizer",
    "save_tokenizer",
    "tokenizer_from_json",
    "train_bpe",
    "train_char",
]

_KINDS = {
    cls.name: cls
    for cls in (ByteTokenizer, AsciiTokenizer, CharTokenizer, BPETokenizer, PiecesTokenizer)
}


def tokenizer_from_json(obj: dict) -> Tokenizer:
    """The tokenizer whose `to_json` gave `obj`. Raises FemtoError if it is damaged."""
    kind = obj.get("kind") if isinstance(obj, dict) else None
    if kind == "lowercase":
        return LowercaseTokenizer(tokenizer_from_json(obj.get("inner")))
    if kind == "reserved":
        return ReservedTokenizer(tokenizer_from_json(obj.get("inner")), obj.get("count"))
    if not isinstance(kind, str) or kind not in _KINDS:
        raise FemtoError(f"unknown kind of tokenizer {kind!r}; known are {', '.join(_KINDS)}")
    return _KINDS[kind].from_json(obj)


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Read a tokenizer file: what `save_tokenizer` writes, and three formats of others.

    Those are a byte-level BPE `tokenizer.json` of Hugging Face, a JSON array of strings
    (id = place) and femtoGPT's JSON object of id -> list of bytes. Raises FemtoError,
    which names the file, if it cannot be read or is none of these.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise FemtoError(
            f"{path}: cannot read the tokenizer ({error.strerror}); check --tokenizer-data"
        ) from None
    try:
        obj = json.loads(content, object_pairs_hook=_without_duplicates)
    except FemtoError as error:
        raise FemtoError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise FemtoError(
            f"{path}: not a JSON file; --tokenizer-data takes what train-bpe writes, "
            "Hugging Face's tokenizer.json, or a JSON array of strings"
        ) from None
    try:
        return _from_parsed(obj)
    except FemtoError as error:
        raise FemtoError(f"{path}: {error}") from None


def _without_duplicates(items: list[tuple[str, object]]) -> dict:
    # The json module keeps the last of two equal keys and says nothing.
    obj = dict(items)
    if len(obj) < len(items):
        key = Counter(key for key, _ in items).most_common(1)[0][0]
        raise FemtoError(f"the key {key!r} occurs twice in one object; keep one of them")
    return obj


def _from_parsed(obj: object) -> Tokenizer:
    if isinstance(obj, list):
        return PiecesTokenizer.from_strings(obj)
    if isinstance(obj, dict):
        if "kind" in obj:
            return tokenizer_from_json(obj)
        if "model" in obj:
            return BPETokenizer.from_json({"huggingface": obj})
        if obj and all(key.isdecimal() for key in obj):
            return PiecesTokenizer.from_femtogpt(obj)
    raise FemtoError(
        "not a tokenizer: it is neither a tokenizer.json, nor a JSON array of strings, nor a "
        "JSON object of id -> list of bytes"
    )


def save_tokenizer(tokenizer: Tokenizer, path: str | os.PathLike) -> None:
    """Write `tokenizer` where `load_tokenizer` can read it; an old file goes all or not.

    BPE is written as Hugging Face's `tokenizer.json`, the others as their `to_json`.
    Raises FemtoError if `path` cannot be written.
    """
    bpe = isinstance(tokenizer, BPETokenizer)
    obj = tokenizer.to_huggingface() if bpe else tokenizer.to_json()
    beside = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
    try:
        try:
            with open(beside, "w", encoding="utf-8") as file:
                json.dump(obj, file, ensure_ascii=False, indent=1 if bpe else None)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise FemtoError(
            f"{path}: cannot write the tokenizer ({error.strerror}); choose another place"
        ) from None
