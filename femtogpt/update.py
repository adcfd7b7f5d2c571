"""An update of all parameters: which optimizer for which part of the flat vectors."""

import itertools
from typing import NamedTuple

import numpy as np
from numba import typeof, types

from .layers.numeric import allocation_free, by_address, code_of_types
from .layers.together import take, tell, wait_for_all
from .muon import muon_update, space_for
from .optimizer import ADAMW, BLOCK, MAX_NORM, MUON_PER_ADAMW, adamw_update, sum_shards
from .tensors import MUON_FIELDS, Tensors, lined_up, ranges, shape_table

call_muon = by_address(muon_update, types.none)
NO_PAIRS, NO_LOSSES = np.empty((0, 2), np.int64), np.empty(0)
ALL = 2**62  # more parts than there are


class Part(NamedTuple):
    """A row of an update's table: parameters from start to stop. Of AdamW's decays tells whether
    they decay; of Muon's they are a matrix of so many rows, of which it is the columns from first
    on, as many as width."""

    start: int
    stop: int
    decays: int = 0
    rows: int = 0
    first: int = 0
    width: int = 0


class Rates(NamedTuple):
    """The numbers of an update. first, second: 1 - beta^t."""

    adamw: float
    beta1: float
    beta2: float
    eps: float
    decay: float
    first: float
    second: float
    muon: float
    muon_decay: float


@allocation_free
def sum_and_update(before, beside, place, shards, pairs, squares, first_block, last_block, losses,
                   most, table, taken, p, m, v, rates, norm, space, muon):
    """What each of several threads does when a batch's gradients are there: it sums shards from
    first_block to last_block, as sum_shards; then it takes parts of the update by that sum, until
    none is left or it has had so many as `most`. If the sum or one of losses is not finite, nothing
    is updated.

    before, beside, place: a Stage's. table: (n, 6), of Part; if it is empty, there is no update.
    taken: a counter. p, m, v: flat. norm: (1,), becomes the gradient's, before clipping. space: of
    space_for's size, muon: the address of muon_update, both for matrices.
    """
    if not wait_for_all(before):
        return
    sum_shards(shards, pairs, squares, first_block, last_block)
    tell(beside, place)
    if table.shape[0] == 0 or not wait_for_all(beside):
        return
    norm[0] = np.sqrt(np.sum(squares))
    if not np.isfinite(norm[0] + np.sum(losses)):
        return
    clip = MAX_NORM / norm[0] if norm[0] > MAX_NORM else 1.0
    for _ in range(min(most, table.shape[0])):
        number = take(taken)
        if number >= table.shape[0]:
            return
        start, stop, rows = table[number, 0], table[number, 1], table[number, 3]
        pp, pm, pg = p[start:stop], m[start:stop], shards[0, start:stop]
        if rows > 0:
            first, width, columns = table[number, 4], table[number, 5], (stop - start) // rows
            rate = rates.muon * max(1.0, width / rows) ** 0.5
            call_muon(muon, pp.reshape(rows, columns), pm.reshape(rows, columns),
                      pg.reshape(rows, columns), first, width, rate,
                      1 - rates.muon * rates.muon_decay, clip, space)
        else:
            adamw_update(pp, pm, v[start:stop], pg, rates.adamw, rates.beta1, rates.beta2,
                         rates.eps, rates.decay if table[number, 2] else 0.0, rates.first,
                         rates.second, clip)


