"""Matrix products, the bulk of all work: out = a @ b, and its kin; and transposition.

All arguments are two-dimensional views of one type with any strides (a and b may
be transposed: pass x.T), out with contiguous rows. Layers call the functions
below and nothing else. bfloat16: a and b are rounded to that first (precision.py).
"""

from functools import cache

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .blocks import turn_call
from .narrow import narrow
from .numeric import OPTIONS, emit_call, inlined, kernel, make_ready
from .strassen import LEAST, product
from .vectors import I64, LANES, VECTORS, address_of, positional_intrinsic


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
    half = N // 2 if N >= 2 * LEAST else 0  # a block as large as Strassen's product takes
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


def narrow_matmul(out, a, b):
    """matmul where it is small and has few columns (narrow.py). Attention has hundreds in a pass:
    without a function of numba's and the choice of a way in between each takes 70 cycles less, of
    some 400 (Zen 5)."""
    matmul(out, a, b)


def narrow_matmul_add(out, a, b):
    """matmul_add, likewise."""
    matmul_add(out, a, b)


@inlined
def narrow_matmul_first(out, a, b, first):
    """matmul_first, likewise."""
    if first:
        narrow_matmul(out, a, b)
    else:
        narrow_matmul_add(out, a, b)


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


@overload(_product, jit_options=OPTIONS, inline="always")
def _product_compiled(out, a, b, start, bfloat16):
    if out.dtype == types.float32 and VECTORS is not None:
        if bfloat16 is types.boolean:
            from .bfloat16 import tiled_pairs

            by_tiles = _of_matrices(tiled_pairs)
        else:
            by_tiles = _of_matrices(product)
        return lambda out, a, b, start, bfloat16: by_tiles(out, a, b, start)
    # numba's np.dot (BLAS) wants contiguous arrays.
    if start in (None, types.none):
        def through_blas(out, a, b, start, bfloat16):
            out[:, :] = np.dot(np.ascontiguousarray(a), np.ascontiguousarray(b))
    else:
        def through_blas(out, a, b, start, bfloat16):
            out[:, :] = start + np.dot(np.ascontiguousarray(a), np.ascontiguousarray(b))
    return through_blas


@overload(narrow_matmul, jit_options=OPTIONS, inline="always")
def _narrow_matmul_compiled(out, a, b):
    if out.dtype != types.float32 or VECTORS is None:
        return lambda out, a, b: matmul(out, a, b)
    by_tiles = _of_matrices(product, narrow)
    return lambda out, a, b: by_tiles(out, a, b, None)


@overload(narrow_matmul_add, jit_options=OPTIONS, inline="always")
def _narrow_matmul_add_compiled(out, a, b):
    if out.dtype != types.float32 or VECTORS is None:
        return lambda out, a, b: matmul_add(out, a, b)
    by_tiles = _of_matrices(product, narrow)
    return lambda out, a, b: by_tiles(out, a, b, out)


@cache
def _of_matrices(call, of_few_columns=None):
    """An intrinsic of (out, a, b, start), where call takes addresses and strides as blocks.tiled,
    and another, if given, those of few columns. (Written in Python this took the first run a second
    more: it is compiled for each layout.)"""

    def typing(typingctx, out, a, b, start):
        make_ready(call)
        if of_few_columns:
            make_ready(of_few_columns)

        def codegen(context, builder, signature, values):
            def address_and_strides(i):
                array = context.make_array(signature.args[i])(context, builder, values[i])
                strides = cgutils.unpack_tuple(builder, array.strides)
                return array, [builder.ptrtoint(array.data, I64),
                               *(builder.ashr(stride, I64(2)) for stride in strides)]

            _, (c, c_stride, _) = address_and_strides(0)
            x, first = address_and_strides(1)
            y, second = address_and_strides(2)
            begin = [I64(0), I64(0)]
            if signature.args[3] != types.none:  # a row begins all rows
                begin = [*address_and_strides(3)[1][:2]]
                if signature.args[3].ndim == 1:
                    begin[1] = I64(0)
            rows, k = cgutils.unpack_tuple(builder, x.shape)
            _, columns = cgutils.unpack_tuple(builder, y.shape)
            values = [c, c_stride, *begin, *first, *second, rows, k, columns]
            if of_few_columns:
                few = builder.icmp_signed("<=", columns, I64(2 * LANES))
                with builder.if_else(few) as (then, otherwise):
                    with then:
                        emit_call(builder, of_few_columns, values)
                    with otherwise:
                        emit_call(builder, call, values)
            else:
                emit_call(builder, call, values)
            return context.get_dummy_value()

        return types.none(out, a, b, start), codegen

    return positional_intrinsic(typing, "by_tiles", 4)


@overload(transpose, jit_options=OPTIONS, inline="always")
def _transpose_compiled(out, x):
    if out.dtype == types.float32 and VECTORS is not None:
        return lambda out, x: turn_call(address_of(out), out.strides[0] // 4, address_of(x),
                                        x.strides[0] // 4, x.shape[0], x.shape[1])

    def plain(out, x):
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                out[j, i] = x[i, j]

    return plain
