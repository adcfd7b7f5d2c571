"""GELU in its tanh form (Hendrycks, Gimpel 2016), x (1 + tanh(z/2)) / 2 where

    z = 2 sqrt(2/pi) (x + 0.044715 x^3)

Since (1 + tanh(z/2)) / 2 is the logistic function s(z) = 1 / (1 + e^-z):

    out = x s(z)     slope = s + x s (1 - s) dz/dx     dx = dout slope
"""

import math

from .formulas import LOG2_E, exp2, fma
from .numeric import kernel
from .rows import multiply_row, row_function

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715


@row_function(outputs=2)
def gelu_row(x):
    """GELU and its slope."""
    square = x * x
    s = 1 / (1 + exp2(x * fma(square, CUBIC * -LOG2_E, LINEAR * -LOG2_E)))
    out = x * s
    return out, fma(fma(-out, s, out), fma(square, 3 * CUBIC, LINEAR), s)


@kernel
def gelu_forward(out, x):
    """Overwrites out, and x by the slope: backward needs no more of it."""
    # out, x: (N, F)
    for n in range(x.shape[0]):
        gelu_row(out[n], x[n], x[n], x.shape[1])


@kernel
def gelu_backward(dx, slope):
    """dx comes as dout and is overwritten."""
    # dx, slope: (N, F)
    for n in range(slope.shape[0]):
        multiply_row(dx[n], dx[n], slope[n], slope.shape[1])
