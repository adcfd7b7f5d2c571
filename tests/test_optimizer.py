"""Muon, AdamW, clipping and the schedule, against the formulas and against PyTorch."""

import math

import naive
import numpy as np
import pytest

from femtogpt.config import RECIPES, GPTConfig
from femtogpt.errors import FemtoError
from femtogpt.muon import NEWTON_SCHULZ, orthogonalise
from femtogpt.optimizer import (
    MUON_PER_ADAMW,
    OPTIMIZERS,
    SCHEDULE,
    OptimizerState,
    Schedule,
    fresh_state,
    learning_rate,
)
from femtogpt.tensors import (
    MUON_FIELDS,
    count_adamw_parameters,
    count_parameters,
    named,
    views,
)
from femtogpt.update import update

KINDS = [(recipe, optimizer) for recipe in RECIPES for optimizer in OPTIMIZERS]


def small(recipe="standard"):
    return GPTConfig(13, 8, 12, 2, 2, recipe)


def one_by_one(function, items):
    return [function(item) for item in items]


def vector(config, dtype, seed, length=None):
    """Random numbers for all parameters, of a given length (norm)."""
    flat = np.random.default_rng(seed).standard_normal(count_parameters(config))
    if length is not None:
        flat *= length / np.linalg.norm(flat)
    return flat.astype(dtype)


def state_of(config, kind, dtype):
    state = fresh_state(config, kind)
    return OptimizerState(kind, state.m.astype(dtype), state.v.astype(dtype))


def step(config, flat, gradient, state, rate, **more):
    squares = np.array([np.sum(gradient.astype(np.float64) ** 2)])
    return update(one_by_one, config, flat, gradient, squares, state, rate, **more)


