"""What is done to the residual stream, which each half block adds to, and to its gradient.

All arrays are (N, C).
"""

from .numeric import inlined
from .rows import add_row, copy_row, fill_row


@inlined
def add(out, x, y):
    """out = x + y."""
    for n in range(out.shape[0]):
        add_row(out[n], x[n], y[n], out.shape[1])


@inlined
def copy(to, source):
    """to = source. (to[:, :] = source takes numba two seconds more to compile.)"""
    for n in range(to.shape[0]):
        copy_row(to[n], source[n], to.shape[1])


@inlined
def clear(to):
    """to = 0."""
    for n in range(to.shape[0]):
        fill_row(to[n], to.shape[1], 0)


@inlined
def move(to, source):
    """to += source; source = 0."""
    for n in range(to.shape[0]):
        add_row(to[n], to[n], source[n], to.shape[1])
        fill_row(source[n], to.shape[1], 0)
