"""out = start + a @ b of numbers rounded to bfloat16, summed in float32, by addresses.

bfloat16 is a float32 cut to 16 bits: the same range, 8 binary digits. A processor that has
products of them multiplies two pairs at once and adds both to a float32 (dot_pairs): twice as
many multiplications. A pair here is number p of the sum and number p + half: so both come as they
lie, whole vectors at a time, without shuffling.

The blocks are those of blocks.py, but a too is packed first, as pairs.
"""

import numpy as np

from .blocks import COMPILED, PANEL, ROWS, offset, panel_width, upcoming
from .numeric import standalone
from .rows import lone_row, pair_row
from .tiles import make_tile, make_turn
from .vectors import HAS_BFLOAT16, LANES, stack_floats

if HAS_BFLOAT16:
    _tile_3, _tile_2, _tile_1 = (make_tile(ROWS, n, fetches=True, pairs=True) for n in (3, 2, 1))
    _row_3, _row_2, _row_1 = (make_tile(1, n, fetches=True, pairs=True) for n in (3, 2, 1))
    _turn_pairs = make_turn(pairs=True)
# Pairs of the sum at a time, registers of b's block, pairs of a's: 288 and 480 KiB.
K_BLOCK, BLOCK, A_PAIRS = 384, 4 * PANEL, 120 * 1024
_packed_a, _packed_b = stack_floats(A_PAIRS), stack_floats(K_BLOCK * BLOCK * LANES)


def _pair_within(out, out_stride, x, x_stride, rows, k):
    """out[r, p] = pair p of x[r, :k]."""
    half = (k + 1) // 2
    for r in range(rows):
        to, low = out + 4 * r * out_stride, x + 4 * r * x_stride
        pair_row(to, low, low + 4 * half, k - half)
        if k % 2:
            lone_row(to + 4 * (half - 1), low + 4 * (half - 1), 1)


def _pair_between(out, out_stride, x, x_stride, k, columns):
    """out[p, j] = pair p of x[:k, j]."""
    half = (k + 1) // 2
    for p in range(half):
        to, low = out + 4 * p * out_stride, x + 4 * p * x_stride
        if p + half < k:
            pair_row(to, low, low + 4 * half * x_stride, columns)
        else:
            lone_row(to, low, columns)


def _turn_within(out, out_stride, x, x_stride, rows, k):
    """out[p, r] = pair p of x[r, :k]."""
    half = (k + 1) // 2
    for r in range(0, rows, LANES):
        for p in range(0, half, LANES):
            low, count = x + 4 * (r * x_stride + p), min(rows - r, LANES)
            _turn_pairs(out + 4 * (p * out_stride + r), out_stride, low, x_stride, count,
                        min(half - p, LANES), low + 4 * half, count, min(k - half - p, LANES))


def _turn_between(out, out_stride, x, x_stride, k, columns):
    """out[j, p] = pair p of x[:k, j]."""
    half = (k + 1) // 2
    for p in range(0, half, LANES):
        for j in range(0, columns, LANES):
            low, count = x + 4 * (p * x_stride + j), min(columns - j, LANES)
            _turn_pairs(out + 4 * (j * out_stride + p), out_stride, low, x_stride,
                        min(half - p, LANES), count, low + 4 * half * x_stride,
                        min(k - half - p, LANES), count)


def _tile(c, c_stride, start, start_stride, a, a_row, b, k, rows, vectors, last, every,
          soon, soon_stride, c_next):
    """A tile of ROWS rows, or of one at a time where there are fewer."""
    width = vectors * LANES
    if rows >= ROWS:
        if vectors == 3:
            _tile_3(c, c_stride, start, start_stride, a, a_row, 1, b, width, k, last, every,
                    soon, soon_stride, c_next, 4 * c_stride)
        elif vectors == 2:
            _tile_2(c, c_stride, start, start_stride, a, a_row, 1, b, width, k, last, every,
                    soon, soon_stride, c_next, 4 * c_stride)
        else:
            _tile_1(c, c_stride, start, start_stride, a, a_row, 1, b, width, k, last, every,
                    soon, soon_stride, c_next, 4 * c_stride)
        return
    for r in range(rows):
        cr, sr, ar = c + 4 * r * c_stride, start + 4 * r * start_stride, a + 4 * r * a_row
        if vectors == 3:
            _row_3(cr, c_stride, sr, start_stride, ar, a_row, 1, b, width, k, last, every,
                   soon, soon_stride, c_next, 4 * c_stride)
        elif vectors == 2:
            _row_2(cr, c_stride, sr, start_stride, ar, a_row, 1, b, width, k, last, every,
                   soon, soon_stride, c_next, 4 * c_stride)
        else:
            _row_1(cr, c_stride, sr, start_stride, ar, a_row, 1, b, width, k, last, every,
                   soon, soon_stride, c_next, 4 * c_stride)


