"""A first run's compiling, shared with a second process.

numba compiles under one lock, so a second thread would wait; a second process does not, and what
it compiles lies in the same folder. The first begins with the forward and what the whole pass
takes by itself; what the pass needs last, and what comes after it, is the second one's.
"""

import contextlib
import subprocess
import sys

import numba
import numpy as np

from .activations import allocate_activations
from .config import GPTConfig
from .layers import numeric
from .layers.attention import attention_backward
from .machine import available_processors
from .model import initial_parameters
from .optimizer import OPTIMIZERS, fresh_state, sum_shards, sum_tree, update

# Not -m, which would look for modules in the folder it is called from.
SECOND = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import main; main()"


@contextlib.contextmanager
def in_two_processes():
    """Has a second process compile, where there is something to do and a processor for it. It is
    ended with the block at the latest; should it fail, this process compiles all."""
    if (numeric.CACHE_FOLDER is None or numba.config.DISABLE_JIT or available_processors() < 2
            or numeric.is_compiled("layers_*/attention.attention_backward-*")
            or not sys.executable):
        yield
        return
    try:
        second = subprocess.Popen([sys.executable, "-I", "-c", SECOND, *sys.path],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        second.kill()
        second.wait()


def main():
    """What the second process does: all of it is called once, on a model of a few numbers, for
    kernels are compiled for types and not for sizes."""
    from .sampler import generate  # compiles on import

    config = GPTConfig(vocab_size=16, num_tokens=16, embedding_degree=32, num_layers=2, num_heads=2)
    a = allocate_activations(config, 2)
    attention_backward(a.dqkv, a.dnorm, a.attention[0], a.weights[0], a.qkv[0], config.num_heads,
                       0.0, a.keys)
    parameters = initial_parameters(config, 1)
    shards, squares = np.zeros((2, parameters.size), np.float32), np.zeros(9)
    sum_shards(shards, sum_tree(2), squares, 0, 1)
    update(lambda function, items: [function(item) for item in items], config, parameters,
           shards[0], squares, fresh_state(config, OPTIMIZERS[0]), 0.0)
    list(generate(config, parameters, [1], 1, 1, 0.5))
