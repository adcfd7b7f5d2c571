"""What is done to a whole row at once: one formula, run three ways.

A formula is a Python function of numbers. Traced with Vectors it becomes a loop of LLVM
IR over the processor's vectors, the last one masked; with numpy arrays (the JIT off) it
computes at once. Left to itself, LLVM unrolls such loops so far that rows as short as
ours (64 numbers) fall through to its scalar remainder: a causal softmax took 3.1 ns a
number so, and takes 1.2 with these (Zen 5, one thread).
"""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .formulas import Vector, exp, maximum, paired
from .numeric import inlined
from .vectors import (
    EVERY,
    FLOAT,
    I64,
    INDICES,
    LANES,
    address_of,
    at,
    constant,
    fetch,
    load,
    positional_intrinsic,
    reduce,
    splat,
    store,
)

COMPILED = not numba.config.DISABLE_JIT
COMBINE = {"+": (lambda x, y: x + y, np.sum, 0.0), "max": (maximum, np.max, -np.inf)}


def row_function(outputs=0, inputs=1, scalars=0, totals=()):
    """Turns formula(*inputs, *scalars) -> (*outputs, *totals) into a function of rows,

        function(*outputs, *inputs, count, *scalars) -> totals

    on the first `count` numbers of each row: one-dimensional contiguous arrays of one
    type (or, of float32, their addresses). An output may be an input itself. totals: how
    each total is combined over the row, "+" or "max".
    """
    rows = outputs + inputs

    def decorate(formula):
        def in_numpy(*arguments):
            count, numbers = arguments[rows], arguments[rows + 1 :]
            results = _tuple(formula(*(x[:count] for x in arguments[outputs:rows]), *numbers))
            for out, result in zip(arguments, results[:outputs], strict=False):
                out[:count] = result
            combined = [COMBINE[how][1](x)
                        for how, x in zip(totals, results[outputs:], strict=True)]
            return tuple(combined) if len(combined) > 1 else combined[0] if combined else None

        def compiled(builder, dtype, values):
            kind = _vector(dtype)
            numbers = [Vector(builder, splat(builder, value, kind)) for value in values[rows + 1 :]]
            count, sums = values[rows], _Totals(builder, kind, totals)
            whole = builder.and_(count, I64(-LANES))

            def work(i, mask):
                _element(builder, formula, kind, values[:outputs], values[outputs:rows], i,
                         numbers, sums, mask)

            with cgutils.for_range_slice(builder, I64(0), whole, I64(LANES)) as (i, _):
                work(i, EVERY)
            with builder.if_then(builder.icmp_signed("<", whole, count)):
                lanes = ir.Constant(INDICES, list(range(LANES)))
                left = splat(builder, builder.sub(count, whole), INDICES)
                work(whole, builder.icmp_signed("<", lanes, left))
            return sums.reduced()

        return _choose(formula, in_numpy, compiled, rows, 1, scalars, len(totals))

    return decorate


def column_function(outputs=0, inputs=1, lanes=0, columns=0, scalars=0, totals=()):
    """Turns formula(*inputs, *lanes, *columns, *scalars) -> (*outputs, *totals) into

        function(*totals, *outputs, *inputs, *lanes, *columns, count, width, *scalars)

    on the first `count` rows of matrices whose contiguous rows have `width` numbers, a
    multiple of LANES. lanes: rows of width numbers, one number a column; totals: likewise,
    what the formula's totals come to down each column. columns: of count numbers, one a row.
    """
    first, second = len(totals), len(totals) + outputs
    third = second + inputs
    fourth = third + lanes
    rows = fourth + columns

    def decorate(formula):
        def in_numpy(*arguments):
            count, _, *numbers = arguments[rows:]
            results = _tuple(formula(*(x[:count] for x in arguments[second:third]),
                                     *arguments[third:fourth],
                                     *(x[:count, None] for x in arguments[fourth:rows]),
                                     *numbers))
            for out, result in zip(arguments[first:second], results, strict=False):
                out[:count] = result
            for out, how, x in zip(arguments, totals, results[outputs:], strict=False):
                out[:] = COMBINE[how][1](x, axis=0)

        def compiled(builder, dtype, values):
            kind, (count, width) = _vector(dtype), values[rows : rows + 2]
            numbers = [Vector(builder, splat(builder, value, kind)) for value in values[rows + 2 :]]
            end, twice = builder.mul(count, width), builder.shl(width, I64(1))
            even = builder.mul(builder.and_(count, I64(-2)), width)
            with cgutils.for_range_slice(builder, I64(0), width, I64(LANES)) as (j, _):
                sums, others = _Totals(builder, kind, totals), _Totals(builder, kind, totals)
                fixed = [Vector(builder, load(builder, x, j, EVERY, constant(0, kind)))
                         for x in values[third:fourth]]

                def work(i, row, sums):
                    each = [Vector(builder, splat(builder, _number(builder, x, row, kind), kind))
                            for x in values[fourth:rows]]
                    _element(builder, formula, kind, values[first:second], values[second:third],
                             i, [*fixed, *each, *numbers], sums, EVERY)

                # Of two rows at once, for a total has to wait for the one before.
                with cgutils.for_range_slice(builder, j, even, twice) as (i, pair):
                    row = builder.shl(pair, I64(1))
                    work(i, row, sums)
                    work(builder.add(i, width), builder.add(row, I64(1)), others)
                with builder.if_then(builder.icmp_signed("<", even, end)):
                    work(builder.add(j, even), builder.sub(count, I64(1)), sums)
                sums.add([Vector(builder, total) for total in others.values()], EVERY)
                for address, total in zip(values, sums.values(), strict=False):
                    store(builder, address, j, EVERY, total)
            return []

        return _choose(formula, in_numpy, compiled, rows, 2, scalars, 0)

    return decorate