if HAS_BFLOAT16 and COMPILED:
    _pair_within, _pair_between = standalone(_pair_within), standalone(_pair_between)
    _turn_within, _turn_between = standalone(_turn_within), standalone(_turn_between)
    _tile = standalone(_tile)


def _strip(c, c_stride, start, start_stride, a, b, b_k, b_column, rows, k, columns, packed, kept,
           then, then_stride, then_rows, then_columns):
    """tiled_pairs, of one block of the sum, with a as pairs. kept: b is one block, packed already.
    then..: a matrix that is read after this, in rows."""
    half = (k + 1) // 2
    j = np.int64(0)
    while j < columns:
        count = min(columns - j, BLOCK * LANES)
        if kept == 0:
            i = np.int64(0)
            while i < count:
                width = panel_width(count - i) * LANES
                to, panel = packed + 4 * i * half, b + 4 * (j + i) * b_column
                if b_column != 1:
                    _turn_within(to, width, panel, b_column, min(width, count - i), k)
                else:
                    _pair_between(to, width, panel, b_k, k, min(width, count - i))
                i += width
        c_block, begin = c + 4 * j, offset(start, j)
        j += count
        tiles = (rows + ROWS - 1) // ROWS * ((count + PANEL * LANES - 1) // (PANEL * LANES))
        soon, soon_stride, soon_rows, pieces = upcoming(
            b + 4 * j * b_column, b_k, b_column, k, min(columns - j, count), tiles, then,
            then_stride, then_rows, then_columns)
        every = half // max(soon_rows, ROWS) + 1
        number = np.int64(0)
        for r in range(0, rows, ROWS):
            i = np.int64(0)
            while i < count:
                vectors = panel_width(count - i)
                width = vectors * LANES
                here = c_block + 4 * (r * c_stride + i)
                c_next = here + 4 * width
                if i + width >= count and r + ROWS < rows:
                    c_next = c_block + 4 * (r + ROWS) * c_stride
                b_soon = (soon + number // pieces * soon_rows * 4 * soon_stride
                          + 4 * (number % pieces * PANEL * LANES))
                _tile(here, c_stride, offset(begin, r * start_stride + i), start_stride,
                      a + 4 * r * half, half, packed + 4 * i * half, half, rows - r, vectors,
                      min(count - i - (vectors - 1) * LANES, LANES), every,
                      b_soon, 4 * soon_stride, c_next)
                number += 1
                i += width


if HAS_BFLOAT16 and COMPILED:
    _strip = standalone(_strip)


def _tiled_pairs(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k,
                 columns):
    """c = start + a @ b, a and b rounded to bfloat16. start: as blocks.tiled's."""
    pairs, packed = _packed_a(), _packed_b()
    wide = min(columns, BLOCK * LANES)
    for first in range(0, k, 2 * K_BLOCK):
        deep = min(2 * K_BLOCK, k - first)
        half = (deep + 1) // 2
        begin, begin_stride = (start, start_stride) if first == 0 else (c, c_stride)
        some = A_PAIRS // half // ROWS * ROWS
        for r in range(0, rows, some):
            count = min(some, rows - r)
            part = a + 4 * (first * a_k + r * a_row)
            if a_k == 1:
                _pair_within(pairs, half, part, a_row, count, deep)
                then, then_stride = part + 4 * count * a_row, a_row
                then_rows, then_columns = min(some, rows - r - count), deep
            else:
                _turn_between(pairs, half, part, a_k, deep, count)
                then, then_stride = part + 4 * count, a_k
                then_rows, then_columns = deep, min(some, rows - r - count)
            if r + count == rows:  # what comes next is b's
                then, then_stride = b + 4 * (first + deep) * b_k, b_k
                then_rows, then_columns = min(2 * K_BLOCK, k - first - deep), wide
                if b_column != 1:
                    then_stride, then_rows, then_columns = b_column, wide, then_rows
            _strip(c + 4 * r * c_stride, c_stride, offset(begin, r * begin_stride), begin_stride,
                   pairs, b + 4 * first * b_k, b_k, b_column, count, deep, columns, packed,
                   np.int64(r > 0 and wide == columns), then, then_stride, then_rows,
                   max(then_columns, 1))


tiled_pairs = standalone(_tiled_pairs) if HAS_BFLOAT16 and COMPILED else None
