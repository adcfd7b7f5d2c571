"""What every layer is written with: the kernel decorator, exp and a hash.

Kernels are plain Python that numba compiles as it stands. With
NUMBA_DISABLE_JIT=1 they still run, slowly, and give the same numbers.
"""

import contextlib
import hashlib
import math
import os
from pathlib import Path

import numba
import numpy as np
import platformdirs
from numba import types
from numba.extending import intrinsic, overload

from .. import __version__
from .vectors import VECTORS

# No fast-math flags anywhere. They let LLVM choose an order of sums and where to fuse a
# multiplication with an addition, and it chooses differently in the process that compiles
# a kernel and in those that load it: the same run would give other bits the second time.
# (It would also hide NaN with some of them.) What is to be fast in spite of that says its
# order itself: sums are row functions (rows.py), products are tiles (tiles.py).
OPTIONS = {"error_model": "numpy"}  # division by zero gives infinity, and no branch


def _cache_folder():
    """The folder of compiled kernels, or None where none can be written.

    numba keeps a stale result when a kernel in *another* file changes, so the
    folder's name holds our version and a hash of every kernel's source. Its
    index is pickle, so the folder is the user's alone.
    """
    package = Path(__file__).resolve().parent.parent
    sources = sorted(package.glob("layers/*.py")) + sorted(package.glob("*.py"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    name = f"kernels-{__version__}-{digest.hexdigest()[:12]}"
    folder = Path(platformdirs.user_cache_dir("femtogpt", appauthor=False)) / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if os.access(folder, os.W_OK) else None
    except OSError:
        return None


CACHE_FOLDER = _cache_folder()


@contextlib.contextmanager
def _numba_cache_in(folder):
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def kernel(function):
    """Compiles a function on its first call (then from the cache); releases the GIL."""
    if CACHE_FOLDER is None:
        return numba.njit(nogil=True, **OPTIONS)(function)
    with _numba_cache_in(CACHE_FOLDER):
        return numba.njit(nogil=True, cache=True, **OPTIONS)(function)


def fma(x, y, z):
    """x y + z; compiled in float32 with one rounding, in one instruction."""
    return x * y + z


@intrinsic
def _fma_float32(typingctx, x, y, z):
    def codegen(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), codegen


@overload(fma, jit_options=OPTIONS)
def _fma(x, y, z):
    # Without vectors there is no such instruction either, only a slow function.
    if VECTORS and x == types.float32:
        return lambda x, y, z: _fma_float32(x, y, z)
    return lambda x, y, z: x * y + z


def exp(x):
    """e^x. In float32 compiled: a polynomial, relative error below 1e-7; NaN stays NaN."""
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(x)


# numba's own np.exp does not vectorise (1.8 ns an element against 0.13 here).
# e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2; e^r by the minimax
# polynomial of the Cephes library (expf); 2^n by building the float's exponent.
LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(-2.12194440e-4)
P0 = np.float32(1.9875691500e-4)
P1 = np.float32(1.3981999507e-3)
P2 = np.float32(8.3334519073e-3)
P3 = np.float32(4.1665795894e-2)
P4 = np.float32(1.6666665459e-1)
P5 = np.float32(5.0000001201e-1)
_ONE = np.float32(1)
_HALF = np.float32(0.5)
LOWEST = np.float32(-87.3)
HIGHEST = np.float32(88.0)


@overload(exp, jit_options=OPTIONS, inline="never")
def _exp(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp_float32(x):
        y = x
        if y < LOWEST:
            y = LOWEST
        if y > HIGHEST:
            y = HIGHEST
        n = np.floor(fma(y, LOG2_E, _HALF))
        r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, y))
        e = fma(P0, r, P1)
        e = fma(e, r, P2)
        e = fma(e, r, P3)
        e = fma(e, r, P4)
        e = fma(e, r, P5)
        e = fma(e * r, r, r) + _ONE
        return e * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)

    return exp_float32


_32_BITS = np.uint64(0xFFFFFFFF)


@kernel
def hash32(x, key):
    """A well mixed 32-bit number of x and key (32-bit numbers in uint64).

    A counter-based generator: no state, so any element can be drawn again, in
    any order, by any thread. Mixing steps of MurmurHash3's finalizer (Appleby).
    """
    h = (x * np.uint64(0x9E3779B1) + key) & _32_BITS
    h = ((h ^ (h >> np.uint64(16))) * np.uint64(0x85EBCA6B)) & _32_BITS
    h = ((h ^ (h >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & _32_BITS
    return h ^ (h >> np.uint64(16))
