"""Causal self-attention of several heads (Vaswani et al. 2017).

For each sequence and head, with q, k, v the head's (T, hs) columns of qkv:

    s = q k^T     p = causal softmax(s / sqrt(hs))     out = dropout(p) v

    dv = dropout(p)^T dout          dp = dropout's backward of dout v^T
    ds = p (dp - sum of dp p) / sqrt(hs)               dq = ds k     dk = ds^T q

All matrices of T by T are held turned round, a panel of W queries at a time: a row is a
key, its W columns the queries. So softmax and its backward go down columns, with a whole
vector of queries at each step; a panel ends where its last query may look; and no matrix
of T by T is needed whole.

A panel keeps e = e^(s / sqrt(hs) - largest) and `inverse`, one over its sum down each
column: p = e inverse. The factor goes to out and, in backward, to dout, which are smaller.
"""

import math

import numpy as np

from .dropout import dropout_backward, dropout_forward
from .formulas import exp
from .matmul import matmul, matmul_first, transpose
from .numeric import inlined, kernel
from .rows import column_function, copy_row, fill_row, scale_row

# Queries in a panel: whole vectors of any processor. Half of a wider panel's last one would
# be empty at T 80: 32 took 1.1 to 1.3 times as long (Zen 4; at T 256 too).
W = 16
KEPT_TOKENS = 256  # up to here forward keeps e for backward; above, backward makes it again


def panels_shape(num_tokens, sequences, num_heads):
    """The shape of attention's e: (B, NH, rows of a head's panels, W), or (1, 1, T, W), one panel
    to be used over and over, where T is above KEPT_TOKENS."""
    if num_tokens > KEPT_TOKENS:
        return 1, 1, num_tokens, W
    return sequences, num_heads, rows_before(num_tokens) + num_tokens, W


@inlined
def rows_before(end):
    """Rows of a head's panels before the one that ends there: each has W more than its last."""
    number = (end - 1) // W
    return number * (number + 1) // 2 * W


@inlined
def panel_of(e, b, h, end, kept):
    """The panel of a head's queries up to end, (end, W)."""
    if not kept:
        return e[0, 0, :end]
    first = rows_before(end)
    return e[b, h, first : first + end]


@column_function(totals=["max"])
def largest_down(s):
    """The largest of each column."""
    return s


@column_function(outputs=1, lanes=1, scalars=1, totals=["+"])
def exp_down(s, most, scale):
    """e^(scale (s - most)), and its sums."""
    e = exp((s - most) * scale)
    return e, e


@column_function(inputs=2, totals=["+"])
def dot_down(e, dp):
    """The sums of e dp."""
    return e * dp


@column_function(outputs=1, inputs=2, lanes=1, scalars=1)
def softmax_gradient_down(e, dp, dot, scale):
    """ds = scale e (dp - dot)."""
    return e * (dp - dot) * scale


@inlined
def causal_exp(e, total, turned, q, k, first, scale):
    """A panel of e, and its columns' sums. q: (w, hs), queries first..first + w; k: (end, hs).

    Keys after a query count nothing: their e is zero. turned: space, (hs, W).
    """
    end, width = e.shape
    most = np.empty(width, e.dtype)
    transpose(turned[:, : q.shape[0]], q)
    matmul(e, k, turned)
    for j in range(first + 1, end):
        fill_row(e[j], j - first, -np.inf)
    largest_down(most, e, end, width)
    exp_down(total, e, e, most, end, width, scale)


