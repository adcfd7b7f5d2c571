"""A checker of backward functions: their gradients against central differences in float64.

The output is reduced to a number by a *random* cotangent. With one of all ones (a plain
sum) a wrong softmax backward passes, since a softmax's outputs sum to one whatever its
inputs. Inputs are moved along random directions, all elements at once, so that no
element goes unseen and a check costs a few forward passes.
"""

import numpy as np

STEP = 1e-5
TOLERANCE = 1e-6


def check(forward, inputs, backward, overwrites=(), adds=(), seed=0, directions=2):
    """Raises AssertionError, naming the input, where backward's gradients are wrong.

    inputs: name -> float64 array. forward(inputs) -> (out, saved): out an array or a
    number. backward(gradients, dout, inputs, saved) fills gradients: name -> array.
    overwrites: the gradients that backward overwrites: they hold NaN before. adds: those
    that it adds to: they hold random numbers before. Neither may change inputs or dout.
    """
    rng = np.random.default_rng(seed)
    before = {name: array.copy() for name, array in inputs.items()}
    out, saved = forward(inputs)
    dout = rng.standard_normal(np.shape(out))
    gradients = {name: np.full(inputs[name].shape, np.nan) for name in overwrites}
    start = {name: rng.standard_normal(inputs[name].shape) for name in adds}
    gradients |= {name: array.copy() for name, array in start.items()}
    dout_given = dout.copy()
    backward(gradients, dout_given, inputs, saved)
    assert np.array_equal(dout_given, dout), "backward changed dout"
    for name, array in inputs.items():
        assert np.array_equal(array, before[name]), f"{name} was changed"

    def reduced(values):
        return np.sum(dout * forward(values)[0])

    # Differences can't see less than the rounding of what they are differences of.
    noise = 1e-10 * np.sum(np.abs(dout * out))
    for name in (*overwrites, *adds):
        gradient = gradients[name] - start[name] if name in adds else gradients[name]
        assert np.isfinite(gradient).all(), f"d{name} was not overwritten, or is not finite"
        for _ in range(directions):
            direction = rng.standard_normal(inputs[name].shape)
            above, below = (
                reduced(inputs | {name: inputs[name] + sign * STEP * direction}) for sign in (1, -1)
            )
            numeric = (above - below) / (2 * STEP)
            terms = gradient * direction
            analytic = np.sum(terms)
            # The size of a sum of these terms, were their signs random.
            size = max(abs(numeric), np.sqrt(np.sum(terms**2)))
            assert abs(numeric - analytic) <= TOLERANCE * size + noise, (
                f"d{name}: {analytic} along a direction where differences give {numeric}"
            )
