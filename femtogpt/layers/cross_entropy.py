"""Softmax and the cross-entropy of its probabilities, in nats.

    p = e^logits / sum of e^logits     loss = -log p[target]

    dlogits = p - (1 at the target, else 0)
"""

import numpy as np

from .numeric import inlined
from .rows import exp_row, largest, scale_row


@inlined
def cross_entropy_forward(probabilities, logits, targets):
    """Overwrites probabilities, which may be logits itself. Returns the losses' sum, float64."""
    # probabilities, logits: (N, V)   targets: (N,)
    N, V = logits.shape
    scalar = logits.dtype.type
    loss = 0.0
    for n in range(N):
        most = largest(logits[n], V)
        target = logits[n, targets[n]] - most
        total = exp_row(probabilities[n], logits[n], V, most, 1)
        loss += np.log(total) - target
        scale_row(probabilities[n], probabilities[n], V, scalar(1) / total)
    return loss


@inlined
def cross_entropy_backward(dlogits, probabilities, targets, scale):
    """Overwrites dlogits, which may be probabilities itself, with scale times the gradient."""
    # dlogits, probabilities: (N, V)   targets: (N,)
    N, V = probabilities.shape
    scalar = probabilities.dtype.type
    for n in range(N):
        scale_row(dlogits[n], probabilities[n], V, scale)
        dlogits[n, targets[n]] -= scalar(scale)
