"""Shards of a batch over ranks and their threads, and their gradients.

Bits depend neither on the number of ranks nor of threads: how a batch is cut depends on the
batch and the model alone; a shard is computed by one thread into its own gradient vector, or of a
large model by several that add to it in turn (layers/turns.py); and shards are added in a fixed
tree (reduction.py). Where a rank has more shards than it needs at once it computes them in passes,
and keeps of those before only the sums that wait for more: of N passes log2(N) or so.
"""

import contextlib
import functools
import itertools
import math
import queue
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from .activations import allocate_activations, constants, smaller
from .crew import Crew
from .errors import FemtoError
from .layers import matmul
from .layers.turns import NO_TURN, Turns
from .machine import available_processors
from .matrices import (
    Matrices,
    allocate_transposed,
    are_transposed,
    as_they_are,
    transpose_layers,
)
from .optimizer import BLOCK
from .passes import kernel_for, loss_and_some_gradients, summed_loss
from .ranks import ALONE, cut
from .reduction import Branches, SumOverRanks
from .shards import count_shards, is_large, micro_batch_size, shards_at_once
from .tensors import (
    Tensors,
    count_adamw_parameters,
    lined_up_vectors,
    views,
)
from .update import NO_LOSSES, sum_then


class _Batch(NamedTuple):
    """What threads compute from. kernel: kernel_for's. p: the parameters' views, w: their matrices.
    The rest is as for loss_and_some_gradients, of the whole batch."""

    kernel: Callable
    p: Tensors
    w: Matrices
    tokens: np.ndarray
    targets: np.ndarray
    keys: np.ndarray
    rate: float
    scale: float


