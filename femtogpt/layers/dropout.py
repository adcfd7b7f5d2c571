"""Dropout (Srivastava et al. 2014), inverted: what is kept is divided by the chance to be kept.

    out = x mask / (1 - rate)     dx = dout mask / (1 - rate)

The mask is not stored: it is a hash of a key and the element's number, and drawn
again in the backward. So it does not depend on who computes it, or when.
"""

import numpy as np

from .numeric import inlined, kernel

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


@kernel
def dropout_forward(out, x, rate, key, first, down, across):
    """Overwrites out, which may be x. The element in the first row and column is number `first`,
    those below count `down` more each, those beside `across`."""
    # out, x: (N, F)   key: uint64 below 2^32
    scalar = x.dtype.type
    threshold, scale = np.uint64(rate * 4294967296.0), scalar(1 / (1 - rate))
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            kept = hash32(np.uint64(first + r * down + c * across), key) >= threshold
            out[r, c] = x[r, c] * (scale if kept else scalar(0))


@inlined
def dropout_backward(dx, dout, rate, key, first, down, across):
    """Overwrites dx, which may be dout. The mask again, as forward drew it."""
    # dx, dout: (N, F)
    dropout_forward(dx, dout, rate, key, first, down, across)
