"""Causal self-attention of several heads (Vaswani et al. 2017).

For each sequence and head, with q, k, v the head's (T, hs) columns of qkv:

    s = q k^T     p = causal softmax(s / sqrt(hs))     out = dropout(p) v

    dv = dropout(p)^T dout          dp = dropout's backward of dout v^T
    ds = p (dp - sum of dp p) / sqrt(hs)               dq = ds k     dk = ds^T q

All matrices of T by T are held turned round, a panel of W queries at a time: a row is a key, its W
columns the queries. So softmax and its backward go down columns, with a whole vector of queries at
each step; a panel ends where its last query may look; and no matrix of T by T is needed whole.
Of many tokens not even p is kept: long_attention.py.
"""

import math

import numpy as np

from .dropout import dropout_backward, dropout_forward
from .long_attention import long_attention_backward, long_attention_forward
from .matmul import narrow_matmul, narrow_matmul_first, transpose
from .numeric import inlined, kernel
from .panels import (
    dot_down,
    exp2_down,
    hide,
    largest_down,
    last_seen,
    parts_of_head,
    scale_down,
    softmax_gradient_down,
)
from .rows import fetch_rows, invert_row, scale_row

# Queries in a panel: whole vectors of any processor. Half of a wider panel's last one would
# be empty at T 80: 32 took 1.1 to 1.3 times as long (Zen 4).
W = 16
# Up to so many tokens forward keeps p for backward, which takes less than to make it again
# (at 256, 3% of attention; but there it is 40 MB of H's).
KEPT_TOKENS = 255


def weights_shape(num_tokens, sequences, num_heads):
    """The shape of what forward keeps: p, (B, NH, rows, W), all rows of a head's panels; or, of
    more than KEPT_TOKENS, the queries' levels, (B, NH, T)."""
    if num_tokens > KEPT_TOKENS:
        return sequences, num_heads, num_tokens
    return sequences, num_heads, rows_before(num_tokens) + num_tokens, W


def rows_before(end):
    """Rows of a head's panels before the one that ends there: each has W more than its last."""
    number = (end - 1) // W
    return number * (number + 1) // 2 * W


_rows_before = inlined(rows_before)  # Python calls the other, for which nothing is compiled


@inlined
def panels_forward(out, p, qkv, num_heads, rate, keys):
    """attention_forward where p is kept."""
    # out: (B T, C)   p: (B, NH, rows, W)   qkv: (B T, 3C)   keys: (B,) uint64
    B, NH, C = keys.size, num_heads, out.shape[1]
    T, hs = out.shape[0] // B, C // NH
    bits = 1 / math.sqrt(hs) / math.log(2)  # e^(s / sqrt(hs)) = 2^(bits s)
    turned = np.zeros((hs, W), p.dtype)
    flat = turned.ravel()
    most, total = np.empty(W, p.dtype), np.empty(W, p.dtype)
    dropped, seen = np.empty((T, W), p.dtype), last_seen(W, p)
    for b in range(B):
        rows, orows = qkv[b * T : (b + 1) * T], out[b * T : (b + 1) * T]
        for h in range(NH):
            q, k, v = parts_of_head(rows, h, hs)
            o = orows[:, h * hs : (h + 1) * hs]
            for i in range(0, T, W):
                end = min(i + W, T)
                panel = p[b, h, _rows_before(end) :][:end]
                transpose(turned[:, : end - i], q[i:end])
                scale_row(flat, flat, hs * W, bits)
                narrow_matmul(panel, k[:end], turned)
                hide(panel[i:], panel[i:], seen, end - i, W)
                largest_down(most, panel, end, W)
                exp2_down(total, panel, panel, most, end, W)
                invert_row(total, total, W)
                weights = panel
                if rate > 0:
                    dropout_forward(dropped[:end], panel, rate, keys[b], (h * T + i) * T, 1, T)
                    weights = dropped[:end]
                narrow_matmul(turned, v[:end].T, weights)
                scale_down(turned, turned, total, hs, W)
                transpose(o[i:end], turned[:, : end - i])
                scale_down(panel, panel, total, end, W)


@inlined
def panels_backward(dqkv, dout, p, qkv, num_heads, rate, keys):
    """attention_backward where p is kept."""
    # dqkv, qkv: (B T, 3C)   dout: (B T, C)   p, keys: as forward's
    B, NH, C = keys.size, num_heads, dout.shape[1]
    T, hs = dout.shape[0] // B, C // NH
    scale = 1 / math.sqrt(hs)
    turned, total = np.zeros((hs, W), p.dtype), np.empty(W, p.dtype)
    dp, dropped = np.empty((T, W), p.dtype), np.empty((T, W), p.dtype)
    for b in range(B):
        rows, drows = qkv[b * T : (b + 1) * T], dqkv[b * T : (b + 1) * T]
        for h in range(NH):
            q, k, v = parts_of_head(rows, h, hs)
            dq, dk, dv = parts_of_head(drows, h, hs)
            do = dout[b * T : (b + 1) * T, h * hs : (h + 1) * hs]
            if h + 1 < NH:  # the next head's, meanwhile
                for part in parts_of_head(rows, h + 1, hs):
                    fetch_rows(part)
                fetch_rows(p[b, h + 1])
            # The last panel first: it alone reaches every key, so it overwrites dk and dv.
            for i in range((T - 1) // W * W, -1, -W):
                end = min(i + W, T)
                width, last = end - i, end == T
                panel = p[b, h, _rows_before(end) :][:end]
                transpose(turned[:, :width], do[i:end])
                narrow_matmul(dp[:end], v[:end], turned)
                weights = panel
                if rate > 0:
                    first = (h * T + i) * T
                    dropout_forward(dropped[:end], panel, rate, keys[b], first, 1, T)
                    dropout_backward(dp[:end], dp[:end], rate, keys[b], first, 1, T)
                    weights = dropped[:end]
                narrow_matmul_first(dv[:end], weights[:, :width], do[i:end], last)
                dot_down(total, panel, dp, end, W)
                softmax_gradient_down(dp, panel, dp, total, end, W, scale)
                narrow_matmul_first(dk[:end], dp[:end, :width], q[i:end], last)
                narrow_matmul(turned, k[:end].T, dp[:end])
                transpose(dq[i:end], turned[:, :width])


@kernel
def attention_forward(out, p, qkv, num_heads, rate, keys):
    """Overwrites out and p. rate: dropout's; keys: one a sequence, below 2^32."""
    # out: (B T, C)   p: weights_shape   qkv: (B T, 3C)   keys: (B,) uint64
    if p.ndim == 3:
        long_attention_forward(out, p, qkv, num_heads, rate, keys)
    else:
        panels_forward(out, p, qkv, num_heads, rate, keys)


@kernel
def attention_backward(dqkv, dout, out, p, qkv, num_heads, rate, keys):
    """Overwrites dqkv."""
    # dqkv, qkv: (B T, 3C)   dout, out: (B T, C)   p, keys: as forward's
    if p.ndim == 3:
        long_attention_backward(dqkv, dout, out, p, qkv, num_heads, rate, keys)
    else:
        panels_backward(dqkv, dout, p, qkv, num_heads, rate, keys)
