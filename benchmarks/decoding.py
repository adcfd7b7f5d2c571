"""How many tokens a second are generated, ours beside PyTorch's with a key/value cache.

    python benchmarks/decoding.py            configurations B, E and F
    python benchmarks/decoding.py B --json

Temperature 0, from one token on, in turn in one process; medians. PyTorch's figure is the
better of one thread and its default number. Then ours with eight samples at once, all
samples' tokens counted, against one after another. Without torch installed, ours alone.
"""

import argparse
import json
import time

import numpy as np
from contest import machine
from steps import CONFIGURATIONS

from femtogpt.config import GPTConfig
from femtogpt.model import initial_parameters
from femtogpt.sampler import generate, generate_together

SAMPLES = 8


def contenders(config, parameters):
    """name -> function(count) that generates count tokens of each sample it makes."""
    def ours(count):
        return list(generate(config, parameters, [0], count, 0, temperature=0))

    def together(count):
        return list(generate_together(config, parameters, [[0]] * SAMPLES, count, range(SAMPLES),
                                      temperature=0))

    found = {"ours": ours, "together": together}
    try:
        import peer
    except ImportError:
        return found
    for threads in {1, peer.torch.get_num_threads()}:
        decoder = peer.CachedDecoder(config, parameters)
        found[f"torch {threads}"] = lambda count, d=decoder, n=threads: d.generate(count, n)
    assert ours(40) == found["torch 1"](40), "another model"
    return found


def measure(functions, seconds):
    """The median tokens a second of a sample of each function, in turns of about a quarter
    second, for about `seconds` in all."""
    counts, speeds = {}, {name: [] for name in functions}
    for name, function in functions.items():
        function(20)
        before = time.perf_counter()
        function(20)
        counts[name] = max(20, int(20 * 0.25 / (time.perf_counter() - before)))
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(speeds["ours"]) < 5:
        for name, function in functions.items():
            before = time.perf_counter()
            function(counts[name])
            speeds[name].append(counts[name] / (time.perf_counter() - before))
    return {name: float(np.median(own)) for name, own in speeds.items()}


def run(name, seconds):
    config = GPTConfig(*CONFIGURATIONS[name][:5])
    parameters = initial_parameters(config, 1)
    parameters += np.random.default_rng(0).normal(0, 0.02, parameters.size).astype(np.float32)
    speeds = measure(contenders(config, parameters), seconds)
    ours, together = speeds.pop("ours"), SAMPLES * speeds.pop("together")
    result = {"configuration": name, "tokens_per_second": ours}
    if speeds:
        best = max(speeds.values())
        result |= {"torch_tokens_per_second": best, "ratio": ours / best}
    return result | {"together": together, "together_ratio": together / ours}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("configurations", nargs="*", default=list("BEF"))
    parser.add_argument("--seconds", type=float, default=20, help="for each configuration")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(machine())
        print(f"     ours tok/s  torch tok/s  ratio  {SAMPLES} at once tok/s  gain")
    for name in options.configurations:
        result = run(name, options.seconds)
        if options.json:
            print(json.dumps(result), flush=True)
            continue
        nothing = float("nan")
        print(f"{name:5}{result['tokens_per_second']:10,.0f}"
              f"{result.get('torch_tokens_per_second', nothing):13,.0f}"
              f"{result.get('ratio', nothing):7.1f}{result['together']:17,.0f}"
              f"{result['together_ratio']:6.1f}", flush=True)


if __name__ == "__main__":
    main()
