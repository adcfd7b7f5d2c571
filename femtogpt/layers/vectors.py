"""The processor's vectors, and how to emit LLVM IR that uses them.

numba leaves vectors to LLVM's own judgement. Where that is not good enough (tiles.py
and rows.py say why), loops are emitted with explicit vectors; here is what both need.
"""

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


def detect():
    """The processor's widest usable vectors, or None (then products go through BLAS)."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return AVX512
    if features.get("avx2") and features.get("fma"):
        return AVX2
    if features.get("neon"):
        return NEON
    return None


VECTORS = detect()


@intrinsic
def address_of(typingctx, array):
    """Where an array's first number lies, int64. Without array.ctypes' reference counting,
    which costs as much as a short row's whole softmax. The array must be kept alive."""

    def codegen(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), codegen


I64, I32, FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
LANES = VECTORS.lanes if VECTORS else 4
VECTOR, BITS = ir.VectorType(FLOAT, LANES), ir.VectorType(I32, LANES)
MASK, INDICES = ir.VectorType(ir.IntType(1), LANES), ir.VectorType(I64, LANES)


def constant(value):
    """A vector of one float32."""
    return ir.Constant(VECTOR, [float(np.float32(value))] * LANES)


def splat(builder, scalar, kind):
    """A vector of the given type, every lane the scalar."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
    zeros = ir.Constant(BITS, None)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def declare(builder, name, result, *parameters):
    """A function of LLVM's, by name."""
    kind = ir.FunctionType(result, parameters)
    return cgutils.get_or_insert_function(builder.module, kind, name)


def fma(builder, x, y, z):
    """x y + z, rounded once."""
    function = declare(builder, f"llvm.fma.v{LANES}f32", VECTOR, VECTOR, VECTOR, VECTOR)
    return builder.call(function, [x, y, z])


def reduce(builder, combine, vector):
    """One number of a vector: its halves combined, until one lane is left."""
    width = LANES
    while width > 1:
        width //= 2
        upper = ir.Constant(BITS, [width + i % width for i in range(LANES)])
        vector = combine(vector, builder.shuffle_vector(vector, vector, upper))
    return builder.extract_element(vector, I32(0))


def larger(builder):
    """For reduce: lane by lane the larger."""
    return lambda x, y: builder.select(builder.fcmp_ordered(">", x, y), x, y)


def loop(builder, count, first, body):
    """Emits: for i in range(0, count, lanes): value = body(i, mask, value). Returns value."""
    before = builder.basic_block
    loop, done = builder.append_basic_block("row"), builder.append_basic_block("row_done")
    builder.cbranch(builder.icmp_signed(">", count, I64(0)), loop, done)
    builder.position_at_end(loop)
    i, value = builder.phi(I64), builder.phi(VECTOR)
    lanes = builder.add(splat(builder, i, INDICES), ir.Constant(INDICES, list(range(LANES))))
    mask = builder.icmp_signed("<", lanes, splat(builder, count, INDICES))
    new = body(i, mask, value)
    following = builder.add(i, I64(LANES))
    end = builder.basic_block
    for phi, initial, next_one in ((i, I64(0), following), (value, first, new)):
        phi.add_incoming(initial, before)
        phi.add_incoming(next_one, end)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
    result = builder.phi(VECTOR)
    result.add_incoming(first, before)
    result.add_incoming(new, end)
    return result


def at(builder, base, i):
    """A pointer to the vector at float32 number i after the address base."""
    address = builder.add(base, builder.shl(i, I64(2)))
    return builder.inttoptr(address, VECTOR.as_pointer())


def load(builder, base, i, mask, otherwise):
    """The vector at number i after base, in the lanes of mask; elsewhere `otherwise`."""
    function = declare(builder, f"llvm.masked.load.v{LANES}f32.p0", VECTOR,
                        VECTOR.as_pointer(), I32, MASK, VECTOR)
    return builder.call(function, [at(builder, base, i), I32(4), mask, otherwise])


def store(builder, base, i, mask, vector):
    """Stores the lanes of mask at number i after base."""
    function = declare(builder, f"llvm.masked.store.v{LANES}f32.p0", ir.VoidType(),
                        VECTOR, VECTOR.as_pointer(), I32, MASK)
    builder.call(function, [vector, at(builder, base, i), I32(4), mask])
