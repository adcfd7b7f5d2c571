"""A layer of one's own in thirty lines: forward, backward, its check, and a model trained with it.

    python examples/own_layer.py

The layer stands between the token embedding and the blocks. What it does there depends on the
token alone, so it can be computed for the whole vocabulary at once, before a pass, which then
looks up its results: model.py stays as it is. When all is trained, the results take the table's
place, so that the model can be saved and generates as any other. (A layer that looks at several
tokens, or stands in a block, is a pair of functions in femtogpt/layers/ instead: README, "Add a
layer".)
"""

# %%
import os
import random

import numpy as np

import femtogpt
from dummy_data import addition_dummy
from femtogpt.batches import draw_batch
from femtogpt.optimizer import fresh_state
from femtogpt.parallel import Engine
from femtogpt.tensors import views
from femtogpt.update import update

STEPS = int(os.environ.get("STEPS", 300))
BATCH, RATE, GATE_RATE = 32, 3e-3, 0.3


# %% The layer, a gate:
#
#     out = x s     s = 2 / (1 + e^-z)     z = x weight
#
#     dz = dout x s (1 - s/2)     dx = dout s + dz weight^T     dweight = x^T dz
#
# With weight 0 it is nothing at first: s is 1.
def gate_forward(x, weight):
    """(out, s), both (V, C). x: (V, C), weight: (C, C)."""
    s = 2 / (1 + np.exp(-x @ weight))
    return x * s, s


def gate_backward(dout, x, s, weight):
    """(dx, dweight), as x and weight."""
    dz = dout * x * s * (1 - s / 2)
    return dout * s + dz @ weight.T, x.T @ dz


# %% Is the backward right? Against differences of the forward, in float64
def check(step=1e-6):
    """Raises AssertionError where a gradient is not what differences along a direction give."""
    rng = np.random.default_rng(1)
    inputs = [rng.normal(size=(7, 5)), rng.normal(size=(5, 5))]
    dout = rng.normal(size=(7, 5))  # any numbers: the loss is the sum of out times these
    gradients = gate_backward(dout, inputs[0], gate_forward(*inputs)[1], inputs[1])
    for i, name in enumerate(("x", "weight")):
        direction = rng.normal(size=inputs[i].shape)
        above, below = ([v + sign * step * direction if j == i else v for j, v in enumerate(inputs)]
                        for sign in (1, -1))
        numeric = np.sum(dout * (gate_forward(*above)[0] - gate_forward(*below)[0])) / (2 * step)
        analytic = np.sum(gradients[i] * direction)
        print(f"d{name}: {analytic:.8f}, by differences {numeric:.8f}")
        assert abs(analytic - numeric) < 1e-6 * abs(numeric)


# %% Trained: the gate's results are in the table's place while a pass computes
def train(model, tokens, steps, gated):
    """Trains model, with the gate or without; yields the losses. Leaves the gate in the table."""
    config, parameters = model.config, model.state.parameters
    table = views(parameters, config).token_embedding  # (V, C), and what is trained
    weight = np.zeros((config.embedding_degree,) * 2, np.float32)
    state = fresh_state(config, "muon")
    with Engine(config, BATCH) as engine:
        for step in range(steps):
            windows, keys = draw_batch(tokens, config.num_tokens, BATCH, 1, step)
            out, s = gate_forward(table, weight)
            seen = parameters.copy()
            views(seen, config).token_embedding[...] = out
            loss, gradient, _ = engine.loss_and_gradient(seen, windows, 0.0, keys)
            if gated:
                dout = views(gradient, config).token_embedding
                dout[...], dweight = gate_backward(dout, table, s, weight)  # dout is dx from here
                weight -= GATE_RATE * dweight
            update(engine.map, config, parameters, gradient, np.square(gradient, dtype=float),
                   state, RATE)
            yield loss
    table[...] = gate_forward(table, weight)[0]


# %%
def main():
    """Checks the gate, and trains two models that differ in it alone."""
    check()
    text = "".join(addition_dummy.generate(random.Random(1)))
    for gated in (False, True):
        model = femtogpt.new(num_tokens=32, embedding_degree=64, num_layers=2, num_heads=4)
        losses = list(train(model, model.tokenizer.encode(text), STEPS, gated))
        print(f"{'with' if gated else 'without'} the gate: loss {losses[0]:.4f} at first, "
              f"{np.mean(losses[-20:]):.4f} at last; 13 + 29 = "
              f"{model.generate('13 + 29 = ', temperature=0, stop=';')}")


if __name__ == "__main__":
    main()
