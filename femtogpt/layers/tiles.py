"""Register tiles: the innermost loop of a matrix product, and a transposition.

A tile is a few rows by a few vectors that stays in the processor's registers: of a
product while the sum over k runs, of a matrix while it is turned. numba cannot be
told to keep it there, so the loops are emitted as LLVM IR. At the widths this project
trains (64 to 192) they beat calling BLAS.
"""

from llvmlite import ir
from numba import types

from .vectors import (
    BITS,
    EVERY,
    FLOAT,
    I64,
    INDICES,
    LANES,
    MASK,
    VECTOR,
    constant,
    dot_pairs,
    emit_fetch,
    emit_fresh,
    fma,
    load,
    pair,
    positional_intrinsic,
    splat,
    store,
)


def emit_sum(builder, begin, a, a_row, a_k, b, b_k, size, mask, fetching=None, multiply_add=fma):
    """begin + the sum over k < size of a[r, k] * b[k, :], of every (r, j) of begin a vector: a dict
    as begin, in registers. mask(j): of register j of a row of b.

    fetching: every, and twice an address and its stride in bytes, of rows of as many vectors that
    will soon be read, and of rows that will be written. With the first and each `every` of the
    sum's steps a row of both is fetched, so that it costs nothing: many at once would wait for
    each other. (Without, F takes 3 to 4% longer, E 2%: Xeon.)

    LLVM is not to know how many steps there are, or it would put several into one turn of the loop.
    (Of small tiles it did. With AVX2 A takes 0.965, E 0.975 of that time, on a Zen 4 G 0.97.)
    """
    rows, columns = (1 + max(cell[i] for cell in begin) for i in range(2))
    enter = builder.basic_block
    stretch = builder.append_basic_block("stretch")
    loop = builder.append_basic_block("loop")
    after = builder.append_basic_block("after")
    done = builder.append_basic_block("done")
    a_rows = _rows(builder, a, a_row, begin)
    builder.cbranch(builder.icmp_signed(">", size, I64(0)), stretch, done)

    builder.position_at_end(stretch)
    states = [(I64, I64(0)), (I64, I64(0)), (I64, b)]
    states += [(VECTOR, vector) for vector in begin.values()]
    if fetching:
        every, read, read_stride, written, written_stride = fetching
        states += [(I64, read), (I64, written)]
    begun = []
    for kind, initial in states:
        begun.append(builder.phi(kind))
        begun[-1].add_incoming(initial, enter)
    stop = size
    if fetching:
        for address, write in ((begun[-2], 0), (begun[-1], 1)):
            for j in range(columns):
                emit_fetch(builder, builder.add(address, I64(4 * LANES * j)), write)
        further = [builder.add(begun[-2], read_stride), builder.add(begun[-1], written_stride)]
        stop = builder.add(begun[0], every)
        stop = builder.select(builder.icmp_signed("<", stop, size), stop, size)
    builder.branch(loop)

    builder.position_at_end(loop)
    k, a_offset, b_at = (builder.phi(I64) for _ in range(3))
    sums = {cell: builder.phi(VECTOR) for cell in begin}
    b_row = [load(builder, b_at, I64(j * LANES), mask(j), constant(0)) for j in range(columns)]
    new = {}
    for r in range(rows):
        address = builder.inttoptr(builder.add(a_rows[r], a_offset), FLOAT.as_pointer())
        a_value = splat(builder, builder.load(address, align=4), VECTOR)
        for j in range(columns):
            new[r, j] = multiply_add(builder, a_value, b_row[j], sums[r, j])
    next_k = emit_fresh(builder, builder.add(k, I64(1)))
    following = [next_k, builder.add(a_offset, builder.shl(a_k, I64(2))),
                 builder.add(b_at, builder.shl(b_k, I64(2))), *new.values()]
    for phi, initial, next_one in zip((k, a_offset, b_at, *sums.values()), begun, following,
                                      strict=False):
        phi.add_incoming(initial, stretch)
        phi.add_incoming(next_one, loop)
    builder.cbranch(builder.icmp_signed("<", following[0], stop), loop, after)

    builder.position_at_end(after)
    if fetching:
        following += further
    for phi, next_one in zip(begun, following, strict=True):
        phi.add_incoming(next_one, after)
    builder.cbranch(builder.icmp_signed("<", following[0], size), stretch, done)

    builder.position_at_end(done)
    results = {cell: builder.phi(VECTOR) for cell in begin}
    for cell in begin:
        results[cell].add_incoming(begin[cell], enter)
        results[cell].add_incoming(new[cell], after)
    return results


def emit_load(builder, cells, address, stride, mask):
    """The vectors (r, j) of rows at an address, as many floats apart: {(r, j): vector}."""
    rows = _rows(builder, address, stride, cells)
    return {(r, j): load(builder, rows[r], I64(j * LANES), mask(j), constant(0)) for r, j in cells}


def emit_store(builder, vectors, address, stride, mask):
    """Stores {(r, j): vector} where emit_load finds them."""
    rows = _rows(builder, address, stride, vectors)
    for (r, j), vector in vectors.items():
        store(builder, rows[r], I64(j * LANES), mask(j), vector)


