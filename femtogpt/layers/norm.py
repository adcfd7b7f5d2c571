"""Layer normalisation (Ba, Kiros, Hinton 2016).

    out = gain * (x - mean) / sqrt(variance + eps) + bias

with mean and variance over a row's C numbers. With n = (x - mean) rstd:

    dbias = sum of dout     dgain = sum of dout n
    dn = dout gain          dx = rstd (dn - mean(dn) - n mean(dn n))
"""

import numpy as np

from .formulas import fma
from .numeric import kernel
from .rows import row_function, sum_row

EPS = 1e-5


@row_function(outputs=1, scalars=1, totals=["+"])
def deviation_row(x, mean):
    """out = x - mean; returns the sum of squares."""
    d = x - mean
    return d, d * d


@row_function(outputs=1, inputs=3, scalars=1)
def normalise_row(deviation, gain, bias, rstd):
    """out = gain deviation rstd + bias."""
    return fma(deviation * rstd, gain, bias)


@row_function(outputs=2, inputs=5, scalars=2, totals=["+", "+"])
def parameter_gradients_row(dgain, dbias, dout, x, gain, mean, rstd):
    """dgain and dbias with this row's added; returns the sums of dn and dn n."""
    normal, dn = (x - mean) * rstd, dout * gain
    return fma(dout, normal, dgain), dbias + dout, dn, dn * normal


@row_function(outputs=1, inputs=4, scalars=4)
def input_gradient_row(dx, dout, x, gain, mean, rstd, mean_dn, mean_dn_n):
    """dx with this row's added."""
    normal = (x - mean) * rstd
    return fma(fma(-normal, mean_dn_n, fma(dout, gain, -mean_dn)), rstd, dx)


@kernel
def norm_forward(out, mean, rstd, x, gain, bias):
    """Overwrites out, mean and rstd (one over the standard deviation)."""
    # out, x: (N, C)   mean, rstd: (N,)   gain, bias: (C,)
    N, C = x.shape
    scalar = x.dtype.type
    for n in range(N):
        m = sum_row(x[n], C) / scalar(C)
        squares = deviation_row(out[n], x[n], C, m)
        r = scalar(1) / np.sqrt(squares / scalar(C) + scalar(EPS))
        normalise_row(out[n], out[n], gain, bias, C, r)
        mean[n], rstd[n] = m, r


@kernel
def norm_backward(dx, dgain, dbias, dout, x, mean, rstd, gain):
    """Adds to dx, dgain and dbias."""
    # dx, dout, x: (N, C)   mean, rstd: (N,)   dgain, dbias, gain: (C,)
    N, C = x.shape
    scalar = x.dtype.type
    for n in range(N):
        m, r = mean[n], rstd[n]
        dn, dn_n = parameter_gradients_row(dgain, dbias, dgain, dbias, dout[n], x[n], gain, C, m, r)
        input_gradient_row(dx[n], dx[n], dout[n], x[n], gain, C, m, r,
                           dn / scalar(C), dn_n / scalar(C))
