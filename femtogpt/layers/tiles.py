"""Register tiles: the innermost loop of a matrix product, in explicit vectors.

A tile is a few rows by a few vectors of the product that stays in the
processor's registers while the sum over k runs. numba cannot be told to keep
it there, so the loop is emitted as LLVM IR. At the widths this project trains
(64 to 192) it beats calling BLAS; benchmarks/ measures by how much.
"""

from typing import NamedTuple

import llvmlite.binding as llvm
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


def make_tile(lanes, rows, columns):
    """An intrinsic tile(c, c_stride, start, start_stride, a, a_row, a_k, b, k, last).

    c[r, :] = start[r, :] + sum over k of a[r, k] * b[k, :] for `rows` rows and
    `columns` * `lanes` columns, of whose last vector only `last` columns are read
    and written. All arguments are int64; c, start, a, b are addresses of float32,
    strides count elements. start = 0 begins with zeros; start = c adds to c. b is
    packed: its rows follow each other without a gap.
    """
    i64, i32, f32 = ir.IntType(64), ir.IntType(32), ir.FloatType()
    vector, mask_type = ir.VectorType(f32, lanes), ir.VectorType(ir.IntType(1), lanes)

    def codegen(context, builder, signature, arguments):
        c, c_stride, start, start_stride, a, a_row, a_k, b, size, last = arguments
        module = builder.module

        def declare(name, result, *parameters):
            return cgutils.get_or_insert_function(module, ir.FunctionType(result, parameters), name)

        pointer = vector.as_pointer()
        suffix = f"v{lanes}f32"
        masked_load = declare(f"llvm.masked.load.{suffix}.p0", vector, pointer, i32, mask_type, vector)
        masked_store = declare(
            f"llvm.masked.store.{suffix}.p0", ir.VoidType(), vector, pointer, i32, mask_type
        )
        fma = declare(f"llvm.fma.{suffix}", vector, vector, vector, vector)

        def at(base, *offsets):
            """The address of the float32 that lies the sum of `offsets` after `base`."""
            for offset in offsets:
                base = builder.add(base, builder.shl(offset, i64(2)))
            return base

        def splat(scalar, kind):
            one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, i32(0))
            zeros = ir.Constant(ir.VectorType(i32, lanes), None)
            return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

        indices = ir.VectorType(i64, lanes)
        mask = builder.icmp_signed(
            "<", ir.Constant(indices, list(range(lanes))), splat(last, indices)
        )
        zero = ir.Constant(vector, None)
        cells = [(r, j) for r in range(rows) for j in range(columns)]

        before = builder.basic_block
        load_start = builder.append_basic_block("load_start")
        loop = builder.append_basic_block("loop")
        done = builder.append_basic_block("done")
        enter = builder.append_basic_block("enter")
        builder.cbranch(builder.icmp_signed("==", start, i64(0)), enter, load_start)

        builder.position_at_end(load_start)
        loaded = {}
        for r, j in cells:
            address = at(start, builder.mul(start_stride, i64(r)), i64(j * lanes))
            where = builder.inttoptr(address, pointer)
            if j == columns - 1:
                loaded[r, j] = builder.call(masked_load, [where, i32(4), mask, zero])
            else:
                loaded[r, j] = builder.load(where, align=4)
        builder.branch(enter)

        builder.position_at_end(enter)
        first = {}
        for cell in cells:
            first[cell] = builder.phi(vector)
            first[cell].add_incoming(zero, before)
            first[cell].add_incoming(loaded[cell], load_start)
        a_rows = [at(a, builder.mul(a_row, i64(r))) for r in range(rows)]
        builder.cbranch(builder.icmp_signed(">", size, i64(0)), loop, done)

        builder.position_at_end(loop)
        k = builder.phi(i64)
        a_offset, b_at = builder.phi(i64), builder.phi(i64)
        sums = {cell: builder.phi(vector) for cell in cells}
        b_row = [
            builder.load(builder.inttoptr(at(b_at, i64(j * lanes)), pointer), align=4)
            for j in range(columns)
        ]
        new = {}
        for r in range(rows):
            address = builder.add(a_rows[r], a_offset)
            scalar = builder.load(builder.inttoptr(address, f32.as_pointer()), align=4)
            a_value = splat(scalar, vector)
            for j in range(columns):
                new[r, j] = builder.call(fma, [a_value, b_row[j], sums[r, j]])
        k_next = builder.add(k, i64(1))
        for phi, initial, following in (
            (k, i64(0), k_next),
            (a_offset, i64(0), at(a_offset, a_k)),
            (b_at, b, at(b_at, i64(columns * lanes))),
            *((sums[cell], first[cell], new[cell]) for cell in cells),
        ):
            phi.add_incoming(initial, enter)
            phi.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", k_next, size), loop, done)

        builder.position_at_end(done)
        for r, j in cells:
            result = builder.phi(vector)
            result.add_incoming(first[r, j], enter)
            result.add_incoming(new[r, j], loop)
            first[r, j] = result
        for r, j in cells:
            address = at(c, builder.mul(c_stride, i64(r)), i64(j * lanes))
            where = builder.inttoptr(address, pointer)
            if j == columns - 1:
                builder.call(masked_store, [first[r, j], where, i32(4), mask])
            else:
                builder.store(first[r, j], where, align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, c, c_stride, start, start_stride, a, a_row, a_k, b, k, last):
        return types.none(*[types.int64] * 10), codegen

    return tile
