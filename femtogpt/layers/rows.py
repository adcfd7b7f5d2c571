"""What is done to a whole row at once: its largest number, its exponentials, a dot product.

In float32 these are loops over the processor's vectors in LLVM IR, the last vector
masked. Left to itself, LLVM unrolls such loops so far that rows as short as
attention's (80 numbers) fall through to its scalar remainder: a softmax took 3.1 ns a
number, and takes 0.5 so.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .numeric import FASTMATH, exp
from .tiles import VECTORS, address_of

_I64, _I32, _F32 = ir.IntType(64), ir.IntType(32), ir.FloatType()
_LANES = VECTORS.lanes if VECTORS else 4
_VECTOR, _BITS = ir.VectorType(_F32, _LANES), ir.VectorType(_I32, _LANES)
_MASK, _INDICES = ir.VectorType(ir.IntType(1), _LANES), ir.VectorType(_I64, _LANES)

_OPTIONS = {"fastmath": set(FASTMATH), "error_model": "numpy"}


def largest(row, count):
    """The largest of a row's first `count` numbers, at least one (with NaN among them: any)."""
    return np.max(row[:count])


def exp_row(out, x, count, most, scale):
    """out[:count] = e^(scale (x[:count] - most)); returns their sum. out may be x itself."""
    out[:count] = exp((x[:count] - most) * scale)
    return np.sum(out[:count])


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


def _constant(value):
    return ir.Constant(_VECTOR, [float(np.float32(value))] * _LANES)


def _splat(builder, scalar, kind):
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, _I32(0))
    zeros = ir.Constant(_BITS, None)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _declare(builder, name, result, *parameters):
    kind = ir.FunctionType(result, parameters)
    return cgutils.get_or_insert_function(builder.module, kind, name)


def _reduce(builder, name, vector, *start):
    """One number of a vector; the order of a sum is LLVM's, and always the same."""
    function = _declare(builder, f"llvm.vector.reduce.{name}.v{_LANES}f32", _F32,
                        *[_F32 for _ in start], _VECTOR)
    flags = ("reassoc", "nnan") if name == "fmax" else ("reassoc",)
    return builder.call(function, [*start, vector], fastmath=flags)


def _loop(builder, count, first, body):
    """Emits: for i in range(0, count, lanes): value = body(i, mask, value). Returns value."""
    before = builder.basic_block
    loop, done = builder.append_basic_block("row"), builder.append_basic_block("row_done")
    builder.cbranch(builder.icmp_signed(">", count, _I64(0)), loop, done)
    builder.position_at_end(loop)
    i, value = builder.phi(_I64), builder.phi(_VECTOR)
    lanes = builder.add(_splat(builder, i, _INDICES), ir.Constant(_INDICES, list(range(_LANES))))
    mask = builder.icmp_signed("<", lanes, _splat(builder, count, _INDICES))
    new = body(i, mask, value)
    following = builder.add(i, _I64(_LANES))
    end = builder.basic_block
    for phi, initial, next_one in ((i, _I64(0), following), (value, first, new)):
        phi.add_incoming(initial, before)
        phi.add_incoming(next_one, end)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
    result = builder.phi(_VECTOR)
    result.add_incoming(first, before)
    result.add_incoming(new, end)
    return result


def _at(builder, base, i):
    address = builder.add(base, builder.shl(i, _I64(2)))
    return builder.inttoptr(address, _VECTOR.as_pointer())


def _load(builder, base, i, mask, otherwise):
    function = _declare(builder, f"llvm.masked.load.v{_LANES}f32.p0", _VECTOR,
                        _VECTOR.as_pointer(), _I32, _MASK, _VECTOR)
    return builder.call(function, [_at(builder, base, i), _I32(4), mask, otherwise])


def _store(builder, base, i, mask, vector):
    function = _declare(builder, f"llvm.masked.store.v{_LANES}f32.p0", ir.VoidType(),
                        _VECTOR, _VECTOR.as_pointer(), _I32, _MASK)
    builder.call(function, [vector, _at(builder, base, i), _I32(4), mask])


def _emit_exp(builder, x):
    """numeric.exp's polynomial on a vector, for x <= 0."""
    from . import numeric as n

    fma = _declare(builder, f"llvm.fma.v{_LANES}f32", _VECTOR, _VECTOR, _VECTOR, _VECTOR)
    floor = _declare(builder, f"llvm.floor.v{_LANES}f32", _VECTOR, _VECTOR)
    low = _constant(n._LOWEST)
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    turns = builder.call(floor, [builder.call(fma, [x, _constant(n._LOG2_E), _constant(0.5)])])
    r = builder.call(fma, [turns, _constant(-n._LN2_HIGH), x])
    r = builder.call(fma, [turns, _constant(-n._LN2_LOW), r])
    e = _constant(n._P0)
    for coefficient in (n._P1, n._P2, n._P3, n._P4, n._P5):
        e = builder.call(fma, [e, r, _constant(coefficient)])
    e = builder.call(fma, [builder.fmul(e, r), r, r])
    e = builder.fadd(e, _constant(1))
    exponent = builder.add(builder.fptosi(turns, _BITS), ir.Constant(_BITS, [127] * _LANES))
    power = builder.bitcast(builder.shl(exponent, ir.Constant(_BITS, [23] * _LANES)), _VECTOR)
    return builder.fmul(e, power)


