"""Where a training step's time goes: layer by layer, forward and backward.

    python benchmarks/layers.py            configurations A, E and F
    python benchmarks/layers.py A --json

Runs the pass of femtogpt/model.py itself, one thread and one micro-batch, called from
Python with a clock around every function it calls (some 0.3 us of each call are the
clock's); then the same micro-batch as compiled, which is what training uses, and
whole steps on all threads: gradients, their sum, the optimizer, and the threads' waiting.
"""

import argparse
import json
import time
import types
from collections import defaultdict
from functools import partial

import numpy as np
from contest import PRODUCT, machine
from contestants import Sgemm, make, milliseconds
from steps import CONFIGURATIONS, flops

from femtogpt import model
from femtogpt.activations import allocate_activations, constants
from femtogpt.layers.precision import use
from femtogpt.layers.turns import NO_TURN
from femtogpt.machine import available_processors
from femtogpt.matrices import allocate_transposed, are_transposed, as_they_are, transpose_layers
from femtogpt.model import initial_parameters
from femtogpt.passes import kernel_for, loss_and_some_gradients
from femtogpt.tensors import lined_up_vectors, views

# What the pass is made of: these are called from Python, everything below them is timed.
PASSES = ("forward_and_head", "model_forward", "model_backward", "block_forward",
          "block_backward", "head_forward", "head_backward", "kept", "is_huge", "repeats",
          "rows_that_differ", "wait_for", "end_stage")


def clocked():
    """(the kernels of a pass run by Python, seconds): seconds[name] adds up as it runs."""
    seconds = defaultdict(float)

    def timed(name, function):
        def call(*arguments):
            before = time.perf_counter()
            result = function(*arguments)
            seconds[name] += time.perf_counter() - before
            return result

        return call

    names = {name: timed(name, value) for name, value in vars(model).items()
             if hasattr(value, "py_func") and name not in PASSES}
    names = vars(model) | names
    for name in PASSES:
        function = getattr(model, name).py_func
        names[name] = (types.FunctionType(function.__code__, names)
                       if function.__module__ == model.__name__ else function)
    return (names["forward_and_head"], names["model_backward"]), seconds


