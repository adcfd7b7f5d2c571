"""Products of one or two registers' columns in float32 by addresses, as attention's are.

They take about a microsecond or less, so nothing is packed or cut in blocks, and nothing divided to
find out what to fetch: rows of tiles, each of which fetches the next one's rows of a and c. LLVM
would compute where the rows of every kind of tile lie before the first tile, some 60 numbers that
it then keeps on the stack; with `fresh` strides each tile does so itself.
"""

import numba
import numpy as np

from .numeric import standalone
from .tiles import make_tile
from .vectors import LANES, VECTORS, fresh

if VECTORS is not None:
    ROWS, TALL, HALF = VECTORS.rows, 2 * VECTORS.rows, VECTORS.rows // 2
    _taller_1, _tall_1 = (make_tile(rows, 1, fetches=True) for rows in (TALL + HALF, TALL))
    _tile_2, _tile_1 = (make_tile(ROWS, columns, fetches=True) for columns in (2, 1))
    _half_2, _half_1 = (make_tile(HALF, columns, fetches=True) for columns in (2, 1))
    _row_2, _row_1 = (make_tile(1, columns, fetches=True) for columns in (2, 1))


def _narrow(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns):
    """c = start + a @ b as blocks.tiled, of at most 2 LANES columns of a b whose rows are
    contiguous: b_column is 1."""
    r = np.int64(0)
    last = columns - LANES if columns > LANES else columns
    soon_row = a_row if a_row != 1 else np.int64(0)
    every = k // TALL + 1 if columns <= LANES else k // ROWS + 1
    while r < rows:
        left = rows - r
        c_stride, start_stride, a_row = fresh(c_stride), fresh(start_stride), fresh(a_row)
        cr, sr, ar = c + 4 * r * c_stride, start + 4 * r * start_stride, a + 4 * r * a_row
        ahead = 4 * (TALL if columns <= LANES else ROWS)
        soon, c_soon = ar + ahead * soon_row, cr + ahead * c_stride
        if columns > LANES:
            if left >= ROWS:
                _tile_2(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                        soon, 4 * soon_row, c_soon, 4 * c_stride)
                r += ROWS
            elif left >= HALF:
                _half_2(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                        soon, 4 * soon_row, c_soon, 4 * c_stride)
                r += HALF
            else:
                _row_2(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                       soon, 4 * soon_row, c_soon, 4 * c_stride)
                r += 1
        elif TALL + HALF <= left < TALL + ROWS:
            _taller_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                      soon, 4 * soon_row, c_soon, 4 * c_stride)
            r += TALL + HALF
        elif left >= TALL:
            _tall_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                    soon, 4 * soon_row, c_soon, 4 * c_stride)
            r += TALL
        elif left >= ROWS:
            _tile_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                    soon, 4 * soon_row, c_soon, 4 * c_stride)
            r += ROWS
        elif left >= HALF:
            _half_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                    soon, 4 * soon_row, c_soon, 4 * c_stride)
            r += HALF
        else:
            _row_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                   soon, 4 * soon_row, c_soon, 4 * c_stride)
            r += 1


COMPILED = VECTORS is not None and not numba.config.DISABLE_JIT
narrow = standalone(_narrow) if COMPILED else None
