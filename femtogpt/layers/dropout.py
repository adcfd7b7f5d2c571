"""Dropout (Srivastava et al. 2014), inverted: what is kept is divided by the chance to be kept.

    out = x mask / (1 - rate)     dx = dout mask / (1 - rate)

The mask is not stored: it is a hash of a key and the element's number, and drawn
again in the backward. So it does not depend on who computes it, or when.
"""

import numpy as np

from .numeric import hash32, inlined, kernel


@inlined
def dropout_threshold(rate):
    """An element whose hash is below this is dropped."""
    return np.uint64(rate * 4294967296.0)


@kernel
def dropout_forward(x, rate, key, first):
    """In place: x becomes out. Element i of x is number first + i."""
    # x: (F,)   key: uint64 below 2^32
    scalar = x.dtype.type
    threshold, scale = dropout_threshold(rate), scalar(1 / (1 - rate))
    for i in range(x.size):
        kept = hash32(np.uint64(first + i), key) >= threshold
        x[i] *= scale if kept else scalar(0)


@inlined
def dropout_backward(dx, rate, key, first):
    """In place: dx comes as dout. The mask again, as forward drew it."""
    # dx: (F,)
    dropout_forward(dx, rate, key, first)
