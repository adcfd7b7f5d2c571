"""Shards and threads: the same as the whole batch in one go, and the same bits whatever the
number of threads."""

import math
import time

import numpy as np
import pytest

from femtogpt import parallel, shards
from femtogpt.activations import activation_shapes, allocate_activations, constants
from femtogpt.batches import draw_batch
from femtogpt.config import GPTConfig
from femtogpt.layers.turns import NO_TURN
from femtogpt.matrices import transpose_layers
from femtogpt.model import HEAD_COLUMNS, initial_parameters
from femtogpt.optimizer import BLOCK, OPTIMIZERS, fresh_state, sum_shards, sum_tree
from femtogpt.parallel import Engine
from femtogpt.passes import loss_and_gradients, loss_and_some_gradients, summed_loss
from femtogpt.ranks import cut
from femtogpt.shards import count_shards, memory_to_train
from femtogpt.tensors import count_parameters, views
from femtogpt.update import Update, update

CONFIG = GPTConfig(17, 80, 24, 2, 2)
TOKENS = np.random.default_rng(0).integers(0, 17, 5000)


def parameters(config=CONFIG):
    """A fresh model's, with no zeros left, so that every gradient counts."""
    flat = initial_parameters(config, 1)
    return flat + np.random.default_rng(2).normal(0, 0.05, flat.size).astype(np.float32)


def in_one_go(flat, windows, rate, keys, config=CONFIG):
    """(mean loss, gradient) of a batch as one micro-batch."""
    activations, gradient = allocate_activations(config, len(windows)), np.zeros_like(flat)
    count = len(windows) * config.num_tokens
    loss = loss_and_gradients(
        views(gradient, config), activations, views(flat, config),
        windows[:, :-1].ravel(), windows[:, 1:].ravel(), constants(config), 1 / count, rate, keys)
    return loss / count, gradient


@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize("batch_size", [1, 5, 12, 16, 37])  # of 16, shards are alike
def test_a_batch_is_that_in_one_go_and_has_the_same_bits_with_any_number_of_threads(
        batch_size, rate):
    windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, batch_size, 3, 4)
    flat = parameters()
    loss, gradient = in_one_go(flat, windows, rate, keys)
    results = []
    for threads in (1, 2, 3, 8):
        with Engine(CONFIG, batch_size, threads) as engine:
            for _ in range(2):  # the second call finds the first one's memory
                found, sums, squares = engine.loss_and_gradient(flat, windows, rate, keys)
                results.append((found, sums.tobytes(), squares.tobytes()))
    assert len(set(results)) == 1
    assert found == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(sums, gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())
    assert squares.shape == (math.ceil(flat.size / BLOCK),)
    for block, square in enumerate(squares):
        part = gradient[block * BLOCK : (block + 1) * BLOCK].astype(np.float64)
        assert square == pytest.approx(np.sum(part**2), rel=1e-4)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_gradients_wait_for_each_other_to_the_same_bits(threads, monkeypatch):
    windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, 12, 3, 4)
    results, rows = [], []
    for large in (10**9, 0):
        monkeypatch.setattr(shards, "LARGE", large)
        monkeypatch.setattr(shards, "IN_PASSES", large)
        with Engine(CONFIG, 12, threads) as engine:
            assert len(engine.shards) == 8
            _, sums, squares = engine.loss_and_gradient(parameters(), windows, 0.2, keys)
            results.append((sums.tobytes(), squares.tobytes()))
            rows.append(len(engine.gradients))
            assert memory_to_train(CONFIG, 12, threads) == 130_000_000 + 4 * (
                (3 + rows[-1]) * count_parameters(CONFIG) + threads * sum(
                    map(math.prod, activation_shapes(CONFIG, engine.micro_batch))))
    assert results[0] == results[1]
    assert rows == [8, {1: 4, 2: 4, 3: 5}[threads]]


@pytest.fixture(params=[10**9, 0], ids=["small", "large"])
def transposed(request, monkeypatch):
    """A function that has matrices be transposed, or not, of models that are small or large."""
    def set_to(whether):
        for module in (parallel, shards):
            monkeypatch.setattr(module, "are_transposed", lambda _: whether)

    monkeypatch.setattr(shards, "LARGE", request.param)
    monkeypatch.setattr(shards, "IN_PASSES", request.param)
    return set_to


