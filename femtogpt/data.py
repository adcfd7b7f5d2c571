"""Text on disk -> tokens -> seeded batches of windows."""

import hashlib
import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import cache, token_files
from .errors import FemtoError
from .tokenizer.protocol import Unspellable

BLOCK = 1 << 20  # bytes of text, or tokens, at a time
IN_MEMORY = 4 << 20  # bytes of text whose tokens are not worth a file
AT_ONCE = 16  # steps whose places are drawn together
LINE_STARTS = 0.5  # the share of windows that begin with a line (0 and 1: docs/recipe.md)


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


def draw_batch(tokens, num_tokens, batch_size, seed, step, newline=None, part=None):
    """The batch of a step: windows (B, T + 1) int64, and dropout keys (B,) uint64.

    The text is cut in stretches of about T tokens; in each epoch a window begins once in
    every stretch, anywhere there, in a random order. (Windows that begin anywhere, with
    replacement, leave a third of the text unseen in an epoch's time: on Shakespeare, in
    one epoch, that cost 0.01 to 0.03 nats.) Half of the windows, by lot, go back to the newline
    before them, if there is one within T tokens: what a model is asked begins with a line, and of
    windows that begin anywhere few do (docs/recipe.md). newline: its id, None: there is none.

    Everything follows from seed and step alone (Philox, a counter-based generator), so a
    resumed run needs no more state. part: (start, stop), of which of the B to give the windows
    and keys [default: all]; of others the text is not read.
    """
    places = len(tokens) - num_tokens  # where a window may begin
    drawn = _drawn(places, num_tokens, batch_size, seed, step // AT_ONCE, newline is not None)
    starts, by_lot, keys = (each[step % AT_ONCE, slice(*part or (0, batch_size))] for each in drawn)
    if by_lot.any():
        starts = starts.copy()
        starts[by_lot] = _line_starts(tokens, starts[by_lot], num_tokens, newline)
    return windows(tokens, starts, num_tokens), keys


@lru_cache(maxsize=2)
def _drawn(places, num_tokens, batch_size, seed, number, lots):
    """draw_batch's starts, whether to go back to a newline, and keys, (AT_ONCE, B) each: of step
    number * AT_ONCE and those after it. lots: whether to draw for newlines.

    What a step does once alone takes four times as long: nothing of it is in the cache any more.
    """
    stretches = max(1, places // num_tokens)
    starts = np.empty((AT_ONCE, batch_size), np.int64)
    by_lot, keys = np.zeros(starts.shape, bool), np.empty(starts.shape, np.uint64)
    for i in range(AT_ONCE):
        step = number * AT_ONCE + i
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        epoch, turn = np.divmod(step * batch_size + np.arange(batch_size), stretches)
        order = np.empty(batch_size, np.int64)
        for e in range(epoch[0], epoch[-1] + 1):
            order[epoch == e] = _epoch_order(seed, e, stretches)[turn[epoch == e]]
        starts[i] = (order + rng.random(batch_size)) * (places / stretches)
        if lots:
            by_lot[i] = rng.random(batch_size) < LINE_STARTS
        keys[i] = rng.integers(0, 2**32, batch_size, dtype=np.uint64)
    return np.minimum(starts, places - 1), by_lot, keys  # should a product round up


def _line_starts(tokens, starts, num_tokens, newline):
    """The last newline at or up to T tokens before each of starts; where there is none, itself."""
    places = np.maximum(starts[:, None] - np.arange(num_tokens + 1), 0)
    is_newline = tokens[places] == newline
    nearest = places[np.arange(len(starts)), is_newline.argmax(1)]
    return np.where(is_newline.any(1), nearest, starts)


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def _epoch_order(seed, epoch, stretches):
    """In which order an epoch visits its stretches: what rng.permutation(stretches) gives,
    but for a long text not in memory."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2**63 + epoch]))  # not a step's
    dtype = np.min_scalar_type(stretches)
    order = cache.scratch(stretches, dtype) if stretches > BLOCK else np.empty(stretches, dtype)
    for i in range(0, stretches, BLOCK):
        order[i : i + BLOCK] = np.arange(i, min(i + BLOCK, stretches))
    rng.shuffle(order)
    return order


def spread_windows(tokens, num_tokens, count):
    """Up to `count` windows, (n, T + 1) int64, evenly from all over tokens; no more than fit
    beside each other, but one at least."""
    count = max(1, min(count, (len(tokens) - 1) // num_tokens))
    starts = np.linspace(0, len(tokens) - num_tokens - 1, count).astype(np.int64)
    return windows(tokens, starts, num_tokens)


def windows(tokens, starts, num_tokens):
    """The windows (len(starts), T + 1), int64, of an array or Stretches that begin at starts."""
    return tokens[np.asarray(starts)[:, None] + np.arange(num_tokens + 1)].astype(np.int64)
