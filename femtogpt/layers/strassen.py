"""out = start + a @ b in float32 with seven products of halves instead of eight, by addresses.

Strassen, "Gaussian elimination is not optimal" (1969), in Winograd's form (Higham, "Accuracy and
stability of numerical algorithms", 23.1). With a, b and out cut into quadrants,

    s1 = a21 + a22    s2 = s1 - a11    s3 = a11 - a21    s4 = a12 - s2
    t1 = b12 - b11    t2 = b22 - t1    t3 = b22 - b12    t4 = b21 - t2

    p1 = a11 b11      p2 = a12 b21     p3 = s4 b22       p4 = a22 t4
    p5 = s1 t1        p6 = s2 t2       p7 = s3 t3

    out11 = p1 + p2                    out12 = p1 + p6 + p5 + p3
    out21 = p1 + p6 + p7 + p4          out22 = p1 + p6 + p7 + p5

As in Huang, Smith, Henry and van de Geijn, "Strassen's algorithm reloaded" (2016), none of these
is a matrix of its own. The sums of a and b are made where a and b would be packed, and a tile of
a product begins where another ended, in the registers, and goes from there to its place in out,
while that is in the first-level cache: a panel of b's sums stays in the second, a's go by, a
tile's rows at a time.

Its errors grow with the largest numbers of a and b, not with those that each sum is of. And a NaN
in a row of a reaches a second row of out, in a column of b a second column.
"""

import numpy as np

from .blocks import A_SPREAD, B_SPREAD, COMPILED, PANEL, ROWS, offset, panel_width, tiled, upcoming
from .numeric import inlined, standalone
from .rows import copy_row, fill_row, row_function
from .strassen_tile import make_seven
from .tiles import make_turn
from .vectors import (
    AVX2,
    HALVES_REGISTERS,
    LANES,
    VECTORS,
    address_of,
    fetch,
    stack_floats,
)

WIDE = PANEL * LANES
if COMPILED:
    _seven_3, _seven_2 = (make_seven(ROWS, columns) for columns in (3, 2))
    _turn_tile = make_turn()
    _partial_and_zeros = stack_floats((ROWS + 1) * WIDE)
# Columns, and numbers of a sum, from which on it is faster. (Zen 4: with 80 B's step takes 1 to 2%
# longer, with 320 G's 2.5%, D's and E's 4%; with AVX2, there, 3%. The 320 of others is what a form
# with more sums took on a Zen 5. What it is product by product: benchmarks/strassen.py.)
LEAST = 128 if HALVES_REGISTERS or VECTORS is AVX2 else 320
# Of the sum at a time, and numbers of a's quadrant: 252 KiB of b's sums, 840 of a's. (Twice as deep
# F and H take as long, E 1% longer, and errors are up to twice as large: Zen 4.)
K_BLOCK, A_NUMBERS = 192, 160 * 192
STRIP = 16  # rows of a transposed a whose sums lie together


@row_function(outputs=4, inputs=4)
def sums_of_a(a11, a12, a21, a22):
    """s1, s2, s3 and s4."""
    s1 = a21 + a22
    s2 = s1 - a11
    return s1, s2, a11 - a21, a12 - s2


@row_function(outputs=4, inputs=4)
def sums_of_b(b11, b12, b21, b22):
    """t2, t3, t4 and t1."""
    t1 = b12 - b11
    t2 = b22 - t1
    return t2, b22 - b12, b21 - t2, t1


def _sum_a(out, size, out_row, x, x_row, right, down, rows, count, copies):
    """Four matrices, each so many numbers after the one before, of the rows of four, and, if
    asked for, copies of those of a11, a12 and a22. What comes next in these rows is fetched: of a
    transposed a the next strip."""
    for r in range(rows):
        o, i, far = out + 4 * r * out_row, x + 4 * r * x_row, 4 * size
        for quadrant in (0, right, down, right + down):
            fetch(i + 4 * (quadrant + count))
        sums_of_a(o, o + far, o + 2 * far, o + 3 * far,
                  i, i + 4 * right, i + 4 * down, i + 4 * (down + right), count)
        if copies > 0:
            copy_row(o + 4 * far, i, count)
            copy_row(o + 5 * far, i + 4 * right, count)
            copy_row(o + 6 * far, i + 4 * (down + right), count)


