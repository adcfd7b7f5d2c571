"""A tile of each quadrant of Strassen's product, of which strassen.py has the formulas."""

from numba import types

from .tiles import emit_load, emit_store, emit_sum
from .vectors import EVERY, I64, LANES, constant, positional_intrinsic

QUADRANTS = ["c", "c_stride", "c_right", "c_down",
             "start", "start_stride", "start_right", "start_down"]
OF_A = ["a11", "a12", "a22", "a_row", "a_k", "s1", "s_size", "s_row", "s_k"]
OF_B = ["b11", "b21", "b22", "b_k", "t", "k"]
FETCHED = ["every", "soon", "soon_stride", "soon_right", "soon_down", "c_next"]
ARGUMENTS = [*QUADRANTS, "partial", *OF_A, *OF_B, *FETCHED]


def make_seven(rows, columns):
    """An intrinsic of ARGUMENTS, all int64: a tile of each quadrant, `rows` rows by `columns`
    vectors.

    c, start: addresses of out11 and of what it starts from, their strides, and how far from them
    the quadrants beside and below are, in numbers. partial: space for a tile. a11, a12, a22:
    addresses, of which a_row and a_k are the strides; s1: s2, s3 and s4 follow it, each s_size
    numbers after the one before. b11, b21, b22: addresses, b_k their stride; t: t2, t3, t4 and t1,
    one after the other, each k rows of a tile's width. every, soon, soon_stride: as emit_sum's of
    what is read, soon_right, soon_down from it in numbers, as b's quadrants. c_next: how far from c
    what will be written after it is.
    """
    cells = [(r, j) for r in range(rows) for j in range(columns)]

    def codegen(context, builder, signature, arguments):
        given = dict(zip(ARGUMENTS, arguments, strict=True))
        k, c_stride, width = given["k"], given["c_stride"], I64(columns * LANES)

        def after(address, *numbers):
            for number in numbers:
                address = builder.add(address, builder.shl(number, I64(2)))
            return address

        def quadrants(name):
            right, down = given[f"{name}_right"], given[f"{name}_down"]
            return [after(given[name], *far) for far in ((), (right,), (down,), (right, down))]

        def a(number):
            return given[f"a{number}"], given["a_row"], given["a_k"]

        def s(number):
            far = builder.mul(I64(number - 1), given["s_size"])
            return after(given["s1"], far), given["s_row"], given["s_k"]

        def b(number):
            return given[f"b{number}"], given["b_k"]

        def t(number):
            far = builder.mul(I64((2, 3, 4, 1).index(number)), builder.mul(k, width))
            return after(given["t"], far), width

        def product(begin, x, y, soon=None, c=None):
            """begin + x @ y. soon: a quadrant that will be read, c: written some rows further."""
            read, write = (y[0], I64(0)), (given["partial"], I64(0))
            if soon is not None:
                read = soon, builder.shl(given["soon_stride"], I64(2))
            if c is not None:
                write = after(c, given["c_next"]), builder.shl(c_stride, I64(2))
            return emit_sum(builder, begin, *x, *y, k, _every, (given["every"], *read, *write))

        def plus(x, address, stride):
            old = emit_load(builder, cells, address, stride, _every)
            return {cell: builder.fadd(x[cell], old[cell]) for cell in cells}

        def put(x, c, start, stride=given["start_stride"]):
            emit_store(builder, plus(x, start, stride), c, c_stride, _every)

        def keep(x):
            emit_store(builder, x, given["partial"], width, _every)

        c11, c12, c21, c22 = quadrants("c")
        start11, start12, start21, start22 = quadrants("start")
        soon11, soon12, soon21, soon22 = quadrants("soon")
        nothing = {cell: constant(0) for cell in cells}

        p1 = product(nothing, a(11), b(11), soon11)
        keep(p1)
        put(product(p1, a(12), b(21), soon12, c11), c11, start11)
        p1 = emit_load(builder, cells, given["partial"], width, _every)
        p1_p6 = product(p1, s(2), t(2), soon21, c21)
        keep(p1_p6)
        p1_p6_p7 = product(p1_p6, s(3), t(3), soon22, c22)
        put(p1_p6_p7, c22, start22)
        put(product(p1_p6_p7, a(22), t(4), None, c12), c21, start21)
        p5 = product(nothing, s(1), t(1))
        put(p5, c22, c22, c_stride)
        p1_p6_p5 = plus(p5, given["partial"], width)
        put(product(p1_p6_p5, s(4), b(22)), c12, start12)
        return context.get_dummy_value()

    def seven(typingctx, *arguments):
        return types.none(*[types.int64] * len(ARGUMENTS)), codegen

    return positional_intrinsic(seven, "seven", len(ARGUMENTS))


def _every(j):
    return EVERY
