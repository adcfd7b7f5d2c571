"""The arithmetic that formulas are written in: on numpy arrays, or traced into LLVM IR.

A formula computes with whatever it is given. With Vectors, each operation emits an
instruction on LANES numbers; with arrays it is numpy's.
"""

import numpy as np
from llvmlite import ir

from .vectors import BITS, FLOAT, LANES, VECTORS, call, constant, pair


class Vector:
    """An LLVM value of LANES numbers, for formulas to compute with."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def _apply(self, name, *others):
        others = [other.value if isinstance(other, Vector) else constant(other, self.value.type)
                  for other in others]
        return Vector(self.builder, getattr(self.builder, name)(self.value, *others))

    def _constant(self, number):
        return Vector(self.builder, constant(number, self.value.type))

    def __add__(self, other):
        return self._apply("fadd", other)

    def __mul__(self, other):
        return self._apply("fmul", other)

    def __sub__(self, other):
        return self._apply("fsub", other)

    def __truediv__(self, other):
        return self._apply("fdiv", other)

    def __rsub__(self, other):
        return self._constant(other) - self

    def __rtruediv__(self, other):
        return self._constant(other) / self

    def __neg__(self):
        return self._apply("fneg")

    __radd__, __rmul__ = __add__, __mul__

    def select(self, sign, other, yes, no):
        """yes where self sign other, else (with NaN too) no."""
        b = self.builder
        where = b.fcmp_ordered(sign, self.value, other.value)
        return Vector(b, b.select(where, yes.value, no.value))

    def call(self, name, *others):
        """A function of LLVM's, by name."""
        return Vector(self.builder, call(self.builder, name, self.value.type, self.value,
                                         *(other.value for other in others)))


def fma(x, y, z):
    """x y + z; compiled, rounded once, where the processor can."""
    if not isinstance(x, Vector) or VECTORS is None:
        return x * y + z
    return x.call("fma", *(v if isinstance(v, Vector) else x._constant(v) for v in (y, z)))


def paired(low, high):
    """Two numbers as bfloat16, in the bits of one. Compiled alone."""
    high = high if isinstance(high, Vector) else low._constant(high)
    return Vector(low.builder, pair(low.builder, low.value, high.value))


def maximum(x, y):
    """The larger of the two; y if either is NaN."""
    if not isinstance(x, Vector):
        return np.maximum(x, y)
    return x.select(">", y, x, y)


def where_positive(x, yes, no):
    """yes where x > 0, else the number no."""
    if not isinstance(x, Vector):
        return np.where(x > 0, yes, no)
    return x.select(">", x._constant(0), yes, x._constant(no))


# e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2; e^r by the minimax
# polynomial of the Cephes library (expf), relative error below 1e-7; 2^n by building the
# float's exponent. (numba's np.exp takes 1.8 ns a number, this 0.13.)
LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
              1.6666665459e-1, 5.0000001201e-1)
LOWEST, HIGHEST = -87.3, 88.0


def exp(x):
    """e^x. In float32 compiled: 0 below -87.3, e^88 above 88; NaN stays NaN."""
    if not isinstance(x, Vector):
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(x)
    if x.value.type.element != FLOAT:
        return x.call("exp")
    b, low, high = x.builder, x._constant(LOWEST), x._constant(HIGHEST)
    y = x.select("<", low, low, x)
    y = y.select(">", high, high, y)
    n = fma(y, LOG2_E, 0.5).call("floor")
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, y))
    e = x._constant(POLYNOMIAL[0])
    for coefficient in POLYNOMIAL[1:]:
        e = fma(e, r, coefficient)
    e = fma(e * r, r, r) + 1
    exponent = b.add(b.fptosi(n.value, BITS), ir.Constant(BITS, [127] * LANES))
    power = b.bitcast(b.shl(exponent, ir.Constant(BITS, [23] * LANES)), x.value.type)
    return x.select("<", low, x._constant(0), e * Vector(b, power))
