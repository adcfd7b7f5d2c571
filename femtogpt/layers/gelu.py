"""GELU in its tanh form (Hendrycks, Gimpel 2016), x (1 + tanh(z/2)) / 2 where

    z = 2 sqrt(2/pi) (x + 0.044715 x^3)

Since (1 + tanh(z/2)) / 2 is the logistic function s(z) = 1 / (1 + e^-z):

    out = x s(z)     slope = s + x s (1 - s) dz/dx     dx = dout slope
"""

import math

from .numeric import exp, fma, kernel

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715


@kernel
def gelu_forward(out, x):
    """Overwrites out, and x by the slope: backward needs no more of it.

    In place, for LLVM does not vectorise what might be two arrays that overlap.
    """
    # out, x: (N, F)
    scalar = x.dtype.type
    for n in range(x.shape[0]):
        row, o = x[n], out[n]
        for f in range(row.size):
            v = row[f]
            square = v * v
            z = v * fma(scalar(CUBIC), square, scalar(LINEAR))
            s = scalar(1) / (scalar(1) + exp(-z))
            o[f] = v * s
            dz = fma(scalar(3 * CUBIC), square, scalar(LINEAR))
            row[f] = fma(v * s * (scalar(1) - s), dz, s)


@kernel
def gelu_backward(dx, slope):
    """dx comes as dout and is overwritten."""
    # dx, slope: (N, F)
    for n in range(slope.shape[0]):
        d, s = dx[n], slope[n]
        for f in range(s.size):
            d[f] *= s[f]
