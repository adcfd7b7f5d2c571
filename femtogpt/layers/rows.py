"""What is done to a whole row at once: its largest number, its exponentials, a dot product.

In float32 these are loops over the processor's vectors in LLVM IR, the last vector
masked. Left to itself, LLVM unrolls such loops so far that rows as short as
attention's (80 numbers) fall through to its scalar remainder: a causal softmax took
3.1 ns a number, and takes 1.2 so (Zen 5, one thread).
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from .numeric import OPTIONS, exp
from .vectors import (
    BITS,
    LANES,
    VECTOR,
    VECTORS,
    address_of,
    constant,
    declare,
    fma,
    larger,
    load,
    loop,
    reduce,
    splat,
    store,
)


def largest(row, count):
    """The largest of a row's first `count` numbers, at least one (with NaN among them: any)."""
    return np.max(row[:count])


def exp_row(out, x, count, most, scale):
    """out[:count] = e^(scale (x[:count] - most)); returns their sum. out may be x itself."""
    out[:count] = exp((x[:count] - most) * scale)
    return np.sum(out[:count])


def sum_row(x, count):
    """The sum of x[:count]."""
    return np.sum(x[:count])


def dot_row(x, y, count):
    """The sum of x[:count] * y[:count]."""
    return np.dot(x[:count], y[:count])


def scale_row(x, count, factor):
    """x[:count] *= factor."""
    x[:count] *= factor


def zero_row(x, first, count):
    """x[first:count] = 0."""
    x[first:count] = 0


def softmax_gradient_row(ds, dp, p, count, dot, scale):
    """ds[:count] = scale p (dp - dot). ds may be dp itself."""
    ds[:count] = (dp[:count] - dot) * p[:count] * scale


def _emit_exp(builder, x):
    """numeric.exp's polynomial on a vector, for x <= 0."""
    from . import numeric as n

    floor = declare(builder, f"llvm.floor.v{LANES}f32", VECTOR, VECTOR)
    low = constant(n.LOWEST)
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    turns = builder.call(floor, [fma(builder, x, constant(n.LOG2_E), constant(0.5))])
    r = fma(builder, turns, constant(-n.LN2_HIGH), x)
    r = fma(builder, turns, constant(-n.LN2_LOW), r)
    e = constant(n.P0)
    for coefficient in (n.P1, n.P2, n.P3, n.P4, n.P5):
        e = fma(builder, e, r, constant(coefficient))
    e = fma(builder, builder.fmul(e, r), r, r)
    e = builder.fadd(e, constant(1))
    exponent = builder.add(builder.fptosi(turns, BITS), ir.Constant(BITS, [127] * LANES))
    power = builder.bitcast(builder.shl(exponent, ir.Constant(BITS, [23] * LANES)), VECTOR)
    return builder.fmul(e, power)


@intrinsic
def _largest_vector(typingctx, x, count):
    def codegen(context, builder, signature, arguments):
        x, count = arguments
        lowest = constant(-np.inf)

        def body(i, mask, most):
            numbers = load(builder, x, i, mask, lowest)
            return larger(builder)(numbers, most)

        return reduce(builder, larger(builder), loop(builder, count, lowest, body))

    return types.float32(types.int64, types.int64), codegen


@intrinsic
def _exp_vector(typingctx, out, x, count, most, scale):
    def codegen(context, builder, signature, arguments):
        out, x, count, most, scale = arguments
        most, scale = splat(builder, most, VECTOR), splat(builder, scale, VECTOR)
        zero = constant(0)

        def body(i, mask, total):
            numbers = builder.fsub(load(builder, x, i, mask, most), most)
            result = _emit_exp(builder, builder.fmul(numbers, scale))
            store(builder, out, i, mask, result)
            return builder.fadd(total, builder.select(mask, result, zero))

        return reduce(builder, builder.fadd, loop(builder, count, zero, body))

    signature = types.float32(*[types.int64] * 3, types.float32, types.float32)
    return signature, codegen


@intrinsic
def _sum_vector(typingctx, x, count):
    def codegen(context, builder, signature, arguments):
        x, count = arguments
        zero = constant(0)

        def body(i, mask, total):
            return builder.fadd(total, load(builder, x, i, mask, zero))

        return reduce(builder, builder.fadd, loop(builder, count, zero, body))

    return types.float32(types.int64, types.int64), codegen


@intrinsic
def _dot_vector(typingctx, x, y, count):
    def codegen(context, builder, signature, arguments):
        x, y, count = arguments
        zero = constant(0)

        def body(i, mask, total):
            numbers = [load(builder, base, i, mask, zero) for base in (x, y)]
            return fma(builder, *numbers, total)

        return reduce(builder, builder.fadd, loop(builder, count, zero, body))

    return types.float32(*[types.int64] * 3), codegen


