"""Shards of a batch over ranks and their threads, and their gradients.

Bits depend neither on the number of ranks nor of threads: how a batch is cut depends on the
batch and the model alone; a shard is computed by one thread into its own gradient vector, or of a
large model by several that add to it in turn (layers/turns.py); and shards are added in a fixed
tree (reduction.py). Where a rank has more shards than it needs at once it computes them in passes,
and keeps of those before only the sums that wait for more: of N passes log2(N) or so.
"""

import math
import queue

import numpy as np
from threadpoolctl import threadpool_limits

from .activations import HUGE, activation_shapes, allocate_activations, constants, smaller
from .crew import Crew
from .errors import FemtoError
from .layers import matmul
from .layers.turns import Turns
from .machine import available_processors
from .optimizer import BLOCK, sum_shards
from .passes import kernel_for, loss_and_some_gradients, summed_loss
from .ranks import ALONE, cut
from .reduction import Branches, SumOverRanks
from .tensors import count_adamw_parameters, count_parameters, lined_up_vectors, views

# Parameters of a model whose gradients rather wait for each other than lie side by side: E holds 15
# MB less so, and a step takes as long (Zen 5).
LARGE = 3_000_000


def micro_batch_tokens(config):
    """Positions that are worked on at once: enough that fetching the weights is little beside
    using them, few enough that what they leave for the backward stays in the cache. (Half or
    twice as many cost 2 to 9% of a step on two cores of a Zen 4, at widths 64 to 160; on a Zen 5
    320 cost C 2%, and 160 D and E 2 to 3%.)"""
    return 160 if 12 * config.num_layers * config.embedding_degree**2 < 2_000_000 else 320


