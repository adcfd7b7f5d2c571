"""Text on disk -> tokens -> seeded batches of windows."""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from .errors import FemtoError


def read_texts(paths, option="--dataset"):
    """The documents of the given files and folders, as a list of bytes.

    A folder stands for every regular text file below it, sorted by path; a file with a
    NUL byte in its first 8 KiB is taken for binary and passed over there. Raises
    FemtoError for what is missing, unreadable or holds no text; option: what to name there.
    """
    texts = []
    for path in map(Path, paths):
        try:
            if path.is_dir():
                files = sorted(f for f in path.rglob("*") if f.is_file() and not f.is_symlink())
                found = [t for t in (f.read_bytes() for f in files) if t and b"\0" not in t[:8192]]
                if not found:
                    raise FemtoError(f"dataset {path}: the folder holds no text file")
                texts += found
            else:
                text = path.read_bytes()
                if not text:
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


def fingerprint(texts):
    """A hash (hex) that tells whether a run goes on with the text it began with."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return digest.hexdigest()


def encode_texts(tokenizer, texts):
    """All documents' tokens in one array."""
    return np.concatenate([tokenizer.encode(text) for text in texts])


STRETCHES = 16  # parts of the text that each hold back their end


def split(tokens, val_fraction, num_tokens):
    """(training, validation) parts of tokens.

    Held back is the end of each of up to 16 equal stretches, together val_fraction of
    all: a text's own end alone often differs from the rest (in Shakespeare's plays,
    training without the last twentieth cost 0.15 nats on the plays after it). The
    validation part is empty where it would be shorter than one window. Raises
    FemtoError where what is left for training is.
    """
    held = int(len(tokens) * val_fraction)
    stretches = max(1, min(STRETCHES, held // (4 * num_tokens)))
    if held < num_tokens + 1:
        stretches, val_fraction = 1, 0
    train, validation = [], []
    for i in range(stretches):
        stretch = tokens[len(tokens) * i // stretches : len(tokens) * (i + 1) // stretches]
        keep = len(stretch) - int(len(stretch) * val_fraction)
        train.append(stretch[:keep])
        validation.append(stretch[keep:])
    train, validation = np.concatenate(train), np.concatenate(validation)
    if len(train) < num_tokens + 1:
        raise FemtoError(
            f"the dataset has {len(train)} tokens to train on, but a window needs num_tokens + 1 = "
            f"{num_tokens + 1}: use more text, or init with a smaller --num-tokens"
        )
    return train, validation


def draw_batch(tokens, num_tokens, batch_size, seed, step):
    """The batch of a step: windows (B, T + 1) int64, and dropout keys (B,) uint64.

    The text is cut in stretches of about T tokens; in each epoch a window begins once in
    every stretch, anywhere there, in a random order. (Windows that begin anywhere, with
    replacement, leave a third of the text unseen in an epoch's time: on Shakespeare, in
    one epoch, that cost 0.01 to 0.03 nats.) Everything follows from seed and step alone
    (Philox, a counter-based generator), so a resumed run needs no more state.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, step]))
    places = len(tokens) - num_tokens  # where a window may begin
    stretches = max(1, places // num_tokens)
    epoch, turn = np.divmod(step * batch_size + np.arange(batch_size), stretches)
    order = np.empty(batch_size, np.int64)
    for e in range(epoch[0], epoch[-1] + 1):
        order[epoch == e] = _epoch_order(seed, e, stretches)[turn[epoch == e]]
    starts = ((order + rng.random(batch_size)) * (places / stretches)).astype(np.int64)
    starts = np.minimum(starts, places - 1)  # should a product round up
    keys = rng.integers(0, 2**32, batch_size, dtype=np.uint64)
    return windows(tokens, starts, num_tokens), keys


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def _epoch_order(seed, epoch, stretches):
    """In which order an epoch visits its stretches."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2**63 + epoch]))  # not a step's
    return rng.permutation(stretches)


def windows(tokens, starts, num_tokens):
    """The windows (len(starts), T + 1), int64, that begin at starts."""
    return tokens[np.asarray(starts)[:, None] + np.arange(num_tokens + 1)].astype(np.int64)
