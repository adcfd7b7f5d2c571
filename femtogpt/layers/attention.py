"""Causal self-attention of several heads (Vaswani et al. 2017).

For each sequence and head, with q, k, v the head's (T, hs) columns of qkv:

    s = q k^T     p = causal softmax(s / sqrt(hs))     out = dropout(p) v

    dv = dropout(p)^T dout          dp = dropout's backward of dout v^T
    ds = p (dp - sum of dp p) / sqrt(hs)               dq = ds k     dk = ds^T q

All matrices of T by T are held turned round, a panel of W queries at a time: a row is a
key, its W columns the queries. So softmax and its backward go down columns, with a whole
vector of queries at each step; a panel ends where its last query may look; and no matrix
of T by T is needed whole.
"""

import math

import numpy as np

from .dropout import dropout_backward, dropout_forward
from .formulas import exp, where_positive
from .matmul import matmul, matmul_first, transpose
from .numeric import inlined, kernel
from .rows import column_function, copy_row, fetch_rows, invert_row

# Queries in a panel: whole vectors of any processor. Half of a wider panel's last one would
# be empty at T 80: 32 took 1.1 to 1.3 times as long (Zen 4; at T 256 too).
W = 16
KEPT_TOKENS = 256  # up to here forward keeps p for backward; above, backward makes it again


def panels_shape(num_tokens, sequences, num_heads):
    """The shape of attention's p: (B, NH, rows of a head's panels, W), or (1, 1, T, W), one panel
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
def panel_of(p, b, h, end, kept):
    """The panel of a head's queries up to end, (end, W)."""
    if not kept:
        return p[0, 0, :end]
    first = rows_before(end)
    return p[b, h, first : first + end]


@column_function(outputs=1, inputs=2)
def hide(s, seen):
    """s where seen is 1, else minus infinity."""
    return where_positive(seen, s, -np.inf)


@column_function(totals=["max"])
def largest_down(s):
    """The largest of each column."""
    return s


@column_function(outputs=1, lanes=1, scalars=1, totals=["+"])
def exp_down(s, most, scale):
    """e^(scale (s - most)), and its sums."""
    e = exp((s - most) * scale)
    return e, e


@column_function(outputs=1, lanes=1)
def scale_down(e, factor):
    """e times each column's factor."""
    return e * factor


@column_function(inputs=2, totals=["+"])
def dot_down(p, dp):
    """The sums of p dp."""
    return p * dp


@column_function(outputs=1, inputs=2, lanes=1, scalars=1)
def softmax_gradient_down(p, dp, dot, scale):
    """ds = scale p (dp - dot)."""
    return p * (dp - dot) * scale


@inlined
def causal_exp(e, inverse, most, turned, seen, q, k, first, scale):
    """A panel of p but for its factors, inverse: (W,). q: (w, hs), queries first..first + w; k:
    (end, hs).

    most: space, (W,); turned: space, (hs, W), zeros beyond w. seen: last_seen's.
    """
    end, width = e.shape
    transpose(turned[:, : q.shape[0]], q)
    matmul(e, k, turned)
    hide(e[first:], e[first:], seen, end - first, width)
    largest_down(most, e, end, width)
    exp_down(inverse, e, e, most, end, width, scale)
    invert_row(inverse, inverse, width)


@inlined
def last_seen(like):
    """Of a panel's last W keys, which its queries see: 1, else 0. (W, W), of the type of like."""
    seen = np.zeros((W, W), like.dtype)
    for j in range(W):
        for i in range(j, W):
            seen[j, i] = 1
    return seen


@kernel
def attention_forward(out, p, qkv, num_heads, rate, keys):
    """Overwrites out and p. rate: dropout's; keys: one a sequence, below 2^32."""
    # out: (B T, C)   p: panels_shape   qkv: (B T, 3C)   keys: (B,) uint64
    B, NH, C = keys.size, num_heads, out.shape[1]
    T, hs = out.shape[0] // B, C // NH
    kept = p.size >= B * NH * (rows_before(T) + T) * W
    scale = 1 / math.sqrt(hs)
    turned = np.zeros((hs, W), p.dtype)
    most, inverse = np.empty(W, p.dtype), np.empty(W, p.dtype)
    dropped, seen = np.empty((T, W), p.dtype), last_seen(p)
    for b in range(B):
        rows, orows = qkv[b * T : (b + 1) * T], out[b * T : (b + 1) * T]
        for h in range(NH):
            q = rows[:, h * hs : (h + 1) * hs]
            k = rows[:, C + h * hs : C + (h + 1) * hs]
            v = rows[:, 2 * C + h * hs : 2 * C + (h + 1) * hs]
            o = orows[:, h * hs : (h + 1) * hs]
            for i in range(0, T, W):
                end = min(i + W, T)
                panel = panel_of(p, b, h, end, kept)
                causal_exp(panel, inverse, most, turned, seen, q[i:end], k[:end], i, scale)
                weights = panel
                if rate > 0:
                    drop(dropped, panel, end, rate, keys[b], panel_number(T, h, i))
                    weights = dropped[:end]
                matmul(turned, v[:end].T, weights)
                scale_down(turned, turned, inverse, hs, W)
                transpose(o[i:end], turned[:, : end - i])
                if kept:
                    scale_down(panel, panel, inverse, end, W)


@kernel
def attention_backward(dqkv, dout, p, qkv, num_heads, rate, keys):
    """Overwrites dqkv."""
    # dqkv, qkv: (B T, 3C)   dout: (B T, C)   p, keys: as forward's
    B, NH, C = keys.size, num_heads, dout.shape[1]
    T, hs = dout.shape[0] // B, C // NH
    kept = p.size >= B * NH * (rows_before(T) + T) * W
    scale = 1 / math.sqrt(hs)
    turned = np.zeros((hs, W), p.dtype)
    most, total = np.empty(W, p.dtype), np.empty(W, p.dtype)
    dp, dropped = np.empty((T, W), p.dtype), np.empty((T, W), p.dtype)
    seen = last_seen(p)
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
            if kept and h + 1 < NH:  # the next head's, meanwhile
                here = (h + 1) * hs
                for start in (here, C + here, 2 * C + here):
                    fetch_rows(rows[:, start : start + hs])
                fetch_rows(p[b, h + 1])
            # The last panel first: it alone reaches every key, so it overwrites dk and dv.
            for i in range((T - 1) // W * W, -1, -W):
                end = min(i + W, T)
                number = panel_number(T, h, i)
                panel = panel_of(p, b, h, end, kept)
                if not kept:
                    causal_exp(panel, total, most, turned, seen, q[i:end], k[:end], i, scale)
                    scale_down(panel, panel, total, end, W)
                transpose(turned[:, : end - i], do[i:end])
                matmul(dp[:end], v[:end], turned)
                weights = panel
                if rate > 0:
                    drop(dropped, panel, end, rate, keys[b], number)
                    weights = dropped[:end]
                    dropout_backward(dp[:end].ravel(), rate, keys[b], number)
                matmul_first(dv[:end], weights[:, : end - i], do[i:end], end == T)
                dot_down(total, panel, dp, end, W)
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
def drop(dropped, p, end, rate, key, number):
    """dropped[:end] = dropout of p[:end], whose first element is that number."""
    for j in range(end):
        copy_row(dropped[j], p[j], p.shape[1])
    dropout_forward(dropped[:end].ravel(), rate, key, number)
