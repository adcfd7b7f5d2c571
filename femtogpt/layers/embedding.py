"""Token embeddings, and positions added to them.

    out[n] = table[token n] + positions[n mod T]

    dtable[token n] += dout[n]     dpositions[n mod T] += dout[n]
"""

import numpy as np

from .numeric import kernel


@kernel
def embedding_forward(out, tokens, table, positions):
    """Overwrites out. positions has no rows where nothing is to be added."""
    # out: (N, C)   tokens: (N,)   table: (V, C)   positions: (T, C) or (0, C)
    for n in range(tokens.size):
        o, row = out[n], table[tokens[n]]
        for c in range(o.size):
            o[c] = row[c]
        if positions.shape[0] > 0:
            position = positions[n % positions.shape[0]]
            for c in range(o.size):
                o[c] += position[c]


@kernel
def embedding_backward(dtable, dpositions, dout, tokens):
    """Adds to dtable and dpositions (no rows: no gradient wanted)."""
    # dtable: (V, C)   dpositions: (T, C) or (0, C)   dout: (N, C)   tokens: (N,)
    for n in range(tokens.size):
        do, row = dout[n], dtable[tokens[n]]
        for c in range(do.size):
            row[c] += do[c]
        if dpositions.shape[0] > 0:
            position = dpositions[n % dpositions.shape[0]]
            for c in range(do.size):
                position[c] += do[c]


def sinusoids(num_tokens, embedding_degree):
    """Fixed positions (Vaswani et al. 2017), shape (T, C), float64.

    sin at even and cos at odd columns of row / 10000^(2 (column div 2) / C).
    """
    row = np.arange(num_tokens)[:, None]
    column = np.arange(embedding_degree)[None, :]
    angle = row / 10000.0 ** (2 * (column // 2) / embedding_degree)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle))
