"""Tokens -> seeded batches of windows."""

from functools import lru_cache, partial

import numpy as np

from . import cache, data

AT_ONCE = 16  # steps whose places are drawn together, and of small batches the windows too
MOST_AT_ONCE = 1 << 18  # tokens
LINE_STARTS = 0.5  # the share of windows that begin with a line (0 and 1: docs/recipe.md)


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
    (batch,), (keys,) = _batches(tokens, num_tokens, batch_size, seed, step, 1, newline, part)
    return batch, keys


class Batches:
    """draw_batch's of a run, whose steps follow each other.

    Small ones are made AT_ONCE together: what a step does once alone takes four times as long, as
    nothing of it is in the cache any more.
    """

    def __init__(self, tokens, num_tokens, batch_size, seed, newline=None, part=None):
        self._make = partial(_batches, tokens, num_tokens, batch_size, seed, newline=newline,
                             part=part)
        self._steps = AT_ONCE if AT_ONCE * batch_size * num_tokens < MOST_AT_ONCE else 1
        self._first, self._made = None, None

    def draw(self, step):
        """The windows and keys of a step."""
        first = step - step % self._steps
        if first != self._first:
            self._first, self._made = first, self._make(first, self._steps)
        windows, keys = self._made
        return windows[step - first], keys[step - first]


def _batches(tokens, num_tokens, batch_size, seed, step, steps, newline, part):
    """windows (steps, B, T + 1), keys (steps, B), of a step and those after it, all of which
    one call of _drawn gives."""
    places = len(tokens) - num_tokens  # where a window may begin
    drawn = _drawn(places, num_tokens, batch_size, seed, step // AT_ONCE, newline is not None)
    rows = slice(step % AT_ONCE, step % AT_ONCE + steps)
    starts, by_lot, keys = (each[rows, slice(*part or (0, batch_size))] for each in drawn)
    if by_lot.any():
        starts = starts.copy()
        starts[by_lot] = _line_starts(tokens, starts[by_lot], num_tokens, newline)
    found = windows(tokens, starts.ravel(), num_tokens)
    return found.reshape(*starts.shape, num_tokens + 1), keys


@lru_cache(maxsize=2)
def _drawn(places, num_tokens, batch_size, seed, number, lots):
    """draw_batch's starts, whether to go back to a newline, and keys, (AT_ONCE, B) each: of step
    number * AT_ONCE and those after it. lots: whether to draw for newlines."""
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
    block = data.BLOCK
    order = cache.scratch(stretches, dtype) if stretches > block else np.empty(stretches, dtype)
    for i in range(0, stretches, block):
        order[i : i + block] = np.arange(i, min(i + block, stretches))
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