def _tuple(results):
    return results if isinstance(results, tuple) else (results,)


def _vector(dtype):
    return ir.VectorType(FLOAT if dtype == types.float32 else ir.DoubleType(), LANES)


def _number(builder, address, i, kind):
    """Number i after the address, of the type that kind's are of."""
    pointer = builder.bitcast(at(builder, address, i, kind), kind.element.as_pointer())
    return builder.load(pointer)


class _Totals:
    """Running totals, a vector each, while a loop is emitted."""

    def __init__(self, builder, kind, how):
        self.builder = builder
        self.combine = [COMBINE[name][0] for name in how]
        self.places = [cgutils.alloca_once(builder, kind) for _ in how]
        for place, name in zip(self.places, how, strict=True):
            builder.store(constant(COMBINE[name][2], kind), place)

    def add(self, terms, mask):
        b = self.builder
        for place, combine, term in zip(self.places, self.combine, terms, strict=True):
            old = b.load(place)
            new = combine(Vector(b, old), term).value
            b.store(new if mask is EVERY else b.select(mask, new, old), place)

    def values(self):
        return [self.builder.load(place) for place in self.places]

    def reduced(self):
        b = self.builder
        return [
            reduce(b, lambda x, y, c=combine: c(Vector(b, x), Vector(b, y)).value, total)
            for combine, total in zip(self.combine, self.values(), strict=True)
        ]


def _element(builder, formula, kind, outputs, inputs, i, fixed, sums, mask):
    """The formula on one vector of each row: loads, computes, stores, adds to the totals."""
    numbers = [Vector(builder, load(builder, address, i, mask, constant(0, kind)))
               for address in inputs]
    results = _tuple(formula(*numbers, *fixed))
    for address, result in zip(outputs, results, strict=False):
        store(builder, address, i, mask, result.value)
    sums.add(results[len(outputs):], mask)


def _choose(formula, in_numpy, compiled, rows, counts, scalars, results):
    """in_numpy with the JIT off, else an intrinsic that emits compiled(builder, dtype, values)."""
    if numba.config.DISABLE_JIT:
        in_numpy.__name__, in_numpy.__doc__ = formula.__name__, formula.__doc__
        return in_numpy

    def typing(typingctx, *arguments):
        arrays = [a for a in arguments[:rows] if isinstance(a, types.Array)]
        dtype = arrays[0].dtype if arrays else types.float32
        result = {0: types.none, 1: dtype}.get(results, types.UniTuple(dtype, results))

        def codegen(context, builder, signature, values):
            addresses = [
                builder.ptrtoint(context.make_array(kind)(context, builder, value).data, I64)
                if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args[:rows], values[:rows], strict=True)
            ]
            found = compiled(builder, dtype, [*addresses, *values[rows:]])
            if results == 0:
                return context.get_dummy_value()
            return found[0] if results == 1 else context.make_tuple(builder, result, found)

        return result(*arguments[:rows], *[types.int64] * counts, *[dtype] * scalars), codegen

    return positional_intrinsic(typing, formula.__name__, rows + counts + scalars)


@inlined
def fetch_rows(x):
    """Has the rows of a matrix brought near, for they will be read. They are contiguous each."""
    if COMPILED:
        first, stride, size = address_of(x), x.strides[0], x.shape[1] * x.itemsize
        if (first | stride) & 63 > 0:
            size += 63  # a row may begin in the middle of a line of the cache
        for r in range(x.shape[0]):
            for byte in range(0, size, 64):
                fetch(first + r * stride + byte)


@row_function(totals=["max"])
def largest(x):
    """The largest of x."""
    return x


@row_function(totals=["+"])
def sum_row(x):
    """The sum of x."""
    return x


@row_function(inputs=2, totals=["+"])
def dot_row(x, y):
    """The sum of x y."""
    return x * y


@row_function(outputs=1, inputs=1)
def copy_row(x):
    """out = x."""
    return x


@row_function(outputs=1, inputs=2)
def pair_row(low, high):
    """Pairs of bfloat16 in each number's bits, only for the products of them (bfloat16.py)."""
    return paired(low, high)


@row_function(outputs=1, inputs=1)
def lone_row(low):
    """Pairs of bfloat16 whose second is zero."""
    return paired(low, 0.0)


@row_function(outputs=1, inputs=0, scalars=1)
def fill_row(value):
    """out = value."""
    return value


@row_function(outputs=1, inputs=2)
def add_row(x, y):
    """out = x + y."""
    return x + y


@row_function(outputs=1, inputs=5)
def add_four_rows(x, a, b, c, d):
    """out = x + a + b + c + d."""
    return x + ((a + b) + (c + d))


@inlined
def add_sum_of_rows(out, x):
    """out += the sum of x's rows. out: (M,), x: (N, M). Four at a time, for each addition to out
    has to wait for the one before."""
    N, M = x.shape
    for n in range(0, N - 3, 4):
        add_four_rows(out, out, x[n], x[n + 1], x[n + 2], x[n + 3], M)
    for n in range(N // 4 * 4, N):
        add_row(out, out, x[n], M)


@row_function(outputs=1, inputs=2)
def multiply_row(x, y):
    """out = x y."""
    return x * y


@row_function(outputs=1)
def invert_row(x):
    """out = 1 / x."""
    return 1 / x


@row_function(outputs=1, scalars=1)
def scale_row(x, factor):
    """out = factor x."""
    return x * factor


@row_function(outputs=1, inputs=1, scalars=2, totals=["+"])
def exp_row(x, most, scale):
    """out = e^(scale (x - most)); returns their sum."""
    e = exp((x - most) * scale)
    return e, e
