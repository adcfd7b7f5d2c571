"""Where in the model NaN or infinity appears first: the pass again, looked at place by place."""

import numpy as np

from .activations import allocate_activations, constants
from .errors import FemtoError
from .passes import loss_and_gradients
from .tensors import named, views

UNKNOWN_PLACE = "the gradient's norm"


class Diverged(FemtoError):
    """The loss, a gradient or a parameter is not finite. The file keeps the last good state."""

    agreed = True  # by all ranks


def first_bad_place(config, parameters, batch, rate, keys, gradient=None):
    """A phrase that names it: a parameter, a layer's output, or the gradient of a parameter.

    parameters, gradient: flat. batch: windows (B, T + 1), rate and keys (B,): dropout's, as
    the step had them. Sequence by sequence, so that it takes little memory, but as long as a
    forward of one thread.
    """
    for name, tensor in named(parameters, config).items():
        if not np.isfinite(tensor).all():
            return f"the parameter {name}"
    k, p = constants(config), views(parameters, config)
    a = allocate_activations(config, 1)
    L, found = config.num_layers, []
    places = [(a.x[0], "the output of token_embedding")]
    for l in range(L):
        places += [(a.x[2 * l + 1], f"the output of layers.{l}.attention"),
                   (a.x[2 * l + 2], f"the output of layers.{l}.mlp")]
    places.append((a.norm[2 * L], "the output of final_norm"))
    for b in range(len(batch)):
        window = np.ascontiguousarray(batch[b])
        loss = loss_and_gradients(p, a, p, window[:-1], window[1:], k, 0.0, rate, keys[b : b + 1])
        if not np.isfinite(loss):
            found.append(next((i for i, (output, _) in enumerate(places)
                               if not np.isfinite(output).all()), len(places)))
    if found:
        return [*(place for _, place in places), "the output of head"][min(found)]
    if gradient is not None:
        tensors = named(gradient, config)
        order = sorted(tensors, key=lambda name: _depth(name, L))
        for name in reversed(order):  # backward meets the last layer first
            if not np.isfinite(tensors[name]).all():
                return f"the gradient of {name}"
    return UNKNOWN_PLACE


def _depth(name, num_layers):
    """Where in the forward a parameter is met: its layer, and within it attention, then MLP."""
    if name.startswith("layers."):
        _, l, part = name.split(".", 2)
        return (int(l), part.startswith("mlp"))
    return (-1, 0) if "embedding" in name else (num_layers, name.startswith("head"))
