"""Each layer against its formula in plain loops, and its backward against differences.

`pytest tests/test_layers.py -k norm` runs one layer's checks. A layer is described once,
as a Case; every promise is a test over all cases. With NUMBA_DISABLE_JIT=1 the same runs
at small shapes.
"""

from typing import NamedTuple

import naive
import numba
import numpy as np
import pytest
from gradients import check

from femtogpt.layers.attention import attention_backward, attention_forward
from femtogpt.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from femtogpt.layers.dropout import dropout_backward, dropout_forward
from femtogpt.layers.embedding import embedding_backward, embedding_forward, sinusoids
from femtogpt.layers.gelu import gelu_backward, gelu_forward
from femtogpt.layers.linear import linear_backward, linear_forward
from femtogpt.layers.matmul import (
    lower_matmul,
    matmul,
    matmul_add,
    matmul_bias,
    matmul_to_lower,
    upper_matmul,
)
from femtogpt.layers.norm import norm_backward, norm_forward
from femtogpt.layers.numeric import exp, hash32, kernel
from femtogpt.layers.rotary import rotary_angles, rotary_backward, rotary_forward
from femtogpt.layers.rows import (
    dot_row,
    exp_row,
    largest,
    scale_row,
    softmax_gradient_row,
    zero_row,
)
from femtogpt.layers.softmax import softmax_backward, softmax_forward

COMPILED = not numba.config.DISABLE_JIT
KEYS = np.array([123456789, 4294967295, 1], np.uint64)


class Case(NamedTuple):
    """inputs: name -> float64 array; forward, backward, overwrites, adds: as in gradients.check,
    in the inputs' type; reference(inputs): what forward's out must be."""

    inputs: dict
    forward: object
    backward: object
    reference: object
    overwrites: tuple = ()
    adds: tuple = ()


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def nans(shape, like):
    return np.full(shape, np.nan, like.dtype)


def flat(array):
    """A vector that shares the array's memory."""
    return array.reshape(-1)


# --- the cases --------------------------------------------------------------------------


def norm(N, C):
    def forward(i):
        out, mean, rstd = nans((N, C), i["x"]), nans(N, i["x"]), nans(N, i["x"])
        norm_forward(out, mean, rstd, i["x"], i["gain"], i["bias"])
        return out, (mean, rstd)

    def backward(g, dout, i, saved):
        norm_backward(g["x"], g["gain"], g["bias"], dout, i["x"], *saved, i["gain"])

    inputs = {"x": 2 * normal(N, C) + 3, "gain": normal(C), "bias": normal(C, seed=1)}
    return Case(inputs, forward, backward, lambda i: naive.norm(**i), adds=("x", "gain", "bias"))


def linear(N, I, O, with_bias=True):
    def forward(i):
        out = nans((N, O), i["x"])
        linear_forward(out, i["x"], i["weight"], i.get("bias"))
        return out, None

    def backward(g, dout, i, _):
        linear_backward(g["x"], g["weight"], g.get("bias"), dout, i["x"], i["weight"])

    inputs = {"x": normal(N, I), "weight": normal(I, O)}
    if with_bias:
        inputs["bias"] = normal(O)
    adds = ("weight", "bias") if with_bias else ("weight",)
    return Case(inputs, forward, backward, lambda i: naive.linear(**i), ("x",), adds)


def gelu(N, F):
    def forward(i):
        out, slope = nans((N, F), i["x"]), i["x"].copy()
        gelu_forward(out, slope)
        return out, slope

    def backward(g, dout, i, slope):
        g["x"][...] = dout
        gelu_backward(g["x"], slope)

    return Case({"x": 3 * normal(N, F)}, forward, backward, lambda i: naive.gelu(**i), ("x",))


def dropout(F, rate, first=0):
    key = KEYS[0]

    def forward(i):
        out = i["x"].copy()
        dropout_forward(out, rate, key, first)
        return out, None

    def backward(g, dout, i, _):
        g["x"][...] = dout
        dropout_backward(g["x"], rate, key, first)

    def reference(i):
        return i["x"] * naive.dropout_mask(F, rate, int(key), first)

    return Case({"x": normal(F)}, forward, backward, reference, ("x",))


def embedding(N, V, C, T):
    tokens = np.random.default_rng(N).integers(0, V, N)

    def forward(i):
        out = nans((N, C), i["table"])
        embedding_forward(out, tokens, i["table"], i["positions"])
        return out, None

    def backward(g, dout, i, _):
        embedding_backward(g["table"], g["positions"], dout, tokens)

    def reference(i):
        return naive.embedding(tokens, **i)

    inputs = {"table": normal(V, C), "positions": normal(T, C, seed=1)}
    return Case(inputs, forward, backward, reference, adds=("table", "positions"))