def _sum_b(out, size, out_row, x, x_row, right, down, rows, count, copies):
    """_sum_a of b, with copies of b11, b21 and b22."""
    for r in range(rows):
        o, i, far = out + 4 * r * out_row, x + 4 * r * x_row, 4 * size
        sums_of_b(o, o + far, o + 2 * far, o + 3 * far,
                  i, i + 4 * right, i + 4 * down, i + 4 * (down + right), count)
        if copies > 0:
            copy_row(o + 4 * far, i, count)
            copy_row(o + 5 * far, i + 4 * down, count)
            copy_row(o + 6 * far, i + 4 * (down + right), count)


if COMPILED:
    _sum_a, _sum_b = standalone(_sum_a), standalone(_sum_b)


@inlined
def _fetch_quadrants(x, x_row, right, down, first, last, count):
    """Has so many numbers of rows first to last of four quadrants brought near."""
    for row in range(first, last):
        for byte in range(0, 4 * count, 64):
            for quadrant in (0, right, down, right + down):
                fetch(x + 4 * (row * x_row + quadrant) + byte)


def _turn_and_sum_b(out, size, x, x_row, right, down, k, columns, space):
    """_sum_b of transposed quadrants: x, (columns, k). space: for LANES rows of four panels."""
    apart = np.int64(LANES * WIDE)
    for p in range(0, k, LANES):
        deep = min(k - p, LANES)
        for i in range(0, columns, LANES):
            for quadrant in range(4):
                at = x + 4 * (i * x_row + p + quadrant % 2 * right + quadrant // 2 * down)
                _turn_tile(space + 4 * (i + quadrant * apart), WIDE, at, x_row, LANES, deep)
        _sum_b(out + 4 * p * columns, size, columns, space, WIDE, apart, 2 * apart, deep, columns,
               np.int64(1))


if COMPILED:
    _turn_and_sum_b = standalone(_turn_and_sum_b)


def _panel(c, c_stride, c_right, c_down, start, start_stride, start_right, start_down,
           a, a_right, a_down, a_row, a_k, s, size, s_row, s_k, strip, copies,
           b11, b21, b22, b_k, t, k, rows, columns,
           after, soon, soon_stride, soon_rows, pieces, right, down):
    """Of all quadrants of out so many rows and columns, of which c and start are those of out11.

    a, s: of a and of its sums, in strips of rows; copies: whether these are followed by a11, a12
    and a22. b11, b21, b22, t: of b, and its sums. after: what comes next of c, in numbers. soon..:
    as upcoming's of b11, to right, down: b's.
    """
    every, partial = k // max(soon_rows, ROWS) + 1, _partial_and_zeros()
    step = 4 * ROWS * start_stride
    if start == 0:
        start = partial + 4 * ROWS * WIDE  # a row of zeros
        fill_row(start, WIDE, np.float32(0))
        start_stride, start_right, start_down, step = 0, 0, 0, 0
    for r in range(0, rows, ROWS):
        s1 = s + 4 * (r // strip * strip * k + r % strip * s_row)
        if copies > 0:
            a11, a12, a22 = s1 + 16 * size, s1 + 20 * size, s1 + 24 * size
            row, of_k = s_row, s_k
        else:
            a11, row, of_k = a + 4 * r * a_row, a_row, a_k
            a12, a22 = a11 + 4 * a_right, a11 + 4 * (a_right + a_down)
        number = r // ROWS
        b_soon = (soon + number // pieces * soon_rows * 4 * soon_stride
                  + 4 * (number % pieces * WIDE))
        c_after = ROWS * c_stride if r + ROWS < rows else after - r * c_stride
        if columns == 3 * LANES:
            _seven_3(c + 4 * r * c_stride, c_stride, c_right, c_down,
                     start + number * step, start_stride, start_right, start_down,
                     partial, a11, a12, a22, row, of_k, s1, size, s_row, s_k, b11, b21, b22, b_k,
                     t, k, every, b_soon, soon_stride, right, down, c_after)
        else:  # panel_width leaves no lone register where there are two
            _seven_2(c + 4 * r * c_stride, c_stride, c_right, c_down,
                     start + number * step, start_stride, start_right, start_down,
                     partial, a11, a12, a22, row, of_k, s1, size, s_row, s_k, b11, b21, b22, b_k,
                     t, k, every, b_soon, soon_stride, right, down, c_after)


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
    # What is read where it lies is slow where rows are far apart, as in blocks.py.
    copy_a = np.int64(a_k != 1 and deepest * 2 * a_k >= A_SPREAD)
    copy_b = np.int64(b_column != 1 or deepest * 2 * b_k > B_SPREAD)
    strip, sums_row, sums_k = ROWS, np.int64(0), np.int64(1)
    if a_k != 1:
        strip, sums_row, sums_k = STRIP, np.int64(1), STRIP
    for p in range(0, k, 2 * K_BLOCK):
        deep = min(2 * K_BLOCK, k - p) // 2
        if a_k == 1:
            sums_row = np.int64(deep)
        right, down = columns * b_column, deep * b_k
        begin, begin_stride = (start, start_stride) if p == 0 else (c, c_stride)
        for r in range(0, rows, most):
            some = min(most, rows - r)
            size, part = most * deep, a + 4 * (p * a_k + r * a_row)
            # The first panel of b, which no tile has fetched, is while a is summed. (Without, C
            # takes 2% longer, G 1, D and E 0.5: Zen 4.)
            width = min(columns, panel_width(columns) * LANES)
            wanted, length, stride = deep, width, b_k
            if b_column != 1:
                wanted, length, stride = width, deep, b_column
            each = wanted * strip // some + 1
            for i in range(0, some, strip):
                row = i // strip * each
                _fetch_quadrants(b + 4 * p * b_k, stride, right, down, row,
                                 min(row + each, wanted), length)
                to, x, count = sums + 4 * i * deep, part + 4 * i * a_row, min(strip, some - i)
                if a_k == 1:
                    _sum_a(to, size, deep, x, a_row, deep, rows * a_row, count, deep, np.int64(0))
                else:
                    _sum_a(to, size, strip, x, a_k, deep * a_k, rows, deep, count, copy_a)
            j = np.int64(0)
            while j < columns:
                count = panel_width(columns - j) * LANES
                x = b + 4 * (p * b_k + j * b_column)
                far = 4 * deep * count
                b11, b21, b22, of_k = packed + 4 * far, packed + 5 * far, packed + 6 * far, count
                if b_column == 1:
                    _sum_b(packed, deep * count, count, x, b_k, right, down, deep, count, copy_b)
                    if copy_b == 0:
                        b11, b21, b22, of_k = x, x + 4 * down, x + 4 * (right + down), b_k
                else:
                    _turn_and_sum_b(packed, deep * count, x, b_column, right, down, deep, count,
                                    space)
                left = min(columns - j - count, WIDE)
                soon, soon_stride, soon_rows, pieces = upcoming(
                    x + 4 * count * b_column, b_k, b_column, deep, left, (some + ROWS - 1) // ROWS,
                    x, b_k, 0, 1)
                _panel(c + 4 * (r * c_stride + j), c_stride, columns, rows * c_stride,
                       offset(begin, r * begin_stride + j), begin_stride, columns,
                       rows * begin_stride, part, deep * a_k, rows * a_row, a_row, a_k, sums, size,
                       sums_row, sums_k, strip, copy_a, b11, b21, b22, of_k, packed, deep, some,
                       count, count, soon, soon_stride, soon_rows, pieces, right, down)
                j += count
    room[0] = 0  # numba frees an array after the last line that names it


if COMPILED:
    _even = standalone(_even)


@inlined
def pays(rows, k, columns):
    """Whether strassen is faster: where sums are used for long."""
    return rows >= 128 and min(k, columns) >= LEAST


def _strassen(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns):
    """c = start + a @ b, where that pays. start: as blocks.tiled's, which does what is left over
    of an odd k, of columns and of rows."""
    r, p, j = rows // (2 * ROWS) * 2 * ROWS, k // 2 * 2, columns // (2 * LANES) * 2 * LANES
    _even(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, r, p, j)
    if p < k:
        tiled(c, c_stride, c, c_stride, a + 4 * p * a_k, a_row, a_k, b + 4 * p * b_k, b_k,
              b_column, r, k - p, j)
    if j < columns:
        tiled(c + 4 * j, c_stride, offset(start, j), start_stride, a, a_row, a_k,
              b + 4 * j * b_column, b_k, b_column, r, k, columns - j)
    if r < rows:
        tiled(c + 4 * r * c_stride, c_stride, offset(start, r * start_stride), start_stride,
              a + 4 * r * a_row, a_row, a_k, b, b_k, b_column, rows - r, k, columns)


strassen = standalone(_strassen) if COMPILED else None


def _product(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns):
    """blocks.tiled, or strassen where that pays."""
    if pays(rows, k, columns):
        strassen(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k,
                 columns)
    else:
        tiled(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, b_column, rows, k, columns)


product = standalone(_product) if COMPILED else None
