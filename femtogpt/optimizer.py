"""AdamW, which parameters Muon updates instead, and the schedule, on flat vectors.

AdamW (Loshchilov, Hutter 2019), t counting from 1:

    m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2
    p <- p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)

or, for the blocks' matrices, Muon (muon.py). Before either, all gradients together are scaled to a
norm of at most 1.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from .errors import FemtoError
from .layers.numeric import kernel
from .layers.rows import add_row, dot_row
from .tensors import (
    MUON_FIELDS,
    Tensors,
    count_adamw_parameters,
    count_parameters,
    lined_up,
    ranges,
)

BLOCK = 8192  # floats; fixed, so that sums and roundings don't depend on the number of threads
MAX_NORM = 1.0
MUON_PER_ADAMW = 20 / 3  # its rate to AdamW's: 0.03 at 0.0045
DECAY = 0.4  # of a run: how long its rate falls (0.2 to 0.5 were tried, docs/recipe.md)
OPTIMIZERS = ("muon", "adamw")


class AdamW(NamedTuple):
    """The constants of AdamW that a recipe fixes."""

    beta1: float
    beta2: float
    eps: float
    decay: float
    decayed: tuple  # the fields that decay


class Schedule(NamedTuple):
    """learning_rate is AdamW's peak. decay_steps None: the last DECAY of the run."""

    learning_rate: float
    min_lr: float
    warmup_steps: int
    decay_steps: int | None


ADAMW = {
    "standard": AdamW(0.9, 0.99, 1e-8, 0.01, ("head_weight",)),
    "femto": AdamW(0.9, 0.999, 1e-8, 0.01, Tensors._fields),
}
SCHEDULE = {
    "standard": Schedule(4.5e-3, 0.0, 20, None),
    "femto": Schedule(1e-3, 1e-5, 100, 50000),
}
OPTIMIZER = {"standard": "muon", "femto": "adamw"}


def learning_rate(schedule, recipe, step, first_step, last_step):
    """AdamW's rate for the step from `step` to step + 1 of a run first_step -> last_step.

    standard: up over warmup_steps from the run's beginning, flat, down to min_lr over
    its last decay_steps. femto: up over warmup_steps from step 0, then down in a line
    to min_lr over decay_steps, whatever the run's length.
    """
    peak, low = schedule.learning_rate, schedule.min_lr
    if recipe == "femto":
        if step < schedule.warmup_steps:
            return peak * (step + 1) / schedule.warmup_steps
        over = schedule.decay_steps or SCHEDULE[recipe].decay_steps
        decayed = (step - schedule.warmup_steps) / over
        return max(low, peak - (peak - low) * decayed)
    length = last_step - first_step
    decay_steps = schedule.decay_steps
    if decay_steps is None:
        decay_steps = max(1, int(DECAY * length))
    up = (step - first_step + 1) / max(schedule.warmup_steps, 1)
    down = (last_step - step) / max(decay_steps, 1)
    return low + (peak - low) * min(1.0, up, down)


@dataclasses.dataclass
class OptimizerState:
    """m: a moment for every parameter, flat. v: AdamW's second moments, of the flat
    vector's AdamW part (all of it with kind "adamw"). t: updates done. spaces: for threads to work
    in, kept from one update to the next, as the system takes long to give out memory (F with Muon
    took 5% longer: Zen 5)."""

    kind: str
    m: np.ndarray
    v: np.ndarray
    t: int = 0
    spaces: list = dataclasses.field(default_factory=list, repr=False)


def fresh_state(config, kind):
    """Zero moments. kind: "muon" or "adamw"; raises FemtoError for another."""
    if kind not in OPTIMIZERS:
        raise FemtoError(f"--optimizer {kind!r} is not one of {', '.join(OPTIMIZERS)}")
    size = count_parameters(config)
    second = count_adamw_parameters(config) if kind == "muon" else size
    return OptimizerState(kind, lined_up(size), lined_up(second))