@kernel
def attention_forward(out, e, inverse, qkv, rate, keys):
    """Overwrites out, e and inverse. rate: dropout's; keys: one a sequence, below 2^32."""
    # out: (B T, C)   e: panels_shape   inverse: (B, NH, T)   qkv: (B T, 3C)   keys: (B,) uint64
    B, NH, T = inverse.shape
    kept = e.size >= B * NH * (rows_before(T) + T) * W
    C = out.shape[1]
    hs = C // NH
    scale = 1 / math.sqrt(hs)
    turned, total = np.zeros((hs, W), e.dtype), np.empty(W, e.dtype)
    dropped = np.empty((T, W), e.dtype)
    for b in range(B):
        rows, orows = qkv[b * T : (b + 1) * T], out[b * T : (b + 1) * T]
        for h in range(NH):
            q = rows[:, h * hs : (h + 1) * hs]
            k = rows[:, C + h * hs : C + (h + 1) * hs]
            v = rows[:, 2 * C + h * hs : 2 * C + (h + 1) * hs]
            o = orows[:, h * hs : (h + 1) * hs]
            for i in range(0, T, W):
                end = min(i + W, T)
                panel = panel_of(e, b, h, end, kept)
                causal_exp(panel, total, turned, q[i:end], k[:end], i, scale)
                if rate > 0:
                    drop(dropped, panel, end, rate, keys[b], panel_number(T, h, i))
                    panel = dropped[:end]
                matmul(turned, v[:end].T, panel)
                transpose(o[i:end], turned[:, : end - i])
                for t in range(i, end):
                    inverse[b, h, t] = 1 / total[t - i]
                    scale_row(o[t], o[t], hs, inverse[b, h, t])


@kernel
def attention_backward(dqkv, dout, e, inverse, qkv, rate, keys):
    """Overwrites dqkv."""
    # dqkv, qkv: (B T, 3C)   dout: (B T, C)   e, inverse, keys: as forward's
    B, NH, T = inverse.shape
    kept = e.size >= B * NH * (rows_before(T) + T) * W
    C = dout.shape[1]
    hs = C // NH
    scale = 1 / math.sqrt(hs)
    turned, total = np.zeros((hs, W), e.dtype), np.empty(W, e.dtype)
    scaled = np.empty((W, hs), e.dtype)
    dp, dropped = np.empty((T, W), e.dtype), np.empty((T, W), e.dtype)
    for b in range(B):
        rows, drows = qkv[b * T : (b + 1) * T], dqkv[b * T : (b + 1) * T]
        for h in range(NH):
            q = rows[:, h * hs : (h + 1) * hs]
            k = rows[:, C + h * hs : C + (h + 1) * hs]
            v = rows[:, 2 * C + h * hs : 2 * C + (h + 1) * hs]
            dq = drows[:, h * hs : (h + 1) * hs]
            dk = drows[:, C + h * hs : C + (h + 1) * hs]
            dv = drows[:, 2 * C + h * hs : 2 * C + (h + 1) * hs]
            do = dout[b * T : (b + 1) * T, h * hs : (h + 1) * hs]
            # The last panel first: it alone reaches every key, so it overwrites dk and dv.
            for i in range((T - 1) // W * W, -1, -W):
                end = min(i + W, T)
                number = panel_number(T, h, i)
                panel = panel_of(e, b, h, end, kept)
                if not kept:
                    causal_exp(panel, total, turned, q[i:end], k[:end], i, scale)
                for t in range(i, end):
                    scale_row(scaled[t - i], do[t], hs, inverse[b, h, t])
                transpose(turned[:, : end - i], scaled[: end - i])
                matmul(dp[:end], v[:end], turned)
                weights = panel
                if rate > 0:
                    drop(dropped, panel, end, rate, keys[b], number)
                    weights = dropped[:end]
                    dropout_backward(dp[:end].ravel(), rate, keys[b], number)
                matmul_first(dv[:end], weights[:, : end - i], scaled[: end - i], end == T)
                dot_down(total, panel, dp, end, W)
                for t in range(i, end):
                    total[t - i] *= inverse[b, h, t]
                softmax_gradient_down(dp, panel, dp, total, end, W, scale)
                matmul_first(dk[:end], dp[:end, : end - i], q[i:end], end == T)
                matmul(turned, k[:end].T, dp[:end])
                transpose(dq[i:end], turned[:, : end - i])


@inlined
def panel_number(T, h, i):
    """Dropout's number of the first element of head h's panel from query i on."""
    panels = (T + W - 1) // W
    return (h * panels + i // W) * T * W


@inlined
def drop(dropped, e, end, rate, key, number):
    """dropped[:end] = dropout of e[:end], whose first element is that number."""
    for j in range(end):
        copy_row(dropped[j], e[j], e.shape[1])
    dropout_forward(dropped[:end].ravel(), rate, key, number)