# --- whole updates ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("recipe", "optimizer"), KINDS)
def test_updates_are_naives(recipe, optimizer, dtype):
    config = small(recipe)
    flat, state = vector(config, dtype, 0), state_of(config, optimizer, dtype)
    p, m, v = ({name: array.astype(np.float64).copy() for name, array in named(f, config).items()}
               for f in (flat, np.zeros_like(flat), np.zeros_like(flat)))
    start = flat.copy()
    for t in (1, 2, 3, 4):
        gradient = vector(config, dtype, t, length=[0.5, 30.0, 1.0, 1e-3][t - 1])
        g = {name: array.astype(np.float64) for name, array in named(gradient, config).items()}
        decay = 0.1 if t == 3 else 0.0
        step(config, flat, gradient, state, 3e-3 / t, muon_decay=decay)
        naive.update(recipe, optimizer, p, m, v, g, t, 3e-3 / t, decay)
        assert len(state.spaces) == (optimizer == "muon")  # one thread's, used again
        assert state.t == t
    # Of what the updates changed; Newton-Schulz magnifies float32's rounding.
    size = np.abs(flat - start).max()
    tolerance = 1e-3 if dtype == np.float32 else 1e-10
    for name, array in named(flat, config).items():
        np.testing.assert_allclose(array, p[name], atol=tolerance * size, rtol=0, err_msg=name)
    for name, array in named(state.m, config).items():
        np.testing.assert_allclose(array, m[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_adamw_is_torchs():
    torch = pytest.importorskip("torch")
    config = small("femto")
    flat, state = vector(config, np.float64, 0), state_of(config, "adamw", np.float64)
    theirs = torch.nn.Parameter(torch.tensor(flat))
    optimizer = torch.optim.AdamW([theirs], lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
    for t in range(1, 6):
        gradient = vector(config, np.float64, t, length=0.9)
        step(config, flat, gradient, state, 1e-3)
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(flat, theirs.detach().numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradients_are_clipped_to_norm_1_all_together(optimizer):
    config = small()
    results = []
    for length in (1.0, 1.3, 1000.0):
        flat, state = vector(config, np.float32, 0), fresh_state(config, optimizer)
        norm = step(config, flat, vector(config, np.float32, 1, length), state, 3e-3)
        assert norm == pytest.approx(length, rel=1e-6)
        results.append((flat, state.m, state.v))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    # A smaller one is not made larger.
    flat, state = vector(config, np.float32, 0), fresh_state(config, optimizer)
    gradient = vector(config, np.float32, 1, 0.25)
    step(config, flat, gradient, state, 3e-3)
    adamw = slice(0, count_adamw_parameters(config))
    np.testing.assert_allclose(state.m[adamw], 0.1 * gradient[adamw], rtol=1e-5)


@pytest.mark.parametrize(("recipe", "optimizer"), KINDS)
def test_only_what_is_said_decays(recipe, optimizer):
    config = small(recipe)
    before = vector(config, np.float32, 0)
    flat, zero = before.copy(), np.zeros_like(before)
    step(config, flat, zero, fresh_state(config, optimizer), 0.1)
    for (name, old), new in zip(named(before, config).items(), named(flat, config).values(),
                                strict=True):
        muons = optimizer == "muon" and name.endswith(naive.MUON_NAMES)
        if not muons and (recipe == "femto" or name == "head.weight"):
            np.testing.assert_allclose(new, old * (1 - 0.1 * 0.01), rtol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(new, old, err_msg=name)


def test_muon_decay_shrinks_muons_matrices_alone():
    config = small()
    before = vector(config, np.float32, 0)
    flat = before.copy()
    step(config, flat, np.zeros_like(flat), fresh_state(config, "muon"), 0.003, muon_decay=0.5)
    first = count_adamw_parameters(config)
    np.testing.assert_allclose(flat[first:], before[first:] * (1 - 0.02 * 0.5), rtol=1e-6)
    head = named(before, config)["head.weight"]
    assert np.sum(flat[:first] != before[:first]) <= head.size


def test_state_is_zero_at_first_and_muons_has_no_second_moments_of_its_own():
    config = small()
    for kind in OPTIMIZERS:
        state = fresh_state(config, kind)
        assert state.t == 0 and not state.m.any() and not state.v.any()
        assert state.m.size == count_parameters(config)
    assert fresh_state(config, "adamw").v.size == count_parameters(config)
    assert fresh_state(config, "muon").v.size == count_adamw_parameters(config)
    with pytest.raises(FemtoError, match="sgd"):
        fresh_state(config, "sgd")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gradient_that_is_not_finite_changes_nothing_and_its_norm_tells(optimizer):
    config = small()
    for value in (np.nan, np.inf):
        flat, gradient = vector(config, np.float32, 0), vector(config, np.float32, 1, 1.0)
        gradient[7] = value
        before, state = flat.copy(), fresh_state(config, optimizer)
        assert not math.isfinite(step(config, flat, gradient, state, 3e-3))
        np.testing.assert_array_equal(flat, before)
        assert not state.m.any() and not state.v.any()


# --- Muon -----------------------------------------------------------------------------


def orthogonal(x):
    out = np.full_like(x, np.nan)
    orthogonalise(out, x.copy(), np.full(4 * len(x) ** 2, np.nan, x.dtype))
    return out


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 50), (16, 64), (33, 70), (64, 256)])
def test_orthogonalise_moves_singular_values_to_about_1(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for scale in (1.0, 1e-4, 1e4):
        y = orthogonal(x * np.float32(scale))
        values = np.linalg.svd(y, compute_uv=False)
        assert values.min() > 0.6 and values.max() < 1.33
        np.testing.assert_allclose(
            y, naive.orthogonalise(x.astype(np.float64) * scale), atol=2e-3)
        # The singular vectors stay: y x^T is symmetric and positive.
        product = y.astype(np.float64) @ x.T
        np.testing.assert_allclose(product, product.T, atol=3e-3 * np.abs(product).max())
        assert np.linalg.eigvalsh(product + product.T).min() > 0


def test_each_polynomial_is_the_nearest_to_1():
    """For its errors are largest at four places, and there equal, of alternating signs
    (Chebyshev)."""
    least, largest = 0.002, 1.0
    for a, b, c in NEWTON_SCHULZ:
        x = np.linspace(least, largest, 1_000_000)
        error = 1 - (a * x + b * x**3 + c * x**5)
        rising = np.diff(error) > 0
        places = [0, *(np.flatnonzero(rising[1:] != rising[:-1]) + 1), -1]
        most = error[places] * [1, -1, 1, -1]
        np.testing.assert_allclose(most, most[0], rtol=2e-3)
        least, largest = 1 - most[0], 1 + most[0]
    assert least == pytest.approx(0.68, abs=0.005)


def test_orthogonalise_of_zeros_is_zero():
    assert not orthogonal(np.zeros((4, 6), np.float32)).any()


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-8, 0.0])
def test_orthogonalise_by_way_of_the_gram_matrix_is_the_iteration_itself(smallest):
    """Also where singular values are so small that their squares drown in rounding."""
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.standard_normal((n, 48)))[0] for n in (48, 100))
    x = (left * np.geomspace(1, max(smallest, 1e-30), 48)) @ right.T
    if smallest == 0:
        x[7:] = x[:1]
    np.testing.assert_allclose(orthogonal(x), naive.orthogonalise(x), atol=1e-9)
    single = orthogonal(x.astype(np.float32))
    np.testing.assert_allclose(single, naive.orthogonalise(x.astype(np.float32).astype("f8")),
                               atol=2e-3)


