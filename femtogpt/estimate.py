"""What training a model of some shape takes, found out before anything is trained."""

import statistics
import time
from dataclasses import dataclass, replace

import numpy as np

from .compiling import compile_training
from .layers.precision import use
from .machine import available_processors
from .model import initial_parameters
from .optimizer import fresh_state
from .parallel import Engine
from .tensors import count_adamw_parameters, count_parameters
from .update import update

# A step of fewer operations than these is timed as a whole; of a longer one, its parts are.
WHOLE = 8e10
SECONDS = 1.0  # of whole steps
FEW_LAYERS, TURNS = (1, 3), 2  # that are timed of a model too large for whole steps, and how often
PARTS_VOCABULARY = 2048  # at most, where the optimizer is timed
# Where more parameters and more text lower the loss alike (Hoffmann et al. 2022).
TOKENS_PER_PARAMETER = 20


@dataclass(frozen=True)
class StepTime:
    """seconds: a step's; update: the optimizer's, of these. whole: it was timed as a whole, else
    put together from its parts. share: what this process had of its threads' processors meanwhile;
    far below 1 if the machine does other work too."""

    seconds: float
    update: float
    whole: bool
    share: float


def file_bytes(config, optimizer):
    """The size of a model file in training, with its moments, but for a history of 4 bytes a step
    and a header of some KB. optimizer: "muon" or "adamw"."""
    second = count_adamw_parameters(config) if optimizer == "muon" else count_parameters(config)
    return 4 * (2 * count_parameters(config) + second)


def compute_optimal_steps(config, batch_size):
    """Steps, of batch_size sequences each, to have seen TOKENS_PER_PARAMETER tokens a parameter."""
    tokens = TOKENS_PER_PARAMETER * count_parameters(config)
    return -(-tokens // (batch_size * config.num_tokens))


def step_time(config, batch_size, optimizer, threads=None, seconds=SECONDS, accumulate=1,
              precision="float32"):
    """The StepTime of training on this machine, in about two seconds once all is compiled.

    seconds: of short steps, how long to time them. accumulate: as in Engine. precision: of
    products."""
    threads = threads or available_processors()
    sequences = accumulate * batch_size
    whole = 6 * count_parameters(config) * sequences * config.num_tokens < WHOLE
    bfloat16 = use(precision)
    compile_training(precision, optimizer)
    _compile(config, optimizer, bfloat16)
    began, used = time.perf_counter(), time.process_time()
    took, updating = (_whole(config, batch_size, optimizer, threads, seconds, accumulate, bfloat16)
                      if whole else
                      _parts(config, batch_size, optimizer, threads, accumulate, bfloat16))
    passed = time.perf_counter() - began
    return StepTime(took, updating, whole, (time.process_time() - used) / passed / threads)


def _compile(config, optimizer, bfloat16):
    """Has everything compiled that a step of config calls, on the smallest shape there is."""
    small = replace(config, vocab_size=2, num_tokens=2, num_layers=1, rotary_base=None,
                    embedding_degree=2, num_heads=1)
    _whole(small, 1, optimizer, 1, seconds=0, bfloat16=bfloat16)


def _whole(config, batch_size, optimizer, threads, seconds, accumulate=1, bfloat16=None):
    """The medians of so many seconds of steps, three at least, and of their updates."""
    with Engine(config, batch_size, threads, accumulate=accumulate, bfloat16=bfloat16) as engine:
        parameters, state = initial_parameters(config, 1), fresh_state(config, optimizer)
        windows, keys = _batch(config, engine.batch_size)
        times, updates = [], []
        while sum(times) < seconds or len(times) < 4:
            began = time.perf_counter()
            _, gradient, squares = engine.loss_and_gradient(parameters, windows, 0.0, keys)
            summed = time.perf_counter()
            update(engine.map, config, parameters, gradient, squares, state, 1e-3)
            times.append(time.perf_counter() - began)
            updates.append(time.perf_counter() - summed)
        # The first finds no memory yet.
        return statistics.median(times[1:]), statistics.median(updates[1:])


def _parts(config, batch_size, optimizer, threads, accumulate=1, bfloat16=None):
    """Seconds of a step and of its update, from passes of few layers over one micro-batch a thread,
    and an update of one: all else is more of these."""
    with Engine(config, batch_size, threads, accumulate=accumulate) as engine:
        shards, micro_batch = engine.shards, engine.micro_batch
        lengths = [stop - start for (start, stop), _, _ in engine.passes]
    at_once = min(threads, len(shards))
    passes = [_passes(replace(config, num_layers=layers), at_once, micro_batch, bfloat16)
              for layers in FEW_LAYERS]
    for each in passes:
        next(each)  # the first finds no memory yet
    turns = [[next(each) for each in passes] for _ in range(TURNS)]
    fewer, more = map(statistics.mean, zip(*turns, strict=True))
    layer = (more - fewer) / (FEW_LAYERS[1] - FEW_LAYERS[0])
    longest = max(stop - start for start, stop in shards)
    rounds = sum(-(-length // threads) for length in lengths) * -(-longest // micro_batch)
    updating = _update_seconds(config, optimizer, threads)
    return rounds * (fewer + (config.num_layers - FEW_LAYERS[0]) * layer) + updating, updating


def _passes(config, shards, micro_batch, bfloat16=None):
    """Seconds of forward and backward of one micro-batch in each of so many shards at once, again
    and again."""
    with Engine(config, shards * micro_batch, shards, shards=shards,
                micro_batch=micro_batch, bfloat16=bfloat16) as engine:
        parameters = initial_parameters(config, 1)
        windows, keys = _batch(config, shards * micro_batch)
        while True:
            began = time.perf_counter()
            engine.loss_and_gradient(parameters, windows, 0.0, keys)
            yield time.perf_counter() - began


def _update_seconds(config, optimizer, threads):
    """Seconds of the optimizer: AdamW's go with the parameters, Muon's with the layers."""
    layers = min(config.num_layers, -(-threads // 3))  # of six matrices each: work for all
    small = replace(config, num_layers=layers,
                    vocab_size=min(config.vocab_size, PARTS_VOCABULARY))
    count = count_parameters(small)
    rng = np.random.default_rng(0)
    parameters, gradient = rng.standard_normal((2, count), np.float32)
    with Engine(small, 1, threads) as engine:
        def timed(kind):
            began = time.perf_counter()
            update(engine.map, small, parameters, gradient, np.ones(1), states[kind], 1e-3)
            return time.perf_counter() - began

        states = {kind: fresh_state(small, kind) for kind in {"adamw", optimizer}}
        timed("adamw")
        adamw = timed("adamw") / count
        if optimizer == "adamw":
            return adamw * count_parameters(config)
        muon = statistics.mean(timed("muon") for _ in range(TURNS))
        muon -= adamw * count_adamw_parameters(small)
        return muon * config.num_layers / layers + adamw * count_adamw_parameters(config)


def _batch(config, batch_size):
    """Windows and keys as draw_batch makes them, of random tokens."""
    rng = np.random.default_rng(0)
    windows = rng.integers(0, config.vocab_size, (batch_size, config.num_tokens + 1))
    return windows, np.zeros(batch_size, np.uint64)
