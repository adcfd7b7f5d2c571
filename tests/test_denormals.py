"""Denormal numbers are zero in kernels, and as everywhere else outside of them."""

import contextlib

import numpy as np
import pytest

from femtogpt import crew, decoder
from femtogpt.config import GPTConfig
from femtogpt.layers.denormals import ON_X86, no_denormals
from femtogpt.model import initial_parameters
from femtogpt.optimizer import fresh_state
from femtogpt.parallel import Engine
from femtogpt.tensors import views
from femtogpt.update import update

pytestmark = pytest.mark.skipif(not ON_X86, reason="they cost nothing but on x86")
CONFIG = GPTConfig(11, num_tokens=8, embedding_degree=16, num_layers=2, num_heads=2)
TINY = np.float32(1e-38)


def denormal(values):
    return (values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)


def far_below_zero():
    """Parameters of a model whose hidden units are all far below zero."""
    parameters = initial_parameters(CONFIG, 1)
    views(parameters, CONFIG).up_bias[:] = -12
    return parameters


def test_only_inside():
    with no_denormals():
        assert TINY * np.float32(0.5) == 0
    assert TINY * np.float32(0.5) > 0


def test_an_error_inside_changes_nothing_outside():
    with pytest.raises(ZeroDivisionError), no_denormals():
        raise ZeroDivisionError
    assert TINY * np.float32(0.5) > 0


@pytest.mark.parametrize("threads", [1, 3])
def test_no_gradient_has_them_on_any_thread(threads, monkeypatch):
    windows = np.random.default_rng(0).integers(0, 11, (8, 9))
    keys = np.zeros(8, np.uint64)
    found = []
    for context in (no_denormals, contextlib.nullcontext):
        monkeypatch.setattr(crew, "no_denormals", context)
        with Engine(CONFIG, 8, threads, shards=4) as engine:
            _, gradient, _ = engine.loss_and_gradient(far_below_zero(), windows, 0.0, keys)
            found.append(denormal(gradient).any())
    assert found == [False, True]  # without, the first says nothing


def test_moments_fall_to_zero():
    state = fresh_state(CONFIG, "adamw")
    state.m[:], state.t = 2e-38, 100
    parameters = initial_parameters(CONFIG, 1)
    gradient = np.zeros_like(parameters)
    with Engine(CONFIG, 8, 2) as engine:
        for _ in range(10):
            update(engine.map, CONFIG, parameters, gradient, np.ones(1), state, 1e-3)
    assert (state.m == 0).all()


def test_the_decoder_too(monkeypatch):
    seen = []

    def decode(*arguments):
        seen.append(TINY * np.float32(0.5))

    monkeypatch.setattr(decoder, "decode", decode)
    one = decoder.Decoder(CONFIG, far_below_zero())
    one.read(0, [1, 2, 3])
    one.draw(np.zeros((1, 11), np.float32), np.zeros(1, np.int64), np.zeros((2, 1)), 1.0)
    assert seen == [0, 0]
