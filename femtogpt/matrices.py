"""The blocks' matrices as backward multiplies by them.

dx = dout weight^T reads weight^T row by row, and those lie far apart in weight: each micro-batch
would transpose it anew. So that is done once a step, into memory that all threads read.
(Without, E takes 1.5% longer, C, F and G 1; A and B as long: Zen 4.)
"""

from collections import namedtuple

from numba import typeof, types

from .activations import HUGE
from .layers.matmul import transpose
from .layers.numeric import allocation_free
from .tensors import MUON_FIELDS, count_parameters, lined_up, shape_table

Matrices = namedtuple("Matrices", MUON_FIELDS)
Matrices.__doc__ = "Of the shapes that Tensors gives them, and any strides."


def are_transposed(config):
    """Whether they are: not where they take too little time, or too much memory."""
    return config.embedding_degree >= 128 and count_parameters(config) <= HUGE


def as_they_are(p):
    """Those of p."""
    return Matrices(*(getattr(p, field) for field in Matrices._fields))


def allocate_transposed(config):
    """Matrices, each with its columns where p has its rows, to be filled by transpose_layers."""
    shapes = (getattr(shape_table(config), field) for field in Matrices._fields)
    return Matrices(*(lined_up((L, O, I)).swapaxes(1, 2) for L, I, O in shapes))


def matrices_type(p):
    """numba's for those of p, as they are or transposed."""
    each = types.Array(typeof(p.head_bias).dtype, 3, "A")
    return types.NamedTuple([each] * len(MUON_FIELDS), Matrices)


def transpose_layers(w, p, first, last):
    """Those of layers first to last of p into w, which allocate_transposed made."""
    for field in Matrices._fields:
        _transpose_layers(getattr(w, field), getattr(p, field), first, last)


@allocation_free
def _transpose_layers(out, x, first, last):
    """out[l] = x[l] of some layers, of which out's columns are contiguous. Both: (L, I, O)."""
    for l in range(first, last):
        transpose(out[l].T, x[l])
