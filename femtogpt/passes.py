"""Whole passes of the model over micro-batches, as the rest of the program calls them.

Letters as in model.py, whose two kernels these call.
"""

import ctypes
import functools

import numba
import numpy as np
from numba import typeof, types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from .layers.numeric import allocation_free, by_address, code_of_types, of_types
from .layers.rows import fill_row
from .layers.together import take, wait_for_all
from .layers.turns import NO_TURN
from .matrices import as_they_are, matrices_type
from .model import forward_and_head, model_backward

NUMBER, REAL, IDS, SEQUENCES = types.int64, types.float64, types.int64[::1], types.uint64[::1]
NO_FLAGS = np.zeros(0, np.int64)
call_forward = by_address(forward_and_head, types.float64)
call_backward = by_address(model_backward, types.none)


@intrinsic
def further(typingctx, arrays, distance):
    """A tuple of arrays as the one of those that lie so many bytes further on."""

    def codegen(context, builder, signature, arguments):
        found, distance = arguments
        for i, kind in enumerate(signature.args[0]):
            array = context.make_array(kind)(context, builder, builder.extract_value(found, i))
            address = builder.add(builder.ptrtoint(array.data, distance.type), distance)
            array.data = builder.inttoptr(address, array.data.type)
            found = builder.insert_value(found, array._getvalue(), i)
        return impl_ret_borrowed(context, builder, signature.return_type, found)

    return arrays(arrays, types.int64), codegen


if numba.config.DISABLE_JIT:

    def further(arrays, distance):
        def one(array):
            memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data + int(distance))
            return np.ndarray(array.shape, array.dtype, memory)

        return type(arrays)(*map(one, arrays))


@allocation_free
def micro_batches(forward, backward, gradients, cleared, g, a, p, w, tokens, targets, k, scale,
                  rate, sequence_keys, top, bottom, fresh, turn, ready, parts, losses, taken):
    """loss_and_some_gradients of parts of a batch, one after the other, until there is none left
    that no other thread has taken.

    forward, backward: the addresses of those kernels; backward is not used with scale 0.
    parts: (n, 3), of each (start, stop) in sequences, so many times those of a micro-batch, which
    a is for; and the row of gradients that is its own. losses: (n,), becomes theirs.
    gradients: (rows, P or more); the first `cleared` of a row are set to 0 before. g: views of
    row 0. ready: flags (together.py) of w, which backward waits for; should it fail, the rest is
    not done. taken: a counter.
    """
    B, L = a.keys.size, a.qkv.shape[0]
    T = tokens.size // sequence_keys.size
    number = take(taken)
    while number < parts.shape[0]:
        start, stop, row = parts[number, 0], parts[number, 1], parts[number, 2]
        if cleared > 0:
            fill_row(gradients[row], cleared, 0)
        own, loss = further(g, row * gradients.strides[0]), 0.0
        for b in range(start, stop, B):
            part, keys = slice(b * T, (b + B) * T), sequence_keys[b : b + B]
            if top == L:
                loss += call_forward(forward, own.head_weight, own.head_bias, a, p, tokens[part],
                                     targets[part], k, scale, rate, keys, turn)
            if scale != 0:
                if not wait_for_all(ready):
                    return
                call_backward(backward, own, a, p, w, tokens[part], k, rate, keys, top, bottom,
                              fresh and b == start, turn)
        losses[number] = loss
        number = take(taken)


def kernel_for(g, a, p, k, backward=True):
    """micro_batches for arguments of these types, looked up, without the first two; and compiled,
    where it is not. backward: whether for a scale other than 0."""
    real = typeof(p.head_bias)
    rows = types.Array(real.dtype, 2, "C")
    back = code_of_backward(g, a, p, k) if backward else 0
    weight, bias, w = typeof(g.head_weight), typeof(g.head_bias), matrices_type(p)
    g, a, p, k = map(typeof, (g, a, p, k))
    forward = (weight, bias, a, p, IDS, IDS, k, REAL, REAL, SEQUENCES, NUMBER)
    whole = (NUMBER, NUMBER, rows, NUMBER, g, a, p, w, IDS, IDS, k, REAL, REAL, SEQUENCES, NUMBER,
             NUMBER, types.boolean, NUMBER, IDS, types.int64[:, ::1], types.float64[::1], IDS)
    return functools.partial(
        of_types(micro_batches, whole), code_of_types(forward_and_head, forward), back)


def code_of_backward(g, a, p, k):
    """code_of_types of model_backward, for arguments of these types."""
    w = matrices_type(p)
    g, a, p, k = map(typeof, (g, a, p, k))
    return code_of_types(model_backward, (g, a, p, w, IDS, k, REAL, SEQUENCES, NUMBER, NUMBER,
                                          types.boolean, NUMBER))


def loss_and_some_gradients(g, a, p, tokens, targets, k, scale, rate, sequence_keys, top, bottom,
                            fresh, turn, kernel=None, w=None, ready=NO_FLAGS):
    """loss_and_gradients in parts, each of which goes on from the one before.

    top, bottom: it goes back through blocks top - 1 to bottom. With top L the forward and the head
    come first, and it returns the loss (else 0); with bottom 0 the embedding comes last.
    fresh: the blocks' matrices in g hold nothing yet, and are overwritten. turn: as in turns.py.
    kernel: as kernel_for gives it. With top L and bottom 0 there may be several times the sequences
    that a is for, which are then micro-batches. w: p's matrices as in matrices.py [default: as they
    are]. ready: flags of w (together.py); should it fail, the loss is 0.
    """
    kernel = kernel or kernel_for(g, a, p, k, scale != 0)
    loss, taken = np.zeros(1), np.zeros(1, np.int64)
    kernel(np.empty((1, 0), p.head_bias.dtype), 0, g, a, p, w or as_they_are(p), tokens, targets, k,
           scale, rate, sequence_keys, top, bottom, fresh, turn, ready,
           np.array([[0, sequence_keys.size, 0]]), loss, taken)
    return float(loss[0])


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
