"""Causal self-attention of several heads (Vaswani et al. 2017).

For each sequence and head, with q, k, v the head's (T, hs) columns of qkv:

    s = q k^T     p = causal softmax(s / sqrt(hs))     out = dropout(p) v

    dv = dropout(p)^T dout          dp = dropout's backward of dout v^T
    ds = p (dp - sum of dp p) / sqrt(hs)               dq = ds k     dk = ds^T q

The sum of dp p is dout out too, which needs no p. All matrices of T by T are held turned round, a
panel of W queries at a time: a row is a key, its W columns the queries. So softmax and its backward
go down columns, with a whole vector of queries at each step; a panel ends where its last query may
look; and no matrix of T by T is needed whole.
"""

import math

import numpy as np

from .dropout import dropout_backward, dropout_forward
from .formulas import exp2, where_positive
from .matmul import matmul, matmul_first, transpose
from .numeric import inlined, kernel
from .rows import add_row, column_function, copy_row, fetch_rows, fill_row, invert_row

# Queries in a panel: whole vectors of any processor. Half of a wider panel's last one would
# be empty at T 80: 32 took 1.1 to 1.3 times as long (Zen 4; at T 256 too).
W = 16
# Up to so many tokens forward keeps p for backward. Above, of each query what p is made from again,
# its level, p = e^(scale (s - level)), and works on KEYS at once, of which p and dp lie in the
# first-level cache. (Context 1024, C 192: 4% shorter than panels whole; of 128 2%: Zen 5.)
KEPT_TOKENS, KEYS = 256, 256


