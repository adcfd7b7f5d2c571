"""Causal self-attention of several heads (Vaswani et al. 2017).

For each sequence and head, with q, k, v the head's (T, hs) columns of qkv:

    s = q k^T     p = causal softmax(s / sqrt(hs))     out = dropout(p) v

    dv = dropout(p)^T dout          dp = dropout's backward of dout v^T
    ds = softmax's backward of dp   dq = ds k     dk = ds^T q
"""

import math

import numpy as np

from .dropout import dropout_backward, dropout_forward
from .matmul import lower_matmul, matmul_to_lower, upper_matmul
from .numeric import kernel
from .softmax import softmax_backward, softmax_forward


@kernel
def drop(dropped, p, rate, key, first):
    """dropped = dropout of p. dropped, p: (T, T)."""
    for t in range(p.shape[0]):
        d, row = dropped[t], p[t]
        for j in range(row.size):
            d[j] = row[j]
    dropout_forward(dropped.ravel(), rate, key, first)


@kernel
def attention_forward(out, p, qkv, rate, keys):
    """Overwrites out and p. rate: dropout's; keys: one a sequence, below 2^32."""
    # out: (B T, C)   p: (B, NH, T, T)   qkv: (B T, 3C)   keys: (B,) uint64
    B, NH, T, _ = p.shape
    C = out.shape[1]
    hs = C // NH
    scale = 1 / math.sqrt(hs)
    dropped = np.empty((T, T), p.dtype)
    for b in range(B):
        rows = qkv[b * T : (b + 1) * T]
        for h in range(NH):
            q = rows[:, h * hs : (h + 1) * hs]
            k = rows[:, C + h * hs : C + (h + 1) * hs]
            v = rows[:, 2 * C + h * hs : 2 * C + (h + 1) * hs]
            o = out[b * T : (b + 1) * T, h * hs : (h + 1) * hs]
            matmul_to_lower(p[b, h], q, k.T)
            softmax_forward(p[b, h], p[b, h], scale)
            if rate > 0:
                drop(dropped, p[b, h], rate, keys[b], h * T * T)
                lower_matmul(o, dropped, v)
            else:
                lower_matmul(o, p[b, h], v)


@kernel
def attention_backward(dqkv, dout, p, qkv, rate, keys):
    """Overwrites dqkv."""
    # dqkv, qkv: (B T, 3C)   dout: (B T, C)   p: (B, NH, T, T)   keys: (B,) uint64
    B, NH, T, _ = p.shape
    C = dout.shape[1]
    hs = C // NH
    scale = 1 / math.sqrt(hs)
    ds = np.empty((T, T), p.dtype)
    dropped = np.empty((T, T), p.dtype)
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
            matmul_to_lower(ds, do, v.T)  # dp
            if rate > 0:
                drop(dropped, p[b, h], rate, keys[b], h * T * T)
                upper_matmul(dv, dropped.T, do)
                dropout_backward(ds.ravel(), rate, keys[b], h * T * T)
            else:
                upper_matmul(dv, p[b, h].T, do)
            softmax_backward(ds, ds, p[b, h], scale)
            lower_matmul(dq, ds, k)
            upper_matmul(dk, ds.T, q)
