"""The blocks' matrices as backward multiplies by them.

dx = dout weight^T reads weight^T row by row, and those lie far apart in weight: each micro-batch
would turn it anew. So it is turned once a step, into memory of its own, which all threads read.
(Without, E takes 1.5% longer, C, F and G 1; A and B as long: Zen 4.)
"""

from typing import NamedTuple

import numpy as np
from numba import typeof, types

from .activations import HUGE
from .layers.matmul import transpose
from .layers.numeric import allocation_free
from .tensors import count_parameters, lined_up, shape_table


class Matrices(NamedTuple):
    """Of the shapes that Tensors gives them, and any strides."""

    query_key_value_weight: np.ndarray
    projection_weight: np.ndarray
    up_weight: np.ndarray
    down_weight: np.ndarray


def are_turned(config):
    """Whether they are: not where they take too little time, or too much memory."""
    return config.embedding_degree >= 128 and count_parameters(config) <= HUGE


def as_they_are(p):
    """Those of p."""
    return Matrices(*(getattr(p, field) for field in Matrices._fields))


def allocate_turned(config):
    """Matrices, each with its columns where p has its rows, to be filled by turn."""
    shapes = (getattr(shape_table(config), field) for field in Matrices._fields)
    return Matrices(*(lined_up((L, O, I)).swapaxes(1, 2) for L, I, O in shapes))


def matrices_type(p):
    """numba's for those of p, as they are or turned."""
    return types.NamedTuple([types.Array(typeof(p.head_bias).dtype, 3, "A")] * 4, Matrices)


def turn(w, p, first, last):
    """Those of layers first to last of p into w, which allocate_turned made."""
    for field in Matrices._fields:
        _turn(getattr(w, field), getattr(p, field), first, last)


@allocation_free
def _turn(out, x, first, last):
    """out[l] = x[l] of some layers, of which out's columns are contiguous. Both: (L, I, O)."""
    for l in range(first, last):
        transpose(out[l].T, x[l])
