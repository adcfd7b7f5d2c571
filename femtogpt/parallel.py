"""Shards of a batch over threads, and the one place that sums their gradients.

Bits do not depend on the number of threads: how a batch is cut depends on the batch
and the model alone, a shard is computed by one thread into its own gradient vector,
and shards are added in a fixed tree.
"""

import itertools
import math
import queue
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from threadpoolctl import threadpool_limits

from .layers import matmul
from .machine import available_processors
from .model import (
    activation_shapes,
    allocate_activations,
    constants,
    loss_and_gradients,
    summed_loss,
)
from .optimizer import BLOCK, sum_shards
from .tensors import count_parameters, views


def micro_batch_tokens(config):
    """Positions that are worked on at once: enough that fetching the weights is little beside
    using them, few enough that what they leave for the backward stays in the cache. (Half or
    twice as many cost 2 to 9% of a step on two cores of a Zen 4, at widths 64 to 160.)"""
    return 160 if config.embedding_degree < 128 else 320


def count_shards(config, batch_size):
    """A power of two: up to 8 for small models, fewer where gradients would fill the memory."""
    parameters = count_parameters(config)
    most = 8 if parameters <= 1_000_000 else 4 if parameters <= 16_000_000 else 2
    wanted = max(1, batch_size * config.num_tokens // (micro_batch_tokens(config) // 2))
    shards = 1
    while 2 * shards <= min(most, wanted, batch_size):
        shards *= 2
    return shards


def cut(count, parts):
    """range(count) in `parts` runs that differ by one at most: a list of (start, stop)."""
    edges = [count * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(edges))


def micro_batch_size(config, shards):
    """Sequences that are worked on at once: the longest shard in passes of about one length."""
    longest = max(stop - start for start, stop in shards)
    passes = max(1, round(longest * config.num_tokens / micro_batch_tokens(config)))
    return -(-longest // passes)


class Engine:
    """Computes losses and gradients of batches with a pool of threads. A context manager."""

    def __init__(self, config, batch_size, threads=None):
        self.config = config
        self.threads = threads or available_processors()
        self.shards = cut(batch_size, count_shards(config, batch_size))
        self.micro_batch = micro_batch_size(config, self.shards)
        self.constants = constants(config)
        self.gradients = None
        self._spaces = queue.SimpleQueue()
        for _ in range(self.threads):
            self._spaces.put(None)  # a thread's activations are made when first needed
        self._pool = ThreadPoolExecutor(max(1, self.threads - 1), "femtogpt")
        # Inside workers BLAS must keep to one thread; where we have our own tiles it is not called.
        self._limits = threadpool_limits(1, "blas") if matmul.VECTORS is None else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.shutdown()
        if self._limits is not None:
            self._limits.restore_original_limits()

    def map(self, function, items):
        """Calls function on every item, on all threads (the caller's is one of them);
        returns the results in order."""
        items = list(items)
        results, numbers = [None] * len(items), itertools.count()

        def work():
            while (number := next(numbers)) < len(items):
                results[number] = function(items[number])

        helpers = [self._pool.submit(work) for _ in range(min(self.threads, len(items)) - 1)]
        try:
            work()
        finally:
            wait(helpers)
        for helper in helpers:
            helper.result()
        return results

    def loss_and_gradient(self, parameters, windows, rate, keys):
        """(loss, gradient, squares) of a batch.

        parameters: flat. windows: (B, T + 1). rate: dropout's. keys: (B,) uint64.
        loss: the mean in nats. gradient: flat, the mean's, valid until the next call.
        squares: float64, the sums of the gradient's squares by BLOCK.
        """
        if self.gradients is None:
            self.gradients = np.empty((len(self.shards), parameters.size), np.float32)
            self._gradient_views = [views(g, self.config) for g in self.gradients]
            self._squares = np.empty(-(-parameters.size // BLOCK))
        p = views(parameters, self.config)
        scale = 1 / (windows.shape[0] * self.config.num_tokens)

        def shard(index):
            self.gradients[index] = 0
            return self._over_micro_batches(
                self.shards[index], windows, keys,
                lambda a, tokens, targets, part: loss_and_gradients(
                    self._gradient_views[index], a, p, tokens, targets, self.constants,
                    scale, rate, part),
            )

        loss = sum(self.map(shard, range(len(self.shards)))) * scale
        self.map(
            lambda blocks: sum_shards(self.gradients, self._squares, *blocks),
            cut(self._squares.size, self.threads),
        )
        return loss, self.gradients[0], self._squares

    def mean_loss(self, parameters, windows):
        """The mean loss in nats over all positions of windows (any number of them)."""
        p = views(parameters, self.config)
        keys = np.zeros(len(windows), np.uint64)
        parts = cut(len(windows), max(1, len(windows) // self.micro_batch))
        losses = self.map(
            lambda part: self._over_micro_batches(
                part, windows, keys,
                lambda a, tokens, targets, part: summed_loss(
                    a, p, tokens, targets, self.constants, part),
            ),
            parts,
        )
        return sum(losses) / (len(windows) * self.config.num_tokens)

    def _over_micro_batches(self, span, windows, keys, function):
        """The sum of function(activations, tokens, targets, keys) over a span's micro-batches."""
        space = self._spaces.get()
        total = 0.0
        try:
            start, stop = span
            while start < stop:
                count = min(self.micro_batch, stop - start)
                if space is None or space.keys.size != count:
                    space = allocate_activations(self.config, count)
                part = windows[start : start + count]
                tokens, targets = part[:, :-1].ravel(), part[:, 1:].ravel()
                total += function(space, tokens, targets, keys[start : start + count])
                start += count
        finally:
            self._spaces.put(space)
        return total


def memory_to_train(config, batch_size, threads=None):
    """An estimate in bytes of what training holds: parameters, two moments, a gradient a
    shard, each thread's activations, and some 150 MB for Python and its libraries."""
    shards = count_shards(config, batch_size)
    sequences = micro_batch_size(config, cut(batch_size, shards))
    activations = sum(math.prod(shape) for shape in activation_shapes(config, sequences))
    at_work = min(threads or available_processors(), shards)
    numbers = count_parameters(config) * (3 + shards) + at_work * activations
    return 4 * numbers + 150_000_000