@pytest.mark.parametrize("field", MUON_FIELDS)
def test_muon_steps_by_an_orthogonal_matrix_of_the_stated_size(field):
    """Wide (up), tall (down) and square ones; q, k and v as three."""
    config = small()
    C = config.embedding_degree
    before = vector(config, np.float64, 0)
    flat = before.copy()
    gradient = vector(config, np.float64, 3, 1.0)
    step(config, flat, gradient, state_of(config, "muon", np.float64), 0.003)
    change = getattr(views(before - flat, config), field)[1] / (MUON_PER_ADAMW * 0.003)
    parts = np.split(change, 3, axis=1) if field == "query_key_value_weight" else [change]
    for part in parts:
        values = np.linalg.svd(part / math.sqrt(max(1, part.shape[1] / part.shape[0])),
                               compute_uv=False)
        assert len(values) == C and values.max() < 1.33
        if part.shape[0] != part.shape[1]:  # a square one may have a value near 0
            assert values.min() > 0.6
        assert np.median(values) > 0.6


def test_muon_treats_query_key_and_value_each_by_itself():
    config = small()
    C = config.embedding_degree
    gradient = vector(config, np.float64, 1, 0.5)
    weights = []
    for factor in (1.0, 1.5):
        flat, g = vector(config, np.float64, 0), gradient.copy()
        part = views(g, config).query_key_value_weight[0, :, C : 2 * C]
        part[:, : C // 2] *= factor  # half of k's gradient
        step(config, flat, g, state_of(config, "muon", np.float64), 0.003)
        weights.append(views(flat, config).query_key_value_weight[0])
    changed = np.abs(weights[0] - weights[1]).max(0) > 1e-9
    assert changed[C : 2 * C].all()
    assert not changed[:C].any() and not changed[2 * C :].any()


# --- the schedule -----------------------------------------------------------------------


def test_schedule_of_the_standard_recipe_at_its_corners():
    def rate(step, last=100, first=0, schedule=SCHEDULE["standard"]):
        return learning_rate(schedule, "standard", step, first, last)

    assert rate(0) == pytest.approx(4.5e-3 / 20)
    assert rate(18) == pytest.approx(4.5e-3 * 19 / 20)
    assert rate(19) == rate(20) == rate(60) == 4.5e-3
    assert rate(61) == pytest.approx(4.5e-3 * 39 / 40)
    assert rate(99) == pytest.approx(4.5e-3 / 40)
    assert rate(100) == 0
    # A run that goes on from step 500 warms up again and takes its own length.
    assert rate(500, 600, 500) == rate(0)
    assert rate(560, 600, 500) == 4.5e-3
    assert rate(599, 600, 500) == rate(99)
    # Short runs never divide by zero and never exceed the peak.
    for length in range(1, 12):
        assert all(0 < rate(s, length) <= 4.5e-3 for s in range(length))
    given = Schedule(1e-2, 1e-3, 0, 10)
    assert rate(0, schedule=given) == pytest.approx(1e-2)
    assert rate(95, schedule=given) == pytest.approx(1e-3 + 9e-3 / 2)


def test_schedule_of_the_femto_recipe_at_its_corners():
    def rate(step, first=0, last=10):
        return learning_rate(SCHEDULE["femto"], "femto", step, first, last)

    assert rate(0) == pytest.approx(1e-5)
    assert rate(98) == pytest.approx(1e-3 * 99 / 100)
    assert rate(99) == rate(100) == pytest.approx(1e-3)
    assert rate(25_100) == pytest.approx((1e-3 + 1e-5) / 2)
    assert rate(50_099) > 1e-5
    assert rate(50_100) == pytest.approx(1e-5) and rate(10**7) == 1e-5
    assert rate(300) == rate(300, 250, 10**6)  # whatever the run


@pytest.mark.parametrize("recipe", RECIPES)
def test_schedule_is_naives_at_every_step(recipe):
    for warmup, decay, first, last in ((20, 30, 0, 100), (5, 50, 40, 160), (60, 80, 0, 100)):
        schedule = Schedule(3e-3, 1e-4, warmup, decay)
        for at in range(first, last):
            assert learning_rate(schedule, recipe, at, first, last) == pytest.approx(
                naive.learning_rate(recipe, 3e-3, 1e-4, warmup, decay, at, first, last))
