"""out = start + a @ b in float32 with seven products of halves instead of eight, by addresses.

Strassen, "Gaussian elimination is not optimal" (1969). With a, b and out cut into quadrants,

    m1 = (a11 + a22) (b11 + b22)     m5 = (a11 + a12) b22
    m2 = (a21 + a22) b11             m6 = (a21 - a11) (b11 + b12)
    m3 = a11 (b12 - b22)             m7 = (a12 - a22) (b21 + b22)
    m4 = a22 (b21 - b11)

    out11 = m1 + m4 - m5 + m7        out12 = m3 + m5
    out21 = m2 + m4                  out22 = m1 - m2 + m3 + m6

As in Huang, Smith, Henry and van de Geijn, "Strassen's algorithm reloaded" (2016), none of these
is a matrix of its own. The sums of a and b are made where a and b would be packed, and a tile of
a product goes from the registers to its one or two places in out, while those are in the
first-level cache: a panel of b's sums stays in the second, a's go by, a tile's rows at a time.

Its errors grow with the largest numbers of a and b, not with those that each sum is of. And a NaN
in a row of a reaches a second row of out, in a column of b a second column.
"""

import numpy as np

from .blocks import COMPILED, PANEL, ROWS, offset, panel_width, tiled, upcoming
from .numeric import inlined, standalone
from .rows import row_function
from .tiles import make_tile, make_turn
from .vectors import LANES, address_of, fetch

WIDE = PANEL * LANES
if COMPILED:
    _tile_3, _tile_2 = (make_tile(ROWS, columns, fetches=True, twice=True) for columns in (3, 2))
    _turn_tile = make_turn()
# Of the sum at a time, and numbers of a's quadrant: 504 KiB of b's sums, 1680 of a's. (With half
# or a third of these rows, so that all is in the second level, F takes 5 to 7% longer: to make b's
# sums costs more than to have a's come from the third. Zen 5.)
K_BLOCK, A_NUMBERS = 384, 160 * 384
STRIP = 16  # rows of a transposed a whose sums lie together
# Of each product, counted from zero: the quadrant of out (11, 12, 21, 22) it goes to and its sign,
# and the same of the other, where 0 is none.
PLACES = ((0, 1, 3, 1), (2, 1, 3, -1), (1, 1, 3, 1), (0, 1, 2, 1), (0, -1, 1, 1), (3, 1, 3, 0),
          (0, 1, 0, 0))


@row_function(outputs=7, inputs=4)
def sums_of_a(a11, a12, a21, a22):
    """What of a the seven products are of."""
    return a11 + a22, a21 + a22, a11, a22, a11 + a12, a21 - a11, a12 - a22


@row_function(outputs=7, inputs=4)
def sums_of_b(b11, b12, b21, b22):
    """What of b the seven products are of."""
    return b11 + b22, b11, b12 - b22, b21 - b11, b22, b11 + b12, b21 + b22


def _sum_a(out, size, out_row, x, x_row, right, down, rows, count):
    """Seven matrices, each so many numbers after the one before, of the rows of four. What comes
    next in these rows is fetched: of a transposed a the next strip."""
    for r in range(rows):
        o, i, far = out + 4 * r * out_row, x + 4 * r * x_row, 4 * size
        for quadrant in (0, right, down, right + down):
            fetch(i + 4 * (quadrant + count))
        sums_of_a(o, o + far, o + 2 * far, o + 3 * far, o + 4 * far, o + 5 * far, o + 6 * far,
                  i, i + 4 * right, i + 4 * down, i + 4 * (down + right), count)


def _sum_b(out, size, out_row, x, x_row, right, down, rows, count):
    """_sum_a of b."""
    for r in range(rows):
        o, i, far = out + 4 * r * out_row, x + 4 * r * x_row, 4 * size
        sums_of_b(o, o + far, o + 2 * far, o + 3 * far, o + 4 * far, o + 5 * far, o + 6 * far,
                  i, i + 4 * right, i + 4 * down, i + 4 * (down + right), count)


if COMPILED:
    _sum_a, _sum_b = standalone(_sum_a), standalone(_sum_b)


