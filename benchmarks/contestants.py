"""One contestant's process; contest.py starts it and asks it for steps.

A line on standard input is a number of steps; the answer is a line of JSON: milliseconds
of each, the process's peak resident memory and the processors' time it has used.
"""

import json
import re
import sys
import time
from pathlib import Path

import numpy as np
from contest import PRODUCT, maxrss_mb

from femtogpt.config import GPTConfig


class Ours:
    """step() trains one batch."""

    def __init__(self, config, tokens, batch_size, threads, optimizer, precision="float32"):
        from femtogpt.batches import Batches
        from femtogpt.layers.precision import use
        from femtogpt.model import initial_parameters
        from femtogpt.optimizer import fresh_state
        from femtogpt.parallel import Engine
        from femtogpt.update import Update

        self.config, self.tokens = config, tokens
        self.parameters = initial_parameters(config, 1)
        self.state = fresh_state(config, optimizer)
        self.engine = Engine(config, batch_size, threads, bfloat16=use(precision))
        self.batches = Batches(tokens, config.num_tokens, batch_size, 1)
        self.update = Update(config, self.parameters, self.state)
        self.done = 0

    def step(self):
        windows, keys = self.batches.draw(self.done)
        self.done += 1
        self.update.set_rate(1e-3)
        loss, _, _ = self.engine.loss_and_gradient(self.parameters, windows, 0.0, keys, self.update)
        self.update.finish()
        return loss


class Sgemm:
    """step() multiplies two square matrices in numpy's BLAS."""

    def __init__(self, threads):
        from threadpoolctl import threadpool_limits

        self.limits = threadpool_limits(threads, "blas")
        self.a = np.random.default_rng(0).standard_normal((PRODUCT, PRODUCT), np.float32)

    def step(self):
        self.a @ self.a


def random_tokens(vocab_size):
    return np.random.default_rng(0).integers(0, vocab_size, 200_000).astype(np.uint16)


def text_tokens(path, vocab_size):
    """A text's bytes, where a vocabulary has 256 tokens; its letters, where it has as many; else
    tokens of BPE trained on it."""
    from femtogpt.tokenizer import ByteTokenizer, train_bpe, train_char

    text = Path(path).read_bytes()
    tokenizer = ByteTokenizer()
    if vocab_size != 256:
        tokenizer = train_char(text)
        if tokenizer.vocab_size != vocab_size:
            tokenizer = train_bpe([text], vocab_size)
    assert tokenizer.vocab_size == vocab_size, f"{path} has too little text for {vocab_size} tokens"
    return tokenizer.encode(text).astype(np.uint16)


def resident_mb():
    """The most memory this process ever held; None where the system doesn't tell."""
    try:  # Linux; getrusage there counts what the parent held when it forked
        return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    except (OSError, TypeError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return maxrss_mb(resource.getrusage(resource.RUSAGE_SELF))


def compiled_files():
    """How many there are in the cache of compiled kernels; None: there is no cache."""
    from femtogpt.layers.numeric import CACHE_FOLDER

    return CACHE_FOLDER and len(list(CACHE_FOLDER.rglob("*.nbc")))


def milliseconds(function):
    before = time.perf_counter()
    function()
    return (time.perf_counter() - before) * 1000


def make(kind, threads, shape, optimizer, precision="float32", text=None):
    if kind == "sgemm":
        return Sgemm(threads)
    *numbers, batch_size = shape
    config = GPTConfig(*numbers)
    tokens = (text_tokens(text, config.vocab_size) if text else
              random_tokens(config.vocab_size))
    if kind == "ours":
        return Ours(config, tokens, batch_size, threads, optimizer, precision)
    from peer import Stepper

    from femtogpt.tensors import count_parameters

    peer = Stepper(config, tokens, batch_size, threads, precision)
    assert peer.parameters == count_parameters(config)
    return peer


def main():
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    ours = kind == "ours"
    before = compiled_files() if ours else 0
    stepper = make(kind, **options)
    ready = {"ms": [milliseconds(stepper.step) for _ in range(2)]}
    ready["compiled"] = ours and (before is None or compiled_files() != before)
    if ours:
        from femtogpt.layers.vectors import KINDS, VECTORS

        ready["vectors"] = next(name for name, kind in KINDS.items() if kind == VECTORS)
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        ms = [milliseconds(stepper.step) for _ in range(int(line))]
        print(json.dumps({"ms": ms, "resident_mb": resident_mb(),
                          "cpu_seconds": time.process_time()}), flush=True)


if __name__ == "__main__":
    main()
