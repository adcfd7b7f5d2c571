"""out = start + a @ b in float32 by addresses, cut into blocks that a core's caches hold.

As in Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008):

    for K_BLOCK of the sum at a time
        for A_ROWS rows of a at a time, where a is transposed and has to be turned
            for some columns of b at a time, packed: a panel of registers after the other
                for the rows of a tile          read from the first-level cache
                    for each panel              read from the second
                        a tile of out: registers (tiles.py)

so that out, which mostly comes from memory and goes back there, is read and written row by row. Of
a b that is transposed, or short enough to be read where it lies, it is one panel at a time, which
then lies in the first-level cache. What comes next is fetched meanwhile, by the tiles. Addresses
are bytes, strides floats.
"""

import numba
import numpy as np

from .narrow import narrow
from .numeric import standalone
from .rows import copy_row
from .tiles import make_tile, make_turn
from .vectors import LANES, VECTORS, stack_floats

ROWS = VECTORS.rows if VECTORS is not None else 1
if VECTORS is not None:
    TALL, HALF = 2 * ROWS, ROWS // 2
    _tile_3, _tile_2, _tile_1 = (make_tile(ROWS, columns, fetches=True) for columns in (3, 2, 1))
    _tall_1 = make_tile(TALL, 1, fetches=True)
    _half_3, _half_2, _half_1 = (make_tile(HALF, columns, fetches=True) for columns in (3, 2, 1))
    _row_3, _row_2, _row_1 = (make_tile(1, columns, fetches=True) for columns in (3, 2, 1))
    _turn_tile = make_turn()
COMPILED = VECTORS is not None and not numba.config.DISABLE_JIT
PANEL = 3  # registers
# A packed block of b, 288 KiB with registers of 16 floats, and the rows of a transposed a that are
# turned at once, 384 KiB, share the second-level cache. (With a block of one panel F takes 6 to 7%
# longer, E 4%; with blocks of five or six panels, or 256 deep, F's products 1 to 7%: Zen 5.)
K_BLOCK, BLOCK, A_ROWS = 384, 4 * PANEL, 256
_packed_b, _turned_a = stack_floats(K_BLOCK * BLOCK * LANES), stack_floats(K_BLOCK * A_ROWS)
# A b that is so long from a block's first row to its last, 512 KiB, is packed, for rows of many
# pages take long to find. A shorter one is read where it lies, a panel after the other. (With those
# of 16 KiB and more packed A takes 4, B 2, C and G 2 to 3% longer: Zen 5; with AVX2 A, B, C 1%.)
B_SPREAD = 2**17
# A transposed a that is so long from the first row to the last, 256 KiB, is turned first, for a
# tile would read a few numbers of each of many pages. (Without, F takes 6% longer: Xeon. With those
# of 128 KiB and more turned, A takes 2 and B 2 to 3% longer: Zen 5.)
A_SPREAD = 2**16


def _panel(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, k, rows, vectors, last,
           c_next, soon, soon_stride, soon_rows, soon_pieces, number):
    """A column panel of the product: `rows` rows by `vectors` registers, sum over k.

    Meanwhile what comes next is fetched, bit by bit: of the result, c_next after these rows; and
    at soon, whose rows are soon_stride bytes apart and soon_pieces panels long, soon_rows rows
    of one piece by each tile, of which this call's first is that number.
    """
    r = np.int64(0)
    every = k // max(soon_rows, ROWS) + 1
    while r < rows:
        left = rows - r
        count = ROWS if left >= ROWS else HALF if left >= HALF else 1
        if vectors == 1 and left >= TALL:
            count = TALL
        cr, sr, ar = c + 4 * r * c_stride, start + 4 * r * start_stride, a + 4 * r * a_row
        c_soon = cr + 4 * count * c_stride if count < left else c_next
        b_soon = (soon + number // soon_pieces * soon_rows * soon_stride
                  + 4 * (number % soon_pieces * PANEL * LANES))
        number += 1
        if count == TALL:
            _tall_1(cr, c_stride, sr, start_stride, ar, a_row, a_k, b, b_k, k, last, every,
                    b_soon, soon_stride, c_soon, 4 * c_stride)
        elif count == ROWS:
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
    """out[c, r] = x[r, c]. What is left at the end is turned with some that was before, where there
    is any, for a whole tile takes less than a part."""
    for i in range(0, rows, LANES):
        r = max(min(i, rows - LANES), 0)
        for j in range(0, columns, LANES):
            c = max(min(j, columns - LANES), 0)
            _turn_tile(out + 4 * (c * out_stride + r), out_stride, x + 4 * (r * x_stride + c),
                       x_stride, min(rows - r, LANES), min(columns - c, LANES))


