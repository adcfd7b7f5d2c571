"""Token embeddings, and positions added to them.

    out[n] = table[token n] + positions[n mod T]

    dtable[token n] += dout[n]     dpositions[n mod T] += dout[n]
"""

import numpy as np

from .numeric import kernel
from .rows import add_row, copy_row


@kernel
def embedding_forward(out, tokens, table, positions):
    """Overwrites out. positions has no rows where nothing is to be added."""
    # out: (N, C)   tokens: (N,)   table: (V, C)   positions: (T, C) or (0, C)
    P, C = positions.shape
    for n in range(tokens.size):
        if P > 0:
            add_row(out[n], table[tokens[n]], positions[n % P], C)
        else:
            copy_row(out[n], table[tokens[n]], C)


@kernel
def embedding_backward(dtable, dpositions, dout, tokens):
    """Adds to dtable and dpositions (no rows: no gradient wanted)."""
    # dtable: (V, C)   dpositions: (T, C) or (0, C)   dout: (N, C)   tokens: (N,)
    P, C = dpositions.shape
    for n in range(tokens.size):
        row = dtable[tokens[n]]
        add_row(row, row, dout[n], C)
        if P > 0:
            position = dpositions[n % P]
            add_row(position, position, dout[n], C)


def sinusoids(num_tokens, embedding_degree):
    """Fixed positions (Vaswani et al. 2017), shape (T, C), float64.

    sin at even and cos at odd columns of row / 10000^(2 (column div 2) / C).
    """
    row = np.arange(num_tokens)[:, None]
    column = np.arange(embedding_degree)[None, :]
    angle = row / 10000.0 ** (2 * (column // 2) / embedding_degree)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle))
