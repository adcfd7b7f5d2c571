"""Whole passes of the model over micro-batches, as the rest of the program calls them.

Letters as in model.py, whose two kernels these call.
"""

import functools

from numba import typeof, types

from .layers.numeric import allocation_free, by_address, code_of_types, of_types
from .layers.turns import NO_TURN
from .model import forward_and_head, model_backward

call_forward = by_address(forward_and_head, types.float64)
call_backward = by_address(model_backward, types.none)


@allocation_free
def micro_batches(forward, backward, g, a, p, tokens, targets, k, scale, rate, sequence_keys, top,
                  bottom, fresh, turn):
    """loss_and_some_gradients of micro-batches one after the other, each of as many sequences as a
    is for. forward, backward: the addresses of those kernels; backward is not used with scale 0."""
    B, L, loss = a.keys.size, a.qkv.shape[0], 0.0
    T = tokens.size // sequence_keys.size
    for b in range(0, sequence_keys.size, B):
        part, keys = slice(b * T, (b + B) * T), sequence_keys[b : b + B]
        if top == L:
            loss += call_forward(forward, g.head_weight, g.head_bias, a, p, tokens[part],
                                 targets[part], k, scale, rate, keys, turn)
        if scale != 0:
            call_backward(backward, g, a, p, tokens[part], k, rate, keys, top, bottom,
                          fresh and b == 0, turn)
    return loss


def kernel_for(g, a, p, k, backward=True):
    """What loss_and_some_gradients calls for arguments of these types, looked up; and compiled,
    where it is not. backward: whether with a scale other than 0."""
    weight, bias = typeof(g.head_weight), typeof(g.head_bias)
    g, a, p, k = map(typeof, (g, a, p, k))
    tokens, keys, number, real = types.int64[::1], types.uint64[::1], types.int64, types.float64
    forward = (weight, bias, a, p, tokens, tokens, k, real, real, keys, number)
    back = (g, a, p, tokens, k, real, keys, number, number, types.boolean, number)
    whole = (number, number, g, a, p, tokens, tokens, k, real, real, keys, number, number,
             types.boolean, number)
    return functools.partial(
        of_types(micro_batches, whole), code_of_types(forward_and_head, forward),
        code_of_types(model_backward, back) if backward else 0)


def loss_and_some_gradients(g, a, p, tokens, targets, k, scale, rate, sequence_keys, top, bottom,
                            fresh, turn, kernel=None):
    """loss_and_gradients in parts, each of which goes on from the one before.

    top, bottom: it goes back through blocks top - 1 to bottom. With top L the forward and the head
    come first, and it returns the loss (else 0); with bottom 0 the embedding comes last.
    fresh: the blocks' matrices in g hold nothing yet, and are overwritten. turn: as in turns.py.
    kernel: as kernel_for gives it. With top L and bottom 0 there may be several times the sequences
    that a is for, which are then micro-batches.
    """
    kernel = kernel or kernel_for(g, a, p, k, scale != 0)
    return kernel(g, a, p, tokens, targets, k, scale, rate, sequence_keys, top, bottom, fresh, turn)


def loss_and_gradients(g, a, p, tokens, targets, k, scale, rate, sequence_keys, fresh=False):
    """The whole pass of a micro-batch: adds scale times the gradients of the summed loss to g.

    tokens, targets: (N,) int64, the targets one position later. scale: one over all
    positions of the batch makes it the mean's gradient; 0: the loss alone, g stays as it is.
    fresh: what g holds of the blocks' matrices is overwritten.
    sequence_keys: (B,) uint64. Returns the sum of the losses in nats, float64.
    """
    return loss_and_some_gradients(g, a, p, tokens, targets, k, scale, rate, sequence_keys,
                                   a.qkv.shape[0], 0, fresh, NO_TURN)


def summed_loss(a, p, tokens, targets, k, sequence_keys, kernel=None):
    """The sum of the losses in nats of micro-batches, without gradients or dropout. kernel: as
    loss_and_some_gradients'."""
    return loss_and_some_gradients(p, a, p, tokens, targets, k, 0.0, 0.0, sequence_keys,
                                   a.qkv.shape[0], 0, False, NO_TURN, kernel)
