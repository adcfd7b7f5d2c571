"""Matrix products, the bulk of all work: out = a @ b, and its kin; and transposition.

All arguments are two-dimensional views of one type with any strides (a and b may
be transposed: pass x.T), out with contiguous rows. Layers call the functions
below and nothing else. bfloat16: a and b are rounded to that first (precision.py).
"""

import numpy as np
from numba import types
from numba.extending import overload

from .blocks import tiled, turn_call
from .numeric import OPTIONS, inlined, kernel
from .strassen import pays, strassen
from .vectors import LANES, VECTORS, address_of


@kernel
def matmul(out, a, b, bfloat16=None):
    """out = a @ b. out: (N, M), a: (N, K), b: (K, M)."""
    _product(out, a, b, None, bfloat16)


@kernel
def matmul_add(out, a, b, bfloat16=None):
    """out += a @ b. out: (N, M), a: (N, K), b: (K, M)."""
    _product(out, a, b, out, bfloat16)


@inlined
def matmul_first(out, a, b, first, bfloat16=None):
    """out = a @ b the first time, later out += a @ b."""
    if first:
        matmul(out, a, b, bfloat16)
    else:
        matmul_add(out, a, b, bfloat16)


@kernel
def matmul_bias(out, a, b, bias, bfloat16=None):
    """out = a @ b + bias. out: (N, M), a: (N, K), b: (K, M), bias: (M,)."""
    _product(out, a, b, bias, bfloat16)


@kernel
def symmetric_matmul(out, a, b):
    """out = a @ b where that is symmetric: half is computed, half mirrored. out: (N, N)."""
    N = out.shape[0]
    half = N // 2 if N >= 512 else 0  # a block as large as Strassen's product takes (strassen.py)
    if half > 0:
        matmul(out[half:, :half], a[half:], b[:, :half])
        transpose(out[:half, half:], out[half:, :half])
    for start, stop in ((0, half), (half, N)):
        _symmetric_block(out[start:stop, start:stop], a[start:stop], b[:, start:stop])


@inlined
def _symmetric_block(out, a, b):
    """symmetric_matmul, a panel of columns at a time."""
    N, width = out.shape[0], 3 * LANES
    for j in range(0, N, width):
        end = min(j + width, N)
        matmul(out[j:, j:end], a[j:], b[:, j:end])
        if end < N:
            transpose(out[j:end, end:], out[end:, j:end])


def _product(out, a, b, start, bfloat16):
    """out = start + a @ b, where start is None, out itself or a row to repeat."""
    product = a @ b if bfloat16 is None else rounded(a) @ rounded(b)
    out[...] = product if start is None else start + product


def rounded(x):
    """x rounded to bfloat16, half to even. float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    bits = bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)


def transpose(out, x):
    """out = x.T. out: (M, N), x: (N, M), both with contiguous rows."""
    out[...] = x.T


@overload(_product, jit_options=OPTIONS)
def _product_compiled(out, a, b, start, bfloat16):
    if out.dtype == types.float32 and VECTORS is not None:
        if bfloat16 is types.boolean:
            from .bfloat16 import tiled_pairs

            def by_pairs(out, a, b, start, bfloat16):
                begin, begin_stride = _start(start)
                tiled_pairs(address_of(out), out.strides[0] // 4, begin, begin_stride,
                            address_of(a), a.strides[0] // 4, a.strides[1] // 4,
                            address_of(b), b.strides[0] // 4, b.strides[1] // 4,
                            a.shape[0], a.shape[1], b.shape[1])

            return by_pairs

        def by_tiles(out, a, b, start, bfloat16):
            begin, begin_stride = _start(start)
            rows, k, columns = a.shape[0], a.shape[1], b.shape[1]
            c_stride, b_column = out.strides[0] // 4, b.strides[1] // 4
            if pays(c_stride, b_column, rows, k, columns):
                strassen(address_of(out), c_stride, begin, begin_stride, address_of(a),
                         a.strides[0] // 4, a.strides[1] // 4, address_of(b), b.strides[0] // 4,
                         b_column, rows, k, columns)
            else:
                tiled(address_of(out), c_stride, begin, begin_stride, address_of(a),
                      a.strides[0] // 4, a.strides[1] // 4, address_of(b), b.strides[0] // 4,
                      b_column, rows, k, columns)

        return by_tiles
    # numba's np.dot (BLAS) wants contiguous arrays.
    if start in (None, types.none):
        def through_blas(out, a, b, start, bfloat16):
            out[:, :] = np.dot(np.ascontiguousarray(a), np.ascontiguousarray(b))
    else:
        def through_blas(out, a, b, start, bfloat16):
            out[:, :] = start + np.dot(np.ascontiguousarray(a), np.ascontiguousarray(b))
    return through_blas


def _start(start):
    """Where a product starts from: (address, stride of rows), both 0 for nothing."""


@overload(_start, jit_options=OPTIONS)
def _start_compiled(start):
    if start in (None, types.none):
        return lambda start: (0, 0)
    if start.ndim == 1:
        return lambda start: (address_of(start), 0)
    return lambda start: (address_of(start), start.strides[0] // 4)


@overload(transpose, jit_options=OPTIONS)
def _transpose_compiled(out, x):
    if out.dtype == types.float32 and VECTORS is not None:
        return lambda out, x: turn_call(address_of(out), out.strides[0] // 4, address_of(x),
                                        x.strides[0] // 4, x.shape[0], x.shape[1])

    def plain(out, x):
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                out[j, i] = x[i, j]

    return plain