def _turn_and_sum_b(out, size, x, x_row, right, down, k, columns, space):
    """_sum_b of transposed quadrants: x, (columns, k). space: for LANES rows of four panels."""
    apart = np.int64(LANES * WIDE)
    for p in range(0, k, LANES):
        deep = min(k - p, LANES)
        for i in range(0, columns, LANES):
            to, at = space + 4 * i, x + 4 * (i * x_row + p)
            _turn_tile(to, WIDE, at, x_row, LANES, deep)
            _turn_tile(to + 4 * apart, WIDE, at + 4 * right, x_row, LANES, deep)
            _turn_tile(to + 8 * apart, WIDE, at + 4 * down, x_row, LANES, deep)
            _turn_tile(to + 12 * apart, WIDE, at + 4 * (down + right), x_row, LANES, deep)
        _sum_b(out + 4 * p * columns, size, columns, space, WIDE, apart, 2 * apart, deep, columns)


def _tile(c, c_stride, start, start_stride, sign, other, other_start, other_stride, other_sign,
          a, a_row, a_k, b, k, width, every, soon, soon_stride, c_next):
    """A tile of ROWS rows of a product, to its places."""
    if width == 3 * LANES:
        _tile_3(c, c_stride, start, start_stride, a, a_row, a_k, b, width, k, LANES, every, soon,
                soon_stride, c_next, 4 * c_stride, sign, other, other_start, other_stride,
                other_sign)
    else:  # panel_width leaves no lone register of the five or more that pays asks for
        _tile_2(c, c_stride, start, start_stride, a, a_row, a_k, b, width, k, LANES, every, soon,
                soon_stride, c_next, 4 * c_stride, sign, other, other_start, other_stride,
                other_sign)


if COMPILED:
    _turn_and_sum_b, _tile = standalone(_turn_and_sum_b), standalone(_tile)


