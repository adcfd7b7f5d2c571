"""One row times a matrix, as decoding a token needs it: each weight is read once and used once,
so what counts is how fast weights come in, and the sums' order is that of matmul.

    out = x weight + bias        each number: bias, then x[0] weight[0], x[1] weight[1], ...

A matrix that fits a core's second-level cache goes through register tiles of one row by up
to six vectors (75 to 85 GB/s where the plain loop has 33: C 80, Zen 4). A larger one comes
from memory, which is fastest read from its first number to its last (25 GB/s, tiles 12; two
threads were no faster).
"""

import numpy as np
from numba import types
from numba.extending import overload

from .formulas import fma
from .matmul import COMPILED
from .numeric import OPTIONS, kernel, standalone
from .rows import copy_row, row_function
from .tiles import make_tile
from .vectors import LANES, VECTORS, address_of

WIDEST, K_BLOCK = 6, 128  # a tile's vectors and rows
CACHED = 2**18  # numbers: 1 MiB

if COMPILED:
    _tile_1, _tile_2, _tile_3, _tile_4, _tile_5, _tile_6 = (
        make_tile(1, columns) for columns in range(1, WIDEST + 1))


@row_function(outputs=1, inputs=2, scalars=1)
def add_scaled_row(out, x, factor):
    """out = out + x factor."""
    return fma(x, factor, out)


@kernel
def stream(out, x, weight, bias):
    """row_product, the weights read from first to last."""
    copy_row(out, bias, out.size)
    for i in range(x.size):
        add_scaled_row(out, out, weight[i], out.size, x[i])


def row_product(out, x, weight, bias):
    """Overwrites out, the same numbers as matmul_bias's."""
    # out: (O,)   x: (I,)   weight: (I, O), any stride of rows   bias: (O,) or longer
    stream(out, x, weight, bias)


def _row_tiles(out, bias, x, weight, stride, rows, columns):
    """row_product by addresses, weight's rows stride floats apart."""
    vectors = (columns + LANES - 1) // LANES
    panels = (vectors + WIDEST - 1) // WIDEST
    for i in range(0, rows, K_BLOCK):
        k = min(K_BLOCK, rows - i)
        done = np.int64(0)
        for panel in range(panels):  # as even as can be: a narrow one waits for its own sums
            width = vectors * (panel + 1) // panels - done
            j = done * LANES
            last = min(columns - j - (width - 1) * LANES, LANES)
            c, a, b = out + 4 * j, x + 4 * i, weight + 4 * (i * stride + j)
            begin = c if i > 0 else bias + 4 * j
            if width == 6:
                _tile_6(c, 0, begin, 0, a, 0, 1, b, stride, k, last)
            elif width == 5:
                _tile_5(c, 0, begin, 0, a, 0, 1, b, stride, k, last)
            elif width == 4:
                _tile_4(c, 0, begin, 0, a, 0, 1, b, stride, k, last)
            elif width == 3:
                _tile_3(c, 0, begin, 0, a, 0, 1, b, stride, k, last)
            elif width == 2:
                _tile_2(c, 0, begin, 0, a, 0, 1, b, stride, k, last)
            else:
                _tile_1(c, 0, begin, 0, a, 0, 1, b, stride, k, last)
            done += width


if COMPILED:
    _row_tiles_call = standalone(_row_tiles)


@overload(row_product, jit_options=OPTIONS)
def _row_product_compiled(out, x, weight, bias):
    if out.dtype != types.float32 or VECTORS is None:
        return lambda out, x, weight, bias: stream(out, x, weight, bias)

    def tiled(out, x, weight, bias):
        if weight.size > CACHED:
            stream(out, x, weight, bias)
        else:
            _row_tiles_call(address_of(out), address_of(bias), address_of(x), address_of(weight),
                            weight.strides[0] // 4, x.size, out.size)

    return tiled
