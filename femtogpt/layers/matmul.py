"""Matrix products, the bulk of all work: out = a @ b, and its kin; and transposition.

All arguments are two-dimensional views of one type with any strides (a and b may
be transposed: pass x.T), out with contiguous rows. Layers call the functions
below and nothing else.
"""

import numba
import numpy as np
from numba import types
from numba.extending import overload

from .numeric import OPTIONS, kernel, standalone
from .rows import copy_row
from .tiles import make_tile, turn_tile
from .vectors import LANES, VECTORS, address_of, stack_floats

if VECTORS is not None:
    ROWS, HALF = VECTORS.rows, VECTORS.rows // 2
    _tile_3, _tile_2, _tile_1 = (make_tile(ROWS, columns, fetches=True) for columns in (3, 2, 1))
    _half_3, _half_2, _half_1 = (make_tile(HALF, columns, fetches=True) for columns in (3, 2, 1))
    _row_3, _row_2, _row_1 = (make_tile(1, columns, fetches=True) for columns in (3, 2, 1))
COMPILED = VECTORS is not None and not numba.config.DISABLE_JIT
# Rows of b that are packed at once: 3 registers of 16 floats by 384 is 72 KiB, which
# stays in a core's second-level cache beside the rows of a.
K_BLOCK = 384
_buffer = stack_floats(K_BLOCK * 3 * LANES)
# Of a transposed a that is SPREAD numbers from its first row to its last, 128 KiB, so many rows are
# packed at once, in groups that a tile reads through: 384 KiB. Without, F takes 6% longer (Xeon).
A_ROWS, SPREAD = 256, 2**15
GROUP = VECTORS.rows if VECTORS else 1
_buffer_a = stack_floats(K_BLOCK * A_ROWS)


@kernel
def matmul(out, a, b):
    """out = a @ b. out: (N, M), a: (N, K), b: (K, M)."""
    _product(out, a, b, None)


@kernel
def matmul_add(out, a, b):
    """out += a @ b. out: (N, M), a: (N, K), b: (K, M)."""
    _product(out, a, b, out)


@kernel
def matmul_bias(out, a, b, bias):
    """out = a @ b + bias. out: (N, M), a: (N, K), b: (K, M), bias: (M,)."""
    _product(out, a, b, bias)


@kernel
def symmetric_matmul(out, a, b):
    """out = a @ b where that is symmetric: half is computed, half mirrored. out: (N, N)."""
    N, width = out.shape[0], 3 * LANES
    for j in range(0, N, width):
        end = min(j + width, N)
        matmul(out[j:, j:end], a[j:], b[:, j:end])
        if end < N:
            transpose(out[j:end, end:], out[end:, j:end])


def _product(out, a, b, start):
    """out = start + a @ b, where start is None, out itself or a row to repeat."""
    product = a @ b
    out[...] = product if start is None else start + product


def transpose(out, x):
    """out = x.T. out: (M, N), x: (N, M), both with contiguous rows."""
    out[...] = x.T


def _panel(c, c_stride, start, start_stride, a, a_group, a_row, a_k, b, b_k, k, rows, vectors,
           last, soon, soon_stride, soon_rows, soon_pieces):
    """A column panel of the product: `rows` rows by `vectors` registers, sum over k. Of a, GROUP
    rows lie a_row apart, then a_group further on the next.

    Meanwhile what comes next is fetched, bit by bit: of the result, and at soon, whose rows are
    soon_stride bytes apart and soon_pieces pieces of `vectors` registers long; each tile has
    soon_rows rows of one piece.
    """
    r = number = np.int64(0)
    every = k // max(soon_rows, ROWS) + 1
    while r < rows:
        left = rows - r
        count = ROWS if left >= ROWS else HALF if left >= HALF else 1
        cr, sr = c + 4 * r * c_stride, start + 4 * r * start_stride
        ar = a + 4 * (r // GROUP * a_group + r % GROUP * a_row)
        c_soon = cr + 4 * count * c_stride if count < left else c + 4 * vectors * LANES
        b_soon = (soon + number // soon_pieces * soon_rows * soon_stride
                  + 4 * (number % soon_pieces * vectors * LANES))
        number += 1
        if count == ROWS:
            if vectors == 3:
                _tile_3(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                        b_soon, soon_stride, c_soon, 4 * c_stride)
            elif vectors == 2:
                _tile_2(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                        b_soon, soon_stride, c_soon, 4 * c_stride)
            else:
                _tile_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                        b_soon, soon_stride, c_soon, 4 * c_stride)
        elif count == HALF:
            if vectors == 3:
                _half_3(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                        b_soon, soon_stride, c_soon, 4 * c_stride)
            elif vectors == 2:
                _half_2(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                        b_soon, soon_stride, c_soon, 4 * c_stride)
            else:
                _half_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                        b_soon, soon_stride, c_soon, 4 * c_stride)
        elif vectors == 3:
            _row_3(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                   b_soon, soon_stride, c_soon, 4 * c_stride)
        elif vectors == 2:
            _row_2(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                   b_soon, soon_stride, c_soon, 4 * c_stride)
        else:
            _row_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                   b_soon, soon_stride, c_soon, 4 * c_stride)
        r += count


def _turn(out, out_stride, x, x_stride, rows, columns):
    """out[c, r] = x[r, c]; addresses and strides in floats."""
    for r in range(0, rows, LANES):
        for c in range(0, columns, LANES):
            turn_tile(out + 4 * (c * out_stride + r), out_stride, x + 4 * (r * x_stride + c),
                      x_stride, min(rows - r, LANES), min(columns - c, LANES))