@intrinsic
def _largest_vector(typingctx, x, count):
    def codegen(context, builder, signature, arguments):
        x, count = arguments
        lowest = _constant(-np.inf)

        def body(i, mask, most):
            numbers = _load(builder, x, i, mask, lowest)
            return builder.select(builder.fcmp_ordered(">", numbers, most), numbers, most)

        return _reduce(builder, "fmax", _loop(builder, count, lowest, body))

    return types.float32(types.int64, types.int64), codegen


@intrinsic
def _exp_vector(typingctx, out, x, count, most, scale):
    def codegen(context, builder, signature, arguments):
        out, x, count, most, scale = arguments
        most, scale = _splat(builder, most, _VECTOR), _splat(builder, scale, _VECTOR)
        zero = _constant(0)

        def body(i, mask, total):
            numbers = builder.fsub(_load(builder, x, i, mask, most), most)
            result = _emit_exp(builder, builder.fmul(numbers, scale))
            _store(builder, out, i, mask, result)
            return builder.fadd(total, builder.select(mask, result, zero))

        return _reduce(builder, "fadd", _loop(builder, count, zero, body), _F32(0))

    signature = types.float32(*[types.int64] * 3, types.float32, types.float32)
    return signature, codegen


@intrinsic
def _dot_vector(typingctx, x, y, count):
    def codegen(context, builder, signature, arguments):
        x, y, count = arguments
        fma = _declare(builder, f"llvm.fma.v{_LANES}f32", _VECTOR, _VECTOR, _VECTOR, _VECTOR)
        zero = _constant(0)

        def body(i, mask, total):
            numbers = [_load(builder, base, i, mask, zero) for base in (x, y)]
            return builder.call(fma, [*numbers, total])

        return _reduce(builder, "fadd", _loop(builder, count, zero, body), _F32(0))

    return types.float32(*[types.int64] * 3), codegen


@intrinsic
def _scale_vector(typingctx, x, count, factor):
    def codegen(context, builder, signature, arguments):
        x, count, factor = arguments
        factor, zero = _splat(builder, factor, _VECTOR), _constant(0)

        def body(i, mask, nothing):
            _store(builder, x, i, mask, builder.fmul(_load(builder, x, i, mask, zero), factor))
            return nothing

        _loop(builder, count, zero, body)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.float32), codegen


@intrinsic
def _zero_vector(typingctx, x, count):
    def codegen(context, builder, signature, arguments):
        x, count = arguments
        zero = _constant(0)

        def body(i, mask, nothing):
            _store(builder, x, i, mask, zero)
            return nothing

        _loop(builder, count, zero, body)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic
def _softmax_gradient_vector(typingctx, ds, dp, p, count, dot, scale):
    def codegen(context, builder, signature, arguments):
        ds, dp, p, count, dot, scale = arguments
        dot, scale = _splat(builder, dot, _VECTOR), _splat(builder, scale, _VECTOR)
        zero = _constant(0)

        def body(i, mask, nothing):
            difference = builder.fsub(_load(builder, dp, i, mask, zero), dot)
            share = builder.fmul(_load(builder, p, i, mask, zero), scale)
            _store(builder, ds, i, mask, builder.fmul(difference, share))
            return nothing

        _loop(builder, count, zero, body)
        return context.get_dummy_value()

    signature = types.none(*[types.int64] * 4, types.float32, types.float32)
    return signature, codegen


@overload(largest, jit_options=_OPTIONS)
def _largest(row, count):
    if VECTORS and row.dtype == types.float32:
        return lambda row, count: _largest_vector(address_of(row), np.int64(count))
    return lambda row, count: np.max(row[:count])


@overload(exp_row, jit_options=_OPTIONS)
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


@overload(dot_row, jit_options=_OPTIONS)
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


@overload(scale_row, jit_options=_OPTIONS)
def _scale_row(x, count, factor):
    if VECTORS and x.dtype == types.float32:
        return lambda x, count, factor: _scale_vector(
            address_of(x), np.int64(count), np.float32(factor))

    def scale_row_plain(x, count, factor):
        for i in range(count):
            x[i] *= factor

    return scale_row_plain


@overload(zero_row, jit_options=_OPTIONS)
def _zero_row(x, first, count):
    if VECTORS and x.dtype == types.float32:
        return lambda x, first, count: _zero_vector(
            address_of(x) + 4 * first, np.int64(count - first))

    def zero_row_plain(x, first, count):
        for i in range(first, count):
            x[i] = 0

    return zero_row_plain


@overload(softmax_gradient_row, jit_options=_OPTIONS)
def _softmax_gradient_row(ds, dp, p, count, dot, scale):
    if VECTORS and dp.dtype == types.float32:
        return lambda ds, dp, p, count, dot, scale: _softmax_gradient_vector(
            address_of(ds), address_of(dp), address_of(p), np.int64(count),
            np.float32(dot), np.float32(scale))

    def softmax_gradient_row_plain(ds, dp, p, count, dot, scale):
        for i in range(count):
            ds[i] = (dp[i] - dot) * p[i] * scale

    return softmax_gradient_row_plain