def panel_width(columns):
    """Registers of the next panel, where so many columns are left."""
    left = (columns + LANES - 1) // LANES
    # Four registers are better as two and two than as three and one.
    return 2 if left == 4 else min(left, PANEL)


def offset(start, numbers):
    """The address so many numbers after start, where 0 stays 0."""
    return start + 4 * numbers if start != 0 else start


def upcoming(block, b_k, b_column, k, columns, tiles, then, then_stride, then_rows, then_columns):
    """What so many tiles are to fetch: (where, floats from row to row, rows of each tile, pieces of
    a panel in a row). It is b's next block (k, columns) or, where none is left, then."""
    if columns <= 0:
        where, stride, rows, width = then, then_stride, then_rows, then_columns
    elif b_column == 1:
        where, stride, rows, width = block, b_k, k, columns
    else:
        where, stride, rows, width = block, b_column, columns, k
    pieces = (width + PANEL * LANES - 1) // (PANEL * LANES)
    return where, stride, (rows * pieces + tiles - 1) // tiles, pieces


def to_be_packed(rows, k, b_k):
    """Whether b, whose rows are contiguous, is; for few rows of a that takes too long."""
    return rows > 16 and k * b_k > B_SPREAD


turn_call = standalone(_turn) if COMPILED else None
if COMPILED:
    to_be_packed = numba.njit(to_be_packed, inline="always")
    panel_width = numba.njit(panel_width, inline="always")
    offset = numba.njit(offset, inline="always")
    upcoming = numba.njit(upcoming, inline="always")


def _pack(packed, b, b_k, b_column, k, columns):
    """packed = b[:k, :columns], panel after panel, of each one row after the other."""
    j = np.int64(0)
    while j < columns:
        width = panel_width(columns - j) * LANES
        count = min(columns - j, width)
        to, panel = packed + 4 * j * k, b + 4 * j * b_column
        if b_column != 1:
            turn_call(to, width, panel, b_column, count, k)
        else:
            for i in range(k):
                copy_row(to + 4 * i * width, panel + 4 * i * b_k, count)
        j += width


if COMPILED:
    _pack_call, _panel_call = standalone(_pack), standalone(_panel)


