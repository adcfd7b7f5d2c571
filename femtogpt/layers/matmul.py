"""Matrix products, the bulk of all work: out = a @ b, and its kin.

All arguments are two-dimensional views of one type with any strides (a and b may
be transposed: pass x.T), out with contiguous rows. Layers call the functions
below and nothing else. The last three are for causal attention, whose matrices
are triangular: they skip most of what is zero or not wanted.
"""

import numpy as np
from numba import types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, overload

from .numeric import OPTIONS, kernel
from .tiles import make_tile
from .vectors import LANES, VECTORS, address_of

if VECTORS is not None:
    ROWS = VECTORS.rows
    _tile_3, _tile_2, _tile_1 = (make_tile(ROWS, columns) for columns in (3, 2, 1))
    _row_3, _row_2, _row_1 = (make_tile(1, columns) for columns in (3, 2, 1))
# Rows of b that are packed at once: 3 registers of 16 floats by 384 is 72 KiB, which
# stays in a core's second-level cache beside the rows of a.
K_BLOCK = 384

# What is known of the matrices' shapes.
FULL, LOWER_OUT, LOWER_A, UPPER_A = np.int64(0), np.int64(1), np.int64(2), np.int64(3)


@kernel
def matmul(out, a, b):
    """out = a @ b. out: (N, M), a: (N, K), b: (K, M)."""
    _product(out, a, b, None, FULL)


@kernel
def matmul_add(out, a, b):
    """out += a @ b. out: (N, M), a: (N, K), b: (K, M)."""
    _product(out, a, b, out, FULL)


@kernel
def matmul_bias(out, a, b, bias):
    """out = a @ b + bias. out: (N, M), a: (N, K), b: (K, M), bias: (M,)."""
    _product(out, a, b, bias, FULL)


@kernel
def matmul_to_lower(out, a, b):
    """out = a @ b where row >= column; what lies above is left undefined."""
    _product(out, a, b, None, LOWER_OUT)


@kernel
def lower_matmul(out, a, b):
    """out = a @ b for a square a that is zero above its diagonal."""
    _product(out, a, b, None, LOWER_A)


@kernel
def upper_matmul(out, a, b):
    """out = a @ b for a square a that is zero below its diagonal."""
    _product(out, a, b, None, UPPER_A)


def _product(out, a, b, start, known):
    """out = start + a @ b, where start is None, out itself or a row to repeat."""
    product = a @ b
    out[...] = product if start is None else start + product


@intrinsic
def _any_layout(typingctx, array):
    """The array, typed as of any layout, so that _tiled is compiled once, not once a layout."""
    def codegen(context, builder, signature, arguments):
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

    return array.copy(layout="A")(array), codegen


@kernel
def _panel(c, c_stride, start, start_stride, a, a_row, a_k, b, k, rows, vectors, last,
           known, k_before, column):
    """A column panel of the product: `rows` rows by `vectors` registers, sum over k.

    k_before: of the whole sum, how much came before b; column: the panel's first.
    """
    a_step, c_step, start_step = 4 * a_row, 4 * c_stride, 4 * start_stride
    r = column - column % ROWS if known == LOWER_OUT else np.int64(0)
    while r < rows:
        count = ROWS if r + ROWS <= rows else np.int64(1)
        k_low, k_high = np.int64(0), k
        if known == LOWER_A:
            k_high = min(k, max(r + count - k_before, 0))
        elif known == UPPER_A:
            k_low = min(k, max(r - k_before, 0))
        cr, sr = c + r * c_step, start + r * start_step
        if start == 0:
            sr = np.int64(0)
        ar, br = a + r * a_step + 4 * k_low * a_k, b + 4 * k_low * vectors * LANES
        size = k_high - k_low
        if count == ROWS:
            if vectors == 3:
                _tile_3(cr, c_stride, sr, start_stride, ar, a_row, a_k, br, size, last)
            elif vectors == 2:
                _tile_2(cr, c_stride, sr, start_stride, ar, a_row, a_k, br, size, last)
            else:
                _tile_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, br, size, last)
        elif vectors == 3:
            _row_3(cr, c_stride, sr, start_stride, ar, a_row, a_k, br, size, last)
        elif vectors == 2:
            _row_2(cr, c_stride, sr, start_stride, ar, a_row, a_k, br, size, last)
        else:
            _row_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, br, size, last)
        r += count


@kernel
def _pack(packed, b):
    """packed[k, :columns] = b[k, :], the rest zeros. Reads b along its contiguous axis."""
    size, columns = b.shape
    if b.strides[1] == b.itemsize:
        for k in range(size):
            row, source = packed[k], b[k]
            for j in range(columns):
                row[j] = source[j]
    else:
        for j in range(columns):
            source = b[:, j]
            for k in range(size):
                packed[k, j] = source[k]
    for k in range(size):
        row = packed[k]
        for j in range(columns, packed.shape[1]):
            row[j] = 0


@kernel
def _tiled(out, a, b, start, start_stride, known):
    """out = start + a @ b in float32; start: an address, 0 for none."""
    rows, size = a.shape
    columns = b.shape[1]
    c, c_stride = address_of(out), out.strides[0] // 4
    a_at, a_row, a_k = address_of(a), a.strides[0] // 4, a.strides[1] // 4
    buffer = np.empty(min(size, K_BLOCK) * 3 * LANES, np.float32)
    for k in range(0, size, K_BLOCK):
        k_count = min(K_BLOCK, size - k)
        j = 0
        while j < columns:
            left = (columns - j + LANES - 1) // LANES
            # Four registers are better as two and two than as three and one.
            vectors = 2 if left == 4 else min(left, 3)
            width = vectors * LANES
            packed = buffer[: k_count * width].reshape(k_count, width)
            _pack(packed, b[k : k + k_count, j : min(j + width, columns)])
            last = min(columns - j, width) - (vectors - 1) * LANES
            here = c + 4 * j
            if k > 0:
                begin, begin_stride = here, c_stride
            elif start != 0:
                begin, begin_stride = start + 4 * j, start_stride
            else:
                begin, begin_stride = np.int64(0), np.int64(0)
            _panel(here, c_stride, begin, begin_stride, a_at + 4 * k * a_k, a_row, a_k,
                   address_of(packed), k_count, rows, vectors, last, known, k, j)
            j += width


@overload(_product, jit_options=OPTIONS, inline="never")
def _product_compiled(out, a, b, start, known):
    is_none = start in (None, types.none)
    if out.dtype == types.float32 and VECTORS is not None:
        if is_none:
            def tiled(out, a, b, start, known):
                _tiled(_any_layout(out), _any_layout(a), _any_layout(b),
                       np.int64(0), np.int64(0), known)
        elif start.ndim == 1:
            def tiled(out, a, b, start, known):
                _tiled(_any_layout(out), _any_layout(a), _any_layout(b),
                       address_of(start), np.int64(0), known)
        else:
            def tiled(out, a, b, start, known):
                _tiled(_any_layout(out), _any_layout(a), _any_layout(b),
                       address_of(start), np.int64(start.strides[0] // 4), known)
        return tiled
    # numba's np.dot (BLAS) wants contiguous arrays.
    if is_none:
        def through_blas(out, a, b, start, known):
            out[:, :] = np.dot(np.ascontiguousarray(a), np.ascontiguousarray(b))
    else:
        def through_blas(out, a, b, start, known):
            out[:, :] = start + np.dot(np.ascontiguousarray(a), np.ascontiguousarray(b))
    return through_blas
