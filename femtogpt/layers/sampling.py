"""Drawing a token: softmax's weights at a temperature, and one index by its weight.

    weight = e^((logit - largest) / temperature)     P(v) = weight v / sum of weights
"""

import numpy as np

from .numeric import entry
from .rows import exp_row, largest, row_function


@row_function(totals=["+"])
def finite_row(x):
    """0 if every number of x is finite, else NaN."""
    return x - x


@entry
def weigh(weights, logits, sharpness):
    """weights = e^(sharpness (logits - the largest)); if sharpness is infinite, 1 where they
    are largest, else 0. Returns whether every logit is finite."""
    # weights, logits: (S, V)
    S, V = logits.shape
    finite = True
    for s in range(S):
        most = largest(logits[s], V)
        finite = finite and finite_row(logits[s], V) == 0
        if sharpness < np.inf:
            exp_row(weights[s], logits[s], V, most, logits.dtype.type(sharpness))
        else:
            for v in range(V):
                weights[s, v] = logits[s, v] == most
    return finite


@entry
def pick(ids, weights, uniforms):
    """ids = one index of each row, as likely as its weight is large. uniforms: in [0, 1)."""
    # ids, uniforms: (S,)   weights: (S, V)
    for s in range(ids.size):
        total = 0.0
        for weight in weights[s]:
            total += weight
        below, v = 0.0, -1
        while below <= uniforms[s] * total:
            v += 1
            below += weights[s, v]
        ids[s] = v