def rotary(N, T, num_heads, hs):
    angles = rotary_angles(np.arange(T), hs, 50.0)

    def tables(like):
        return np.cos(angles).astype(like.dtype), np.sin(angles).astype(like.dtype)

    def forward(i):
        out = i["qkv"].copy()
        rotary_forward(out, *tables(out), num_heads)
        return out, None

    def backward(g, dout, i, _):
        g["qkv"][...] = dout
        rotary_backward(g["qkv"], *tables(dout), num_heads)

    def reference(i):
        return naive.rotary(i["qkv"], T, num_heads, 50.0)

    return Case({"qkv": normal(N, 3 * num_heads * hs)}, forward, backward, reference, ("qkv",))


def softmax(T):
    scale = 0.7
    above = np.triu(np.ones((T, T), bool), 1)

    def forward(i):
        s = np.where(above, np.nan, i["s"]).astype(i["s"].dtype)
        p = nans((T, T), s)
        softmax_forward(p, s, scale)
        return p, p.copy()

    def backward(g, dout, i, p):
        dp = np.where(above, np.nan, dout).astype(dout.dtype)
        softmax_backward(g["s"], dp, p, scale)

    def reference(i):
        return naive.causal_softmax(i["s"], scale)

    return Case({"s": 3 * normal(T, T)}, forward, backward, reference, ("s",))


def attention(B, T, num_heads, hs, rate):
    keys, C = KEYS[:B], num_heads * hs

    def forward(i):
        out, p = nans((B * T, C), i["qkv"]), nans((B, num_heads, T, T), i["qkv"])
        attention_forward(out, p, i["qkv"], rate, keys)
        return out, p

    def backward(g, dout, i, p):
        attention_backward(g["qkv"], dout, p, i["qkv"], rate, keys)

    def reference(i):
        masks = naive.attention_masks(T, num_heads, rate, keys) if rate > 0 else None
        return naive.attention(i["qkv"], T, num_heads, masks)

    return Case({"qkv": normal(B * T, 3 * C)}, forward, backward, reference, ("qkv",))


def cross_entropy(N, V):
    targets = np.random.default_rng(N).integers(0, V, N)

    def forward(i):
        probabilities = nans((N, V), i["logits"])
        return np.array(cross_entropy_forward(probabilities, i["logits"], targets)), probabilities

    def backward(g, dout, i, probabilities):
        cross_entropy_backward(g["logits"], probabilities, targets, float(dout))

    def reference(i):
        return naive.cross_entropy(i["logits"], targets)

    return Case({"logits": 3 * normal(N, V)}, forward, backward, reference, ("logits",))


# Layer, then its shapes: the first is also the one that errors are planted in.
SHAPES = {
    norm: [(3, 20), (1, 1), (5, 65)],
    linear: [(3, 5, 7), (1, 1, 1), (17, 33, 65), (3, 5, 7, False), (1, 40, 1, False)],
    gelu: [(3, 20), (1, 1), (5, 65)],
    dropout: [(40, 0.2), (1, 0.0), (65, 0.5, 1000), (33, 0.0)],
    embedding: [(6, 5, 8, 3), (1, 1, 1, 1), (9, 65, 20, 0), (34, 7, 3, 17)],
    rotary: [(6, 3, 2, 4), (1, 1, 1, 2), (14, 7, 3, 10)],
    softmax: [(7,), (1,), (17,), (32,), (35,)],
    attention: [(2, 5, 2, 4, 0.3), (1, 1, 1, 1, 0.0), (2, 9, 2, 6, 0.0), (3, 17, 1, 20, 0.2)],
    cross_entropy: [(4, 9), (1, 1), (3, 65)],
}
if COMPILED:
    SHAPES[linear] += [(41, 400, 50)]
    SHAPES[attention] += [(1, 35, 2, 16, 0.0), (2, 33, 3, 8, 0.1)]
    SHAPES[cross_entropy] += [(20, 300)]

EVERY = [
    pytest.param(layer, shape, id="-".join([layer.__name__, *map(str, shape)]))
    for layer, shapes in SHAPES.items() for shape in shapes
]
FIRST = [
    pytest.param(layer, shapes[0], id=layer.__name__) for layer, shapes in SHAPES.items()
]


def in_float32(inputs):
    return {name: array.astype(np.float32) for name, array in inputs.items()}