def panels_shape(num_tokens, sequences, num_heads):
    """The shape of attention's p, (B, NH, rows, W): all rows of a head's panels, or of each panel
    one, its queries' levels, where T is above KEPT_TOKENS."""
    rows = rows_before(num_tokens) + num_tokens
    return sequences, num_heads, rows if num_tokens <= KEPT_TOKENS else -(-num_tokens // W), W


@inlined
def rows_before(end):
    """Rows of a head's panels before the one that ends there: each has W more than its last."""
    number = (end - 1) // W
    return number * (number + 1) // 2 * W


@column_function(outputs=1, inputs=2)
def hide(s, seen):
    """s where seen is 1, else minus infinity."""
    return where_positive(seen, s, -np.inf)


@column_function(totals=["max"])
def largest_down(s):
    """The largest of each column."""
    return s


@column_function(outputs=1, lanes=1, scalars=1, totals=["+"])
def exp_down(s, most, bits):
    """2^(bits (s - most)), and its sums."""
    e = exp2((s - most) * bits)
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
def scores(s, turned, seen, begin, k, first):
    """The rows of a panel of k q^T, minus infinity where a query may not look.

    s: (n, W), of keys first..first + n, k. turned: q^T, (hs, W), of queries from begin on. seen:
    last_seen's.
    """
    matmul(s, k, turned)
    if first + s.shape[0] > begin:
        diagonal = s[begin - first :]
        hide(diagonal, diagonal, seen, diagonal.shape[0], W)


@inlined
def last_seen(like):
    """Of a panel's last W keys, which its queries see: 1, else 0. (W, W), of the type of like."""
    seen = np.zeros((W, W), like.dtype)
    for j in range(W):
        for i in range(j, W):
            seen[j, i] = 1
    return seen


@inlined
def level(out, most, total, scale):
    """out: (W,), so that e^(scale (s - out)) = e^(scale (s - most)) / total."""
    for i in range(out.size):
        out[i] = most[i] + np.log(total[i]) / scale


@kernel
def attention_forward(out, p, qkv, num_heads, rate, keys):
    """Overwrites out and p. rate: dropout's; keys: one a sequence, below 2^32."""
    # out: (B T, C)   p: panels_shape   qkv: (B T, 3C)   keys: (B,) uint64
    B, NH, C = keys.size, num_heads, out.shape[1]
    T, hs = out.shape[0] // B, C // NH
    kept = p.shape[2] >= rows_before(T) + T
    scale = 1 / math.sqrt(hs)
    bits = scale / math.log(2)  # e^(scale s) = 2^(bits s)
    turned, space = np.zeros((hs, W), p.dtype), np.empty((T, W), p.dtype)
    most, sums, total = np.empty(W, p.dtype), np.empty(W, p.dtype), np.empty(W, p.dtype)
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
                panel = p[b, h, rows_before(end) :][:end] if kept else space[:end]
                transpose(turned[:, : end - i], q[i:end])
                scores(panel, turned, seen, i, k[:end], 0)
                largest_down(most, panel, end, W)
                fill_row(total, W, 0)
                for first in range(0, end, end if kept else KEYS):
                    weights = panel[first:end] if kept else panel[first : min(first + KEYS, end)]
                    count = weights.shape[0]
                    exp_down(sums, weights, weights, most, count, W, bits)
                    add_row(total, total, sums, W)
                    if rate > 0:
                        drop(dropped, weights, count, rate, keys[b], number_of(T, h, i, first))
                        weights = dropped[:count]
                    matmul_first(turned, v[first : first + count].T, weights, first == 0)
                invert_row(sums, total, W)
                scale_down(turned, turned, sums, hs, W)
                transpose(o[i:end], turned[:, : end - i])
                if kept:
                    scale_down(panel, panel, sums, end, W)
                else:
                    level(p[b, h, i // W], most, total, scale)


@kernel
def attention_backward(dqkv, dout, out, p, qkv, num_heads, rate, keys):
    """Overwrites dqkv."""
    # dqkv, qkv: (B T, 3C)   dout, out: (B T, C)   p, keys: as forward's
    B, NH, C = keys.size, num_heads, dout.shape[1]
    T, hs = dout.shape[0] // B, C // NH
    kept = p.shape[2] >= rows_before(T) + T
    scale = 1 / math.sqrt(hs)
    bits = scale / math.log(2)  # e^(scale s) = 2^(bits s)
    turned_q, turned_do = np.zeros((hs, W), p.dtype), np.zeros((hs, W), p.dtype)
    turned, total, sums = np.zeros((hs, W), p.dtype), np.empty(W, p.dtype), np.empty(W, p.dtype)
    space, dropped = np.empty((KEYS, W), p.dtype), np.empty((T, W), p.dtype)
    dp, seen = np.empty((T, W), p.dtype), last_seen(p)
    for b in range(B):
        rows, drows = qkv[b * T : (b + 1) * T], dqkv[b * T : (b + 1) * T]
        for h in range(NH):
            q = rows[:, h * hs : (h + 1) * hs]
            k = rows[:, C + h * hs : C + (h + 1) * hs]
            v = rows[:, 2 * C + h * hs : 2 * C + (h + 1) * hs]
            dq = drows[:, h * hs : (h + 1) * hs]
            dk = drows[:, C + h * hs : C + (h + 1) * hs]
            dv = drows[:, 2 * C + h * hs : 2 * C + (h + 1) * hs]
            o = out[b * T : (b + 1) * T, h * hs : (h + 1) * hs]
            do = dout[b * T : (b + 1) * T, h * hs : (h + 1) * hs]
            if kept and h + 1 < NH:  # the next head's, meanwhile
                here = (h + 1) * hs
                for start in (here, C + here, 2 * C + here):
                    fetch_rows(rows[:, start : start + hs])
                fetch_rows(p[b, h + 1])
            # The last panel first: it alone reaches every key, so it overwrites dk and dv.
            for i in range((T - 1) // W * W, -1, -W):
                end = min(i + W, T)
                width = end - i
                transpose(turned_do[:, :width], do[i:end])
                if not kept:
                    transpose(turned_q[:, :width], q[i:end])
                    transpose(turned[:, :width], o[i:end])
                    dot_down(total, turned_do, turned, hs, W)
                for first in range(0, end, end if kept else KEYS):
                    last = end if kept else min(first + KEYS, end)
                    count = last - first
                    if kept:
                        panel = p[b, h, rows_before(end) :][:end]
                    else:
                        panel = space[:count]
                        scores(panel, turned_q, seen, i, k[first:last], first)
                        exp_down(sums, panel, panel, p[b, h, i // W], count, W, bits)
                    matmul(dp[:count], v[first:last], turned_do)
                    weights = panel
                    if rate > 0:
                        number = number_of(T, h, i, first)
                        drop(dropped, panel, count, rate, keys[b], number)
                        weights = dropped[:count]
                        dropout_backward(dp[:count].ravel(), rate, keys[b], number)
                    matmul_first(dv[first:last], weights[:, :width], do[i:end], end == T)
                    if kept:
                        dot_down(total, panel, dp, count, W)
                    softmax_gradient_down(dp, panel, dp, total, count, W, scale)
                    matmul_first(dk[first:last], dp[:count, :width], q[i:end], end == T)
                    matmul_first(turned, k[first:last].T, dp[:count], first == 0)
                transpose(dq[i:end], turned[:, :width])


@inlined
def number_of(T, h, i, first):
    """Dropout's number of the first element of key `first` in head h's panel from query i on."""
    panels = (T + W - 1) // W
    return ((h * panels + i // W) * T + first) * W


@inlined
def drop(dropped, p, end, rate, key, number):
    """dropped[:end] = dropout of p[:end], whose first element is that number."""
    for j in range(end):
        copy_row(dropped[j], p[j], p.shape[1])
    dropout_forward(dropped[:end].ravel(), rate, key, number)
