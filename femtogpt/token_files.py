"""Files of tokens that were made beforehand (`tokenize --binary`), mapped, not read: of any number
and size training touches the windows that it draws.

One is a safetensors file. tokens: (n,), the narrowest unsigned type; counts: (V,) int64, how often
each occurs, so that nobody need read them all to know. Metadata: one entry, "femtogpt_tokens", a
JSON string: format_version, tokenizer and sha256, hashes (hex) of the tokenizer and of the tokens.
"""

import hashlib
import json
import os
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import durable
from .errors import FemtoError

FORMAT_VERSION = 1
BLOCK = 1 << 20  # tokens at a time
LARGEST_HEADER = 10_000
_BEGIN = b'{"__metadata__": {"femtogpt_tokens": '
_DTYPES = {"U8": "<u1", "U16": "<u2", "U32": "<u4"}


class TokenFile(NamedTuple):
    """What a file's header says. tokenizer: its key; digest: of the whole header, and so of all."""

    path: Path
    dtype: str
    count: int
    vocab_size: int
    offset: int  # of the tokens; the counts are behind them
    tokenizer: str
    digest: bytes

    def tokens(self):
        """(n,), read-only, mapped."""
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.count,)).view(np.ndarray)

    def counts(self):
        """(V,) int64. Raises FemtoError where they are none of so many tokens."""
        behind = self.offset + self.count * np.dtype(self.dtype).itemsize
        counts = np.fromfile(self.path, "<i8", self.vocab_size, offset=-(-behind // 8) * 8)
        if len(counts) < self.vocab_size or counts.min() < 0 or counts.sum() != self.count:
            raise damaged(self.path)
        return counts


def damaged(path):
    """The FemtoError for a file whose numbers cannot be."""
    return FemtoError(f"dataset {path} is damaged: make it anew with `femtogpt tokenize --binary`")


def tokenizer_key(tokenizer):
    """A hash (hex) that tells tokenizers apart."""
    return hashlib.sha256(json.dumps(tokenizer.to_json()).encode()).hexdigest()


def write(path, tokenizer, documents):
    """Writes one file of all documents, arrays of tokens, one after the other. At every moment the
    file is whole. Raises FemtoError where it cannot be written."""
    V = tokenizer.vocab_size
    dtype = np.dtype(np.min_scalar_type(V - 1)).newbyteorder("<")
    digest, counts, count = hashlib.sha256(), np.zeros(V, np.int64), 0

    def parts():
        for tokens in documents:
            for i in range(0, len(tokens), BLOCK):
                yield tokens[i : i + BLOCK].astype(dtype)

    for part in parts():
        digest.update(part)
        counts += np.bincount(part, minlength=V)
        count += len(part)
    size = count * dtype.itemsize
    padding = -size % 8
    name = next(name for name, kind in _DTYPES.items() if np.dtype(kind) == dtype)
    about = json.dumps({"format_version": FORMAT_VERSION, "tokenizer": tokenizer_key(tokenizer),
                        "sha256": digest.hexdigest()})
    layout = {"tokens": {"dtype": name, "shape": [count], "data_offsets": [0, size]}}
    if padding:  # readers of safetensors want no gap
        layout["padding"] = {"dtype": "U8", "shape": [padding],
                             "data_offsets": [size, size + padding]}
    start = size + padding
    layout["counts"] = {"dtype": "I64", "shape": [V], "data_offsets": [start, start + 8 * V]}
    text = json.dumps({"__metadata__": {"femtogpt_tokens": about}, **layout}).encode()
    text += b" " * (-len(text) % 8)

    def whole():
        yield len(text).to_bytes(8, "little") + text
        yield from parts()
        yield bytes(padding) + counts.astype("<i8").tobytes()

    durable.replace(path, whole(), keep_previous=False)


def read_header(path):
    """The TokenFile at path; None where it is a file of something else. Raises FemtoError for one
    that is damaged or cut; of the tokens nothing is read."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8 + len(_BEGIN))
        if start[8:] != _BEGIN:
            return None
        length = int.from_bytes(start[:8], "little")
        text = start[8:] + file.read(max(0, min(length, LARGEST_HEADER) - len(_BEGIN)))
    try:
        header = json.loads(text)
        about = json.loads(header["__metadata__"]["femtogpt_tokens"])
        version, tokenizer = about["format_version"], about["tokenizer"]
        (count,), dtype = header["tokens"]["shape"], _DTYPES[header["tokens"]["dtype"]]
        (vocab_size,) = header["counts"]["shape"]
        ends = [header[name]["data_offsets"][1] for name in ("tokens", "counts")]
        narrowest = np.min_scalar_type(vocab_size - 1)
        sound = (type(count) is type(vocab_size) is int and count > 0 and vocab_size > 0
                 and np.dtype(dtype) == narrowest and ends[0] == count * np.dtype(dtype).itemsize
                 and ends[1] == -(-ends[0] // 8) * 8 + 8 * vocab_size
                 and size == 8 + length + ends[1])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise damaged(path) from None
    if version != FORMAT_VERSION:
        raise FemtoError(f"dataset {path} has format version {version!r:.20}, this femtogpt reads "
                         f"{FORMAT_VERSION}: make it anew with `femtogpt tokenize --binary`")
    if not sound:
        raise damaged(path)
    return TokenFile(Path(path), dtype, count, vocab_size, 8 + length, tokenizer,
                     hashlib.sha256(text).digest())


class Joined:
    """Arrays of tokens, one after the other, as if they were one, but not copied."""

    def __init__(self, parts, vocab_size, counts=None, paths=None):
        """parts: arrays, all of a type. counts: how often each token occurs, (V,), where that is
        known. paths: the parts' files, for messages."""
        self.parts, self.vocab_size, self.counts, self._paths = parts, vocab_size, counts, paths
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self):
        return int(self._ends[-1])

    def __getitem__(self, index):
        """The tokens at a slice (without a step), not copied, or at an array of places, all from 0
        to len(self) - 1. Raises FemtoError for a token that there is none of."""
        begins = self._ends - [len(part) for part in self.parts]
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return Joined([part[max(start - begin, 0) : max(stop - begin, 0)]
                           for part, begin in zip(self.parts, begins, strict=True)],
                          self.vocab_size, paths=self._paths)
        where = np.searchsorted(self._ends, index, "right")
        found = np.empty(where.shape, self.parts[0].dtype)
        for number in np.unique(where):
            here = where == number
            tokens = self.parts[number][index[here] - begins[number]]
            if tokens.max() >= self.vocab_size:  # the layers would read beyond their arrays
                raise damaged(self._paths[number] if self._paths else "in memory")
            found[here] = tokens
        return found


def joined(tokenizer, files):
    """The tokens of TokenFiles, in order, as one. Raises FemtoError, which names the file, where
    one was made with another tokenizer."""
    key = tokenizer_key(tokenizer)
    for file in files:
        if file.tokenizer != key or file.vocab_size != tokenizer.vocab_size:
            raise FemtoError(f"dataset {file.path} was not made with the model's tokenizer: make "
                             "it anew, with `femtogpt tokenize --binary --model`")
    counts = reduce(np.add, (file.counts() for file in files))
    return Joined([file.tokens() for file in files], tokenizer.vocab_size, counts,
                  [file.path for file in files])