if COMPILED:
    _turn_call = standalone(_turn)


def _pack(packed, width, b, b_k, b_column, k, columns):
    """packed[k, :columns] = b[k, :columns], the rows of packed `width` floats apart."""
    if b_column != 1:
        _turn_call(packed, width, b, b_column, columns, k)
    else:
        for i in range(k):
            copy_row(packed + 4 * i * width, b + 4 * i * b_k, columns)


def _pack_a(packed, a, a_k, k, rows):
    """packed[group, k, GROUP] = a.T, `rows` rows of a, which lie 1 apart."""
    for r in range(0, rows, GROUP):
        count, to = min(GROUP, rows - r), packed + 4 * r * k
        for i in range(k):
            copy_row(to + 4 * i * GROUP, a + 4 * (i * a_k + r), count)


if COMPILED:
    _pack_call, _pack_a_call, _panel_call = (
        standalone(_pack), standalone(_pack_a), standalone(_panel))


def _block(c, c_stride, start, start_stride, a, a_group, a_row, a_k, b, b_k, b_column, rows, k,
           columns):
    """_tiled, of at most K_BLOCK deep; a as _panel's."""
    packed = _buffer()
    j, tiles = np.int64(0), (rows + ROWS - 1) // ROWS
    while j < columns:
        left = (columns - j + LANES - 1) // LANES
        # Four registers are better as two and two than as three and one.
        vectors = 2 if left == 4 else min(left, 3)
        width = vectors * LANES
        count = min(columns - j, width)
        panel, panel_k = b + 4 * j * b_column, b_k
        if b_column != 1 or (rows > 16 and k * b_k > 16 * LANES * LANES):
            _pack_call(packed, width, panel, b_k, b_column, k, count)
            panel, panel_k = packed, width
        begin = start
        if start != 0:
            begin = start + 4 * j
        # Of the next panel, whose rows are b's or, where b is transposed, its columns.
        soon, soon_stride, soon_rows, pieces = packed, np.int64(0), np.int64(0), np.int64(1)
        if j + width < columns:
            soon = b + 4 * (j + width) * b_column
            if b_column == 1:
                soon_stride, soon_rows = 4 * b_k, (k + tiles - 1) // tiles
            else:
                pieces = (k + width - 1) // width
                soon_stride, soon_rows = 4 * b_column, (width * pieces + tiles - 1) // tiles
        _panel_call(c + 4 * j, c_stride, begin, start_stride, a, a_group, a_row, a_k, panel,
                    panel_k, k, rows, vectors, count - (vectors - 1) * LANES, soon, soon_stride,
                    soon_rows, pieces)
        j += width


if COMPILED:
    _block_call = standalone(_block)


def _tiled(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns):
    """c = start + a @ b in float32, by addresses and strides in floats; start: 0 for none.

    What several tiles will read is packed first, its rows one after the other: column panels of
    b, whose rows, a power of two apart, would fight for the same lines of the cache, and a where
    it is transposed, of which a tile would read a few numbers of each of many pages.
    """
    packed = _buffer_a()
    for k_start in range(0, k, K_BLOCK):
        count = min(K_BLOCK, k - k_start)
        begin, begin_stride = start, start_stride
        if k_start > 0:
            begin, begin_stride = c, c_stride
        here, panel = a + 4 * k_start * a_k, b + 4 * k_start * b_k
        if a_row != 1 or count * a_k < SPREAD:
            _block_call(c, c_stride, begin, begin_stride, here, GROUP * a_row, a_row, a_k, panel,
                        b_k, b_column, rows, count, columns)
        else:
            for r in range(0, rows, A_ROWS):
                some = min(A_ROWS, rows - r)
                _pack_a_call(packed, here + 4 * r, a_k, count, some)
                if begin != 0:
                    begin_r = begin + 4 * r * begin_stride
                else:
                    begin_r = begin
                _block_call(c + 4 * r * c_stride, c_stride, begin_r, begin_stride, packed,
                            count * GROUP, 1, GROUP, panel, b_k, b_column, some, count, columns)


tiled_call = standalone(_tiled) if COMPILED else None  # address by address, for row_product.py


@overload(_product, jit_options=OPTIONS)
def _product_compiled(out, a, b, start):
    is_none = start in (None, types.none)
    if out.dtype == types.float32 and VECTORS is not None:
        def tiled(out, a, b, start):
            begin, begin_stride = _start(start)
            tiled_call(
                address_of(out), out.strides[0] // 4, begin, begin_stride,
                address_of(a), a.strides[0] // 4, a.strides[1] // 4,
                address_of(b), b.strides[0] // 4, b.strides[1] // 4,
                a.shape[0], a.shape[1], b.shape[1])

        return tiled
    # numba's np.dot (BLAS) wants contiguous arrays.
    if is_none:
        def through_blas(out, a, b, start):
            out[:, :] = np.dot(np.ascontiguousarray(a), np.ascontiguousarray(b))
    else:
        def through_blas(out, a, b, start):
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
        return lambda out, x: _turn_call(address_of(out), out.strides[0] // 4, address_of(x),
                                         x.strides[0] // 4, x.shape[0], x.shape[1])

    def plain(out, x):
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                out[j, i] = x[i, j]

    return plain
