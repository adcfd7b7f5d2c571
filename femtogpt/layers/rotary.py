"""Rotary positions (Su et al. 2021): each query and key is turned by its position.

Number i of a head's first half and number i of its second half are a pair, turned
by the angle t base^(-i / (hs/2)) at position t:

    out1 = x1 cos - x2 sin     out2 = x1 sin + x2 cos

The backward turns back, by minus the angle: a rotation's transpose is its inverse.

Halves of heads are shorter than the processor's vectors, so a row is turned whole: a
number's partner lies hs/2 after it or hs/2 before it, and `turns` holds, for every
position and column, what it, the number after and the number before are multiplied by:
(cos, -sin, 0) in first halves, (cos, 0, sin) in second ones.
"""

import numpy as np

from .numeric import inlined, kernel
from .rows import copy_row, row_function


@inlined
def rotary_forward(qkv, turns, num_heads):
    """Turns the queries and keys of qkv in place; the values stay."""
    # qkv: (N, 3C), its columns q, k, v   turns: (3, T, C)
    turn(qkv, turns, num_heads, 1.0)


@inlined
def rotary_backward(dqkv, turns, num_heads):
    """Turns the gradients of queries and keys back, in place."""
    # dqkv: (N, 3C)   turns: (3, T, C)
    turn(dqkv, turns, num_heads, -1.0)


@row_function(outputs=1, inputs=6, scalars=1)
def turn_row(x, after, before, cos, sin_after, sin_before, sign):
    """x turned by the angle times sign."""
    return x * cos + (after * sin_after + before * sin_before) * sign


@kernel
def turn(x, turns, num_heads, sign):
    """rotary_forward with the angles times sign. x: (B T, 3C)"""
    _, T, C = turns.shape
    B, half = x.shape[0] // T, C // num_heads // 2
    before = np.zeros((B, 3 * C), x.dtype)  # rows as they were, after C zeros
    for t in range(T):  # of all sequences, while its turns are near
        # All are copied before the first is turned: a vector read across the border of two that
        # were just written has to wait for both.
        for b in range(B):
            copy_row(before[b, C:], x[b * T + t], 2 * C)
        for b in range(B):
            for start in range(0, 2 * C, C):  # queries, keys
                row = x[b * T + t, start:]
                turn_row(row, row, row[half:], before[b, C + start - half :],
                         turns[0, t], turns[1, t], turns[2, t], C, sign)


def rotary_turns(positions, num_heads, head_size, base):
    """The turns of given positions (P,), shape (3, P, C), float64."""
    half = head_size // 2
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(half) / half)
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    pairs = [np.hstack(pair) for pair in ((cos, cos), (-sin, zero), (zero, sin))]
    return np.tile(pairs, (1, 1, num_heads))