def test_matrices_are_transposed_again_at_each_step_and_change_no_bit(transposed, monkeypatch):
    def late(w, p, first, last):
        time.sleep(0.05 * first)
        transpose_layers(w, p, first, last)

    monkeypatch.setattr(parallel, "transpose_layers", late)
    results = set()
    for whether, threads in ((False, 1), (True, 1), (True, 2), (True, 5)):
        transposed(whether)
        flat = parameters()
        with Engine(CONFIG, 12, threads) as engine:
            for step in range(2):
                windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, 12, 3, step)
                _, sums, _ = engine.loss_and_gradient(flat, windows, 0.2, keys)
                flat -= sums
        results.add(flat.tobytes())
    assert len(results) == 1


def test_transposed_matrices_are_counted_in_the_memory_it_takes(transposed):
    memory = []
    for whether in (False, True):
        transposed(whether)
        memory.append(memory_to_train(CONFIG, 12))
    L, C = CONFIG.num_layers, CONFIG.embedding_degree
    assert memory[1] - memory[0] == 4 * 12 * L * C**2


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_who_waits_for_the_matrices_ends_when_they_fail(threads, transposed, monkeypatch):
    def fail(*_):
        raise MemoryError("no more")

    transposed(True)
    monkeypatch.setattr(parallel, "transpose_layers", fail)
    windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, 12, 3, 4)
    with Engine(CONFIG, 12, threads) as engine, pytest.raises(MemoryError, match="no more"):
        engine.loss_and_gradient(parameters(), windows, 0.0, keys)


def test_threads_that_have_no_shard_share_those_of_large_models(monkeypatch):
    def compute(*arguments, compute=loss_and_some_gradients):
        waiting.add(arguments[12] != NO_TURN)
        return compute(*arguments)

    monkeypatch.setattr(parallel, "loss_and_some_gradients", compute)
    windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, 30, 3, 4)
    results = set()
    for threads, large, expected in ((8, 0, {False}), (20, 0, {True}), (20, 10**9, set())):
        waiting = set()
        monkeypatch.setattr(shards, "LARGE", large)
        with Engine(CONFIG, 30, threads, micro_batch=1) as engine:
            assert len(engine.shards) == 8
            loss, sums, squares = engine.loss_and_gradient(parameters(), windows, 0.2, keys)
            results.add((loss, sums.tobytes(), squares.tobytes()))
        assert waiting == expected
    assert len(results) == 1


@pytest.fixture
def huge(monkeypatch):
    """Any model is a huge one."""
    for name in ("activations.HUGE", "matrices.HUGE", "shards.HUGE", "shards.LARGE"):
        monkeypatch.setattr(f"femtogpt.{name}", 0)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_threads_add_to_a_huge_gradient_in_turn_to_the_same_bits(accumulate, huge, monkeypatch):
    config = GPTConfig(HEAD_COLUMNS + 9, 8, 4, 2, 2)
    monkeypatch.setattr("femtogpt.activations.MIN_ROWS", 3)  # the head in parts, of rows as well
    monkeypatch.setattr("femtogpt.activations.LOGITS", 0)
    windows, keys = draw_batch(TOKENS, config.num_tokens, 7 * accumulate, 3, 4)
    flat = parameters(config)
    loss, gradient = in_one_go(flat, windows, 0.2, keys, config)
    results = []
    for threads in (1, 2, 3, 8):
        with Engine(config, 7, threads, micro_batch=2, accumulate=accumulate) as engine:
            assert len(engine.shards) == accumulate
            for _ in range(2):
                found, sums, squares = engine.loss_and_gradient(flat, windows, 0.2, keys)
                results.append((found, sums.tobytes(), squares.tobytes()))
            assert len(engine.gradients) == min(2, accumulate)
    assert len(set(results)) == 1
    assert found == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(sums, gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize("number", [0, 3])
def test_who_waits_for_a_turn_ends_when_another_fails(number, huge, monkeypatch):
    def compute(*arguments, compute=loss_and_some_gradients):
        turns.append(arguments[12])
        if len(turns) == number + 1:
            raise MemoryError("no more")
        return compute(*arguments)

    turns = []
    monkeypatch.setattr(parallel, "loss_and_some_gradients", compute)
    windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, 6, 3, 4)
    with (Engine(CONFIG, 6, 3, micro_batch=1) as engine,
          pytest.raises(MemoryError, match="no more")):
        engine.loss_and_gradient(parameters(), windows, 0.0, keys)
    assert 0 not in turns


