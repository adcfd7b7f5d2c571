"""Few rows times a matrix, as decoding tokens needs it: each weight is read once and used once or
a few times, so what counts is how fast weights come in.

    out = x weight + bias        each number: bias, then x[0] weight[0], x[1] weight[1], ...

That is matmul's order, whatever the number of rows, and of threads that share the columns. A
matrix that fits a core's second-level cache goes through register tiles of one row by up to
six vectors (75 to 85 GB/s where the plain loop has 33: C 80, Zen 4). A larger one comes
from memory, which is fastest read from its first number to its last, and faster still where
it is asked for what comes next: the processor, left to foresee it, stops at each page and at
the end of each thread's columns (F, two threads, Zen 4: 0.6 to 0.8 of a token's time).
"""

import numpy as np
from numba import types
from numba.extending import overload

from . import team
from .blocks import COMPILED, tiled
from .formulas import fma
from .numeric import OPTIONS, entry, inlined, kernel, standalone
from .rows import copy_row, row_function
from .tiles import make_tile
from .vectors import LANES, VECTORS, address_of, fetch, float_at

WIDEST, K_BLOCK = 6, 128  # a tile's vectors and rows
CACHED = 2**18  # numbers: 1 MiB
PIECE, AHEAD = 256, 8  # of a larger weight: columns that are read at once, rows asked for ahead
FEW = 8  # rows of x, beyond which tiles are faster, though they wait for what they read
BLOCK_ROWS, BLOCK = 16, 2**14  # a larger weight's rows for tiles: at least, and numbers in all

if COMPILED:
    _tile_1, _tile_2, _tile_3, _tile_4, _tile_5, _tile_6 = (
        make_tile(1, columns) for columns in range(1, WIDEST + 1))


@row_function(outputs=1, inputs=2, scalars=1)
def add_scaled_row(out, x, factor):
    """out = out + x factor."""
    return fma(x, factor, out)


@row_function(outputs=1, inputs=5, scalars=4)
def add_scaled_rows(out, x, y, z, u, a, b, c, d):
    """out = out + x a + y b + z c + u d."""
    return fma(u, d, fma(z, c, fma(y, b, fma(x, a, out))))


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


def rows_product(out, x, weight, bias, desk):
    """row_product of each row. desk: of helpers (team.py) that share the columns, or 0."""
    # out: (N, O)   x: (N, I)
    for n in range(x.shape[0]):
        row_product(out[n], x[n], weight, bias)


@inlined
def _fetch(first, stride, rows, columns):
    """Has rows of a weight brought near. What lies behind its end is not read."""
    for row in range(rows):
        for j in range(0, columns, 16):
            fetch(first + 4 * (row * stride + j))


def _stream(out, out_stride, bias, x, x_stride, weight, stride, count, rows, columns):
    """rows_product by addresses, of `count` rows of x and `rows` of weight. Of weight it takes four
    rows at once (on a Xeon 15 GB/s instead of 12)."""
    for n in range(count):
        copy_row(out + 4 * n * out_stride, bias, columns)
    i = np.int64(0)
    step = 4 * stride
    while i + 4 <= rows:
        for j in range(0, columns, PIECE):
            width = min(PIECE, columns - j)
            w = weight + 4 * (i * stride + j)
            _fetch(w + AHEAD * step, stride, 4, width)
            for n in range(count):
                o, z = out + 4 * (n * out_stride + j), x + 4 * (n * x_stride + i)
                add_scaled_rows(o, o, w, w + step, w + 2 * step, w + 3 * step, width,
                                float_at(z, 0), float_at(z, 1), float_at(z, 2), float_at(z, 3))
        i += 4
    while i < rows:
        for n in range(count):
            o, z = out + 4 * n * out_stride, x + 4 * (n * x_stride + i)
            add_scaled_row(o, o, weight + 4 * i * stride, columns, float_at(z, 0))
        i += 1


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
    _stream_call, _row_tiles_call = standalone(_stream), standalone(_row_tiles)


def _columns(out, out_stride, x, x_stride, weight, stride, bias, rows, inputs, columns, part,
             parts):
    """The columns of one part of rows_product, by addresses."""
    vectors = (columns + LANES - 1) // LANES
    first = vectors * part // parts * LANES
    count = min(vectors * (part + 1) // parts * LANES, columns) - first
    if count <= 0:
        return
    o, w, b = out + 4 * first, weight + 4 * first, bias + 4 * first
    cached = inputs * columns <= CACHED
    if cached and rows == 1:
        _row_tiles_call(o, b, x, w, stride, inputs, count)
    elif not cached and rows <= FEW:
        _stream_call(o, out_stride, b, x, x_stride, w, stride, rows, inputs, count)
    else:
        # A large weight is read in blocks of its rows, from first to last: twice as fast. To ask
        # for the next block takes another tenth (16 rows: 0.84 of a token's time).
        block = inputs if cached else max(BLOCK_ROWS, BLOCK // count)
        for i in range(0, inputs, block):
            start, start_stride = (o, out_stride) if i > 0 else (b, 0)
            if not cached:
                _fetch(w + 4 * (i + block) * stride, stride, block, count)
            tiled(o, out_stride, start, start_stride, x + 4 * i, x_stride, 1,
                  w + 4 * i * stride, stride, 1, rows, min(block, inputs - i), count)


if COMPILED:
    _columns_call = standalone(_columns)


@inlined
def _work(desk):
    """Computes parts of the job on the desk until there are none; what team.take says then."""
    while True:
        part = team.take(desk)
        if part < 0:
            return part
        job = desk + team.JOB
        _columns_call(team.number(job), team.number(job + 8), team.number(job + 16),
                      team.number(job + 24), team.number(job + 32), team.number(job + 40),
                      team.number(job + 48), team.number(job + 56), team.number(job + 64),
                      team.number(job + 72), part, team.number(desk + team.PARTS))
        team.add_one(desk + team.DONE)


def _lead(desk):
    """Has the job that lies ready done, by this thread and its helpers."""
    team.lay(desk)
    _work(desk)
    team.finish(desk)


if COMPILED:
    _lead_call = standalone(_lead)


@entry
def assist(desk):
    """Takes part in each rows_product of the desk's leader, until it is closed."""
    spins = 0
    while True:
        if _work(desk) == team.CLOSED:
            return
        spins = team.wait(spins)


@overload(row_product, jit_options=OPTIONS)
def _row_product_compiled(out, x, weight, bias):
    if out.dtype != types.float32 or VECTORS is None:
        return lambda out, x, weight, bias: stream(out, x, weight, bias)

    def tiled(out, x, weight, bias):
        _columns_call(address_of(out), 0, address_of(x), 0, address_of(weight),
                      weight.strides[0] // 4, address_of(bias), 1, x.size, out.size, 0, 1)

    return tiled


@overload(rows_product, jit_options=OPTIONS)
def _rows_product_compiled(out, x, weight, bias, desk):
    if out.dtype != types.float32 or VECTORS is None:
        def each(out, x, weight, bias, desk):
            for n in range(x.shape[0]):
                stream(out[n], x[n], weight, bias)

        return each

    def tiled(out, x, weight, bias, desk):
        job = (address_of(out), out.strides[0] // 4, address_of(x), x.strides[0] // 4,
               address_of(weight), weight.strides[0] // 4, address_of(bias), x.shape[0],
               x.shape[1], weight.shape[1])
        if desk == 0:
            _columns_call(*job, 0, 1)
        else:
            for i in range(10):
                team.put_number(desk + team.JOB + 8 * i, job[i])
            _lead_call(desk)

    return tiled