def keep_own(state, own):
    """Lets go of the moments outside own, one of ownership's ranges: what was never written takes
    no memory, and reads as zero."""
    for name in ("m", "v"):
        moment = getattr(state, name)
        kept = lined_up(moment.size)
        kept[own[0] : own[1]] = moment[own[0] : own[1]]
        setattr(state, name, kept)


def ownership(config, kind, ranks):
    """Which of `ranks` processes updates what: a (start, stop) of the flat vector for each, in
    order, that share the work evenly; of a tiny model some get nothing. What Muon turns as a whole
    is never cut. kind: "muon" or "adamw".
    """
    size = count_parameters(config)
    first = count_adamw_parameters(config) if kind == "muon" else size
    starts, costs = list(range(0, first, BLOCK)), [1.0] * -(-first // BLOCK)
    if kind == "muon":
        for field, (start, stop) in ranges(config)._asdict().items():
            if field in MUON_FIELDS:
                each = (stop - start) // config.num_layers
                starts += range(start, stop, each)
                costs += [_muon_cost(field, each, config.embedding_degree)] * config.num_layers
    before = np.cumsum([0.0, *costs[:-1]]) / sum(costs) * ranks
    edges = [0, *np.searchsorted(before, range(1, ranks)).tolist(), len(starts)]
    starts.append(size)
    return [(starts[a], starts[b]) for a, b in itertools.pairwise(edges)]


def _muon_cost(field, size, width):
    """What orthogonalise takes for a layer of a field of so many numbers, in blocks of AdamW's.

    Of (R, K), half of x x^T and Q x are 1.5 R^2 K multiplications, and 13 half products in the loop
    6.5 R^3. AdamW takes about as long for one number as a product for 160 of these.
    """
    matrices = 3 if field == "query_key_value_weight" else 1
    longer = size / matrices / width
    return matrices * width**2 * (1.5 * longer + 6.5 * width) / (160 * BLOCK)


def sum_tree(count):
    """The order in which `count` shards are summed, ((0+1)+(2+3))+...: pairs (to, from), (n, 2)."""
    pairs, stride = [], 1
    while stride < count:
        pairs += [(s, s + stride) for s in range(0, count - stride, 2 * stride)]
        stride *= 2
    return np.array(pairs, np.int64).reshape(-1, 2)


@kernel
def sum_shards(shards, pairs, squares, first_block, last_block):
    """Adds shards[from] to shards[to] for each of pairs, block by block.

    shards: (S, P). pairs: (n, 2), of sum_tree. squares[block]: the sum of squares of what is then
    in shards[0].
    """
    P = shards.shape[1]
    for block in range(first_block, last_block):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, P)
        for i in range(pairs.shape[0]):
            to, source = shards[pairs[i, 0], start:stop], shards[pairs[i, 1], start:stop]
            add_row(to, to, source, to.size)
        total = shards[0, start:stop]
        squares[block] = dot_row(total, total, total.size)


@kernel
def adamw_update(p, m, v, g, rate, beta1, beta2, eps, decay, first, second, clip):
    """AdamW on vectors of one length. first, second: 1 - beta^t. g is scaled by clip."""
    scalar = p.dtype.type
    b1, b2, e = scalar(beta1), scalar(beta2), scalar(eps)
    lr, shrink, c = scalar(rate / first), scalar(1 - rate * decay), scalar(clip)
    root = scalar(1 / np.sqrt(second))
    for start in range(0, p.size, BLOCK):
        part = slice(start, min(start + BLOCK, p.size))
        pb, mb, vb, gb = p[part], m[part], v[part], g[part]
        for i in range(pb.size):
            gi = gb[i] * c
            mi = b1 * mb[i] + (scalar(1) - b1) * gi
            vi = b2 * vb[i] + (scalar(1) - b2) * gi * gi
            mb[i], vb[i] = mi, vi
            pb[i] = pb[i] * shrink - lr * mi / (np.sqrt(vi) * root + e)