def count_shards(config, batch_size):
    """A power of two: up to 8 for small models, fewer where gradients would fill the memory (1 for
    a huge model, which many threads work on in turns.py's way), or shards be so short that to sum
    their gradients takes long beside computing them."""
    parameters = count_parameters(config)
    most = 1 if parameters > HUGE else 2 if parameters > 16_000_000 else (
        4 if parameters > 1_000_000 else 8)
    shortest = 80 if config.embedding_degree < 128 else 160
    wanted = max(1, batch_size * config.num_tokens // shortest)
    shards = 1
    while 2 * shards <= min(most, wanted, batch_size):
        shards *= 2
    return shards


def shards_at_once(config, shards, threads):
    """How many shards are computed before what can be summed of them is, each into a gradient of
    its own: those of a batch (with large gradients no more than there are threads), or so many
    times more that every thread has one. A huge one's threads share one. shards: of a batch."""
    if count_parameters(config) > HUGE:
        return 1
    at_once = 1 if count_parameters(config) > LARGE else shards
    while at_once < threads:
        at_once *= 2
    return at_once


def micro_batch_size(config, shards):
    """Sequences that are worked on at once: the longest shard in passes of about one length."""
    longest = max(stop - start for start, stop in shards)
    wanted = micro_batch_tokens(config) / config.num_tokens
    sequences = math.ceil(longest / max(1, round(longest / wanted)))
    if sequences > 1 and sequences - wanted > wanted - (sequences - 1):
        sequences -= 1  # which is nearer
    return sequences


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
        self._adamw_parameters = count_adamw_parameters(config)
        self._large = count_parameters(config) > LARGE
        # A small model's in one call, but where something is to happen in between; a large one's
        # calls take seconds as it is, in which no signal is answered.
        parts = self._micro_batches if self._large or self._over_ranks else self._runs
        self._parts = [parts(*shard) for shard in self.shards]
        self._spaces = queue.SimpleQueue()
        for _ in range(self.threads):
            self._spaces.put({})  # a thread's activations, by sequences, made when first needed
        self._crew = Crew(self.threads)
        self.map, self.in_turn = self._crew.map, self._crew.in_turn
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

    def loss_and_gradient(self, parameters, windows, rate, keys):
        """(loss, gradient, squares) of a batch.

        parameters: flat. windows: (B, T + 1), keys: (B,) uint64: of the part that is this rank's.
        rate: dropout's. loss: the batch's mean in nats. gradient: flat, the mean's, in this rank's
        range, valid until the next call. squares: float64, the sums of the gradient's squares
        by BLOCK, all of them.
        """
        if self.gradients is None:
            self.gradients = lined_up_vectors(self.config, self._branches.rows)
            self._gradient_views = [views(g[: parameters.size], self.config)
                                    for g in self.gradients]
            self._squares = np.empty(-(-parameters.size // BLOCK))
        p, kernel = self._views(parameters), self._kernel_for(parameters)
        tokens, targets = windows[:, :-1].ravel(), windows[:, 1:].ravel()
        scale = 1 / (self.batch_size * self.config.num_tokens)

        def compute(turns, row, told):
            def micro_batch(number, a, tokens, targets, part):
                arguments = (self._gradient_views[row], a, p, tokens, targets, self.constants,
                             scale, rate, part)
                first, last = number == 0, number == turns.last
                if first:  # behind these are the blocks' matrices, which are overwritten
                    self.gradients[row, : self._adamw_parameters] = 0
                rest, L = (first, turns.turn(number), kernel), self.config.num_layers
                if not (told and last):
                    return loss_and_some_gradients(*arguments, L, 0, *rest)
                losses = []
                for layer in reversed(range(L)):
                    losses.append(loss_and_some_gradients(*arguments, layer + 1, layer, *rest))
                    told.ready(L - 1 - layer)
                return losses[0]

            try:
                self._over_micro_batches(turns, tokens, targets, keys, micro_batch)
            except BaseException:
                turns.end()
                raise

        losses, last_pass = [], self.passes[-1]
        for each in self.passes:
            own, rows, pairs = each
            told = self._over_ranks if each is last_pass else None
            if told:
                told.begin(self.gradients, pairs, len(rows))
            # A small model's turns are too short to wait for.
            crew = max(1, self.threads // len(rows)) if self._large else 1  # threads of a shard
            shards = [Turns(parts, crew) for parts in self._parts[slice(*own)]]
            phases = [(lambda job, told=told: compute(*job, told),
                       crew * list(zip(shards, rows, strict=True)))]
            if not told:
                phases.append(self._adding(self.gradients, pairs, self._squares))
            self.in_turn(*phases)
            losses += [turns.loss for turns in shards]
            if told:
                told.finish(lambda *sums: self.map(*self._adding(*sums)), self._squares)
        loss = sum(self.ranks.gather(losses, self._branches.shards).tolist()) * scale
        return loss, self.gradients[0, : parameters.size], self._squares

    def _views(self, parameters):
        """Their views, made once: a step's Python counts, where a model is small."""
        if parameters is not self._seen:
            self._seen, self._seen_views = parameters, views(parameters, self.config)
            self._kernels = {}
        return self._seen_views

    def _kernel_for(self, parameters, backward=True):
        """A pass's, looked up once; and compiled, where it is not, by the caller's thread."""
        p = self._views(parameters)
        if backward not in self._kernels:
            spaces = self._spaces.get()
            try:
                a = self._space(spaces, self.micro_batch)
            finally:
                self._spaces.put(spaces)
            g = self._gradient_views[0] if backward else p
            self._kernels[backward] = kernel_for(g, a, p, self.constants, backward)
        return self._kernels[backward]

    def _adding(self, rows, pairs, squares):
        """(function, items) of sum_shards, for all threads."""
        return (lambda blocks: sum_shards(rows, pairs, squares, *blocks),
                cut(squares.size, self.threads))

    def mean_loss(self, parameters, windows):
        """The mean loss in nats over all positions of windows (any number of them)."""
        p, kernel = self._views(parameters), self._kernel_for(parameters, backward=False)
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
        spaces, T = self._spaces.get(), self.config.num_tokens
        try:
            for number, (start, stop) in turns:
                part, sequences = slice(start * T, stop * T), min(stop - start, self.micro_batch)
                turns.losses[number] = function(number, self._space(spaces, sequences),
                                                tokens[part], targets[part], keys[start:stop])
        finally:
            self._spaces.put(spaces)

    def _space(self, spaces, sequences):
        """The activations for so many: all in one memory, for new one takes longer than a pass."""
        if not spaces:
            spaces[self.micro_batch] = allocate_activations(self.config, self.micro_batch)
        if sequences not in spaces:
            spaces[sequences] = smaller(spaces[self.micro_batch], self.config, sequences)
        return spaces[sequences]


def memory_to_train(config, batch_size, threads=None, accumulate=1):
    """An estimate in bytes of what training holds: parameters, two moments, a gradient for each
    shard in work and each sum that waits, each thread's activations, and some 150 MB for Python
    and its libraries."""
    threads = threads or available_processors()
    shards = count_shards(config, batch_size)
    sequences = micro_batch_size(config, cut(batch_size, shards))
    of_shard = -(-batch_size // shards // sequences) if count_parameters(config) > LARGE else 1
    activations = sum(math.prod(shape) for shape in activation_shapes(config, sequences))
    branches = Branches(accumulate * shards, ALONE, shards_at_once(config, shards, threads))
    at_once = 1 if count_parameters(config) > HUGE else accumulate * shards
    at_work = min(threads, at_once * of_shard)
    numbers = count_parameters(config) * (3 + branches.rows) + at_work * activations
    return 4 * numbers + 150_000_000
