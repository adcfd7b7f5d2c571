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
from numba.extending import overload

from .. import __version__

# Not True: the flags 'nnan' and 'ninf' would let a diverged run hide its NaN.
FASTMATH = frozenset({"reassoc", "contract", "arcp", "nsz"})


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
    options = {"nogil": True, "fastmath": set(FASTMATH), "error_model": "numpy"}
    if CACHE_FOLDER is None:
        return numba.njit(**options)(function)
    with _numba_cache_in(CACHE_FOLDER):
        return numba.njit(cache=True, **options)(function)


def exp(x):
    """e^x. In float32 compiled: a polynomial, relative error 1.3e-7 (3e-7 beyond 20); keeps NaN."""
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(x)


# numba's own np.exp does not vectorise (1.8 ns an element against 0.13 here).
# e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2; e^r by the minimax
# polynomial of the Cephes library (expf); 2^n by building the float's exponent.
_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_P0 = np.float32(1.9875691500e-4)
_P1 = np.float32(1.3981999507e-3)
_P2 = np.float32(8.3334519073e-3)
_P3 = np.float32(4.1665795894e-2)
_P4 = np.float32(1.6666665459e-1)
_P5 = np.float32(5.0000001201e-1)
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_LOWEST = np.float32(-87.3)
_HIGHEST = np.float32(88.0)


@overload(exp, jit_options={"fastmath": set(FASTMATH), "error_model": "numpy"}, inline="never")
def _exp(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp_float32(x):
        y = x
        if y < _LOWEST:
            y = _LOWEST
        if y > _HIGHEST:
            y = _HIGHEST
        n = np.floor(y * _LOG2_E + _HALF)
        r = y - n * _LN2_HIGH - n * _LN2_LOW
        e = _P0 * r + _P1
        e = e * r + _P2
        e = e * r + _P3
        e = e * r + _P4
        e = e * r + _P5
        e = e * r * r + r + _ONE
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
