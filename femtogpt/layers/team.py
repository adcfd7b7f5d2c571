"""Threads that share pieces of work of a few microseconds: a pool takes longer to hand one over.

One thread leads. It lays a job on the desk, takes parts of it, and waits until the last is done.
Helpers stand at the desk and take parts too, until it is closed. Whoever is free takes the next
part: a helper that the system does not run just then takes none, and nobody waits for it.

A desk is an array of int64 and is passed by its address, 0 for none:

    WORD    the job's number times MOST_PARTS, plus how many of its parts are taken; or CLOSED
    DONE    how many of its parts are done
    PARTS   in how many parts every job is cut
    JOB     what the job is, ROOM numbers

What is taken is counted in the job's own word, so that a helper who comes late cannot take a
part of the next job for one of this.
"""

import contextlib
import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .denormals import ON_X86, no_denormals
from .numeric import inlined

WORD, DONE, PARTS, JOB = 0, 64, 128, 136  # in bytes: words that threads fight for lie apart
ROOM, MOST_PARTS, CLOSED = 16, 256, -1
SPINS = 2000  # looks at the desk before another program may have the processor
I64 = ir.IntType(64)

_system_yield = (ctypes.windll.kernel32.SwitchToThread if sys.platform == "win32"
                 else ctypes.CDLL(None).sched_yield)
llvm.add_symbol("femtogpt_yield", ctypes.cast(_system_yield, ctypes.c_void_p).value)


def _at(builder, address):
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def number(typingctx, address):
    """The int64 at an address; what was stored before it in another thread is seen after it."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(_at(builder, arguments[0]), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def put_number(typingctx, address, value):
    """Stores an int64; whoever sees it sees what this thread stored before."""

    def codegen(context, builder, signature, arguments):
        address, value = arguments
        builder.store_atomic(value, _at(builder, address), "release", 8)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic
def add_one(typingctx, address):
    """Adds 1 to the int64 at an address. Returns what it was."""

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _at(builder, arguments[0]), I64(1), "acq_rel")

    return types.int64(types.int64), codegen


@intrinsic
def exchange(typingctx, address, old, new):
    """Makes the int64 at an address new if it is old; whether it was."""

    def codegen(context, builder, signature, arguments):
        address, old, new = arguments
        both = builder.cmpxchg(_at(builder, address), old, new, "acq_rel", "acquire")
        return builder.extract_value(both, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tells the processor that the thread is only waiting."""

    def codegen(context, builder, signature, arguments):
        if ON_X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind,
                                                        "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def give_way(typingctx):
    """Lets the system run another thread here, if one waits."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "femtogpt_yield"), [])
        return context.get_dummy_value()

    return types.none(), codegen


@inlined
def lay(desk):
    """Opens the job whose numbers stand at JOB to everyone."""
    put_number(desk + DONE, 0)
    put_number(desk + WORD, (number(desk + WORD) // MOST_PARTS + 1) * MOST_PARTS)


@inlined
def take(desk):
    """The next part of the job that is to be done by the caller, or a number below 0: none is
    left, or (CLOSED) none will come."""
    while True:
        word = number(desk + WORD)
        if word == CLOSED:
            return CLOSED
        part = word % MOST_PARTS
        if part >= number(desk + PARTS):
            return CLOSED - 1
        if exchange(desk + WORD, word, word + 1):
            return part


@inlined
def wait(spins):
    """To be called again and again with what it returned, 0 at first, while there is nothing to
    do."""
    pause()
    if spins < SPINS:
        return spins + 1
    give_way()
    return spins


@inlined
def finish(desk):
    """Waits until each part that was taken is done."""
    spins = 0
    while number(desk + DONE) < number(desk + PARTS):
        spins = wait(spins)


class Team:
    """threads: with the one that makes it. assist(desk): a kernel that takes parts until the desk
    is closed."""

    def __init__(self, threads, assist):
        self.threads, self._assist, self._helpers = threads, assist, threads - 1
        self._pool = ThreadPoolExecutor(self._helpers, "femtogpt") if self._helpers else None

    @contextlib.contextmanager
    def desk(self):
        """The address of a desk that helpers stand at meanwhile; 0 where there are none."""
        if not self._helpers:
            yield 0
            return
        # A desk for each time: a helper may still look at the last one.
        space = np.zeros((JOB // 8 + ROOM + 7) // 8 * 8 + 8, np.int64)
        start = -space.ctypes.data % 64 // 8
        desk = space[start:]
        desk[PARTS // 8] = desk[DONE // 8] = 2 * (self._helpers + 1)
        desk[WORD // 8] = desk[PARTS // 8]  # as if all of a job were done
        for _ in range(self._helpers):
            self._pool.submit(self._stand, desk)
        try:
            yield desk.ctypes.data
        finally:
            desk[WORD // 8] = CLOSED

    @no_denormals()
    def _stand(self, desk):
        self._assist(desk.ctypes.data)
