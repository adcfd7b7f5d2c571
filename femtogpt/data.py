"""Text on disk -> tokens."""

import hashlib
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import cache, token_files
from .errors import FemtoError
from .tokenizer.protocol import Unspellable

BLOCK = 1 << 20  # bytes of text, or tokens, at a time
IN_MEMORY = 4 << 20  # bytes of text whose tokens are not worth a file


class Text(NamedTuple):
    """A document: its file and size in bytes; its content, where that is read but once; its header,
    where it is a file of tokens."""

    path: Path
    size: int
    content: bytes | None = None
    tokens: token_files.TokenFile | None = None

    def blocks(self):
        """Its bytes, up to 1 MiB at a time. Raises FemtoError where the file cannot be read."""
        if self.tokens is not None:
            raise FemtoError(f"dataset {self.path} is a file of tokens, which `train` alone reads: "
                             "name the text it was made from")
        if self.content is not None:
            yield self.content
            return
        left = self.size
        try:
            with open(self.path, "rb") as file:
                while block := file.read(BLOCK):
                    left -= len(block)
                    yield block
        except OSError as error:
            raise FemtoError(f"dataset {self.path} cannot be read: {error.strerror}") from None
        if left:
            raise _changed(self.path)


def _changed(path):
    return FemtoError(f"dataset {path} was changed while it was read: start again")


def find_texts(paths, option="--dataset"):
    """The documents of the given files and folders, as a list of Text.

    A folder stands for every regular text file below it, sorted by path; a file with a
    NUL byte in its first 8 KiB is taken for binary and passed over there. Where it has no text
    file it stands for its files of tokens. Raises FemtoError for what is missing, unreadable or
    holds no text; option: what to name there.
    """
    texts = []
    for path in map(Path, paths):
        try:
            if path.is_dir():
                files = sorted(f for f in path.rglob("*") if f.is_file() and not f.is_symlink())
                found = ([Text(f, f.stat().st_size) for f in files if _is_text(f)]
                         or [text for text in map(_file, files) if text.tokens])
                if not found:
                    raise FemtoError(f"dataset {path}: the folder holds no text file")
                texts += found
            else:
                text = _file(path)
                if not text.size:
                    raise FemtoError(f"dataset {path} is empty")
                texts.append(text)
        except FileNotFoundError:
            raise FemtoError(
                f"dataset {path} does not exist: name a text file or folder with {option}, or "
                f"make one, e.g. python3 dummy_data/simple_dummy.py > {path}"
            ) from None
        except OSError as error:
            raise FemtoError(f"dataset {path} cannot be read: {error.strerror}") from None
    return texts


def _file(path):
    """The Text of a file, which is seen now to be readable, before long work."""
    if path.is_file():
        return Text(path, path.stat().st_size, None, token_files.read_header(path))
    content = path.read_bytes()  # a pipe is read once
    return Text(path, len(content), content)


def _is_text(path):
    with open(path, "rb") as file:
        start = file.read(8192)
    return start and b"\0" not in start


def read_texts(paths, option="--dataset"):
    """The content of the documents that find_texts finds, as a list of bytes."""
    return [b"".join(text.blocks()) for text in find_texts(paths, option)]


class _Reading:
    """One pass over texts: their hash so far, and word of how far it is."""

    def __init__(self, texts, progress):
        self.digest, self.progress = hashlib.sha256(), progress
        self.done, self.total = 0, sum(text.size for text in texts)

    def blocks(self, text):
        self.digest.update(text.size.to_bytes(8, "little"))
        for block in text.blocks():
            self.digest.update(block)
            yield block
            self.done += len(block)
            if self.progress:
                self.progress(self.done, self.total)


def fingerprint(texts, progress=None):
    """A hash (hex) that tells whether a run goes on with the texts it began with; files of tokens
    have theirs in their headers.

    progress: called with the bytes read so far and all there are.
    """
    reading = _Reading(texts, progress)
    for text in texts:
        if text.tokens is not None:
            reading.digest.update(text.tokens.digest)
            continue
        for _ in reading.blocks(text):
            pass
    return reading.digest.hexdigest()


