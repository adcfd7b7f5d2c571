"""Rotary positions (Su et al. 2021): each query and key is turned by its position.

Number i of a head's first half and number i of its second half are a pair, turned
by the angle t base^(-i / (hs/2)) at position t:

    out1 = x1 cos - x2 sin     out2 = x1 sin + x2 cos

The backward turns back, by minus the angle: a rotation's transpose is its inverse.
"""

import numpy as np

from .numeric import kernel


@kernel
def rotary_forward(qkv, cos, sin, num_heads):
    """Turns the queries and keys of qkv in place; the values stay."""
    # qkv: (N, 3C), its columns q, k, v   cos, sin: (T, hs/2)
    _turn(qkv, cos, sin, num_heads, qkv.dtype.type(1))


@kernel
def rotary_backward(dqkv, cos, sin, num_heads):
    """Turns the gradients of queries and keys back, in place."""
    # dqkv: (N, 3C)   cos, sin: (T, hs/2)
    _turn(dqkv, cos, sin, num_heads, dqkv.dtype.type(-1))


@kernel
def _turn(x, cos, sin, num_heads, sign):
    T, half = cos.shape
    for n in range(x.shape[0]):
        c, s = cos[n % T], sin[n % T]
        for head in range(2 * num_heads):  # the queries' heads, then the keys'
            start = head * 2 * half
            first, second = x[n, start : start + half], x[n, start + half : start + 2 * half]
            for i in range(half):
                a, b = first[i], second[i]
                first[i] = a * c[i] - sign * s[i] * b
                second[i] = sign * s[i] * a + b * c[i]


def rotary_angles(positions, head_size, base):
    """The angles of given positions (any shape P), shape (*P, hs/2), float64."""
    half = head_size // 2
    return np.asarray(positions)[..., None] * base ** (-np.arange(half) / half)