class Engine:
    """Computes losses and gradients of batches with a pool of threads. A context manager.

    batch_size: the sequences of a batch, part: (start, stop), those that this rank computes.
    """

    def __init__(self, config, batch_size, threads=None, ranks=ALONE, owners=None, shards=None,
                 micro_batch=None, accumulate=1, bfloat16=None):
        """owners: of each rank the range that it has of the gradient, where there are several.
        shards: how many a batch is cut in [default: count_shards']. micro_batch: how many
        sequences of a shard are worked on at once [default: micro_batch_size's]. accumulate: of how
        many times batch_size, and of so many times the shards, a batch is. bfloat16: what
        products multiply, as precision.use gives it."""
        self.config, self.batch_size, self.ranks = config, accumulate * batch_size, ranks
        self.threads = threads or max(1, available_processors() // ranks.here)
        each = shards or count_shards(config, batch_size)
        shards = cut(self.batch_size, accumulate * each)  # so many times those of batch_size
        if len(shards) < ranks.size:
            raise FemtoError(f"a batch of {self.batch_size} for this model is cut in {len(shards)} "
                             f"shards, too few for {ranks.size} processes: start fewer, or give a "
                             f"larger --batch-size, or --accumulate {-(-ranks.size // each)}")
        self.micro_batch = micro_batch or micro_batch_size(config, shards)
        first, last = ranks.own(len(shards))
        self.part = shards[first][0], shards[last - 1][1]
        self.shards = [(start - self.part[0], stop - self.part[0])
                       for start, stop in shards[first:last]]
        self._branches = Branches(len(shards), ranks, shards_at_once(config, each, self.threads))
        self.passes = self._branches.passes
        self._over_ranks = (SumOverRanks(config, self._branches, ranks, owners)
                            if ranks.size > 1 else None)
        self.constants = constants(config, bfloat16=bfloat16)
        self.gradients = self._seen = None
        self._transposed = allocate_transposed(config) if are_transposed(config) else None
        self._adamw_parameters = count_adamw_parameters(config)
        self._large = is_large(config)
        # A small model's in one call, but where something is to happen in between; a large one's
        # calls take seconds as it is, in which no signal is answered.
        parts = self._micro_batches if self._large or self._over_ranks else self._runs
        self._parts = [parts(*shard) for shard in self.shards]
        ends = np.cumsum([len(parts) for parts in self._parts]).tolist()
        self._places = list(itertools.pairwise([0, *ends]))  # of a shard's parts among all
        # Whether a kernel takes one shard after the other: of whole micro-batches.
        self.by_kernel = parts == self._runs and not any(
            (stop - start) % self.micro_batch for start, stop in self.shards)
        self._whole = np.column_stack((self.shards, self._branches.row))
        self._spaces = queue.SimpleQueue()
        for _ in range(self.threads):
            self._spaces.put({})  # a thread's activations, by sequences, made when first needed
        self._crew = Crew(self.threads)
        self.map, self.in_turn = self._crew.map, self._crew.in_turn
        self._cut = functools.cache(cut)
        # Inside workers BLAS must keep to one thread; where we have our own tiles it is not called.
        self._limits = threadpool_limits(1, "blas") if matmul.VECTORS is None else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._crew.close()
        if self._over_ranks:
            self._over_ranks.close()
        if self._limits is not None:
            self._limits.restore_original_limits()

    def loss_and_gradient(self, parameters, windows, rate, keys, update=None):
        """(loss, gradient, squares) of a batch.

        parameters: flat. windows: (B, T + 1), keys: (B,) uint64: of the part that is this rank's.
        rate: dropout's. loss: the batch's mean in nats. gradient: flat, the mean's, in this rank's
        range, valid until the next call. squares: float64, the sums of the gradient's squares
        by BLOCK, all of them. update: an Update of parameters whose rate is set, to be made as soon
        as the gradient is there; it is not made if that or the loss is not finite.
        """
        if self.gradients is None:
            self.gradients = lined_up_vectors(self.config, self._branches.rows)
            self._gradient_views = [views(g[: parameters.size], self.config)
                                    for g in self.gradients]
            self._squares = np.empty(-(-parameters.size // BLOCK))
        batch = _Batch(self._kernel_for(parameters), *self._views(parameters),
                       windows[:, :-1].ravel(), windows[:, 1:].ravel(), keys, rate,
                       1 / (self.batch_size * self.config.num_tokens))
        losses, last_pass = np.zeros(self._places[-1][1]), self.passes[-1]
        at_once = not (self._large or self._over_ranks)
        for each in self.passes:
            own, rows, pairs = each
            told = self._over_ranks if each is last_pass else None
            if told:
                told.begin(self.gradients, pairs, len(rows))
            phases = [self._shards(batch, range(*own), rows, losses, told)]
            if self._transposed and each is self.passes[0]:
                phases.insert(0, self._transposing(batch))
            if not told:
                phases.append(self._adding(self.gradients, pairs, self._squares, losses,
                                           update if each is last_pass and at_once else None))
            self.in_turn(*phases)
            if told:
                told.finish(lambda *sums: self.in_turn(self._adding(*sums)), self._squares)
        found = losses.tolist()
        losses = [sum(found[first:last]) for first, last in self._places]
        loss = sum(self.ranks.gather(losses, self._branches.shards).tolist()) * batch.scale
        gradient = self.gradients[0, : parameters.size]
        if update and not at_once and math.isfinite(loss):
            update.make(self.map, gradient, self._squares)
        return loss, gradient, self._squares

    def _shards(self, batch, own, rows, losses, told):
        """A phase for all threads: gradients of this rank's shards `own` of a batch, each in a row;
        the losses of their parts. told: a SumOverRanks that is told when layers are ready."""
        if self.by_kernel:
            shards, losses = self._whole[own.start : own.stop], losses[own.start : own.stop]
            left = shards, losses, np.zeros(1, np.int64)
            return functools.partial(self._compute_all, batch), [left] * self.threads
        # A small model's turns are too short to wait for.
        crew = max(1, self.threads // len(rows)) if self._large else 1  # threads of a shard
        jobs = [(Turns(self._parts[shard], crew, losses[slice(*self._places[shard])]), row, told)
                for shard, row in zip(own, rows, strict=True)]
        return functools.partial(self._compute, batch), crew * jobs

    def _transposing(self, batch):
        """A phase for all threads: batch.w's layers, of batch.p's."""
        return (lambda _, layers: transpose_layers(batch.w, batch.p, *layers),
                self._cut(self.config.num_layers, self.threads))

    def _compute_all(self, batch, stage, left):
        """Whole shards, until none is left."""
        with self._activations() as spaces:
            batch.kernel(self.gradients, self._adamw_parameters, self._gradient_views[0],
                         self._space(spaces, self.micro_batch), batch.p, batch.w, batch.tokens,
                         batch.targets, self.constants, batch.scale, batch.rate, batch.keys,
                         self.config.num_layers, 0, True, NO_TURN, stage.before, *left)

    def _compute(self, batch, stage, job):
        """Micro-batches of a shard."""
        turns, row, told = job
        L = self.config.num_layers

        def micro_batch(number, a, tokens, targets, keys):
            arguments = (self._gradient_views[row], a, batch.p, tokens, targets, self.constants,
                         batch.scale, batch.rate, keys)
            first, last = number == 0, number == turns.last
            if first:  # behind these are the blocks' matrices, which are overwritten
                self.gradients[row, : self._adamw_parameters] = 0
            rest = (first, turns.turn(number), batch.kernel, batch.w, stage.before)
            if not (told and last):
                return loss_and_some_gradients(*arguments, L, 0, *rest)
            losses = []
            for layer in reversed(range(L)):
                losses.append(loss_and_some_gradients(*arguments, layer + 1, layer, *rest))
                told.ready(L - 1 - layer)
            return losses[0]

        try:
            self._over_micro_batches(turns, batch.tokens, batch.targets, batch.keys, micro_batch)
        except BaseException:
            turns.end()
            raise

    def _views(self, parameters):
        """Their views, and Matrices for them, made once: a step's Python counts, where a model is
        small."""
        if parameters is not self._seen:
            p = views(parameters, self.config)
            self._seen, self._seen_views = parameters, (p, self._transposed or as_they_are(p))
            self._kernels = {}
        return self._seen_views

    def _kernel_for(self, parameters, backward=True):
        """A pass's, looked up once; and compiled, where it is not, by the caller's thread."""
        p, _ = self._views(parameters)
        if backward not in self._kernels:
            with self._activations() as spaces:
                a = self._space(spaces, self.micro_batch)
            g = self._gradient_views[0] if backward else p
            self._kernels[backward] = kernel_for(g, a, p, self.constants, backward)
        return self._kernels[backward]

    def _adding(self, rows, pairs, squares, losses=NO_LOSSES, update=None):
        """A phase for all threads: sum_then."""
        return (functools.partial(sum_then, update, rows, pairs, squares, losses),
                self._cut(squares.size, self.threads))

    def mean_loss(self, parameters, windows):
        """The mean loss in nats over all positions of windows (any number of them)."""
        (p, _), kernel = self._views(parameters), self._kernel_for(parameters, backward=False)
        tokens, targets = windows[:, :-1].ravel(), windows[:, 1:].ravel()
        keys = np.zeros(len(windows), np.uint64)
        count = max(1, len(windows) // self.micro_batch)
        parts = [Turns(self._runs(*part))
                 for part in cut(len(windows), count)[slice(*self.ranks.own(count))]]
        self.map(lambda part: self._over_micro_batches(
            part, tokens, targets, keys, lambda _, a, tokens, targets, part: summed_loss(
                a, p, tokens, targets, self.constants, part, kernel)), parts)
        losses = self.ranks.gather([part.loss for part in parts], count).tolist()
        return sum(losses) / (len(windows) * self.config.num_tokens)

    def _micro_batches(self, start, stop):
        """(start, stop) of each micro-batch of a shard."""
        return [(i, min(i + self.micro_batch, stop)) for i in range(start, stop, self.micro_batch)]

    def _runs(self, start, stop):
        """(start, stop) of the whole micro-batches of a shard, and of what is left."""
        whole = stop - (stop - start) % self.micro_batch
        return [(a, b) for a, b in ((start, whole), (whole, stop)) if a < b]

    def _over_micro_batches(self, turns, tokens, targets, keys, function):
        """What function(number, activations, tokens, targets, keys) returns of each micro-batch of
        turns, or run of them, that nobody else takes is its loss."""
        T = self.config.num_tokens
        with self._activations() as spaces:
            for number, (start, stop) in turns:
                part, sequences = slice(start * T, stop * T), min(stop - start, self.micro_batch)
                turns.losses[number] = function(number, self._space(spaces, sequences),
                                                tokens[part], targets[part], keys[start:stop])

    @contextlib.contextmanager
    def _activations(self):
        """A thread's, for _space."""
        spaces = self._spaces.get()
        try:
            yield spaces
        finally:
            self._spaces.put(spaces)

    def _space(self, spaces, sequences):
        """The activations for so many: all in one memory, for new one takes longer than a pass."""
        if not spaces:
            spaces[self.micro_batch] = allocate_activations(self.config, self.micro_batch)
        if sequences not in spaces:
            spaces[sequences] = smaller(spaces[self.micro_batch], self.config, sequences)
        return spaces[sequences]