# --- promises that every layer makes -----------------------------------------------------


@pytest.mark.parametrize(("layer", "shape"), EVERY)
def test_forward_is_the_formula_in_float64(layer, shape):
    case = layer(*shape)
    out, _ = case.forward(case.inputs)
    np.testing.assert_allclose(out, case.reference(case.inputs), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("layer", "shape"), EVERY)
def test_forward_is_the_formula_in_float32(layer, shape):
    case = layer(*shape)
    inputs = in_float32(case.inputs)
    out, _ = case.forward(inputs)
    if layer is not cross_entropy:  # its loss is float64
        assert out.dtype == np.float32
    doubles = {name: array.astype(np.float64) for name, array in inputs.items()}
    size = np.sqrt(np.mean(np.square(case.reference(doubles))))
    np.testing.assert_allclose(out, case.reference(doubles), rtol=2e-5, atol=1e-5 * size)


@pytest.mark.parametrize(("layer", "shape"), EVERY)
def test_backward_is_the_gradient(layer, shape):
    case = layer(*shape)
    check(case.forward, case.inputs, case.backward, case.overwrites, case.adds)


@pytest.mark.parametrize(("layer", "shape"), EVERY)
def test_backward_in_float32_is_that_in_float64(layer, shape):
    case = layer(*shape)
    single = in_float32(case.inputs)
    double = {name: array.astype(np.float64) for name, array in single.items()}
    results = []
    for inputs in (single, double):
        out, saved = case.forward(inputs)
        like = next(iter(inputs.values()))
        dout = normal(*np.shape(out), seed=7).astype(np.float32).astype(like.dtype)
        gradients = {n: np.full_like(inputs[n], np.nan) for n in case.overwrites}
        gradients |= {n: np.full_like(inputs[n], 0.5) for n in case.adds}
        case.backward(gradients, dout, inputs, saved)
        results.append(gradients)
    for name, expected in results[1].items():
        assert results[0][name].dtype == np.float32
        size = np.sqrt(np.mean(np.square(expected))) if expected.size else 1
        np.testing.assert_allclose(results[0][name], expected, rtol=1e-4, atol=2e-5 * size + 1e-6)


# --- the checker finds errors ------------------------------------------------------------


def finds(case, backward):
    """Whether the checker objects to `backward` in place of the case's own."""
    try:
        check(case.forward, case.inputs, backward, case.overwrites, case.adds)
    except AssertionError:
        return True
    return False


def spoilt(case, name, spoil):
    """The case's backward with one gradient's right value passed through `spoil`."""

    def backward(g, dout, i, saved):
        before = g[name].copy() if name in case.adds else 0.0
        case.backward(g, dout, i, saved)
        g[name][...] = before + spoil(g[name] - before)

    return backward


def one_element_doubled(gradient):
    gradient = gradient.copy()
    gradient.flat[np.argmax(np.abs(gradient))] *= 2
    return gradient


