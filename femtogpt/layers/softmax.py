"""Causal softmax: row t of a square matrix over its columns 0..t, zeros after.

    p = e^(scale s) / sum of e^(scale s)     ds = scale p (dp - sum of dp p)
"""

from .numeric import exp, kernel, largest

BLOCK = 16  # columns are worked on in whole vectors; what is too much is overwritten


@kernel
def softmax_forward(p, s, scale):
    """Overwrites p, which may be s itself; what s holds above its diagonal is not used."""
    # p, s: (T, T)
    T = s.shape[0]
    scalar = s.dtype.type
    for t in range(T):
        row, out = s[t], p[t]
        most = largest(row, t + 1)
        end = min(T, (t // BLOCK + 1) * BLOCK)
        for j in range(t + 1, end):
            row[j] = most
        for j in range(end):
            out[j] = exp((row[j] - most) * scalar(scale))
        for j in range(t + 1, T):
            out[j] = 0
        total = scalar(0)
        for j in range(end):
            total += out[j]
        inverse = scalar(1) / total
        for j in range(end):
            out[j] *= inverse


@kernel
def softmax_backward(ds, dp, p, scale):
    """Overwrites ds, which may be dp itself; what dp holds above its diagonal is not used."""
    # ds, dp, p: (T, T)
    T = p.shape[0]
    scalar = p.dtype.type
    for t in range(T):
        row, d, out = p[t], dp[t], ds[t]
        end = min(T, (t // BLOCK + 1) * BLOCK)
        for j in range(t + 1, end):
            d[j] = 0
        dot = scalar(0)
        for j in range(end):
            dot += d[j] * row[j]
        for j in range(end):
            out[j] = (d[j] - dot) * row[j] * scalar(scale)
        for j in range(end, T):
            out[j] = 0
