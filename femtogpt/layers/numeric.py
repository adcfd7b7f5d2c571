"""What every layer is written with: the kernel decorators.

Kernels are plain Python that numba compiles as it stands. With
NUMBA_DISABLE_JIT=1 they still run, slowly, and give the same numbers.
"""

import contextlib
import functools
import gc
import hashlib
import inspect
import os
from pathlib import Path

import llvmlite.binding as llvm
import numba
import platformdirs
from llvmlite import ir
from numba import types
from numba.core import cgutils, event
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.runtime._nrt_python import c_helpers as ARRAY_HELPERS

from .. import __version__
from .vectors import VECTORS, positional_intrinsic

# No fast-math flags anywhere. They let LLVM choose an order of sums and where to fuse a
# multiplication with an addition, and it chooses differently in the process that compiles
# a kernel and in those that load it: the same run would give other bits the second time.
# (It would also hide NaN with some of them.) What is to be fast in spite of that says its
# order itself: sums are row functions (rows.py), products are tiles (tiles.py).
OPTIONS = {"error_model": "numpy"}  # division by zero gives infinity, and no branch


class _Compiling(event.Listener):
    """While numba compiles, Python looks for no garbage: what it makes, millions of objects, stays
    for the most part, and to look through it took a tenth of the time to a first step (Zen 4)."""

    def __init__(self):
        self._depth, self._looks = 0, True

    def on_start(self, _):
        if self._depth == 0:
            self._looks = gc.isenabled()
            gc.disable()
        self._depth += 1

    def on_end(self, _):
        self._depth -= 1
        if self._depth == 0 and self._looks:
            gc.enable()


event.register("numba:compile", _Compiling())


def _optimise_once():
    """numba has LLVM optimise each function twice, by itself and with what it calls. Without the
    first, which is numba's own -O0 here, it runs as fast and compiles in 0.85 of the time (Zen 4).
    """
    code = cpu_target.target_context.codegen()
    if hasattr(code, "_function_pass_manager"):  # another numba may not have it
        code._function_pass_manager = functools.partial(code._function_pass_manager, opt=0)


_optimise_once()


def _cache_folder():
    """The folder of compiled kernels, or None where none can be written.

    numba keeps a stale result when a kernel in *another* file changes, so the
    folder's name holds our version and a hash of every kernel's source, and of
    the vectors they are compiled for, which can be forced. numba's index is
    pickle, so a folder that others can write to is not used.
    """
    package = Path(__file__).resolve().parent.parent
    sources = sorted(package.glob("*.py")) + sorted(package.glob("layers/*.py"))
    sources += sorted(package.glob("tokenizer/*.py"))
    digest = hashlib.sha256(repr(VECTORS).encode())
    for source in sources:
        digest.update(source.read_bytes())
    name = f"kernels-{__version__}-{digest.hexdigest()[:12]}"
    folder = Path(platformdirs.user_cache_dir("femtogpt", appauthor=False)) / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if os.access(folder, os.W_OK) and _only_ours(folder) else None
    except OSError:
        return None


def _only_ours(folder):
    """Whether nobody else can have put anything into the folder: what lies there is executed."""
    status = folder.stat()
    return not hasattr(os, "getuid") or (
        status.st_uid == os.getuid() and not status.st_mode & 0o022)


CACHE_FOLDER = _cache_folder()


def is_compiled(kernels, versions=1):
    """Whether the folder has some of them: "model.*" of a module, "attention.attention_backward-*"
    of one kernel, with the package before it, "layers_*/". versions: for so many types."""
    return len(list(CACHE_FOLDER.glob(f"{kernels}.nbc"))) >= versions


@contextlib.contextmanager
def _numba_cache_in(folder):
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def entry(function):
    """Compiles a function on its first call (then from the cache); releases the GIL."""
    return _compiled(function, _nrt=True)


def kernel(function):
    """An entry for other kernels. Should Python call it, it is compiled once more."""
    return _compiled(function, _Kernel, _nrt=True, no_cpython_wrapper=True)


def allocation_free(function):
    """An entry that makes no arrays. So numba need not count who holds those it is given, which
    takes some 15 ns for each of them: much, for what is called once a token."""
    return _compiled(function, _nrt=False)


def addressed(function):
    """A kernel that makes no arrays either, and is only called by_address."""
    return _compiled(function, _Kernel, _nrt=False, no_cpython_wrapper=True)


def _compiled(function, dispatcher=CPUDispatcher, folder=".", **options):
    if numba.config.DISABLE_JIT:
        return function
    # Without _nrt, whether arrays are counted, it is as for the kernel that has this one compiled.
    options |= {**OPTIONS, "nogil": True, "no_cfunc_wrapper": True}  # nothing in C calls them
    compiled = dispatcher(function, targetoptions={"nopython": True, **options})
    if CACHE_FOLDER is not None:
        with _numba_cache_in(CACHE_FOLDER / folder):
            compiled._cache = _KernelCache(function)
    return compiled


class _Kernel(CPUDispatcher):
    """Without Python's own way to call it, which unpacks each array: of all kernels of a step that
    took 0.7 of 10 s to compile (Zen 4)."""

    def __call__(self, *arguments, **named):
        return self._from_python(*arguments, **named)

    @functools.cached_property
    def _from_python(self):
        return _compiled(self.py_func, folder="from_python", _nrt=self.targetoptions["_nrt"])


