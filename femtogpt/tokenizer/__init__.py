"""Text to token ids and back: byte, ascii, char, bpe, pathpiece, and given pieces."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from femtogpt.errors import FemtoError, short
from femtogpt.tokenizer.adapted import LowercaseTokenizer, ReservedTokenizer
from femtogpt.tokenizer.ascii import AsciiTokenizer
from femtogpt.tokenizer.bpe import BPETokenizer
from femtogpt.tokenizer.byte import ByteTokenizer
from femtogpt.tokenizer.char import CharTokenizer, train_char
from femtogpt.tokenizer.formats import bytes_without_token
from femtogpt.tokenizer.pathpiece import PathPieceTokenizer
from femtogpt.tokenizer.pieces import PiecesTokenizer
from femtogpt.tokenizer.protocol import Tokenizer
from femtogpt.tokenizer.pruning import train_pathpiece
from femtogpt.tokenizer.split import SPLITS
from femtogpt.tokenizer.tiktoken_file import to_tiktoken
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
    "PathPieceTokenizer",
    "PiecesTokenizer",
    "ReservedTokenizer",
    "Tokenizer",
    "choose_split",
    "load_tokenizer",
    "save_tokenizer",
    "tokenizer_from_json",
    "train_bpe",
    "train_char",
    "train_pathpiece",
]

_KINDS = {
    cls.name: cls
    for cls in (ByteTokenizer, AsciiTokenizer, CharTokenizer, BPETokenizer, PathPieceTokenizer,
                PiecesTokenizer)
}

# Larger than any tokenizer that is used, and small enough to parse whatever it holds: what JSON
# takes once it is read goes by its marks, some 50 bytes for each. 262,000 tokens with 515,000
# merges (Gemma 3's) are 33 MB and up to 4.7 million marks.
LARGEST_FILE, MOST_MARKS = 64 << 20, 6_000_000
MOST_CHANGES = 16  # lower-casing and reserving, one around the other; each is a call deeper


def count_marks(text: bytes) -> int:
    """How many brackets that open, quotes, commas and colons a JSON text has."""
    return sum(map(text.count, (b"[", b"{", b'"', b",", b":")))


def tokenizer_from_json(obj: object) -> Tokenizer:
    """The tokenizer whose `to_json` gave `obj`. Raises FemtoError if it is damaged."""
    changes = []
    while isinstance(obj, dict) and obj.get("kind") in ("lowercase", "reserved"):
        changes.append(obj)
        obj = obj.get("inner")
        if len(changes) > MOST_CHANGES:
            raise FemtoError(f"a tokenizer may be changed {MOST_CHANGES} times, not more")
    kind = obj.get("kind") if isinstance(obj, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise FemtoError(f"unknown kind of tokenizer {short(kind)}; known are {', '.join(_KINDS)}")
    tokenizer = _KINDS[kind].from_json(obj)
    for change in reversed(changes):
        if change["kind"] == "lowercase":
            tokenizer = LowercaseTokenizer(tokenizer)
        else:
            tokenizer = ReservedTokenizer(tokenizer, change.get("count"))
    return tokenizer


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Read a tokenizer file: what `save_tokenizer` writes, and three formats of others.

    Those are a byte-level BPE `tokenizer.json` of Hugging Face, a JSON array of strings
    (id = place) and femtoGPT's JSON object of id -> list of bytes. Raises FemtoError,
    which names the file, if it cannot be read, is none of these or is above LARGEST_FILE
    or MOST_MARKS.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)  # a device's size is not known before
    except OSError as error:
        raise FemtoError(
            f"{path}: cannot read the tokenizer ({error.strerror}); check --tokenizer-data"
        ) from None
    if len(content) > LARGEST_FILE:
        raise FemtoError(
            f"{path}: above {LARGEST_FILE >> 20} MiB, which no tokenizer is; check --tokenizer-data"
        )
    if count_marks(content) > MOST_MARKS:
        raise FemtoError(f"{path}: above {MOST_MARKS:,} quotes, commas, colons and brackets, which "
                         "no tokenizer has; check --tokenizer-data")
    try:
        obj = json.loads(content, object_pairs_hook=_without_duplicates)
    except FemtoError as error:
        raise FemtoError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise FemtoError(
            f"{path}: not a JSON file; --tokenizer-data takes what train-bpe writes, "
            "Hugging Face's tokenizer.json, or a JSON array of strings (.tiktoken files cannot "
            "be read: they do not say how text is cut)"
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
        raise FemtoError(f"the key {short(key)} occurs twice in one object; keep one of them")
    return obj


def _from_parsed(obj: object) -> Tokenizer:
    if isinstance(obj, list):
        return PiecesTokenizer.from_strings(obj)
    if isinstance(obj, dict):
        if "kind" in obj:
            return tokenizer_from_json(obj)
        if "model" in obj:
            if isinstance(obj["model"], dict) and obj["model"].get("type") == "Unigram":
                return PathPieceTokenizer.from_json({"huggingface": obj})
            return BPETokenizer.from_json({"huggingface": obj})
        if obj and all(key.isdecimal() for key in obj):
            return PiecesTokenizer.from_femtogpt(obj)
    raise FemtoError(
        "not a tokenizer: it is neither a tokenizer.json, nor a JSON array of strings, nor a "
        "JSON object of id -> list of bytes"
    )


def save_tokenizer(tokenizer: Tokenizer, path: str | os.PathLike) -> list[str]:
    """Write `tokenizer` to `path`; an old file goes all or not. What to tell the user of it.

    A name that ends with .tiktoken gets that format, if it can express the tokenizer.
    Otherwise BPE and PathPiece are written as Hugging Face's `tokenizer.json`, the others as their
    `to_json`, and `load_tokenizer` can read it. Returns a sentence for each thing that
    the file does not hold or that other programs take otherwise. Raises FemtoError if
    `path` cannot be written, or the tokenizer not in its format.
    """
    try:
        content, notes = _file_of(tokenizer, Path(path).suffix)
        content = content.encode()
        if len(content) > LARGEST_FILE or count_marks(content) > MOST_MARKS:
            raise FemtoError(
                f"it would be above {LARGEST_FILE >> 20} MiB or {MOST_MARKS:,} quotes, commas, "
                "colons and brackets, which is not read again; take fewer tokens (--vocab-size, "
                "--reserve-tokens)"
            )
    except FemtoError as error:
        raise FemtoError(f"{path}: {error}") from None
    beside = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
    try:
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise FemtoError(
            f"{path}: cannot write the tokenizer ({error.strerror}); choose another place"
        ) from None
    return notes


def _file_of(tokenizer: Tokenizer, suffix: str) -> tuple[str, list[str]]:
    """A tokenizer file's content, and the notes on it."""
    bpe = isinstance(tokenizer, BPETokenizer)
    paths = isinstance(tokenizer, PathPieceTokenizer)
    if suffix == ".tiktoken":
        if not bpe or paths:
            raise FemtoError(
                "a .tiktoken file holds byte-level BPE alone, with nothing lower-cased or reserved "
                "afterwards; write a .json file instead"
            )
        return to_tiktoken(tokenizer)
    if not bpe:
        return json.dumps(tokenizer.to_json(), ensure_ascii=False), [
            "the file is femtogpt's own; other programs do not read it"
        ]
    notes, missing = [], len(bytes_without_token(tokenizer.data))
    if missing:
        others = "as Hugging Face does" if paths else "other programs drop it without a word"
        notes.append(f"{missing} bytes have no token: femtogpt refuses a text that has one of "
                     f"them, {others}")
    if paths:
        notes.append("the file is a Unigram model with equal scores: Hugging Face's tokenizers "
                     "read it, but not what knows byte-level BPE alone, as tiktoken and llama.cpp")
    elif tokenizer.data.split == "none":
        notes.append("tokens may cross words: what reads tokenizer.json reads this, but not a "
                     "program that always cuts text first, such as llama.cpp")
    return json.dumps(tokenizer.to_huggingface(), ensure_ascii=False, indent=1), notes