def _strip(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns,
           most, packed, kept, then, then_stride, then_rows, then_columns):
    """tiled, at most K_BLOCK deep. most: registers of a block of b; packed: space for one; kept: b
    is but one block, which is there already. then..: a matrix that is read after this, in rows."""
    pack = b_column != 1 or to_be_packed(rows, k, b_k)
    j = np.int64(0)
    while j < columns:
        vectors = (columns - j + LANES - 1) // LANES
        vectors = most - 1 if vectors == most + 1 else min(vectors, most)
        count, panels = min(columns - j, vectors * LANES), (vectors + PANEL - 1) // PANEL
        c_block, block, begin = c + 4 * j, b + 4 * j * b_column, offset(start, j)
        if pack and kept == 0:
            _pack_call(packed, block, b_k, b_column, k, count)
        j += count
        tiles = (rows + ROWS - 1) // ROWS * panels
        soon, soon_stride, soon_rows, pieces = upcoming(
            b + 4 * j * b_column, b_k, b_column, k, min(columns - j, count), tiles, then,
            then_stride, then_rows, then_columns)
        step = rows if panels == 1 else ROWS
        number = np.int64(0)
        for r in range(0, rows, step):
            i = np.int64(0)
            while i < count:
                vectors = panel_width(count - i)
                width = vectors * LANES
                panel, panel_k = block + 4 * i, b_k
                if pack:
                    panel, panel_k = packed + 4 * i * k, width
                here = c_block + 4 * (r * c_stride + i)
                c_next = here + 4 * width
                if i + width >= count and r + step < rows:
                    c_next = c_block + 4 * (r + step) * c_stride
                _panel_call(here, c_stride, offset(begin, r * start_stride + i), start_stride,
                            a + 4 * r * a_row, a_row, a_k, panel, panel_k, k, min(step, rows - r),
                            vectors, min(count - i - (vectors - 1) * LANES, LANES), c_next,
                            soon, 4 * soon_stride, soon_rows, pieces, number)
                number += 1
                i += width


if COMPILED:
    _strip_call = standalone(_strip)


def _in_blocks(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns,
               turn):
    """tiled, of more than a panel, with 672 KiB of the stack. turn: whether a is turned first."""
    packed, turned = _packed_b(), _turned_a()
    some = A_ROWS if turn else rows
    # A transposed b is best turned a panel at a time.
    most = BLOCK if b_column == 1 and to_be_packed(rows, min(k, K_BLOCK), b_k) else PANEL
    wide = min(columns, most * LANES)
    for first in range(0, k, K_BLOCK):
        deep = min(K_BLOCK, k - first)
        begin, begin_stride = (start, start_stride) if first == 0 else (c, c_stride)
        for r in range(0, rows, some):
            count = min(some, rows - r)
            part, part_row, part_k = a + 4 * (first * a_k + r * a_row), a_row, a_k
            # The rows of a that come next, or those of b.
            then, then_stride = part + 4 * count, a_k
            then_rows, then_columns = deep, min(some, rows - r - count)
            if r + count == rows:
                then, then_stride = b + 4 * (first + deep) * b_k, b_k
                then_rows, then_columns = min(K_BLOCK, k - first - deep), wide
                if b_column != 1:
                    then_stride, then_rows, then_columns = b_column, wide, then_rows
            if turn:
                turn_call(turned, deep, part, a_k, deep, count)
                part, part_row, part_k = turned, deep, np.int64(1)
            kept = r > 0 and wide == columns
            _strip_call(c + 4 * r * c_stride, c_stride, offset(begin, r * begin_stride),
                        begin_stride, part, part_row, part_k, b + 4 * first * b_k, b_k, b_column,
                        count, deep, columns, most, packed, np.int64(kept), then, then_stride,
                        then_rows, max(then_columns, 1))


if COMPILED:
    _in_blocks_call = standalone(_in_blocks)


def _tiled(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns):
    """c = start + a @ b. start: 0 for none, c to add to it, or a row with stride 0."""
    turn = a_row == 1 and columns > 2 * LANES and min(k, K_BLOCK) * a_k >= A_SPREAD
    single = (columns <= PANEL * LANES and k <= K_BLOCK and b_column == 1 and not turn
              and not to_be_packed(rows, k, b_k))
    if single and columns <= 2 * LANES:
        narrow(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns)
    elif single:
        # What comes next is a's.
        vectors = (columns + LANES - 1) // LANES
        _panel_call(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, k, rows, vectors,
                    columns - (vectors - 1) * LANES, c, a + 4 * TALL * a_row, 4 * a_row,
                    TALL if a_row != 1 else 0, 1, 0)
    else:
        _in_blocks_call(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k,
                        columns, np.int64(turn))


tiled = standalone(_tiled) if COMPILED else None