SPOILS = {
    "a factor of 1.001": lambda gradient: 1.001 * gradient,
    "the sign": lambda gradient: -gradient,
    "one element": one_element_doubled,
    "all gone": lambda gradient: 0 * gradient,
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
@pytest.mark.parametrize(("layer", "shape"), FIRST)
def test_checker_finds_a_spoilt_gradient(layer, shape, spoil):
    case = layer(*shape)
    assert not finds(case, case.backward)
    for name in (*case.overwrites, *case.adds):
        assert finds(case, spoilt(case, name, spoil)), name


@pytest.mark.parametrize(("layer", "shape"), FIRST)
def test_checker_finds_overwriting_for_adding_and_adding_for_overwriting(layer, shape):
    case = layer(*shape)
    for name in case.adds:
        def overwriting(g, dout, i, saved, name=name):
            g[name][...] = 0
            case.backward(g, dout, i, saved)

        assert finds(case, overwriting), name
    for name in case.overwrites:
        def adding(g, dout, i, saved, name=name):
            before = g[name].copy()
            case.backward(g, dout, i, saved)
            g[name] += before

        assert finds(case, adding), name


def norm_without_a_term(g, dout, i, saved):
    mean, rstd = (s[:, None] for s in saved)
    n, dn = (i["x"] - mean) * rstd, dout * i["gain"]
    g["x"] += rstd * (dn - dn.mean(1, keepdims=True))  # - n mean(dn n)
    g["gain"] += np.sum(dout * n, 0)
    g["bias"] += np.sum(dout, 0)


def linear_without_the_last_row(g, dout, i, _):
    linear_backward(g["x"], g["weight"], g["bias"], dout, i["x"], i["weight"])
    g["weight"] -= np.outer(i["x"][-1], dout[-1])


def gelu_without_a_term(g, dout, i, _):
    x = i["x"]
    z = 2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    g["x"][...] = dout / (1 + np.exp(-z))  # + x s (1 - s) dz/dx


def dropout_without_the_scale(g, dout, i, _):
    g["x"][...] = dout * (naive.dropout_mask(40, 0.2, int(KEYS[0])) > 0)


def dropout_with_another_mask(g, dout, i, _):
    g["x"][...] = dout
    dropout_backward(g["x"], 0.2, KEYS[0], 1)


def embedding_of_repeated_tokens_once(g, dout, i, _):
    tokens = np.random.default_rng(6).integers(0, 5, 6)
    assert len(set(tokens)) < 6
    g["table"][tokens] += dout  # numpy adds the last of equal indices only
    g["positions"] += dout[:3] + dout[3:]


def rotary_turned_the_same_way(g, dout, i, _):
    angles = rotary_angles(np.arange(3), 4, 50.0)
    g["qkv"][...] = dout
    rotary_forward(g["qkv"], np.cos(angles), np.sin(angles), 2)


def softmax_without_the_dot(g, dout, i, p):
    g["s"][...] = 0.7 * p * dout


def softmax_without_the_scale(g, dout, i, p):
    g["s"][...] = p * (dout - np.sum(dout * p, 1, keepdims=True))


def attention_without_dropout(g, dout, i, p):
    attention_backward(g["qkv"], dout, p, i["qkv"], 0.0, KEYS[:2])


def attention_with_keys_and_values_swapped(g, dout, i, p):
    attention_backward(g["qkv"], dout, p, i["qkv"], 0.3, KEYS[:2])
    g["qkv"][:, 8:24] = np.roll(g["qkv"][:, 8:24], 8, 1)


def cross_entropy_without_the_target(g, dout, i, probabilities):
    g["logits"][...] = probabilities * dout


@pytest.mark.parametrize(("layer", "wrong"), [
    (norm, norm_without_a_term),
    (linear, linear_without_the_last_row),
    (gelu, gelu_without_a_term),
    (dropout, dropout_without_the_scale),
    (dropout, dropout_with_another_mask),
    (embedding, embedding_of_repeated_tokens_once),
    (rotary, rotary_turned_the_same_way),
    (softmax, softmax_without_the_dot),
    (softmax, softmax_without_the_scale),
    (attention, attention_without_dropout),
    (attention, attention_with_keys_and_values_swapped),
    (cross_entropy, cross_entropy_without_the_target),
])
def test_checker_finds_a_dropped_term(layer, wrong):
    assert finds(layer(*SHAPES[layer][0]), wrong)


def test_checker_sees_what_a_cotangent_of_ones_hides_in_softmax():
    case = softmax(7)
    p, _ = case.forward(case.inputs)
    right, wrong = np.zeros((7, 7)), np.zeros((7, 7))
    softmax_backward(right, np.ones((7, 7)), p, 0.7)
    softmax_backward(wrong, np.ones((7, 7)), 2 * p / 2, 0.5)  # the wrong scale
    np.testing.assert_allclose(right, wrong, atol=1e-12)  # both zero: nothing to see
    assert finds(case, lambda g, dout, i, p: softmax_backward(g["s"], np.tril(dout), p, 0.5))


# --- in place, where a docstring allows it -----------------------------------------------


@pytest.mark.parametrize("T", [1, 7, 16, 35])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_in_place_gives_the_same(dtype, T):
    s, dp = normal(T, T).astype(dtype), normal(T, T, seed=1).astype(dtype)
    s[np.triu_indices(T, 1)] = dp[np.triu_indices(T, 1)] = np.nan
    p, ds, p_2, ds_2 = np.empty_like(s), np.empty_like(s), s.copy(), dp.copy()
    softmax_forward(p, s, 0.5)
    softmax_forward(p_2, p_2, 0.5)
    np.testing.assert_allclose(p, p_2, rtol=1e-6)
    softmax_backward(ds, dp, p, 0.5)
    softmax_backward(ds_2, ds_2, p, 0.5)
    np.testing.assert_allclose(ds, ds_2, rtol=1e-5, atol=1e-7)
    for matrix in (p, ds):
        assert not matrix[np.triu_indices(T, 1)].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_in_place_gives_the_same(dtype):
    logits, targets = normal(4, 65).astype(dtype), np.array([0, 64, 3, 3])
    probabilities, dlogits, in_place = np.empty_like(logits), np.empty_like(logits), logits.copy()
    loss = cross_entropy_forward(probabilities, logits, targets)
    assert cross_entropy_forward(in_place, in_place, targets) == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(in_place, probabilities, rtol=1e-6)
    cross_entropy_backward(dlogits, probabilities, targets, 0.25)
    cross_entropy_backward(in_place, in_place, targets, 0.25)
    np.testing.assert_allclose(in_place, dlogits, rtol=1e-6, atol=1e-9)


# --- one layer's own promises --------------------------------------------------------------


def test_softmax_and_cross_entropy_survive_large_numbers():
    s = np.array([[1e4, 0], [-1e4, 1e4]], np.float32)
    p = np.empty_like(s)
    softmax_forward(p, s, 1.0)
    np.testing.assert_allclose(p, [[1, 0], [0, 1]], atol=1e-30)
    logits = np.array([[1e4, 0.0, -1e4]], np.float32)
    assert cross_entropy_forward(np.empty_like(logits), logits, np.array([1])) == 1e4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("column", [0, 1, 40, 64])
@pytest.mark.parametrize("sign", [1, -1])  # inf - inf is a NaN with its sign set on x86
def test_cross_entropy_of_a_nan_logit_is_nan(dtype, column, sign):
    for target in (0, 5, 64):
        logits = normal(3, 65).astype(dtype)
        logits[1, column] = np.copysign(np.nan, sign)
        loss = cross_entropy_forward(np.empty_like(logits), logits, np.array([1, target, 2]))
        assert np.isnan(loss), target


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_an_infinite_logit_is_nan(dtype):
    logits = normal(1, 65).astype(dtype)
    logits[0, 9] = np.inf
    with np.errstate(invalid="ignore"):
        assert np.isnan(cross_entropy_forward(np.empty_like(logits), logits, np.array([9])))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_softmax_of_a_nan_is_nan_in_its_row_alone(dtype, sign):
    for column in range(5):
        s = normal(7, 7).astype(dtype)
        s[4, column] = np.copysign(np.nan, sign)
        p = np.empty_like(s)
        softmax_forward(p, s, 1.0)
        assert np.isnan(p[4, :5]).all()
        assert np.isfinite(np.delete(p, 4, 0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norm_gelu_and_dropout_keep_nan(dtype):
    x, one = np.ones((2, 20), dtype), np.ones(20, dtype)
    x[1, 3] = np.nan
    out, slope, mean, rstd = x * 0, x.copy(), x[:, 0] * 0, x[:, 0] * 0
    norm_forward(out, mean, rstd, x, one, one)
    assert np.isnan(out[1]).all() and np.isfinite(out[0]).all()
    gelu_forward(out, slope)
    for array in (out, slope):
        assert np.isnan(array[1, 3]) and np.isnan(array).sum() == 1
    dropout_forward(flat(x), 0.5, KEYS[0], 0)
    assert np.isnan(x[1, 3]) and np.isnan(x).sum() == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_is_zero_or_x_far_from_zero(dtype):
    slope = np.array([[-1e4, -50, 50, 1e4]], dtype)
    out = np.empty_like(slope)
    gelu_forward(out, slope)
    np.testing.assert_allclose(out, [[0, 0, 50, 1e4]], atol=1e-30)
    np.testing.assert_allclose(slope, [[0, 0, 1, 1]], atol=1e-25)


def test_dropout_keeps_the_stated_share_and_the_mean():
    count = 100_000 if COMPILED else 5_000
    for rate in (0.0, 0.1, 0.5, 0.9):
        out = np.ones(count, np.float32)
        dropout_forward(out, rate, KEYS[0], 0)
        spread = np.sqrt(rate * (1 - rate) / count)
        assert abs(np.mean(out == 0) - rate) <= 5 * spread
        np.testing.assert_allclose(out[out != 0], 1 / (1 - rate), rtol=1e-6)


def test_dropout_numbers_elements_from_first():
    whole, part = np.ones(50), np.ones(20)
    dropout_forward(whole, 0.5, KEYS[0], 100)
    dropout_forward(part, 0.5, KEYS[0], 130)
    np.testing.assert_array_equal(part, whole[30:])


def test_dropout_drops_exactly_the_hashes_below_the_rate():
    for i in range(20):
        hashed = naive.hash32(i, int(KEYS[0]))
        for threshold, kept in ((hashed, True), (hashed + 1, False)):
            x = np.ones(1)
            dropout_forward(x, threshold / 2**32, KEYS[0], i)
            assert (x[0] > 0) == kept


def test_embedding_sinusoids_are_the_formula():
    for T, C in ((1, 1), (5, 7), (9, 8)):
        assert sinusoids(T, C).shape == (T, C)
        np.testing.assert_allclose(sinusoids(T, C), naive.sinusoids(T, C), atol=1e-14)


def test_rotary_scores_depend_on_the_distance_alone():
    T, hs = 9, 8
    angles = rotary_angles(np.arange(T), hs, 50.0)
    qkv = np.tile(normal(1, 3 * hs), (T, 1))
    rotary_forward(qkv, np.cos(angles), np.sin(angles), 1)
    scores = qkv[:, :hs] @ qkv[:, hs : 2 * hs].T
    for distance in range(-T + 1, T):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-12)


def test_rotary_leaves_values_alone_and_turns_back_what_it_turned():
    angles = rotary_angles(np.arange(5), 6, 50.0)
    cos, sin = np.cos(angles), np.sin(angles)
    qkv = normal(10, 36)
    turned = qkv.copy()
    rotary_forward(turned, cos, sin, 2)
    np.testing.assert_array_equal(turned[:, 24:], qkv[:, 24:])
    np.testing.assert_array_equal(turned[[0, 5]], qkv[[0, 5]])  # position 0
    rotary_backward(turned, cos, sin, 2)
    np.testing.assert_allclose(turned, qkv, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attention_never_looks_ahead(dtype):
    B, T, C = 1, 19, 12
    qkv = normal(T, 3 * C).astype(dtype)
    out, other = np.empty((T, C), dtype), np.empty((T, C), dtype)
    p = np.full((B, 2, T, T), np.nan, dtype)
    attention_forward(out, p, qkv, 0.2, KEYS[:1])
    for t in (0, 7, 8, 18):
        later = qkv.copy()
        later[t + 1 :] = 100 * normal(T - t - 1, 3 * C, seed=2)
        attention_forward(other, p, later, 0.2, KEYS[:1])
        np.testing.assert_array_equal(other[: t + 1], out[: t + 1])
    assert not p[0][:, np.triu(np.ones((T, T), bool), 1)].any()


def test_attention_drops_differently_by_head_and_by_key():
    T, hs = 8, 4
    one = np.tile(normal(T, hs), (2, 6))  # q = k = v, the same in both heads and sequences
    out, p = np.empty((2 * T, 2 * hs)), np.empty((2, 2, T, T))
    attention_forward(out, p, one, 0.5, np.array([3, 3], np.uint64))
    np.testing.assert_array_equal(out[:T], out[T:])
    assert not np.array_equal(out[:, :hs], out[:, hs:])
    attention_forward(out, p, one, 0.5, np.array([3, 4], np.uint64))
    assert not np.array_equal(out[:T], out[T:])


# --- matrix products -----------------------------------------------------------------------

SIZES = [(1, 1, 1), (3, 5, 7), (8, 16, 48), (9, 17, 49), (16, 33, 64), (7, 1, 65), (12, 8, 112)]
if COMPILED:
    SIZES += [(65, 400, 50), (320, 64, 64), (33, 769, 101), (64, 320, 192)]


def strided(array, layout):
    """The array's numbers with other strides: "row", "column" major or part of a larger one."""
    if layout == "column":
        return array.T.copy().T
    if layout == "part":
        larger = np.full((array.shape[0] + 2, array.shape[1] + 5), np.nan, array.dtype)
        larger[1:-1, 3:-2] = array
        return larger[1:-1, 3:-2]
    return array.copy()


def tolerance(a, b):
    """What the product may be wrong by: rounding grows with the length of the sums."""
    eps = np.finfo(a.dtype).eps
    return 4 * eps * (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)) + 4 * eps


def assert_product(out, a, b, start=0.0):
    exact = a.astype(np.float64) @ b.astype(np.float64) + start
    allowed = tolerance(a, b) + 4 * np.finfo(a.dtype).eps * np.abs(start)
    assert (np.abs(out - exact) <= allowed).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layouts", [
    ("row", "row"), ("row", "column"), ("column", "row"), ("part", "part"),
])
def test_matmul_of_any_strides(layouts, dtype):
    for N, K, M in SIZES:
        a = strided(normal(N, K).astype(dtype), layouts[0])
        b = strided(normal(K, M, seed=1).astype(dtype), layouts[1])
        out = np.full((N, M), np.nan, dtype)
        matmul(out, a, b)
        assert_product(out, a, b)
        np.testing.assert_array_equal(a, normal(N, K).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_writes_its_part_of_a_larger_array_only(dtype):
    for N, K, M in SIZES:
        a, b = normal(N, K).astype(dtype), normal(K, M, seed=1).astype(dtype)
        larger = np.full((N + 2, M + 7), 5, dtype)
        out = larger[1:-1, 3:-4]
        matmul(out, strided(a, "part"), strided(b, "part"))
        assert_product(out, a, b)
        out[...] = 5
        assert (larger == 5).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_add_adds_and_matmul_bias_begins_with_the_bias(dtype):
    for N, K, M in SIZES:
        a, b = normal(N, K).astype(dtype), normal(K, M, seed=1).astype(dtype)
        bias, start = normal(M).astype(dtype), normal(N, M, seed=2).astype(dtype)
        out = np.full((N, M), np.nan, dtype)
        matmul_bias(out, a, b, bias)
        assert_product(out, a, b, bias.astype(np.float64))
        out[...] = start
        matmul_add(out, strided(a, "column"), b)  # as linear_backward calls it
        assert_product(out, a, b, start.astype(np.float64))


TRIANGLES = [(1, 1), (5, 3), (8, 16), (17, 6), (16, 33), (50, 20)]
if COMPILED:
    TRIANGLES += [(80, 16), (401, 24)]  # beyond one block of k


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_to_lower_is_right_on_and_below_the_diagonal(dtype):
    for T, K in TRIANGLES:
        q, k = (strided(normal(T, K, seed=s).astype(dtype), "part") for s in (0, 1))
        out = np.full((T, T), np.nan, dtype)
        matmul_to_lower(out, q, k.T)
        lower = np.tril_indices(T)
        exact = q.astype(np.float64) @ k.T.astype(np.float64)
        assert (np.abs(out - exact)[lower] <= tolerance(q, k.T)[lower]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_of_lower_and_upper_triangles(dtype):
    for T, M in TRIANGLES:
        a = np.tril(normal(T, T)).astype(dtype)
        b = strided(normal(T, M, seed=1).astype(dtype), "part")
        larger = np.full((T + 2, M + 7), np.nan, dtype)
        out = larger[1:-1, 3:-4]
        lower_matmul(out, a, b)
        assert_product(out, a, b)
        out[...] = np.nan
        upper_matmul(out, a.T, b)
        assert_product(out, a.T, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_keeps_nan(dtype):
    for row in (0, 8, 16):
        a, b = np.ones((17, 40), dtype), np.ones((40, 50), dtype)
        a[row, 39] = np.nan
        out = np.zeros((17, 50), dtype)
        matmul(out, a, b)
        assert np.isnan(out[row]).all() and (np.delete(out, row, 0) == 40).all()


# --- numeric primitives --------------------------------------------------------------------


@kernel
def exp_of_all(out, x):
    for i in range(x.size):
        out[i] = exp(x[i])


@kernel
def rows_of_all(results, exps, scaled, zeroed, gradient, x, y, count, first, most):
    """Every function of rows, on the first `count` numbers."""
    results[0] = largest(x, count)
    results[1] = exp_row(exps, x, count, most, x.dtype.type(0.7))
    results[2] = dot_row(x, y, count)
    scale_row(scaled, count, x.dtype.type(3))
    zero_row(zeroed, first, count)
    softmax_gradient_row(gradient, x, y, count, x.dtype.type(0.25), x.dtype.type(0.7))


@kernel
def exp_row_of(out, x, count, most, scale):
    return exp_row(out, x, count, most, scale)


@kernel
def largest_of(row, count):
    return largest(row, count)


@kernel
def hash_of_all(out, first, key):
    for i in range(out.size):
        out[i] = hash32(np.uint64(first + i), key)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_is_accurate_over_its_range(dtype):
    x = np.concatenate([np.linspace(-87, 88, 20_001), np.linspace(-1, 1, 20_001), [0, -0.0]])
    x = x.astype(dtype)
    out = np.empty_like(x)
    exp_of_all(out, x)
    exact = np.exp(x.astype(np.longdouble))
    error = np.abs(out - exact) / exact
    if dtype == np.float64:
        assert error.max() < 1e-15
    else:  # numpy's own float32, which runs with the JIT off, errs by 2e-7
        assert error[np.abs(x) <= 20].max() < (1.3e-7 if COMPILED else 2e-7)
        assert error.max() < 3.2e-7
    assert (out[-2:] == 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_of_nan_and_of_huge_numbers(dtype):
    x = np.array([np.nan, -np.nan, -90, -1e30, -np.inf, 100, 1e30, np.inf] * 5, dtype)
    out = np.empty_like(x)
    exp_of_all(out, x)
    out = out.reshape(5, 8)
    assert np.isnan(out[:, :2]).all()
    assert (out[:, 2:5] >= 0).all() and (out[:, 2:5] < 1e-37).all()
    assert (out[:, 5:] > 1e38).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_largest_is_the_maximum_of_the_first_count(dtype):
    for count in (1, 2, 15, 16, 17, 33):
        for shift in (-10, 0, 10):
            row = (normal(40, seed=count) + shift).astype(dtype)
            row[count:] = 1000
            assert largest_of(row, count) == row[:count].max()
    row = np.array([-np.inf, -3, np.inf, 7], dtype)
    assert largest_of(row, 1) == -np.inf
    assert largest_of(row, 2) == -3
    assert largest_of(row, 4) == np.inf
    assert largest_of(np.array([-0.0, -1], dtype), 2) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_functions_do_what_they_say_and_touch_no_more_than_count(dtype):
    size = 55
    for count in (1, 2, 15, 16, 17, 32, 48, 50):
        x, y = (normal(size, seed=s).astype(dtype) for s in (count, count + 100))
        x[count:] = y[count:] = np.nan
        first = count // 3
        arrays = [np.full(size, 5, dtype) for _ in range(4)]
        results = np.zeros(3, dtype)
        most = x[:count].max()
        rows_of_all(results, *arrays, x, y, count, first, most)
        xs, ys = x[:count].astype(np.float64), y[:count].astype(np.float64)
        exps = np.exp((xs - most) * 0.7)
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        close = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(results, [most, exps.sum(), xs @ ys], **close)
        zeroed = np.where(np.arange(count) < first, 5, 0)
        expected = (exps, np.full(count, 15), zeroed, 0.7 * (xs - 0.25) * ys)
        for array, right in zip(arrays, expected, strict=True):
            np.testing.assert_allclose(array[:count], right, **close)
            assert (array[count:] == 5).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_exponentials_reach_over_the_whole_range_and_keep_nan(dtype):
    x = np.linspace(-124, 0, 20_001).astype(dtype)
    out, scale = np.empty_like(x), dtype(0.7)
    total = exp_row_of(out, x, x.size, dtype(0), scale)
    exact = np.exp((x * scale).astype(np.longdouble))
    error = np.abs(out - exact) / exact
    assert error.max() < (3.2e-7 if dtype == np.float32 else 1e-15)
    assert total == pytest.approx(float(exact.sum()), rel=1e-5)
    for at in (0, 7, 40):
        for value in (np.nan, -np.nan, np.inf):
            row = np.zeros(41, dtype)
            row[at] = value
            with np.errstate(invalid="ignore"):
                assert np.isnan(exp_row_of(row, row, 41, largest_of(row, 41), scale)), value
    row = np.array([-np.inf, 0, -1e30], dtype)
    exp_row_of(row, row, 3, dtype(0), scale)
    np.testing.assert_allclose(row, [0, 1, 0], atol=1e-37)


def test_hash_is_that_of_pure_python_integers():
    rng = np.random.default_rng(0)
    edges = [0, 1, 2**16, 2**31, 2**32 - 1]
    numbers = [(x, k) for x in edges for k in edges]
    numbers += rng.integers(0, 2**32, (500, 2)).tolist()
    for x, key in numbers:
        assert int(hash32(np.uint64(x), np.uint64(key))) == naive.hash32(x, key)


def test_hash_of_successive_numbers_is_uniform():
    count = 65_536 if COMPILED else 4_096
    out, other = np.empty(count, np.uint64), np.empty(count, np.uint64)
    for key in (0, 1, 2**32 - 1, 123456789):
        hash_of_all(out, 0, np.uint64(key))
        assert len(np.unique(out)) == count  # one to one
        for bits in (out >> np.uint64(24), out & np.uint64(255)):
            found = np.bincount(bits.astype(int), minlength=256)
            chi_square = np.sum((found - count / 256) ** 2) / (count / 256)
            assert 140 < chi_square < 400  # 255 +- 5 standard deviations
        # The next key's numbers have nothing to do with these.
        hash_of_all(other, 0, np.uint64((key + 1) % 2**32))
        same = np.mean((out < 2**31) == (other < 2**31))
        assert abs(same - 0.5) < 2.5 / np.sqrt(count)
        assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 5 / np.sqrt(count)
