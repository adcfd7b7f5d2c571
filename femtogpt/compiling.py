"""A first run's compiling, shared with a second process.

numba compiles under one lock, so a second thread would wait; a second process does not, and what
it compiles lies in the same folder. One compiles the forward and Muon, the other the backward,
the sum and AdamW. Another then compiles what text is generated with, while the first trains
already.
"""

import contextlib
import gc
import os
import subprocess
import sys

import numba
import numpy as np

from .activations import allocate_activations, constants
from .config import GPTConfig
from .layers import numeric, precision
from .machine import available_processors
from .model import initial_parameters
from .optimizer import OPTIMIZERS, fresh_state
from .passes import code_of_backward, summed_loss
from .tensors import views
from .update import Update, update

# Not -m, which would look for modules in the folder it is called from.
OTHER = f"import sys; *sys.path[:], part, name, optimizer = sys.argv[1:]; " \
        f"from {__name__} import main; main(part, name, optimizer)"
# Kernels are compiled for types, not for sizes: each is called once, on a model of a few numbers.
CONFIG = GPTConfig(vocab_size=16, num_tokens=16, embedding_degree=32, num_layers=2, num_heads=2)
KEYS = np.zeros(2, np.uint64)  # of two sequences


def compile_training(name="float32", optimizer=OPTIMIZERS[0]):
    """Has all compiled that training takes, if there is something to do and a processor for a
    second process; should that fail, kernels are compiled when they are called, as ever. Returns
    whether there was. name: of the products' precision."""
    if (numeric.CACHE_FOLDER is None or numba.config.DISABLE_JIT or available_processors() < 2
            or precision.is_compiled("femtogpt_*/model.model_backward-*", name)
            or not sys.executable):
        return False
    with process("backward", name, optimizer) as second:
        compile_forward(name)
        if second is not None:
            second.wait()
    return True


@contextlib.contextmanager
def process(part, name="float32", optimizer=OPTIMIZERS[0]):
    """One that compiles a part of what main knows, as long as the block lasts at most; None if it
    cannot be begun."""
    try:
        begun = subprocess.Popen(
            [sys.executable, "-I", "-c", OTHER, *sys.path, part, name, optimizer],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        yield None
        return
    try:
        yield begun
    finally:
        begun.kill()
        begun.wait()


def main(part, name, optimizer):
    """What another process does: "backward" or "text"."""
    gc.disable()  # as while numba compiles (numeric.py): here nothing else is done
    if part == "backward":
        numeric.compile_standalone(last_first=True)  # the first begins at the other end
        compile_backward(name, optimizer)
    else:
        if hasattr(os, "nice"):
            os.nice(5)  # training goes first, but this is waited for in the end
        from .sampler import generate

        list(generate(CONFIG, initial_parameters(CONFIG, 1), [1], 1, 1, 0.5))
    gc.freeze()  # at its end Python would look through a million objects, a second long


def compile_forward(name):
    """Also the loss; the gradients' sum, AdamW."""
    parameters, a, tokens, k = _small(name)
    summed_loss(a, views(parameters, CONFIG), tokens, tokens, k, KEYS)
    update(map, CONFIG, parameters, parameters, np.zeros(1), fresh_state(CONFIG, "adamw"), 0.0)


def compile_backward(name, optimizer):
    """From the last norm to the embedding; Muon."""
    parameters, a, _, k = _small(name)
    p = views(parameters, CONFIG)
    code_of_backward(p, a, p, k)
    if optimizer == "muon":
        Update(CONFIG, parameters, fresh_state(CONFIG, optimizer))


def _small(name):
    """(parameters, activations, tokens, constants) for a pass of two sequences."""
    return (initial_parameters(CONFIG, 1), allocate_activations(CONFIG, KEYS.size),
            np.zeros(KEYS.size * CONFIG.num_tokens, np.int64),
            constants(CONFIG, bfloat16=precision.use(name)))