def encode_texts(tokenizer, texts, data=None, progress=None, warn=None):
    """All documents' tokens, one after the other: (n,) of the narrowest unsigned type.

    Those of more than 4 MiB of text are in a file, mapped into memory, that is made once
    and kept (cache.py). data: the texts' fingerprint, where it is known. progress: as in
    fingerprint. warn: called with a sentence where that file cannot be written.
    Raises FemtoError, which names file, line and column, for what the tokenizer cannot spell.
    """
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)

    def parts():
        reading = _Reading(texts, progress)
        for text in texts:
            try:
                for ids in tokenizer.encode_blocks(reading.blocks(text)):
                    yield ids.astype(dtype)
            except Unspellable as error:
                raise FemtoError(f"dataset {text.path}: {error}") from None
        if data and reading.digest.hexdigest() != data:
            raise _changed(", ".join(str(text.path) for text in texts[:3]))

    if sum(text.size for text in texts) <= IN_MEMORY:
        return np.concatenate(list(parts()))
    data = data or fingerprint(texts, progress)
    return cache.cached(_tokens_key(tokenizer, data), dtype, parts, warn)


def _tokens_key(tokenizer, data):
    """A hash (hex) of all that decides the tokens: the text, the tokenizer and its code."""
    digest = hashlib.sha256()
    for source in sorted((Path(__file__).parent / "tokenizer").glob("*.*")):
        digest.update(source.read_bytes())
    # What a letter's lower case is, Python's version knows.
    version = sys.version_info[:2]
    digest.update(json.dumps([data, tokenizer.to_json(), version]).encode())
    return digest.hexdigest()


class Stretches:
    """Some stretches of an array of tokens as if they were one array, but not copied."""

    def __init__(self, tokens, bounds):
        """bounds: (begin, end) of each stretch, in order."""
        self.parts = [tokens[begin:end] for begin, end in bounds]
        self._tokens = tokens
        self.counts = getattr(tokens, "counts", None)
        lengths = [len(part) for part in self.parts]
        self._ends = np.cumsum(lengths)
        self._shifts = np.array([begin for begin, _ in bounds]) - (self._ends - lengths)

    def __len__(self):
        return int(self._ends[-1])

    def __getitem__(self, index):
        """The tokens at an array of places, all from 0 to len(self) - 1."""
        return self._tokens[index + self._shifts[np.searchsorted(self._ends, index, "right")]]


def blocks(tokens):
    """An array of tokens, Stretches or Joined, as arrays of up to 2**20."""
    if hasattr(tokens, "parts"):
        for part in tokens.parts:
            yield from blocks(part)
        return
    for i in range(0, len(tokens), BLOCK):
        yield tokens[i : i + BLOCK]


def count_tokens(tokens, vocab_size):
    """How often each token occurs in tokens, an array or Stretches: (V,) int64. Of files of tokens
    it is what they say, also of what is held back of them."""
    if getattr(tokens, "counts", None) is not None:
        return tokens.counts
    counts = np.zeros(vocab_size, np.int64)
    for block in blocks(tokens):  # bincount makes them int64
        counts += np.bincount(block, minlength=len(counts))
    return counts


def count_bytes(tokenizer, counts):
    """How many bytes of text the tokens stand for that occur `counts` times, (V,)."""
    return sum(int(counts[i]) * len(tokenizer.piece(i)) for i in np.flatnonzero(counts).tolist())


def unigram_entropy(counts):
    """The loss, in nats a token, of guessing by how often each token occurs: counts, (V,)."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum()) + 0.0  # not -0, of a text of one letter


def split(tokens, begin, end, num_tokens):
    """(training, validation) parts of tokens: validation is tokens[begin:end].

    The validation part is empty where it is shorter than one window. Raises FemtoError
    where what is left for training is.
    """
    training = Stretches(tokens, [(0, begin), (min(end, len(tokens)), len(tokens))])
    validation = tokens[begin:end]
    if len(validation) < num_tokens + 1:
        validation = tokens[:0]
    if len(training) < num_tokens + 1:
        raise FemtoError(
            f"the dataset has {len(training)} tokens to train on, but a window needs num_tokens "
            f"+ 1 = {num_tokens + 1}: use more text, or init with a smaller --num-tokens"
        )
    return training, validation