def _rows(builder, address, stride, cells):
    """Where the rows of these cells are."""
    stride = builder.shl(stride, I64(2))
    return [builder.add(address, builder.mul(stride, I64(r)))
            for r in range(1 + max(r for r, _ in cells))]


def make_tile(rows, columns, fetches=False, pairs=False):
    """An intrinsic tile(c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, k, last).

    c[r, :] = start[r, :] + sum over k of a[r, k] * b[k, :] for `rows` rows and
    `columns` vectors, of whose last one only `last` lanes are read and written. All
    arguments are int64; c, start, a, b are addresses of float32, strides count
    elements. start = 0 begins with zeros; start = c adds to c.

    With fetches there are five more, emit_sum's. With pairs each number of a and b is a pair of
    bfloat16 (pair, dot_pairs), each k two products.
    """
    cells = [(r, j) for r in range(rows) for j in range(columns)]

    def codegen(context, builder, signature, arguments):
        c, c_stride, start, start_stride, a, a_row, a_k, b, b_k, size, last = arguments[:11]
        lanes = ir.Constant(INDICES, list(range(LANES)))
        some = builder.icmp_signed("<", lanes, splat(builder, last, INDICES))

        def mask(j):
            return some if j == columns - 1 else EVERY

        before = builder.basic_block
        load_start = builder.append_basic_block("load_start")
        enter = builder.append_basic_block("enter")
        builder.cbranch(builder.icmp_signed("==", start, I64(0)), enter, load_start)

        builder.position_at_end(load_start)
        loaded = emit_load(builder, cells, start, start_stride, mask)
        builder.branch(enter)

        builder.position_at_end(enter)
        begin = {cell: builder.phi(VECTOR) for cell in cells}
        for cell in cells:
            begin[cell].add_incoming(constant(0), before)
            begin[cell].add_incoming(loaded[cell], load_start)
        sums = emit_sum(builder, begin, a, a_row, a_k, b, b_k, size, mask, arguments[11:],
                        dot_pairs if pairs else fma)
        emit_store(builder, sums, c, c_stride, mask)
        return context.get_dummy_value()

    count = 16 if fetches else 11

    def tile(typingctx, *arguments):
        return types.none(*[types.int64] * count), codegen

    return positional_intrinsic(tile, "tile", count)


def make_turn(pairs=False):
    """An intrinsic turn(out, out_stride, x, x_stride, rows, columns): out[c, r] = x[r, c] for at
    most LANES rows and columns. Addresses, strides as above.

    With pairs there are three more, high, high_rows and high_columns, and it turns the pairs of x
    and high, of the same stride, beyond whose rows and columns there are zeros.

    Step d of log2(LANES) exchanges, between each two vectors d apart, every other d lanes.
    """

    def codegen(context, builder, signature, arguments):
        out, out_stride, x, x_stride, rows, columns, *other = arguments
        lanes = ir.Constant(INDICES, list(range(LANES)))
        nothing = ir.Constant(MASK, None)

        def place(base, stride, r):
            return builder.add(base, builder.shl(builder.mul(stride, I64(r)), I64(2)))

        def first(count):
            return builder.icmp_signed("<", lanes, splat(builder, count, INDICES))

        def masks(rows, columns, whole):
            if whole:
                return [EVERY] * LANES
            inside = first(columns)
            return [builder.select(builder.icmp_signed("<", I64(r), rows), inside, nothing)
                    for r in range(LANES)]

        def vectors(x, rows, columns, whole=False):
            return [load(builder, place(x, x_stride, r), I64(0), mask, constant(0))
                    for r, mask in enumerate(masks(rows, columns, whole))]

        def turned(whole):
            v = vectors(x, rows, columns, whole)
            if pairs:
                v = [pair(builder, a, b) for a, b in zip(v, vectors(*other), strict=True)]
            d = 1
            while d < LANES:
                low = [i if not i & d else LANES + i - d for i in range(LANES)]
                high = [i + d if not i & d else LANES + i for i in range(LANES)]
                new = list(v)
                for r in range(LANES):
                    if not r & d:
                        for to, order in ((r, low), (r + d, high)):
                            new[to] = builder.shuffle_vector(v[r], v[r + d],
                                                             ir.Constant(BITS, order))
                v, d = new, 2 * d
            for c, mask in enumerate(masks(columns, rows, whole)):
                store(builder, place(out, out_stride, c), I64(0), mask, v[c])

        if pairs:
            turned(whole=False)
        else:  # masks take a third of the time
            whole = builder.and_(builder.icmp_signed("==", rows, I64(LANES)),
                                 builder.icmp_signed("==", columns, I64(LANES)))
            with builder.if_else(whole) as (then, otherwise):
                with then:
                    turned(whole=True)
                with otherwise:
                    turned(whole=False)
        return context.get_dummy_value()

    count = 9 if pairs else 6

    def turn(typingctx, *arguments):
        return types.none(*[types.int64] * count), codegen

    return positional_intrinsic(turn, "turn", count)
