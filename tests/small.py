"""Small models, and femtogpt as a process of its own, for the tests of the whole."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import femtogpt
from femtogpt import checkpoint
from femtogpt.config import GPTConfig
from femtogpt.model import initial_parameters
from femtogpt.run import Run
from femtogpt.tokenizer import train_char

ROOT = Path(femtogpt.__file__).resolve().parents[1]
LETTERS = "\n abcdefghijk"
TOKENIZER = train_char(LETTERS)
SIZES = ("--num-tokens=8", "--embedding-degree=16", "--num-layers=1", "--num-heads=2")


def text(length=3000, seed=0):
    """Lines of letters in a pattern that a model can learn."""
    rng = np.random.default_rng(seed)
    letters, at = "", 0
    while len(letters) < length:
        at = rng.integers(len(LETTERS)) if rng.random() < 0.1 else (3 * at + 1) % len(LETTERS)
        letters += LETTERS[at]
    return letters


def fresh_model(seed=1, **changes):
    """A Model on LETTERS, every parameter of it other than zero."""
    shape = {"num_tokens": 8, "embedding_degree": 16, "num_layers": 2, "num_heads": 2} | changes
    config = GPTConfig(TOKENIZER.vocab_size, **shape)
    parameters = initial_parameters(config, seed)
    noise = np.random.default_rng(seed).normal(0, 0.05, parameters.size)
    return checkpoint.Model(config, TOKENIZER, parameters + noise.astype(np.float32),
                            lineage=[{"init": {"seed": seed}}])


def some_run(**changes):
    """A Run of ten steps over `text()`, small and with dropout."""
    values = {"first_step": 0, "last_step": 10, "data": "d", "batch_size": 4, "dropout": 0.1,
              "warmup_steps": 2, "seed": 5} | changes
    return Run(**values)


def environment(**more):
    """For a process: finds this femtogpt whatever its folder, and buffers as a user's does."""
    ours = os.environ | {"PYTHONPATH": str(ROOT)} | more
    ours.pop("PYTHONUNBUFFERED", None)
    return ours


MAIN = [sys.executable, "-c", "from femtogpt.cli import main; main(prog_name='femtogpt')"]


def start(*arguments, cwd, **options):
    """femtogpt as a process, its output as text in pipes."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([*MAIN, *arguments], cwd=cwd, env=environment(), **options)


def run(*arguments, cwd, env=None, **options):
    """femtogpt as a process that ran to its end: its CompletedProcess."""
    return subprocess.run([*MAIN, *arguments], cwd=cwd, env=env or environment(), text=True,
                          capture_output=True, timeout=300, **options)
