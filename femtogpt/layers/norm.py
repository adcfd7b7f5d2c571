"""Layer normalisation (Ba, Kiros, Hinton 2016).

    out = gain * (x - mean) / sqrt(variance + eps) + bias

with mean and variance over a row's C numbers. With n = (x - mean) rstd:

    dbias = sum of dout     dgain = sum of dout n
    dn = dout gain          dx = rstd (dn - mean(dn) - n mean(dn n))
"""

import numpy as np

from .numeric import fma, kernel
from .rows import dot_row, sum_row

EPS = 1e-5


@kernel
def norm_forward(out, mean, rstd, x, gain, bias):
    """Overwrites out, mean and rstd (one over the standard deviation)."""
    # out, x: (N, C)   mean, rstd: (N,)   gain, bias: (C,)
    N, C = x.shape
    scalar = x.dtype.type
    for n in range(N):
        row, o = x[n], out[n]
        m = sum_row(row, C) / scalar(C)
        for c in range(C):
            o[c] = row[c] - m
        r = scalar(1) / np.sqrt(dot_row(o, o, C) / scalar(C) + scalar(EPS))
        for c in range(C):
            o[c] = fma(o[c] * r, gain[c], bias[c])
        mean[n], rstd[n] = m, r


@kernel
def norm_backward(dx, dgain, dbias, dout, x, mean, rstd, gain):
    """Adds to dx, dgain and dbias."""
    # dx, dout, x: (N, C)   mean, rstd: (N,)   dgain, dbias, gain: (C,)
    N, C = x.shape
    scalar = x.dtype.type
    normal, dnormal = np.empty(C, x.dtype), np.empty(C, x.dtype)
    for n in range(N):
        row, do, d = x[n], dout[n], dx[n]
        m, r = mean[n], rstd[n]
        for c in range(C):
            normal[c] = (row[c] - m) * r
            dnormal[c] = do[c] * gain[c]
            dgain[c] = fma(do[c], normal[c], dgain[c])
            dbias[c] += do[c]
        mean_dn = sum_row(dnormal, C) / scalar(C)
        mean_dn_n = dot_row(dnormal, normal, C) / scalar(C)
        for c in range(C):
            d[c] = fma(fma(-normal[c], mean_dn_n, dnormal[c] - mean_dn), r, d[c])