def test_memory_of_a_huge_model_is_that_of_one_gradient(huge):
    for threads in (1, 2, 8):
        with Engine(CONFIG, 12, threads) as engine:
            activations = sum(map(math.prod, activation_shapes(CONFIG, engine.micro_batch)))
            at_work = min(threads, -(-12 // engine.micro_batch))
        assert memory_to_train(CONFIG, 12, threads) == 130_000_000 + 4 * (
            4 * count_parameters(CONFIG) + at_work * activations)


@pytest.mark.parametrize("batch_size, accumulate", [(1, 5), (4, 3), (12, 4), (16, 3)])
def test_an_accumulated_batch_is_the_large_one_and_has_the_same_bits_with_any_threads(
        batch_size, accumulate):
    windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, accumulate * batch_size, 3, 4)
    flat = parameters()
    loss, gradient = in_one_go(flat, windows, 0.2, keys)
    results, rows = [], []
    for threads in (1, 2, 3, 16):
        with Engine(CONFIG, batch_size, threads, accumulate=accumulate) as engine:
            assert engine.batch_size == len(windows)
            for _ in range(2):
                found, sums, squares = engine.loss_and_gradient(flat, windows, 0.2, keys)
                results.append((found, sums.tobytes(), squares.tobytes()))
            rows.append(len(engine.gradients))
            at_once = max(stop - start for (start, stop), _, _ in engine.passes)
            assert at_once >= min(threads, len(engine.shards))  # work for all
    assert len(set(results)) == 1
    assert rows[0] < len(engine.shards)
    assert found == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(sums, gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())


def test_the_shards_are_those_of_each_batch():
    with Engine(CONFIG, 5, 1) as one, Engine(CONFIG, 5, 1, accumulate=3) as three:
        assert three.micro_batch == one.micro_batch and len(one.shards) > 1
        assert three.shards == [(5 * n + start, 5 * n + stop)
                                for n in range(3) for start, stop in one.shards]


def test_memory_hardly_grows_with_what_is_accumulated():
    def told(accumulate, threads=2):
        return memory_to_train(CONFIG, 12, threads, accumulate) - memory_to_train(CONFIG, 12, 2)

    gradient = 4 * count_parameters(CONFIG)
    assert told(1) == 0
    assert [told(n) for n in (2, 4, 1024)] == [gradient, 2 * gradient, 10 * gradient]
    for threads, accumulate in ((1, 5), (16, 3)):
        with Engine(CONFIG, 12, threads, accumulate=accumulate) as engine:
            windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, engine.batch_size, 3, 4)
            engine.loss_and_gradient(parameters(), windows, 0.0, keys)
            rows = len(engine.gradients)
        activations = sum(map(math.prod, activation_shapes(CONFIG, engine.micro_batch)))
        assert memory_to_train(CONFIG, 12, threads, accumulate) == 130_000_000 + 4 * (
            (3 + rows) * count_parameters(CONFIG) + min(threads, len(engine.shards)) * activations)