def one_micro_batch(name, seconds, precision="float32"):
    """Milliseconds of a micro-batch by function, and as compiled, one thread."""
    ours = make("ours", 1, CONFIGURATIONS[name], "adamw")
    config, sequences = ours.config, ours.engine.micro_batch
    N = sequences * config.num_tokens
    tokens, targets = ours.tokens[: 2 * N].reshape(2, N).astype(np.int64)
    parameters = initial_parameters(config, 1)
    gradients = lined_up_vectors(config, 1)[0, : parameters.size]
    g, p = views(gradients, config), views(parameters, config)
    k = constants(config, bfloat16=use(precision))
    a, L = allocate_activations(config, sequences), config.num_layers
    w = as_they_are(p)
    if are_transposed(config):
        w = allocate_transposed(config)
        transpose_layers(w, p, 0, L)
    keys = np.arange(sequences, dtype=np.uint64)
    (forward, backward), clocks = clocked()
    compiled = kernel_for(g, a, p, k)
    whole, parts, until = [], [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(whole) < 8:
        clocks.clear()
        forward(g.head_weight, g.head_bias, a, p, tokens, targets, k, 1e-3, 0.0, keys, NO_TURN)
        backward(g, a, p, w, tokens, k, 0.0, keys, L, 0, False, NO_TURN)
        parts.append(dict(clocks))
        whole.append(milliseconds(lambda: loss_and_some_gradients(
            g, a, p, tokens, targets, k, 1e-3, 0.0, keys, L, 0, False, NO_TURN, compiled, w)))
    middle = {key: 1e3 * float(np.median([part[key] for part in parts[3:]])) for key in parts[0]}
    took, core = float(np.median(whole[3:])), Sgemm(1)
    peak = 2 * PRODUCT**3 / min(milliseconds(core.step) for _ in range(12))
    share = flops((*CONFIGURATIONS[name][:5], sequences)) / took / peak
    return {"positions": N, "functions_ms": middle, "functions_sum_ms": sum(middle.values()),
            "compiled_ms": took, "share_of_one_core": share}


def whole_steps(name, threads, optimizer, seconds, precision):
    """Milliseconds of a step on all threads, and of its parts, each by itself: together they take
    less, for of a small model no thread comes back to Python between the sum and the update."""
    ours = make("ours", threads, CONFIGURATIONS[name], optimizer, precision)
    engine, clocks = ours.engine, []
    parts, until = [], time.perf_counter() + seconds
    original = engine.in_turn

    def measured(*phases):
        """in_turn; of each phase, how long it took and how long threads waited in it."""
        done = [[] for _ in phases]

        def timed(phase, function, stage, item):
            before = time.perf_counter()
            result = function(stage, item)
            done[phase].append((before, time.perf_counter()))
            return result

        begin = time.perf_counter()
        results = original(*((partial(timed, phase, function), items)
                             for phase, (function, items) in enumerate(phases)))
        end = time.perf_counter()
        for each in done:
            # What begins while others are at the phase before waits for them.
            last = max(stop for _, stop in each) if each is not done[-1] else end
            busy = sum(stop - max(start, begin) for start, stop in each)
            clocks.append((last - begin, threads * (last - begin) - busy))
            begin = last
        return results

    def step():
        windows, keys = ours.batches.draw(len(parts))
        ours.update.set_rate(1e-3)
        _, gradient, squares = engine.loss_and_gradient(ours.parameters, windows, 0.0, keys)
        ours.update.make(lambda function, items: measured((lambda _, item: function(item), items)),
                         gradient, squares)
        ours.update.finish()

    while time.perf_counter() < until or len(parts) < 8:
        clocks.clear()
        engine.in_turn = original
        whole, engine.in_turn = milliseconds(ours.step) / 1e3, measured
        took = milliseconds(step) / 1e3
        *passes, (update, _) = clocks  # of each pass the shards, then their sum
        transposing = 0.0
        if are_transposed(ours.config):
            (transposing, _), *passes = passes
        shards, adding = (sum(took for took, _ in passes[kind::2]) for kind in (0, 1))
        rest = took - transposing - shards - adding - update
        parts.append((whole, transposing, shards, adding, update, rest,
                      sum(waiting for _, waiting in clocks) / threads))
    middle = 1e3 * np.median(parts[3:], axis=0)
    keys = ("step", "matrices transposed", "shards", "sum", optimizer, "rest",
            "of these, threads waited")
    return dict(zip(keys, middle.tolist(), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("configurations", nargs="*", default=list("AEF"))
    parser.add_argument("--threads", type=int, default=available_processors())
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--seconds", type=float, default=5, help="for each measurement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(f"{machine()}, {options.threads} threads, {options.optimizer}, "
              f"{options.precision}")
    for name in options.configurations:
        one = one_micro_batch(name, options.seconds, options.precision)
        steps = whole_steps(name, options.threads, options.optimizer, options.seconds,
                            options.precision)
        if options.json:
            print(json.dumps({"configuration": name, "machine": machine(), "micro_batch": one,
                              "threads": options.threads, "precision": options.precision,
                              "step_ms": steps}), flush=True)
            continue
        print(f"\n{name}: a micro-batch of {one['positions']} positions, one thread, ms")
        for function, ms in sorted(one["functions_ms"].items(), key=lambda item: -item[1]):
            print(f"  {function:24}{ms:9.3f}{ms / one['functions_sum_ms']:7.1%}")
        print(f"  {'sum':24}{one['functions_sum_ms']:9.3f}\n  {'as compiled':24}"
              f"{one['compiled_ms']:9.3f}   {one['share_of_one_core']:.0%} of the core's sgemm")
        print(f"{name}: a step on {options.threads} threads, ms")
        for part, ms in steps.items():
            print(f"  {part:24}{ms:9.3f}")


if __name__ == "__main__":
    main()
