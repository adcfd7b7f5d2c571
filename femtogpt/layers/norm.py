"""Layer normalisation (Ba, Kiros, Hinton 2016).

    out = gain * (x - mean) / sqrt(variance + eps) + bias

with mean and variance over a row's C numbers. With n = (x - mean) rstd:

    dbias = sum of dout     dgain = sum of dout n
    dn = dout gain          dx = rstd (dn - mean(dn) - n mean(dn n))
"""

import numpy as np

from .numeric import kernel

EPS = 1e-5


@kernel
def norm_forward(out, mean, rstd, x, gain, bias):
    """Overwrites out, mean and rstd (one over the standard deviation)."""
    # out, x: (N, C)   mean, rstd: (N,)   gain, bias: (C,)
    N, C = x.shape
    scalar = x.dtype.type
    for n in range(N):
        row, o = x[n], out[n]
        total = scalar(0)
        for c in range(C):
            total += row[c]
        m = total / scalar(C)
        squares = scalar(0)
        for c in range(C):
            squares += (row[c] - m) * (row[c] - m)
        r = scalar(1) / np.sqrt(squares / scalar(C) + scalar(EPS))
        for c in range(C):
            o[c] = (row[c] - m) * r * gain[c] + bias[c]
        mean[n], rstd[n] = m, r


@kernel
def norm_backward(dx, dgain, dbias, dout, x, mean, rstd, gain):
    """Adds to dx, dgain and dbias."""
    # dx, dout, x: (N, C)   mean, rstd: (N,)   dgain, dbias, gain: (C,)
    N, C = x.shape
    scalar = x.dtype.type
    for n in range(N):
        row, do, d = x[n], dout[n], dx[n]
        m, r = mean[n], rstd[n]
        sum_dn, sum_dn_n = scalar(0), scalar(0)
        for c in range(C):
            normal = (row[c] - m) * r
            dnormal = do[c] * gain[c]
            sum_dn += dnormal
            sum_dn_n += dnormal * normal
            dgain[c] += do[c] * normal
            dbias[c] += do[c]
        mean_dn, mean_dn_n = sum_dn / scalar(C), sum_dn_n / scalar(C)
        for c in range(C):
            normal = (row[c] - m) * r
            d[c] += (do[c] * gain[c] - mean_dn - normal * mean_dn_n) * r