@pytest.mark.parametrize("large", [10**9, 0])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(16, 1), (13, 1), (8, 2)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_give_the_same_bits_with_any_threads_whether_at_once_or_afterwards(
        optimizer, batch_size, accumulate, large, monkeypatch):
    """Shards are of whole micro-batches or not, and a large model's update is by itself."""
    monkeypatch.setattr(shards, "LARGE", large)
    results = set()
    for threads, at_once in ((1, False), (1, True), (3, True)):
        flat, state = initial_parameters(CONFIG, 1), fresh_state(CONFIG, optimizer)
        whole = Update(CONFIG, flat, state)
        with Engine(CONFIG, batch_size, threads, accumulate=accumulate) as engine:
            assert engine.by_kernel == (large > 0 and batch_size != 13)
            for step in range(8):
                windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, engine.batch_size, 3, step)
                whole.set_rate(1e-3)
                loss, gradient, squares = engine.loss_and_gradient(
                    flat, windows, 0.1, keys, whole if at_once else None)
                norm = whole.finish() if at_once else update(
                    engine.map, CONFIG, flat, gradient, squares, state, 1e-3)
                assert norm == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        assert np.isfinite(flat).all() and state.t == 8 and not whole.begun
        results.add((loss, norm, flat.tobytes(), state.m.tobytes(), state.v.tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("large", [10**9, 0])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_is_updated_by_a_loss_or_a_gradient_that_is_not_finite(
        optimizer, large, monkeypatch):
    monkeypatch.setattr(shards, "LARGE", large)
    windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, 16, 3, 4)
    for field, value in (("head_bias", np.inf), ("head_bias", [3e38] + 16 * [-3e38]),
                         ("up_weight", 1e30)):
        flat, state = initial_parameters(CONFIG, 1), fresh_state(CONFIG, optimizer)
        getattr(views(flat, CONFIG), field)[...] = value
        before, whole = flat.copy(), Update(CONFIG, flat, state)
        with Engine(CONFIG, 16, 2) as engine:
            whole.set_rate(1e-3)
            loss, _, squares = engine.loss_and_gradient(flat, windows, 0.0, keys, whole)
        assert not (math.isfinite(loss) and np.isfinite(squares).all())
        assert not whole.begun and state.t == 0
        np.testing.assert_array_equal(flat, before)
        assert not state.m.any() and not state.v.any()


@pytest.mark.parametrize("count", [1, 5, 37])
def test_mean_loss_is_the_mean_over_all_windows_for_any_number_of_threads(count):
    windows, _ = draw_batch(TOKENS, CONFIG.num_tokens, count, 9, 0)
    flat = parameters()
    total = summed_loss(
        allocate_activations(CONFIG, count), views(flat, CONFIG), windows[:, :-1].ravel(),
        windows[:, 1:].ravel(), constants(CONFIG), np.zeros(count, np.uint64))
    losses = set()
    for threads in (1, 2, 3, 8):
        with Engine(CONFIG, 4, threads) as engine:
            losses.add(engine.mean_loss(flat, windows))
    assert len(losses) == 1
    assert losses.pop() == pytest.approx(total / count / CONFIG.num_tokens, rel=1e-6)


def test_nan_parameters_give_a_nan_loss():
    flat = parameters()
    flat[-1] = np.nan
    windows, keys = draw_batch(TOKENS, CONFIG.num_tokens, 12, 3, 4)
    with Engine(CONFIG, 12, 2) as engine:
        loss, _, squares = engine.loss_and_gradient(flat, windows, 0.0, keys)
        assert math.isnan(loss) and np.isnan(squares).any()
        assert math.isnan(engine.mean_loss(flat, windows))
        flat[-1] = 0  # what was computed before leaves no trace
        loss, gradient, _ = engine.loss_and_gradient(flat, windows, 0.0, keys)
        assert math.isfinite(loss) and np.isfinite(gradient).all()


@pytest.mark.parametrize("width", [16, 160, 640, 1200])
def test_shards_are_a_power_of_two_no_more_than_the_batch_and_fewer_for_large_models(width):
    config = GPTConfig(256, 80, width, 8, 8)
    size = count_parameters(config)
    most = 8 if size <= 1e6 else 4 if size <= 16e6 else 2 if size <= 1e8 else 1
    for batch_size in range(1, 70):
        shards = count_shards(config, batch_size)
        assert shards in (1, 2, 4, 8) and shards <= min(most, batch_size)
    assert count_shards(config, 1) == 1
    assert count_shards(config, 1000) == most


def test_cut_covers_everything_once_in_runs_of_nearly_one_length():
    for count in (0, 1, 5, 12, 37):
        for parts in (1, 2, 3, 8):
            runs = cut(count, parts)
            assert [i for start, stop in runs for i in range(start, stop)] == list(range(count))
            lengths = [stop - start for start, stop in runs]
            assert len(runs) == parts and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_sum_shards_adds_in_the_stated_tree(count):
    shards = np.random.default_rng(count).normal(0, 1, (count, BLOCK + 5)).astype(np.float32)

    def tree(vectors):
        while len(vectors) > 1:
            pairs = [sum(vectors[i : i + 2]) for i in range(0, len(vectors), 2)]
            vectors = pairs
        return vectors[0]

    expected = tree(list(shards.copy()))
    squares = np.empty(2)
    sum_shards(shards, sum_tree(count), squares, 0, 2)
    np.testing.assert_array_equal(shards[0], expected)
    assert squares.sum() == pytest.approx(np.sum(expected.astype(np.float64) ** 2), rel=1e-5)