def _panel(c, c_stride, c_right, c_down, start, start_stride, start_right, start_down, first,
           a, a_size, a_row, a_k, strip, b, k, rows, columns, after,
           soon, soon_stride, soon_rows, pieces, right, down):
    """Of all quadrants of out so many rows and columns, of which c and start are those of out11.

    first: start is what they start from, else c. a, b: the sums, those of a in strips of rows.
    after: what comes next of c, in numbers. soon..: as upcoming's of b11, to right, down: b's.
    """
    every = k // max(soon_rows, ROWS) + 1
    for r in range(0, rows, ROWS):
        a_rows = a + 4 * (r // strip * strip * k + r % strip * a_row)
        number = r // ROWS
        b_soon = (soon + number // pieces * soon_rows * 4 * soon_stride
                  + 4 * (number % pieces * WIDE))
        c_after = ROWS * c_stride if r + ROWS < rows else after - r * c_stride
        for m in range(7):
            to, sign, other, other_sign = PLACES[m]
            c1 = c + 4 * (r * c_stride + to // 2 * c_down + to % 2 * c_right)
            c2 = c + 4 * (r * c_stride + other // 2 * c_down + other % 2 * c_right)
            s1, s1_stride, s2, s2_stride = c1, c_stride, c2, c_stride
            if first and m < 3:  # m1, m2 and m3 are the first in out11, out21 and out12,
                s1 = offset(start, r * start_stride + to // 2 * start_down + to % 2 * start_right)
                s1_stride = start_stride
            if first and m == 0:  # m1 in out22 too
                s2 = offset(start, r * start_stride + start_down + start_right)
                s2_stride = start_stride
            _tile(c1, c_stride, s1, s1_stride, sign, c2 if other_sign != 0 else 0, s2, s2_stride,
                  other_sign, a_rows + 4 * m * a_size, a_row, a_k, b + 4 * m * k * columns, k,
                  columns, every, b_soon + 4 * (m // 2 * down + m % 2 * right) if m < 4 else b,
                  4 * soon_stride if m < 4 else 0, c1 + 4 * c_after if m < 3 else c1)


if COMPILED:
    _panel = standalone(_panel)


def _even(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns):
    """strassen of an even k, and rows and columns of whole tiles in each half."""
    rows, columns = rows // 2, columns // 2  # from here on those of a quadrant
    deepest = min(K_BLOCK, k // 2)
    most = min(A_NUMBERS // deepest, rows + STRIP - 1) // STRIP * STRIP
    # The heap keeps what is freed, for the next product.
    room = np.empty(7 * deepest * (most + WIDE) + 4 * LANES * WIDE + LANES, np.float32)
    sums = (address_of(room) + 4 * LANES - 1) // (4 * LANES) * (4 * LANES)
    packed = sums + 4 * 7 * deepest * most
    space = packed + 4 * 7 * deepest * WIDE
    strip, sums_row, sums_k = ROWS, np.int64(0), np.int64(1)
    if a_k != 1:
        strip, sums_row, sums_k = STRIP, np.int64(1), STRIP
    for p in range(0, k, 2 * K_BLOCK):
        deep = min(2 * K_BLOCK, k - p) // 2
        if a_k == 1:
            sums_row = np.int64(deep)
        right, down = columns * b_column, deep * b_k
        for r in range(0, rows, most):
            some = min(most, rows - r)
            size, part = most * deep, a + 4 * (p * a_k + r * a_row)
            for i in range(0, some, strip):
                to, x, count = sums + 4 * i * deep, part + 4 * i * a_row, min(strip, some - i)
                if a_k == 1:
                    _sum_a(to, size, deep, x, a_row, deep, rows * a_row, count, deep)
                else:
                    _sum_a(to, size, strip, x, a_k, deep * a_k, rows, deep, count)
            j = np.int64(0)
            while j < columns:
                count = panel_width(columns - j) * LANES
                x = b + 4 * (p * b_k + j * b_column)
                if b_column == 1:
                    _sum_b(packed, deep * count, count, x, b_k, right, down, deep, count)
                else:
                    _turn_and_sum_b(packed, deep * count, x, b_column, right, down, deep, count,
                                    space)
                left = min(columns - j - count, WIDE)
                soon, soon_stride, soon_rows, pieces = upcoming(
                    x + 4 * count * b_column, b_k, b_column, deep, left, (some + ROWS - 1) // ROWS,
                    x, b_k, 0, 1)
                _panel(c + 4 * (r * c_stride + j), c_stride, columns, rows * c_stride,
                       offset(start, r * start_stride + j), start_stride, columns,
                       rows * start_stride, np.int64(p == 0), sums, size, sums_row, sums_k, strip,
                       packed, deep, some, count, count, soon, soon_stride, soon_rows, pieces,
                       right, down)
                j += count
    room[0] = 0  # numba frees an array after the last line that names it


if COMPILED:
    _even = standalone(_even)


@inlined
def pays(c_stride, b_column, rows, k, columns):
    """Whether strassen is faster. It is where vectors lie within lines of the cache in every
    quadrant of out, and the sums of b, and of a, are used for long. (By how much:
    benchmarks/strassen.py. Bounds set on a Zen 5: with 160 for 320 E takes 2% longer, with 480 a
    model of width 384.)"""
    return (rows >= 128 and min(k, columns) >= 320
            and columns % (2 * LANES) == 0 and c_stride % LANES == 0)


def _strassen(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns):
    """c = start + a @ b, where that pays. start: as blocks.tiled's, which does what is left over
    of an odd k, and of rows."""
    r, p = rows // (2 * ROWS) * 2 * ROWS, k // 2 * 2
    _even(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, r, p, columns)
    if p < k:
        tiled(c, c_stride, c, c_stride, a + 4 * p * a_k, a_row, a_k, b + 4 * p * b_k, b_k,
              b_column, r, k - p, columns)
    if r < rows:
        tiled(c + 4 * r * c_stride, c_stride, offset(start, r * start_stride), start_stride,
              a + 4 * r * a_row, a_row, a_k, b, b_k, b_column, rows - r, k, columns)


strassen = standalone(_strassen) if COMPILED else None


def _product(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns):
    """blocks.tiled, or strassen where that pays."""
    if pays(c_stride, b_column, rows, k, columns):
        strassen(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k,
                 columns)
    else:
        tiled(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns)


product = standalone(_product) if COMPILED else None
