"""What denormal numbers would cost: gradients of a model with and without them.

    python benchmarks/denormals.py

Half of the hidden units are told, by their biases, to be far below zero, as some of every trained
model are: their GELU is no more than 1e-37. Milliseconds of a batch's gradient: of the model as
it begins, of that one, and of that one if denormal numbers are kept, in turns.
"""

import argparse
import contextlib
import statistics

import contest
from contestants import milliseconds, random_tokens
from steps import CONFIGURATIONS

from femtogpt import parallel
from femtogpt.batches import draw_batch
from femtogpt.config import GPTConfig
from femtogpt.machine import available_processors
from femtogpt.model import initial_parameters
from femtogpt.tensors import views


@contextlib.contextmanager
def kept():
    """In place of no_denormals."""
    yield


def measure(shape, rounds):
    """Medians of the three, in milliseconds."""
    *numbers, batch_size = shape
    config = GPTConfig(*numbers)
    fresh = initial_parameters(config, 1)
    trained = fresh.copy()
    views(trained, config).up_bias[:, ::2] = -12
    tokens = random_tokens(config.vocab_size)
    windows, keys = draw_batch(tokens, config.num_tokens, batch_size, 1, 0)
    ways = {"fresh": (fresh, parallel.no_denormals), "trained": (trained, parallel.no_denormals),
            "kept": (trained, kept)}
    times = {way: [] for way in ways}
    with parallel.Engine(config, batch_size) as engine:
        for _ in range(rounds):
            for way, (parameters, parallel.no_denormals) in ways.items():
                times[way].append(milliseconds(
                    lambda p=parameters: engine.loss_and_gradient(p, windows, 0.0, keys)))
    parallel.no_denormals = ways["fresh"][1]
    return {way: statistics.median(found[1:]) for way, found in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("configurations", nargs="*", default=["A", "C", "E"])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    print(f"{contest.machine()}, {available_processors()} threads", "", sep="\n")
    contest.print_heading("", "fresh ms", "trained ms", "kept ms", "trained/", "kept/")
    for name in options.configurations:
        ms = measure(CONFIGURATIONS[name], options.rounds)
        print(contest.row(name, *(f"{ms[way]:.1f}" for way in ms),
                          *(f"{ms[way] / ms['fresh']:.2f}" for way in ("trained", "kept"))))


if __name__ == "__main__":
    main()
