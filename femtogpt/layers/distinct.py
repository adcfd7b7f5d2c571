"""Positions that hold the same token, worked on once.

Until a block looks at other positions, all that is computed of a position follows from its token
alone (positions are turned into queries and keys later), and text has few tokens: of 128 bytes in
a row some 30 differ. So rows of equal tokens are computed once and repeated; and since the
backward is linear in the gradient, the gradients of equal rows are summed before it.

The distinct tokens are numbered as they first occur: number[n] is that of position n's.
"""

from .numeric import kernel
from .rows import add_row, copy_row


@kernel
def number_tokens(number, distinct, count, place, tokens):
    """Overwrites number, count by how many there are, D, and the first D of distinct by them."""
    # all int64   number, distinct, tokens: (N,)   count: (1,)   place: (V,), all -1, and left so
    D = 0
    for n in range(tokens.size):
        token = tokens[n]
        if place[token] < 0:
            place[token], distinct[D] = D, token
            D += 1
        number[n] = place[token]
    for d in range(D):
        place[distinct[d]] = -1
    count[0] = D


@kernel
def repeat_forward(out, x, number):
    """Overwrites out: out[n] = x[number[n]]."""
    # out: (N, C)   x: (D, C)
    for n in range(number.size):
        copy_row(out[n], x[number[n]], out.shape[1])


@kernel
def repeat_backward(dout, number):
    """dx of repeat_forward, in place: dout's first D rows become it, dx[d] = the sum of the rows n
    with number[n] = d."""
    # dout: (N, C)
    seen = 0
    for n in range(number.size):
        d = number[n]
        if d < seen:
            add_row(dout[d], dout[d], dout[n], dout.shape[1])
        else:  # a token's first position lies at d or after it
            copy_row(dout[d], dout[n], dout.shape[1])
            seen += 1