@intrinsic
def _scale_vector(typingctx, x, count, factor):
    def codegen(context, builder, signature, arguments):
        x, count, factor = arguments
        factor, zero = splat(builder, factor, VECTOR), constant(0)

        def body(i, mask, nothing):
            store(builder, x, i, mask, builder.fmul(load(builder, x, i, mask, zero), factor))
            return nothing

        loop(builder, count, zero, body)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.float32), codegen


@intrinsic
def _zero_vector(typingctx, x, count):
    def codegen(context, builder, signature, arguments):
        x, count = arguments
        zero = constant(0)

        def body(i, mask, nothing):
            store(builder, x, i, mask, zero)
            return nothing

        loop(builder, count, zero, body)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic
def _softmax_gradient_vector(typingctx, ds, dp, p, count, dot, scale):
    def codegen(context, builder, signature, arguments):
        ds, dp, p, count, dot, scale = arguments
        dot, scale = splat(builder, dot, VECTOR), splat(builder, scale, VECTOR)
        zero = constant(0)

        def body(i, mask, nothing):
            difference = builder.fsub(load(builder, dp, i, mask, zero), dot)
            share = builder.fmul(load(builder, p, i, mask, zero), scale)
            store(builder, ds, i, mask, builder.fmul(difference, share))
            return nothing

        loop(builder, count, zero, body)
        return context.get_dummy_value()

    signature = types.none(*[types.int64] * 4, types.float32, types.float32)
    return signature, codegen


@overload(largest, jit_options=OPTIONS)
def _largest(row, count):
    if VECTORS and row.dtype == types.float32:
        return lambda row, count: _largest_vector(address_of(row), np.int64(count))
    return lambda row, count: np.max(row[:count])


@overload(exp_row, jit_options=OPTIONS)
def _exp_row(out, x, count, most, scale):
    if VECTORS and x.dtype == types.float32:
        return lambda out, x, count, most, scale: _exp_vector(
            address_of(out), address_of(x), np.int64(count),
            np.float32(most), np.float32(scale))

    def exp_row_plain(out, x, count, most, scale):
        total = x.dtype.type(0)
        for i in range(count):
            out[i] = exp((x[i] - most) * scale)
            total += out[i]
        return total

    return exp_row_plain


@overload(sum_row, jit_options=OPTIONS)
def _sum_row(x, count):
    if VECTORS and x.dtype == types.float32:
        return lambda x, count: _sum_vector(address_of(x), np.int64(count))

    def sum_row_plain(x, count):
        total = x.dtype.type(0)
        for i in range(count):
            total += x[i]
        return total

    return sum_row_plain


@overload(dot_row, jit_options=OPTIONS)
def _dot_row(x, y, count):
    if VECTORS and x.dtype == types.float32:
        return lambda x, y, count: _dot_vector(
            address_of(x), address_of(y), np.int64(count))

    def dot_row_plain(x, y, count):
        total = x.dtype.type(0)
        for i in range(count):
            total += x[i] * y[i]
        return total

    return dot_row_plain


@overload(scale_row, jit_options=OPTIONS)
def _scale_row(x, count, factor):
    if VECTORS and x.dtype == types.float32:
        return lambda x, count, factor: _scale_vector(
            address_of(x), np.int64(count), np.float32(factor))

    def scale_row_plain(x, count, factor):
        for i in range(count):
            x[i] *= factor

    return scale_row_plain


@overload(zero_row, jit_options=OPTIONS)
def _zero_row(x, first, count):
    if VECTORS and x.dtype == types.float32:
        return lambda x, first, count: _zero_vector(
            address_of(x) + 4 * first, np.int64(count - first))

    def zero_row_plain(x, first, count):
        for i in range(first, count):
            x[i] = 0

    return zero_row_plain


@overload(softmax_gradient_row, jit_options=OPTIONS)
def _softmax_gradient_row(ds, dp, p, count, dot, scale):
    if VECTORS and dp.dtype == types.float32:
        return lambda ds, dp, p, count, dot, scale: _softmax_gradient_vector(
            address_of(ds), address_of(dp), address_of(p), np.int64(count),
            np.float32(dot), np.float32(scale))

    def softmax_gradient_row_plain(ds, dp, p, count, dot, scale):
        for i in range(count):
            ds[i] = (dp[i] - dot) * p[i] * scale

    return softmax_gradient_row_plain
