"""Causal softmax: row t of a square matrix over its columns 0..t, zeros after.

    p = e^(scale s) / sum of e^(scale s)     ds = scale p (dp - sum of dp p)
"""

from .numeric import kernel
from .rows import dot_row, exp_row, largest, scale_row, softmax_gradient_row, zero_row


@kernel
def softmax_forward(p, s, scale):
    """Overwrites p, which may be s itself; what s holds above its diagonal is not used."""
    # p, s: (T, T)
    T = s.shape[0]
    scalar = s.dtype.type
    for t in range(T):
        row, out = s[t], p[t]
        total = exp_row(out, row, t + 1, largest(row, t + 1), scalar(scale))
        scale_row(out, t + 1, scalar(1) / total)
        zero_row(out, t + 1, T)


@kernel
def softmax_backward(ds, dp, p, scale):
    """Overwrites ds, which may be dp itself; what dp holds above its diagonal is not used."""
    # ds, dp, p: (T, T)
    T = p.shape[0]
    scalar = p.dtype.type
    for t in range(T):
        row, d, out = p[t], dp[t], ds[t]
        dot = dot_row(d, row, t + 1)
        softmax_gradient_row(out, d, row, t + 1, dot, scalar(scale))
        zero_row(out, t + 1, T)
