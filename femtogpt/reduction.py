"""The sum of a batch's gradients: the fixed tree of its shards, over passes and over ranks.

A rank sums what branches of the tree it has whole, sends them, each part to the rank that owns
it, and that one sums the rest of the tree. What is sent of a layer goes while those below it are
still computed.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .optimizer import BLOCK, sum_tree
from .ranks import cut
from .tensors import MUON_FIELDS, ranges


class Branches:
    """The tree that sums a batch's shards, cut for ranks, and a rank's part of it for passes.

    shards: how many there are in all. passes: of each this rank's shards in it, counted from its
    first, as (start, stop); the rows that they go to; and the additions among rows, (to, from),
    that can be made then. row: of each of its shards. rows: how many that takes. own_roots: those
    that hold, after the last pass, a sum that goes into more, the first of them row 0. roots: the
    sums of all ranks, as shards; places: of each rank, where its own stand among them. pairs: the
    additions that are left, of roots.
    """

    def __init__(self, shards, ranks, at_once):
        """at_once: how many shards a pass has at most."""
        self.shards = shards
        pairs, parts = sum_tree(shards), cut(shards, ranks.size)
        rank_of = np.repeat(np.arange(ranks.size), [b - a for a, b in parts])
        # The addition (to, from) closes a branch of 2 (from - to) shards, which begins at to.
        last = np.minimum(2 * pairs[:, 1] - pairs[:, 0], shards) - 1
        whole = rank_of[pairs[:, 0]] == rank_of[last]
        self.roots = np.setdiff1d(np.arange(shards), pairs[whole, 1])
        self.places = [np.flatnonzero(rank_of[self.roots] == q) for q in range(ranks.size)]
        self.pairs = np.searchsorted(self.roots, pairs[~whole])
        start, stop = parts[ranks.rank]
        own = whole & (rank_of[pairs[:, 0]] == ranks.rank)
        self._plan(stop - start, pairs[own] - start, last[own] - start, at_once)
        self.own_roots = self.row[self.roots[self.places[ranks.rank]] - start]

    def _plan(self, shards, pairs, last, at_once):
        """The passes over this rank's shards; last: of each of pairs, the shard it waits for."""
        self.passes, self.rows, free = [], 0, []
        self.row = np.empty(shards, np.int64)
        for a in range(0, shards, at_once):
            b = min(a + at_once, shards)
            for shard in range(a, b):
                if not free:
                    free.append(self.rows)
                    self.rows += 1
                self.row[shard] = free.pop()
            ready = pairs[(a <= last) & (last < b)]
            self.passes.append(((a, b), self.row[a:b], self.row[ready]))
            free += self.row[ready[:, 1]].tolist()


def spans_by_layer(config):
    """Where in a flat gradient is what a backward pass has finished with a layer: (start, stop)s,
    the last layer's first, and with the first layer's all that is not a block's matrix."""
    table, L = ranges(config), config.num_layers

    def of_layer(l):
        for field in MUON_FIELDS:
            start, stop = getattr(table, field)
            each = (stop - start) // L
            yield start + l * each, start + (l + 1) * each

    spans = [list(of_layer(l)) for l in reversed(range(L))]
    head = table.head_weight[0]
    spans[0].append((head, table.head_bias[1]))
    spans[-1].append((0, head))
    return spans


def within(spans, start, stop):
    """The spans as far as they are in start..stop."""
    parts = [(max(a, start), min(b, stop)) for a, b in spans]
    return [(a, b) for a, b in parts if a < b]


class SumOverRanks:
    """The sum of a batch's gradients of all ranks, each range at its owner.

    begin() before this rank's last pass; ready(layer) in it, whenever a shard's gradient of a layer
    is whole; finish() after it.
    """

    def __init__(self, config, branches, ranks, owners):
        """owners: of each rank, its range of the flat gradient."""
        self._branches, self._ranks = branches, ranks
        # Squares are summed by whole blocks: two ranks that share one both sum it, to the same.
        self._blocks = [(start // BLOCK, -(-stop // BLOCK)) for start, stop in owners]
        self._wide = [(a * BLOCK, min(b * BLOCK, owners[-1][1])) for a, b in self._blocks]
        self._spans = spans_by_layer(config)
        start, stop = self._wide[ranks.rank]
        # Kept: memory that is new in each step cost a tenth of one at 58 million parameters.
        self._rows = np.empty((len(branches.roots), stop - start), np.float32)
        self._lock = threading.Lock()
        # One thread: all send in one order, and an MPI need not allow several.
        self._sender = ThreadPoolExecutor(1, "femtogpt sender")

    def close(self):
        """Waits for nothing: should others have failed, they will not answer."""
        self._sender.shutdown(wait=False, cancel_futures=True)

    def begin(self, gradients, pairs, shards):
        """gradients: (rows, P), of which pairs are to be summed when the last pass has them.
        shards: how many there are in that."""
        self._gradients, self._pairs = gradients, pairs
        self._left = [shards] * len(self._spans)
        self._sent, self._hurry = [], threading.Event()

    def ready(self, layer):
        """A shard's gradient of a layer is whole. layer: 0 is the last, with the head."""
        with self._lock:
            self._left[layer] -= 1
            if not self._left[layer]:
                self._sent.append(self._sender.submit(self._send, layer))

    def _send(self, layer):
        for start, stop in self._spans[layer]:
            for to, source in self._pairs:
                self._gradients[to, start:stop] += self._gradients[source, start:stop]
        rank, parts = self._ranks.rank, [within(self._spans[layer], *wide) for wide in self._wide]
        begin = self._wide[rank][0]
        own = [self._gradients[row] for row in self._branches.own_roots]
        sent = [[] if q == rank else [row[a:b] for row in own for a, b in parts[q]]
                for q in range(self._ranks.size)]
        received = [[] if q == rank else [self._rows[i, a - begin : b - begin] for i in places
                                          for a, b in parts[rank]]
                    for q, places in enumerate(self._branches.places)]
        self._ranks.exchange(sent, received, self._hurry)

    def finish(self, add, squares):
        """The sum is in gradients[0], in this rank's range widened to blocks. squares: becomes all
        ranks', by BLOCK. add: sums shards by (rows, pairs, squares), on all threads."""
        with self._ranks.waiting("the sum of gradients"):
            self._hurry.set()
            for sent in self._sent:
                sent.result()
        branches, rank = self._branches, self._ranks.rank
        (start, stop), (a, b) = self._wide[rank], self._blocks[rank]
        for i, row in zip(branches.places[rank], branches.own_roots, strict=True):
            self._rows[i] = self._gradients[row, start:stop]
        add(self._rows, branches.pairs, squares[a:b])
        self._gradients[0, start:stop] = self._rows[0]
        self._ranks.share_squares(squares, self._blocks)
