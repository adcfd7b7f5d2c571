"""attention.py of many tokens: of p only what it is made from again is kept.

That is each query's level, with s in bits (divided by sqrt(hs) ln 2):

    p = 2^(s - level)     level = most + log2(sum of 2^(s - most))

Forward takes a query's keys some at a time; where a larger `most` is met, what has been summed
before is scaled down to it (Milakov, Gimelshein 2018). Backward does as Dao (2023): a panel has W
keys, a row is a query, so that of a panel's dk and dv every number stays in registers while the
queries run. There

    sum of dp p = dout out

of a query's row, which needs no p. (With panels of 16 queries, whose dk and dv go to memory with
each, a step at context 1024 and C 192 takes 9% longer: Zen 5.)
"""

import math

import numpy as np

from .dropout import dropout_backward, dropout_forward
from .formulas import exp2, maximum
from .matmul import narrow_matmul, narrow_matmul_add, narrow_matmul_first, transpose
from .numeric import inlined
from .panels import (
    exp2_along,
    exp2_down,
    hide,
    largest_down,
    last_seen,
    parts_of_head,
    scale_down,
    softmax_gradient_along,
)
from .rows import add_row, dot_row, invert_row, multiply_row, row_function, scale_row
from .vectors import LANES

# Columns of a panel, two registers where they are long, and its rows: p and dp of both lie in the
# first-level cache. W divides ROWS.
W, ROWS = max(16, 2 * LANES), 128


@row_function(outputs=2, inputs=2)
def larger_and_factor(most, new):
    """The larger of the two, and 2^most over 2 to its power."""
    larger = maximum(most, new)
    return larger, exp2(most - larger)


@inlined
def long_attention_forward(out, levels, qkv, num_heads, rate, keys):
    """attention_forward, where levels are kept."""
    # out: (B T, C)   levels: (B, NH, T)   qkv: (B T, 3C)   keys: (B,) uint64
    B, NH, C, dtype = keys.size, num_heads, out.shape[1], levels.dtype
    T, hs = out.shape[0] // B, C // NH
    bits = 1 / math.sqrt(hs) / math.log(2)
    turned_q, turned_o = np.zeros((hs, W), dtype), np.empty((hs, W), dtype)
    flat = turned_q.ravel()
    most, total, new = np.empty(W, dtype), np.empty(W, dtype), np.empty(W, dtype)
    space, seen = np.empty((ROWS, W), dtype), last_seen(W, levels)
    for b in range(B):
        rows, orows = qkv[b * T : (b + 1) * T], out[b * T : (b + 1) * T]
        for h in range(NH):
            q, k, v = parts_of_head(rows, h, hs)
            o = orows[:, h * hs : (h + 1) * hs]
            for i in range(0, T, W):
                end = min(i + W, T)
                transpose(turned_q[:, : end - i], q[i:end])
                scale_row(flat, flat, hs * W, bits)
                most[:], total[:], turned_o[:, :] = -np.inf, 0, 0
                for first in range(0, end, ROWS):
                    last = min(first + ROWS, end)
                    count = last - first
                    s = space[:count]
                    narrow_matmul(s, k[first:last], turned_q)
                    if last > i:
                        hide(s[i - first :], s[i - first :], seen, last - i, W)
                    largest_down(new, s, count, W)
                    larger_and_factor(most, new, most, new, W)
                    multiply_row(total, total, new, W)
                    scale_down(turned_o, turned_o, new, hs, W)
                    exp2_down(new, s, s, most, count, W)
                    add_row(total, total, new, W)
                    if rate > 0:
                        dropout_forward(s, s, rate, keys[b], (h * T + i) * T + first, 1, T)
                    narrow_matmul_add(turned_o, v[first:last].T, s)
                invert_row(new, total, W)
                scale_down(turned_o, turned_o, new, hs, W)
                transpose(o[i:end], turned_o[:, : end - i])
                for j in range(end - i):
                    levels[b, h, i + j] = most[j] + np.log2(total[j])


@inlined
def long_attention_backward(dqkv, dout, out, levels, qkv, num_heads, rate, keys):
    """attention_backward, of levels."""
    # dqkv, qkv: (B T, 3C)   dout, out: (B T, C)   levels, keys: as forward's
    B, NH, C, dtype = keys.size, num_heads, dout.shape[1], levels.dtype
    T, hs = dout.shape[0] // B, C // NH
    scale = 1 / math.sqrt(hs)
    turned_k, turned_v = np.zeros((hs, W), dtype), np.zeros((hs, W), dtype)
    flat = turned_k.ravel()
    turned_dk, turned_dv = np.empty((hs, W), dtype), np.empty((hs, W), dtype)
    p_space, dp_space = np.empty((ROWS, W), dtype), np.empty((ROWS, W), dtype)
    dropped, dots = np.empty((ROWS, W), dtype), np.empty(T, dtype)
    seen = np.empty((W, W), dtype)
    transpose(seen, last_seen(W, levels))
    for b in range(B):
        rows, drows = qkv[b * T : (b + 1) * T], dqkv[b * T : (b + 1) * T]
        for h in range(NH):
            q, k, v = parts_of_head(rows, h, hs)
            dq, dk, dv = parts_of_head(drows, h, hs)
            o = out[b * T : (b + 1) * T, h * hs : (h + 1) * hs]
            do = dout[b * T : (b + 1) * T, h * hs : (h + 1) * hs]
            level = levels[b, h]
            for i in range(T):
                dots[i] = dot_row(do[i], o[i], hs)
            for j in range(0, T, W):
                end = min(j + W, T)
                width = end - j
                transpose(turned_k[:, :width], k[j:end])
                scale_row(flat, flat, hs * W, scale / math.log(2))
                transpose(turned_v[:, :width], v[j:end])
                for first in range(j, T, ROWS):
                    last, alone = min(first + ROWS, T), first == j
                    count = last - first
                    p, dp = p_space[:count], dp_space[:count]
                    narrow_matmul(p, q[first:last], turned_k)
                    if alone:
                        hide(p, p, seen, width, W)
                    exp2_along(p, p, level[first:], count, W)
                    narrow_matmul(dp, do[first:last], turned_v)
                    weights = p
                    if rate > 0:
                        number = (h * T + first) * T + j
                        dropout_forward(dropped[:count], p, rate, keys[b], number, T, 1)
                        dropout_backward(dp, dp, rate, keys[b], number, T, 1)
                        weights = dropped[:count]
                    narrow_matmul_first(turned_dv, do[first:last].T, weights, alone)
                    softmax_gradient_along(dp, p, dp, dots[first:], count, W, scale)
                    narrow_matmul_first(turned_dk, q[first:last].T, dp, alone)
                    # The first panel's keys are seen by every query: they overwrite dq.
                    narrow_matmul_first(dq[first:last], dp[:, :width], k[j:end], j == 0)
                transpose(dk[j:end], turned_dk[:, :width])
                transpose(dv[j:end], turned_dv[:, :width])
