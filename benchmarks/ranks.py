"""Two processes beside two threads of one; what messages cost; what more machines would do.

    python benchmarks/ranks.py steps E F     steps of one process, two threads, and of two
                                             processes, one thread each, in turns
    python benchmarks/ranks.py messages      sums and shares of 1 KB to 256 MB between two
                                             processes, and the latency and bandwidth they fit
    python benchmarks/ranks.py predict E F   a step on 8, 64 and 512 machines, 1 to 100 Gb/s

`steps` also says what the model of cost (femtogpt/network.py) predicts for the two processes, of
the one's steps and the messages. `predict` is a prediction: of steps measured here, for machines
like this one. Needs mpiexec and mpi4py: pip install '.[mpi]'.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace

import contest
import numpy as np
from contestants import random_tokens
from steps import CONFIGURATIONS

from femtogpt import network
from femtogpt.config import GPTConfig
from femtogpt.estimate import step_time
from femtogpt.machine import available_processors
from femtogpt.ranks import cut, find

SIZES = [1024 * 4**i for i in range(10)]  # 1 KB to 256 MB
ROUNDS = 3


def processes(count, *arguments):
    """What the first of so many processes of this file prints, as JSON."""
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    if count > 1:
        command = ["mpiexec", "-n", str(count), *command]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


# ---- in the processes


def timed_steps(ranks, shape, optimizer, threads, seconds):
    """Milliseconds of each step, and of its sending, for so many seconds."""
    from femtogpt.batches import draw_batch
    from femtogpt.model import initial_parameters
    from femtogpt.optimizer import fresh_state, ownership
    from femtogpt.parallel import Engine
    from femtogpt.update import update

    *numbers, batch_size = shape
    config = GPTConfig(*numbers)
    tokens, parameters = random_tokens(config.vocab_size), initial_parameters(config, 1)
    state, owners = fresh_state(config, optimizer), ownership(config, optimizer, ranks.size)
    times, went_on, step = [], time.perf_counter(), 0
    with Engine(config, batch_size, threads, ranks, owners) as engine:
        while ranks.decided(step < 4 or time.perf_counter() - went_on < seconds):
            began = time.perf_counter()
            batch, keys = draw_batch(tokens, config.num_tokens, batch_size, 1, step,
                                     part=engine.part)
            _, gradient, squares = engine.loss_and_gradient(parameters, batch, 0.0, keys)
            update(engine.map, config, parameters, gradient, squares, state, 1e-3,
                   own=owners[ranks.rank])
            ranks.share(parameters, owners)
            times.append(1000 * (time.perf_counter() - began))
            step += 1
            if step == 2:
                went_on = time.perf_counter()
    return times[2:]


def timed_messages(ranks, seconds):
    """For each size of a flat vector: bytes that a rank sends, seconds of a sum over ranks and of a
    share: the medians of as many as there is time for."""
    found = []
    for size in SIZES:
        flat = np.ones(size // 4, np.float32)
        owners = cut(flat.size, ranks.size)
        start, stop = owners[ranks.rank]
        received = [[] if q == ranks.rank else [np.empty(stop - start, np.float32)]
                    for q in range(ranks.size)]
        sent = [[] if q == ranks.rank else [flat[a:b]] for q, (a, b) in enumerate(owners)]
        nothing_else = threading.Event()
        nothing_else.set()
        took, began = [], time.perf_counter()
        while ranks.decided(len(took) < 5 or time.perf_counter() - began < seconds):
            marks = [time.perf_counter()]
            ranks.exchange(sent, received, nothing_else)
            marks.append(time.perf_counter())
            ranks.share(flat, owners)
            took.append(np.diff([*marks, time.perf_counter()]))
        exchange, share = np.median(took[2:], axis=0).tolist()
        found.append([4 * (flat.size - (stop - start)), exchange, share])
    return found


# ---- in the one that asks


def fit(sizes, seconds):
    """(latency, bytes a second) of latency + bytes / bandwidth, by least squares of relative
    errors."""
    rows = np.stack([np.ones(len(sizes)), sizes], 1) / np.asarray(seconds)[:, None]
    latency, slope = np.linalg.lstsq(rows, np.ones(len(sizes)), rcond=None)[0]
    return max(latency, 0.0), 1 / slope


def messages(seconds):
    found = np.array(processes(2, "messages", seconds))
    contest.print_heading("bytes sent", "sum, us", "share, us")
    for size, *times in found:
        print(contest.row(f"{size:,.0f}", *(f"{1e6 * t:,.0f}" for t in times)))
    fits = [fit(found[:, 0], column) for column in found[:, 1:].T]
    for name, (latency, bandwidth) in zip(("sum", "share"), fits, strict=True):
        print(f"{name}: {1e6 * latency:.0f} us + bytes / {bandwidth / 1e9:.2f} GB/s")
    return fits


def compare(names, optimizer, seconds):
    """Two processes beside one, in turns, and beside the prediction."""
    from femtogpt.tensors import count_parameters

    fits = messages(1.0)
    print()
    contest.print_heading("", "one ms", "two ms", "speed", "predicted ms", "of two's")
    for name in names:
        one, two = [], []
        for _ in range(ROUNDS):
            for count, times in ((1, one), (2, two)):
                times += processes(count, "steps", name, optimizer, 2 // count, seconds / ROUNDS)
        one, two = statistics.median(one), statistics.median(two)
        half = 2 * count_parameters(GPTConfig(*CONFIGURATIONS[name][:-1]))  # bytes sent each time
        predicted = one + 1000 * sum(latency + half / bandwidth for latency, bandwidth in fits)
        print(contest.row(name, f"{one:.1f}", f"{two:.1f}", f"{one / two:.1%}",
                          f"{predicted:.1f}", f"{predicted / two:.2f}"), flush=True)


def predict(names, optimizer):
    """A table of steps on more machines, each with a batch of its own."""
    contest.print_heading("", "machines", "Gb/s", "step ms", "alone ms", "speed", "batch for 90%")
    for name in names:
        *numbers, batch_size = CONFIGURATIONS[name]
        config = GPTConfig(*numbers)
        step = step_time(config, batch_size, optimizer)
        for ranks in (8, 64, 512):
            # As many sequences on one machine: the passes of all, one update.
            alone = replace(step, seconds=ranks * (step.seconds - step.update) + step.update)
            for gigabits in (1, 10, 100):
                there = network.predict(config, optimizer, batch_size, ranks, alone,
                                        available_processors(), ranks, gigabits * 1e9 / 8)
                print(contest.row(name, ranks, gigabits, f"{1000 * there.seconds:,.0f}",
                                  f"{1000 * alone.seconds:,.0f}",
                                  f"{alone.seconds / there.seconds:.1f}",
                                  f"{there.batch_size:,}"), flush=True)


def main():
    if sys.argv[1:2] == ["--measure"]:
        what, *arguments = sys.argv[2:]
        ranks = find()
        if what == "messages":
            result = timed_messages(ranks, float(arguments[0]))
        else:
            name, optimizer, threads, seconds = arguments
            result = timed_steps(ranks, CONFIGURATIONS[name], optimizer, int(threads),
                                 float(seconds))
        if ranks.first:
            print(json.dumps(result))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("steps", "messages", "predict"))
    parser.add_argument("configurations", nargs="*", default=["E", "F"])
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--seconds", type=float, default=30, help="for each configuration")
    options = parser.parse_args()
    print(f"{contest.machine()}, {options.optimizer}", "", sep="\n")
    if options.what == "messages":
        messages(options.seconds / len(SIZES))
    elif options.what == "steps":
        compare(options.configurations, options.optimizer, options.seconds)
    else:
        predict(options.configurations, options.optimizer)


if __name__ == "__main__":
    main()