class _Results(CompileResultCacheImpl):
    """Of the environments of what is compiled, those that hold anything. Each of the others names
    but a module, of numba mostly, which would be imported with it."""

    def reduce(self, result):
        *saved, environments = super().reduce(result)
        return *saved, tuple(each for each in environments if each.consts)


class _Cache(FunctionCache):
    """What numba's cache=True gives, which loads without readying numba to compile: it would import
    half of itself, and scipy, and compile some functions that nothing calls."""

    _impl_class = _Results

    def load_overload(self, signature, target_context):
        _tell_helpers()
        with self._guard_against_spurious_io_errors():
            return self._load_overload(signature, target_context)


@functools.cache
def _tell_helpers():
    """Gives LLVM the names by which compiled kernels call what counts and allocates arrays."""
    for name, address in ARRAY_HELPERS.items():
        llvm.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


class _KernelCache(_Cache):
    """That of a kernel, which may call by their symbols what is not there yet."""

    def load_overload(self, signature, target_context):
        compile_standalone()
        return super().load_overload(signature, target_context)


def of_types(compiled, kinds):
    """A kernel as it is compiled for arguments of these types, to be called with no others, and by
    no kernel but by_address.

    numba looks for it at each call: of a model's tuples of arrays that takes 5 us (Zen 5).
    """
    if numba.config.DISABLE_JIT:
        return compiled
    return _overload(compiled, kinds).entry_point


def _overload(compiled, kinds):
    compiled.compile(kinds)
    found = compiled.overloads[kinds]
    found.library._shared_module = None  # what a kernel that calls it is linked with: 5 MB
    return found


def code_of_types(compiled, kinds):
    """The address of its machine code, for by_address."""
    if numba.config.DISABLE_JIT:
        return 0
    found = _overload(compiled, kinds)
    return found.library.get_pointer_to_function(found.fndesc.llvm_func_name)


def by_address(compiled, result):
    """call(address, *arguments), for kernels to call another by what code_of_types gave.

    One that is called by its name becomes part of its caller, and is compiled twice. result: the
    type of what it returns.
    """
    if numba.config.DISABLE_JIT:
        return lambda address, *arguments: compiled(*arguments)
    count = len(inspect.signature(compiled.py_func).parameters)

    def typing(typingctx, address, *arguments):
        def codegen(context, builder, signature, values):
            calls = context.call_conv
            kind = calls.get_function_type(result, arguments)
            callee = builder.inttoptr(values[0], kind.as_pointer())
            status, found = calls.call_function(builder, callee, result, arguments, values[1:])
            with cgutils.if_unlikely(builder, status.is_error):
                calls.return_status_propagate(builder, status)
            return found

        return result(types.int64, *arguments), codegen

    return positional_intrinsic(typing, f"call_{compiled.__name__}", count + 1)


def inlined(function):
    """Becomes a part of each kernel that calls it, compiled and optimised with it alone.

    A kernel is optimised by itself, and again as a part of every kernel above it: so the
    levels of a pass between the layers and the whole are kernels only in name. What is called in
    several places is better a kernel: as a part of each, five functions took the first run two
    seconds more.
    """
    return numba.njit(inline="always", **OPTIONS)(function)


def standalone(function):
    """A kernel of int64 arguments that other kernels call by its symbol.

    What a kernel calls otherwise becomes part of it and is optimised again with it, at
    each level of a pass: for a long inner function that is most of the compile time.
    """
    count = len(inspect.signature(function).parameters)
    compiled = CFunc(function, ((types.int64,) * count, types.void), {}, OPTIONS)
    if CACHE_FOLDER is not None:
        with _numba_cache_in(CACHE_FOLDER):
            compiled._cache = _Cache(function)

    def typing(typingctx, *arguments):
        make_ready(call)

        def codegen(context, builder, signature, values):
            emit_call(builder, call, values)
            return context.get_dummy_value()

        return types.none(*[types.int64] * count), codegen

    call = positional_intrinsic(typing, function.__name__, count)
    _symbols[call] = f"{function.__module__}.{function.__name__}"
    _to_compile[call] = _machine_code[call] = compiled
    return call


_symbols, _machine_code = {}, {}  # of what standalone made, to be kept alive
_to_compile = {}  # what of it is neither compiled nor loaded


def emit_call(builder, call, values):
    """Has the kernel that builder makes call what standalone made. It must be ready."""
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(values))
    builder.call(cgutils.get_or_insert_function(builder.module, kind, _symbols[call]), values)


def make_ready(call):
    """Compiles or loads it, and before it what it calls: it cannot be loaded without that."""
    if call in _to_compile:
        compiled = _to_compile[call]
        function = compiled.__wrapped__
        for name in function.__code__.co_names:
            if isinstance(function.__globals__.get(name), type(call)):
                make_ready(function.__globals__[name])
        compiled.compile()
        llvm.add_symbol(_symbols[call], compiled.address)
        del _to_compile[call]


def compile_standalone(last_first=False):
    """Makes ready all that standalone made."""
    while _to_compile:
        make_ready(next(reversed(_to_compile) if last_first else iter(_to_compile)))
