"""What it costs that every number of threads gives the same bits.

    python benchmarks/exactness.py            A, E, F of steps.py, some two minutes
    python benchmarks/exactness.py A --json

Beside the steps as they are, of a fixed number of shards that are added in a fixed tree: steps
of as many shards as threads, so that each thread adds into one gradient of its own. That order
is as fast as any can be, and gives other bits with other numbers of threads. In turns, in one
process; medians.
"""

import argparse
import json
import statistics
import time

from steps import CONFIGURATIONS


def measure(shape, threads, seconds):
    """Milliseconds a step of a shape, exact and free, by the clock and of all processors; cost:
    exact / free - 1 of each."""
    import numpy as np

    from femtogpt import parallel
    from femtogpt.batches import draw_batch
    from femtogpt.config import GPTConfig
    from femtogpt.model import initial_parameters
    from femtogpt.optimizer import fresh_state
    from femtogpt.update import update

    V, T, C, L, NH, batch_size = shape
    config = GPTConfig(V, T, C, L, NH)
    tokens = np.random.default_rng(1).integers(0, V, 100_000)
    engines, ms, cpu = [], ([], []), ([], [])
    count_shards = parallel.count_shards
    for choose in (count_shards, lambda *_: threads):
        parallel.count_shards = choose
        engines.append(parallel.Engine(config, batch_size, threads))
    parallel.count_shards = count_shards
    parameters = initial_parameters(config, 1)
    states = [(parameters.copy(), fresh_state(config, "adamw")) for _ in engines]
    end, step = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or step < 6:
        batch, keys = draw_batch(tokens, T, batch_size, 1, step)
        for i in ((0, 1), (1, 0))[step % 2]:
            flat, state = states[i]
            began = time.perf_counter(), time.process_time()
            _, gradient, squares = engines[i].loss_and_gradient(flat, batch, 0.0, keys)
            update(engines[i].map, config, flat, gradient, squares, state, 1e-3)
            if step >= 2:
                ms[i].append(1000 * (time.perf_counter() - began[0]))
                cpu[i].append(1000 * (time.process_time() - began[1]))
        step += 1
    for engine in engines:
        engine.__exit__()
    exact, free, exact_cpu, free_cpu = map(statistics.median, (*ms, *cpu))
    return {"exact_ms": exact, "free_ms": free, "cost": exact / free - 1,
            "exact_cpu_ms": exact_cpu, "free_cpu_ms": free_cpu,
            "cpu_cost": exact_cpu / free_cpu - 1,
            "shards": len(engines[0].shards), "steps": len(ms[0])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=["A", "E", "F"], metavar="CONFIGURATION")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = {name: measure(CONFIGURATIONS[name], options.threads, options.seconds)
            for name in options.names}
    if options.json:
        print(json.dumps(rows))
        return
    print("| | shards | as it is, ms | a gradient a thread, ms | cost | processors', ms | | cost |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, row in rows.items():
        print(f"| {name} | {row['shards']} | {row['exact_ms']:.1f} | {row['free_ms']:.1f} | "
              f"{row['cost']:+.1%} | {row['exact_cpu_ms']:.1f} | {row['free_cpu_ms']:.1f} | "
              f"{row['cpu_cost']:+.1%} |")


if __name__ == "__main__":
    main()