class Update:
    """Updates flat parameters in place, again and again, by a gradient that is filled in between.

    What is the same in each update is found once: it would take as long as the update of a small
    model.
    """

    def __init__(self, config, parameters, state, own=None):
        """own: one of ownership's ranges, which alone is updated [default: all]."""
        self._config, self.state, self._adamw = config, state, ADAMW[config.recipe]
        own = own or (0, parameters.size)
        parts = [*(_muon_parts(config, *own) if state.kind == "muon" else ()),
                 *_adamw_parts(config, own[0], min(own[1], state.v.size))]
        self.table = np.array(parts or np.empty((0, len(Part._fields))), np.int64)
        self.taken, self._norm = np.zeros(1, np.int64), np.zeros(1)
        self._vectors = parameters, state.m, state.v
        real, whole, rate = typeof(parameters), types.int64, types.float64
        matrix = types.Array(real.dtype, 2, "C")
        self._muon = 0 if state.kind != "muon" else code_of_types(
            muon_update, (matrix, matrix, matrix, whole, whole, rate, rate, rate, real))

    def set_rate(self, rate, muon_decay=0.0):
        """Sets in what the next update differs. rate: AdamW's. muon_decay: what Muon's matrices
        decay by, times Muon's rate."""
        adamw, t = self._adamw, self.state.t + 1
        self.rates = Rates(rate, adamw.beta1, adamw.beta2, adamw.eps, adamw.decay,
                           1 - adamw.beta1**t, 1 - adamw.beta2**t, MUON_PER_ADAMW * rate,
                           float(muon_decay))

    @property
    def begun(self):
        """Whether some of the parameters are updated already, and others may not be."""
        return self.taken[0] > 0

    def finish(self):
        """Counts an update that is done. Returns the gradient's norm before clipping."""
        self.state.t += 1
        self.taken[0] = 0
        return float(self._norm[0])

    def make(self, engine_map, gradient, squares):
        """Makes it by a gradient that is there, a call for each part: of a large model each takes
        long, and signals are answered in between. gradient: flat, the batch's mean. squares: the
        sums of its squares by BLOCK. engine_map: runs a function over items on all threads."""
        flag = np.zeros(1, np.int64)
        nothing_to_sum = (flag[:0], flag, 0, gradient[None], NO_PAIRS, squares, 0, 0, NO_LOSSES, 1)
        list(engine_map(lambda _: self.on_thread(*nothing_to_sum), range(len(self.table))))

    def on_thread(self, *sums):
        """sum_and_update with those arguments and its own."""
        space = self._space()
        sum_and_update(*sums, self.table, self.taken, *self._vectors, self.rates, self._norm,
                       space, self._muon)
        if space.size > 0:
            self.state.spaces.append(space)

    def _space(self):
        if self.state.kind != "muon":
            return self._vectors[0][:0]
        try:
            return self.state.spaces.pop()
        except IndexError:  # as many as there are threads
            C = self._config.embedding_degree
            return lined_up(space_for(4 * C, C), self._vectors[0].dtype)


def sum_then(update, shards, pairs, squares, losses, stage, blocks):
    """What a thread does when gradients are there: sum_and_update, without an update if that is
    None. blocks: (first, last) of those that are the thread's."""
    sums = (*stage, shards, pairs, squares, *blocks, losses, ALL)
    if update is not None:
        update.on_thread(*sums)
    else:
        nothing = np.empty(0, shards.dtype)
        sum_and_update(*sums, np.empty((0, len(Part._fields)), np.int64), np.zeros(1, np.int64),
                       nothing, nothing, nothing, Rates(*[0.0] * len(Rates._fields)), np.zeros(1),
                       nothing, 0)


def update(engine_map, config, parameters, gradient, squares, state, rate, muon_decay=0.0,
           own=None):
    """A single Update: its set_rate, make and finish."""
    one = Update(config, parameters, state, own)
    one.set_rate(rate, muon_decay)
    one.make(engine_map, gradient, squares)
    return one.finish()


def _adamw_parts(config, start, stop):
    """They cover AdamW's part from start to stop, a few dozen blocks each."""
    decayed = ADAMW[config.recipe].decayed
    fields = zip(Tensors._fields, ranges(config), strict=True)
    for decays, run in itertools.groupby(fields, lambda field: field[0] in decayed):
        spans = [span for _, span in run]
        first, last = max(spans[0][0], start), min(spans[-1][1], stop)
        for i in range(first, last, 16 * BLOCK):
            yield Part(i, min(i + 16 * BLOCK, last), int(decays))


def _muon_parts(config, start, stop):
    """One for each matrix that begins in start..stop, the largest first."""
    C, parts = config.embedding_degree, []
    shapes, table = shape_table(config), ranges(config)
    for field in MUON_FIELDS:
        _, rows, columns = getattr(shapes, field)
        width = C if field == "query_key_value_weight" else columns
        begins, ends = getattr(table, field)
        parts += [Part(i, i + rows * columns, 0, rows, first, width)
                  for i in range(begins, ends, rows * columns) if start <= i < stop
                  for first in range(0, columns, width)]
    return sorted(parts, key=lambda part: -part.rows * part.width)
