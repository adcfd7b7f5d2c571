"""Numbers so small that the processor is told to take them for zero.

Below 1.2e-38 float32 goes on, with fewer and fewer digits, down to 1.4e-45: denormal numbers. An
x86 processor does arithmetic with them in microcode, which takes some hundred cycles instead of
a half, and trained models have many: GELU of what lies far below zero, times a gradient; moments
of tokens not seen for long. They count for nothing in any sum here. `python
benchmarks/denormals.py` prints what they cost where they are kept.
"""

import contextlib

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .numeric import entry

# Of the MXCSR register: results that are denormal become zero; operands that are, count as zero.
FLUSH = 0x8000 | 0x0040
# Elsewhere (ARM) they take little longer than others.
ON_X86 = llvm.get_process_triple().startswith("x86_64") and not numba.config.DISABLE_JIT

I32, POINTER = ir.IntType(32), ir.IntType(8).as_pointer()


def _call(builder, name, place):
    callee = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [POINTER]), name)
    builder.call(callee, [builder.bitcast(place, POINTER)])


@intrinsic
def load_control(typingctx):
    """The calling thread's MXCSR, uint32."""

    def codegen(context, builder, signature, arguments):
        place = cgutils.alloca_once(builder, I32)
        _call(builder, "llvm.x86.sse.stmxcsr", place)
        return builder.load(place)

    return types.uint32(), codegen


@intrinsic
def store_control(typingctx, value):
    """Sets the calling thread's MXCSR, a uint32."""

    def codegen(context, builder, signature, arguments):
        place = cgutils.alloca_once_value(builder, arguments[0])
        _call(builder, "llvm.x86.sse.ldmxcsr", place)
        return context.get_dummy_value()

    return types.none(types.uint32), codegen


@entry
def control():
    """load_control, for Python."""
    return load_control()


@entry
def set_control(value):
    """store_control, for Python."""
    store_control(value)


@contextlib.contextmanager
def no_denormals():
    """In here the calling thread takes denormal numbers for zero."""
    if not ON_X86:
        yield
        return
    before = control()
    set_control(np.uint32(before | FLUSH))
    try:
        yield
    finally:
        set_control(np.uint32(before))
