"""How long a training step takes, ours beside PyTorch's, in turn in one process.

    python benchmarks/steps.py            configurations A to E
    python benchmarks/steps.py A F --json

Prints the median milliseconds a step of each, the ratio, what our step comes to in
GFLOPS and as a share of this machine's own sgemm peak, and the resident memory. Only
ratios and shares mean something on a machine that does other work too. Without torch
installed, ours alone. PyTorch's MKL takes a slow path on AMD processors, which this
does not change.
"""

import argparse
import json
import platform
import resource
import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

from femtogpt.config import GPTConfig
from femtogpt.data import draw_batch
from femtogpt.model import initial_parameters
from femtogpt.optimizer import fresh_state, update
from femtogpt.parallel import Engine, default_threads
from femtogpt.tensors import count_parameters

# V, T, C, L, NH, batch size
CONFIGURATIONS = {
    "A": (256, 64, 64, 4, 4, 32),
    "B": (256, 80, 80, 4, 4, 32),
    "C": (256, 80, 144, 6, 6, 32),
    "D": (566, 80, 160, 8, 8, 32),
    "E": (1054, 80, 192, 8, 8, 32),
    "F": (1054, 80, 768, 8, 16, 32),
    "G": (65, 64, 128, 4, 4, 12),
    "H": (50257, 256, 768, 12, 12, 4),
}


class Ours:
    """step() trains one batch."""

    def __init__(self, config, tokens, batch_size, threads, optimizer):
        self.config, self.tokens, self.batch_size = config, tokens, batch_size
        self.parameters = initial_parameters(config, 1)
        self.state = fresh_state(config, optimizer)
        self.engine = Engine(config, batch_size, threads)
        self.done = 0

    def step(self):
        windows, keys = draw_batch(self.tokens, self.config.num_tokens, self.batch_size, 1,
                                   self.done)
        self.done += 1
        loss, gradient, squares = self.engine.loss_and_gradient(self.parameters, windows, 0.0, keys)
        update(self.engine.map, self.config, self.parameters, gradient, squares, self.state, 1e-3)
        return loss


def flops(config, batch_size):
    """Of a training step, products alone: 6 a matrix element and position, and attention's
    lower triangles (2 products forward, 4 backward, half of T each)."""
    T, C, L = config.num_tokens, config.embedding_degree, config.num_layers
    matrices = L * 12 * C * C + C * config.vocab_size
    return batch_size * T * (6 * matrices + L * 6 * 2 * C * T / 2)


def peak(threads):
    """This machine's sgemm GFLOPS on so many threads: the best of many square products."""
    a = np.random.default_rng(0).standard_normal((1536, 1536), np.float32)
    with threadpool_limits(threads, "blas"):
        best = min(_seconds(lambda: a @ a) for _ in range(12))
    return 2 * 1536**3 / best / 1e9


def machine(threads):
    """A line that says where the figures come from."""
    return (f"{platform.processor() or platform.machine()}, {threads} threads, "
            f"Python {platform.python_version()}, {sys.platform}")


def _seconds(function):
    before = time.perf_counter()
    function()
    return time.perf_counter() - before


def measure(steppers, seconds):
    """The median milliseconds of each stepper, in turns of five steps or more, about
    `seconds` in all. A turn's first two steps don't count: PyTorch's threads still spin
    for a while after its last step, and the caches hold the other's numbers."""
    times, until = [[] for _ in steppers], time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[0]) < 5:
        for stepper, own in zip(steppers, times, strict=True):
            turn, end = [], time.perf_counter() + 0.5
            while len(turn) < 5 or time.perf_counter() < end:
                turn.append(_seconds(stepper.step) * 1000)
            own += turn[2:]
    return [float(np.median(own)) for own in times]


def run(name, threads, optimizer, seconds):
    V, T, C, L, NH, batch_size = CONFIGURATIONS[name]
    config = GPTConfig(V, T, C, L, NH)
    tokens = np.random.default_rng(0).integers(0, V, 200_000).astype(np.uint16)
    steppers = [Ours(config, tokens, batch_size, threads, optimizer)]
    try:
        from peer import Stepper

        steppers.append(Stepper(config, tokens, batch_size, threads))
        assert steppers[1].parameters == count_parameters(config)
    except ImportError:
        pass
    # The peak beside each configuration: the machine's speed drifts.
    most = peak(threads)
    ms = measure(steppers, seconds)
    speed = flops(config, batch_size) / ms[0] / 1e6
    result = {"configuration": name, "ms": ms[0], "gflops": speed, "peak_gflops": most,
              "share_of_peak": speed / most, "resident_mb":
              resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if len(ms) > 1:
        result |= {"torch_ms": ms[1], "ratio": ms[1] / ms[0]}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("configurations", nargs="*", default=list("ABCDE"))
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--seconds", type=float, default=20, help="for each configuration")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(f"{platform.processor() or platform.machine()}, {options.threads} threads, "
              f"{options.optimizer}, Python {platform.python_version()}, {sys.platform}")
        print("       ours ms  torch ms  ratio   GFLOPS  of peak  resident MB")
    for name in options.configurations:
        result = run(name, options.threads, options.optimizer, options.seconds)
        if options.json:
            print(json.dumps(result), flush=True)
            continue
        print(f"{name:5}{result['ms']:9.1f}{result.get('torch_ms', float('nan')):10.1f}"
              f"{result.get('ratio', float('nan')):7.2f}{result['gflops']:9.0f}"
              f"{result['share_of_peak']:9.0%}{result['resident_mb']:13.0f}", flush=True)


if __name__ == "__main__":
    main()
