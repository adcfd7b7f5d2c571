"""The processor's vectors, and how to emit LLVM IR that uses them.

numba leaves vectors to LLVM's own judgement. Where that is not good enough (tiles.py
and rows.py say why), loops are emitted with explicit vectors; here is what both need.
The environment variable FEMTOGPT_VECTORS (avx512, avx2, neon, none) overrides detection.
"""

import inspect
import os
from typing import NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


class Vectors(NamedTuple):
    """lanes: floats in a register. rows, columns: of a tile, in rows and registers.

    rows * columns accumulators, columns of b and one broadcast of a must fit the
    register file: 32 registers of AVX-512 and NEON, 16 of AVX2.
    """

    lanes: int
    rows: int
    columns: int


AVX512 = Vectors(lanes=16, rows=8, columns=3)
AVX2 = Vectors(lanes=8, rows=4, columns=3)
NEON = Vectors(lanes=4, rows=8, columns=3)


KINDS = {"avx512": AVX512, "avx2": AVX2, "neon": NEON, "none": None}


def detect():
    """The processor's widest usable vectors, or None (then products go through BLAS)."""
    forced = os.environ.get("FEMTOGPT_VECTORS")
    if forced:
        if forced not in KINDS:
            raise ValueError(f"FEMTOGPT_VECTORS={forced} is not one of {', '.join(KINDS)}")
        return KINDS[forced]
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return AVX512
    if features.get("avx2") and features.get("fma"):
        return AVX2
    if features.get("neon"):
        return NEON
    return None


VECTORS = detect()
# Whether it is a Zen 4, which works on a register of AVX-512 in two halves: multiplying takes twice
# as long as on others, loads from beyond the first-level cache and addresses do not.
HALVES_REGISTERS = VECTORS is AVX512 and llvm.get_host_cpu_name() == "znver4"
# Whether it multiplies pairs of bfloat16 (dot_pairs).
HAS_BFLOAT16 = VECTORS is AVX512 and bool(llvm.get_host_cpu_features().get("avx512bf16"))


@intrinsic
def address_of(typingctx, array):
    """Where an array's first number lies, int64. Without array.ctypes' reference counting,
    which costs as much as a short row's whole softmax. The array must be kept alive."""

    def codegen(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), codegen


@intrinsic
def fresh(typingctx, number):
    """The int64 itself, of which LLVM is not to know: what follows from it is computed where it is
    used, not for all uses of a loop before the first."""

    def codegen(context, builder, signature, arguments):
        return emit_fresh(builder, arguments[0])

    return types.int64(types.int64), codegen


@intrinsic
def float_at(typingctx, address, i):
    """The float32 number i after an address."""

    def codegen(context, builder, signature, arguments):
        address, i = arguments
        place = builder.inttoptr(address, ir.FloatType().as_pointer())
        return builder.load(builder.gep(place, [i]))

    return types.float32(types.int64, types.int64), codegen


I64, I32, FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
LANES = VECTORS.lanes if VECTORS else 4
VECTOR, BITS = ir.VectorType(FLOAT, LANES), ir.VectorType(I32, LANES)
MASK, INDICES = ir.VectorType(ir.IntType(1), LANES), ir.VectorType(I64, LANES)
EVERY = ir.Constant(MASK, [1] * LANES)


class _BFloat16(ir.Type):
    """LLVM's bfloat, of which llvmlite knows nothing: a float32's first 16 bits."""

    def _to_string(self):
        return "bfloat"


HALVES, PAIRS = ir.VectorType(_BFloat16(), LANES), ir.VectorType(_BFloat16(), 2 * LANES)


def positional_intrinsic(typing, name, count):
    """An intrinsic of `count` arguments from a typing(typingctx, *arguments)."""
    names = ["typingctx", *(f"argument{i}" for i in range(count))]
    typing.__name__ = name
    typing.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names])
    return intrinsic(typing)


def emit_fresh(builder, number):
    """The I64 itself, of which LLVM is not to know."""
    return builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [number], side_effect=True)


def emit_fetch(builder, address, write):
    """Has the cache's line at an address brought near, to the second level."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, I32(write), I32(2), I32(1)])


@intrinsic
def fetch(typingctx, address):
    """Has the cache's line at an address brought near, for it will be read."""

    def codegen(context, builder, signature, arguments):
        emit_fetch(builder, arguments[0], 0)
        return context.get_dummy_value()

    return types.none(types.int64), codegen


