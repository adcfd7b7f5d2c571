"""What attention does to panels of its matrices of T by T.

A panel is of some rows of W numbers, contiguous. Its formulas go down the columns, with whole
vectors of them at each step.
"""

import numpy as np

from .formulas import exp2, where_positive
from .numeric import inlined
from .rows import column_function


@inlined
def parts_of_head(qkv, h, hs):
    """Head h's (T, hs) columns of qkv's (T, 3C): the queries', the keys' and the values'."""
    C, begin, end = qkv.shape[1] // 3, h * hs, (h + 1) * hs
    return qkv[:, begin:end], qkv[:, C + begin : C + end], qkv[:, 2 * C + begin : 2 * C + end]


@column_function(outputs=1, inputs=2)
def hide(s, seen):
    """s where seen is 1, else minus infinity."""
    return where_positive(seen, s, -np.inf)


@column_function(totals=["max"])
def largest_down(s):
    """The largest of each column."""
    return s


@column_function(outputs=1, lanes=1, totals=["+"])
def exp2_down(s, most):
    """2^(s - most), and its sums."""
    e = exp2(s - most)
    return e, e


@column_function(outputs=1, columns=1)
def exp2_along(s, level):
    """2^(s - level), of each row a level."""
    return exp2(s - level)


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
    """ds = scale p (dp - dot), of each column a dot."""
    return p * (dp - dot) * scale


@column_function(outputs=1, inputs=2, columns=1, scalars=1)
def softmax_gradient_along(p, dp, dot, scale):
    """ds = scale p (dp - dot), of each row a dot."""
    return p * (dp - dot) * scale


@inlined
def last_seen(width, like):
    """1 where a query may look, else 0, of so many keys and as many queries that stand where these
    do: (width, width), a row a key, of the type of like."""
    seen = np.zeros((width, width), like.dtype)
    for j in range(width):
        for i in range(j, width):
            seen[j, i] = 1
    return seen
