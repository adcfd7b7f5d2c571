"""Losses of short runs, step by step, as they were when the file golden/losses.json was made.

A change of any loss is found, whatever caused it. After a change that is meant to alter
them, and only then, write the file anew and read the difference before you commit it:

    python tests/test_golden.py
"""

import json
from pathlib import Path

import numpy as np
import pytest

from femtogpt.batches import draw_batch
from femtogpt.config import GPTConfig
from femtogpt.model import initial_parameters
from femtogpt.optimizer import Schedule, fresh_state, learning_rate
from femtogpt.parallel import Engine
from femtogpt.tensors import views
from femtogpt.update import update

FILE = Path(__file__).parent / "golden" / "losses.json"
STEPS, BATCH_SIZE, SEED, DROPOUT = 20, 16, 1, 0.1
SCHEDULES = {"standard": Schedule(3e-3, 0.0, 5, None), "femto": Schedule(2e-2, 1e-5, 5, 100)}
RUNS = ("standard/muon", "standard/adamw", "femto/adamw")


def some_tokens():
    """Text of a kind: a token is mostly three times the one before it, plus one."""
    rng = np.random.default_rng(7)
    tokens = [0]
    for surprise, other in zip(rng.random(3000), rng.integers(0, 31, 3000), strict=True):
        tokens.append(other if surprise < 0.2 else (3 * tokens[-1] + 1) % 31)
    return np.array(tokens)


def losses_of(run):
    """The mean loss of every step."""
    recipe, optimizer = run.split("/")
    config = GPTConfig(31, 24, 32, 2, 2, recipe)
    tokens, flat = some_tokens(), initial_parameters(config, SEED)
    if recipe == "femto":  # its gains begin near zero, and nothing is to be seen for 100 steps
        for field, tensor in views(flat, config)._asdict().items():
            tensor += field.endswith("_gain")
    state = fresh_state(config, optimizer)
    losses = []
    with Engine(config, BATCH_SIZE, threads=2) as engine:
        for step in range(STEPS):
            windows, keys = draw_batch(tokens, config.num_tokens, BATCH_SIZE, SEED, step)
            loss, gradient, squares = engine.loss_and_gradient(flat, windows, DROPOUT, keys)
            rate = learning_rate(SCHEDULES[recipe], recipe, step, 0, STEPS)
            update(engine.map, config, flat, gradient, squares, state, rate)
            losses.append(loss)
    return losses


@pytest.mark.parametrize("run", RUNS)
def test_losses_are_the_golden_ones(run):
    golden = json.loads(FILE.read_text())[run]
    assert len(golden) == STEPS
    # Another processor or BLAS rounds otherwise: our tiles and OpenBLAS differ by 1e-6 here.
    np.testing.assert_allclose(losses_of(run), golden, rtol=2e-4)


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    values = {run: [round(loss, 6) for loss in losses_of(run)] for run in RUNS}
    FILE.write_text(json.dumps(values, indent=1) + "\n")
    print(FILE)