def stack_floats(count):
    """An intrinsic without arguments: the address of `count` float32 on the stack, at the beginning
    of a line of the cache, so that none of their vectors lies in two."""

    @intrinsic
    def allocate(typingctx):
        def codegen(context, builder, signature, arguments):
            with builder.goto_entry_block():  # cgutils.alloca_once would also fill it
                space = builder.alloca(ir.ArrayType(FLOAT, count))
                space.align = 64
            return builder.ptrtoint(space, I64)

        return types.int64(), codegen

    return allocate


def constant(value, kind=VECTOR):
    """A vector of one number."""
    number = float(np.float32(value)) if kind.element == FLOAT else float(value)
    return ir.Constant(kind, [number] * LANES)


def splat(builder, scalar, kind):
    """A vector of the given type, every lane the scalar."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(BITS, None))


def call(builder, name, result, *arguments):
    """Calls a vector function of LLVM's; its name's end, v16f32 say, is added."""
    kind = next(a.type for a in arguments if isinstance(a.type, ir.VectorType)
                and isinstance(a.type.element, (ir.FloatType, ir.DoubleType)))
    bits = 32 if kind.element == FLOAT else 64
    function = ir.FunctionType(result, [a.type for a in arguments])
    name = f"llvm.{name}.v{LANES}f{bits}" + (".p0" if "masked" in name else "")
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


def fma(builder, x, y, z):
    """x y + z, rounded once."""
    return call(builder, "fma", x.type, x, y, z)


def scale_by_power(builder, x, n):
    """x 2^n, of whole n. AVX-512 alone."""
    short = ir.IntType(LANES)
    function = ir.FunctionType(VECTOR, [VECTOR, VECTOR, VECTOR, short, I32])
    name = f"llvm.x86.avx512.mask.scalef.ps.{32 * LANES}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name),
                        [x, n, x, ir.Constant(short, -1), I32(4)])


def pair(builder, low, high):
    """Both vectors rounded to bfloat16: in each lane's 32 bits one of low, above it one of high."""
    short = ir.VectorType(ir.IntType(16), LANES)
    low, high = (builder.zext(builder.bitcast(builder.fptrunc(x, HALVES), short), BITS)
                 for x in (low, high))
    high = builder.shl(high, ir.Constant(BITS, [16] * LANES))
    return builder.bitcast(builder.or_(low, high), VECTOR)


def dot_pairs(builder, x, y, z):
    """z and, in each lane, the two products of a pair of x and one of y."""
    function = ir.FunctionType(VECTOR, [VECTOR, PAIRS, PAIRS])
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * LANES}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name),
                        [z, builder.bitcast(x, PAIRS), builder.bitcast(y, PAIRS)])


def reduce(builder, combine, vector):
    """One number of a vector: its halves combined, until one lane is left."""
    width = LANES
    while width > 1:
        width //= 2
        upper = ir.Constant(BITS, [width + i % width for i in range(LANES)])
        vector = combine(vector, builder.shuffle_vector(vector, vector, upper))
    return builder.extract_element(vector, I32(0))


def at(builder, base, i, kind=VECTOR):
    """A pointer to the vector at number i after the address base."""
    shift = 2 if kind.element == FLOAT else 3
    address = builder.add(base, builder.shl(i, I64(shift)))
    return builder.inttoptr(address, kind.as_pointer())


def load(builder, base, i, mask, otherwise):
    """The vector at number i after base, in the lanes of mask (EVERY: all); elsewhere
    `otherwise`, of whose type it is."""
    pointer = at(builder, base, i, otherwise.type)
    if mask is EVERY:
        return builder.load(pointer, align=4)
    return call(builder, "masked.load", otherwise.type, pointer, I32(4), mask, otherwise)


def store(builder, base, i, mask, vector):
    """Stores the lanes of mask (EVERY: all) at number i after base."""
    pointer = at(builder, base, i, vector.type)
    if mask is EVERY:
        builder.store(vector, pointer, align=4)
    else:
        call(builder, "masked.store", ir.VoidType(), vector, pointer, I32(4), mask)
