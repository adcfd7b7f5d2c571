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

from femtogpt.layers import attention as attention_layer
from femtogpt.layers import long_attention
from femtogpt.layers.attention import attention_backward, attention_forward, weights_shape
from femtogpt.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from femtogpt.layers.distinct import number_tokens, repeat_backward, repeat_forward
from femtogpt.layers.dropout import dropout_backward, dropout_forward
from femtogpt.layers.embedding import embedding_backward, embedding_forward, sinusoids
from femtogpt.layers.gelu import gelu_backward, gelu_forward
from femtogpt.layers.linear import linear_backward, linear_forward
from femtogpt.layers.norm import norm_backward, norm_forward
from femtogpt.layers.rotary import rotary_backward, rotary_forward, rotary_turns

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


def dropout(N, F, rate, first=0, down=None, across=1):
    numbers = first, F if down is None else down, across

    def forward(i):
        out = np.empty_like(i["x"])
        dropout_forward(out, i["x"], rate, KEYS[0], *numbers)
        return out, None

    def backward(g, dout, i, _):
        dropout_backward(g["x"], dout, rate, KEYS[0], *numbers)

    def reference(i):
        rows, columns = np.indices((N, F))
        numbered = first + rows * numbers[1] + columns * across
        return i["x"] * naive.dropout_mask(numbered.max() + 1, rate, int(KEYS[0]))[numbered]

    return Case({"x": normal(N, F)}, forward, backward, reference, ("x",))


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


def numbered(tokens, V):
    """(number, distinct): number_tokens' of tokens below V."""
    number, distinct, count, place = (np.full(n, -1) for n in (tokens.size, tokens.size, 1, V))
    number_tokens(number, distinct, count, place, tokens)
    assert (place == -1).all()
    return number, distinct[: count[0]]


def repeat(N, V, C):
    tokens = np.random.default_rng(N).integers(0, V, N)
    number, distinct = numbered(tokens, V)

    def forward(i):
        out = nans((N, C), i["x"])
        repeat_forward(out, i["x"], number)
        return out, None

    def backward(g, dout, i, _):
        dout = dout.copy()
        repeat_backward(dout, number)
        g["x"][...] = dout[: distinct.size]

    def reference(i):
        return np.array([i["x"][list(distinct).index(token)] for token in tokens])

    return Case({"x": normal(distinct.size, C)}, forward, backward, reference, ("x",))


def rotary(N, T, num_heads, hs):
    turns = rotary_turns(np.arange(T), num_heads, hs, 50.0)

    def forward(i):
        out = i["qkv"].copy()
        rotary_forward(out, turns.astype(out.dtype), num_heads)
        return out, None

    def backward(g, dout, i, _):
        g["qkv"][...] = dout
        rotary_backward(g["qkv"], turns.astype(dout.dtype), num_heads)

    def reference(i):
        return naive.rotary(i["qkv"], T, num_heads, 50.0)

    return Case({"qkv": normal(N, 3 * num_heads * hs)}, forward, backward, reference, ("qkv",))


def attention_space(B, T, num_heads, hs, like):
    """out and p, all NaN."""
    shapes = (B * T, num_heads * hs), weights_shape(T, B, num_heads)
    return [nans(shape, like) for shape in shapes]


def attention(B, T, num_heads, hs, rate):
    keys, C = KEYS[:B], num_heads * hs

    def forward(i):
        out, p = attention_space(B, T, num_heads, hs, i["qkv"])
        attention_forward(out, p, i["qkv"], num_heads, rate, keys)
        return out, (out, p)

    def backward(g, dout, i, saved):
        attention_backward(g["qkv"], dout, *saved, i["qkv"], num_heads, rate, keys)

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
    dropout: [(5, 8, 0.2), (1, 1, 0.0), (5, 13, 0.5, 1000), (3, 11, 0.0), (4, 7, 0.3, 9, 1, 6)],
    embedding: [(6, 5, 8, 3), (1, 1, 1, 1), (9, 65, 20, 0), (34, 7, 3, 17)],
    repeat: [(9, 4, 3), (1, 1, 1), (40, 500, 17)],
    rotary: [(6, 3, 2, 4), (1, 1, 1, 2), (14, 7, 3, 10)],
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
    g["x"][...] = dout * (naive.dropout_mask(40, 0.2, int(KEYS[0])).reshape(5, 8) > 0)


def dropout_with_another_mask(g, dout, i, _):
    dropout_backward(g["x"], dout, 0.2, KEYS[0], 1, 8, 1)


def embedding_of_repeated_tokens_once(g, dout, i, _):
    tokens = np.random.default_rng(6).integers(0, 5, 6)
    assert len(set(tokens)) < 6
    g["table"][tokens] += dout  # numpy adds the last of equal indices only
    g["positions"] += dout[:3] + dout[3:]


def rotary_turned_the_same_way(g, dout, i, _):
    g["qkv"][...] = dout
    rotary_forward(g["qkv"], rotary_turns(np.arange(3), 2, 4, 50.0), 2)


def attention_without_dropout(g, dout, i, saved):
    attention_backward(g["qkv"], dout, *saved, i["qkv"], 2, 0.0, KEYS[:2])


def attention_of_other_weights(g, dout, i, saved):
    out, p = saved
    attention_backward(g["qkv"], dout, out, 0.9 * p, i["qkv"], 2, 0.3, KEYS[:2])


def attention_with_keys_and_values_swapped(g, dout, i, saved):
    attention_backward(g["qkv"], dout, *saved, i["qkv"], 2, 0.3, KEYS[:2])
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
    (attention, attention_without_dropout),
    (attention, attention_of_other_weights),
    (attention, attention_with_keys_and_values_swapped),
    (cross_entropy, cross_entropy_without_the_target),
])
def test_checker_finds_a_dropped_term(layer, wrong):
    assert finds(layer(*SHAPES[layer][0]), wrong)


def softmax_forward(i):
    p = naive.causal_softmax(i["s"], 0.7)
    return p, p


def softmax_backward(scale):
    """A softmax's backward on arrays; right for a scale of 0.7."""
    def backward(g, dout, i, p):
        g["s"][...] = scale * p * (dout - np.sum(dout * p, 1, keepdims=True))

    return backward


def test_checker_sees_what_a_cotangent_of_ones_hides_in_softmax():
    case = Case({"s": 3 * normal(7, 7)}, softmax_forward, softmax_backward(0.7), None, ("s",))
    p, _ = case.forward(case.inputs)
    for scale in (0.7, 0.5):  # both gradients of a plain sum are zero: nothing to see
        g = {"s": np.full((7, 7), np.nan)}
        softmax_backward(scale)(g, np.ones((7, 7)), case.inputs, p)
        np.testing.assert_allclose(g["s"], 0, atol=1e-12)
    assert not finds(case, case.backward)
    assert finds(case, softmax_backward(0.5))


# --- in place, where a docstring allows it -----------------------------------------------


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


def test_cross_entropy_survives_large_numbers():
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


def test_linear_backward_overwrites_a_weight_s_gradient_the_first_time():
    x, weight, dout = normal(5, 3), normal(3, 4), normal(5, 4)
    dx, dweight = np.empty_like(x), nans(weight.shape, weight)
    linear_backward(dx, dweight, None, dout, x, weight, first=True)
    np.testing.assert_allclose(dweight, x.T @ dout, rtol=1e-12)


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
    dropout_forward(x, x, 0.5, KEYS[0], 0, 20, 1)
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
        out = np.ones((count // 50, 50), np.float32)
        dropout_forward(out, out, rate, KEYS[0], 0, 50, 1)
        spread = np.sqrt(rate * (1 - rate) / count)
        assert abs(np.mean(out == 0) - rate) <= 5 * spread
        np.testing.assert_allclose(out[out != 0], 1 / (1 - rate), rtol=1e-6)


def test_dropout_numbers_elements_from_first():
    whole, part, turned = np.ones((5, 10)), np.ones((2, 10)), np.ones((10, 5))
    dropout_forward(whole, whole, 0.5, KEYS[0], 100, 10, 1)
    dropout_forward(part, part, 0.5, KEYS[0], 130, 10, 1)
    dropout_forward(turned, turned, 0.5, KEYS[0], 100, 1, 10)
    np.testing.assert_array_equal(part, whole[3:])
    np.testing.assert_array_equal(turned, whole.T)


def test_dropout_drops_exactly_the_hashes_below_the_rate():
    for i in range(20):
        hashed = naive.hash32(i, int(KEYS[0]))
        for threshold, kept in ((hashed, True), (hashed + 1, False)):
            x = np.ones((1, 1))
            dropout_forward(x, x, threshold / 2**32, KEYS[0], i, 1, 1)
            assert (x[0, 0] > 0) == kept


def test_embedding_sinusoids_are_the_formula():
    for T, C in ((1, 1), (5, 7), (9, 8)):
        assert sinusoids(T, C).shape == (T, C)
        np.testing.assert_allclose(sinusoids(T, C), naive.sinusoids(T, C), atol=1e-14)


def test_rotary_scores_depend_on_the_distance_alone():
    T, hs = 9, 8
    qkv = np.tile(normal(1, 3 * hs), (T, 1))
    rotary_forward(qkv, rotary_turns(np.arange(T), 1, hs, 50.0), 1)
    scores = qkv[:, :hs] @ qkv[:, hs : 2 * hs].T
    for distance in range(-T + 1, T):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-12)


def test_rotary_leaves_values_alone_and_turns_back_what_it_turned():
    turns = rotary_turns(np.arange(5), 2, 6, 50.0)
    qkv = normal(10, 36)
    turned = qkv.copy()
    rotary_forward(turned, turns, 2)
    np.testing.assert_array_equal(turned[:, 24:], qkv[:, 24:])
    np.testing.assert_array_equal(turned[[0, 5]], qkv[[0, 5]])  # position 0
    rotary_backward(turned, turns, 2)
    np.testing.assert_allclose(turned, qkv, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attention_never_looks_ahead(dtype):
    T, NH, hs = 37, 2, 6
    qkv = normal(T, 3 * NH * hs).astype(dtype)
    out, p = attention_space(1, T, NH, hs, qkv)
    other, _ = attention_space(1, T, NH, hs, qkv)
    attention_forward(out, p, qkv, NH, 0.2, KEYS[:1])
    for t in (0, 7, 30, 31, 32, 36):
        later = qkv.copy()
        later[t + 1 :] = 100 * normal(T - t - 1, 3 * NH * hs, seed=2)
        attention_forward(other, p, later, NH, 0.2, KEYS[:1])
        np.testing.assert_array_equal(other[: t + 1], out[: t + 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_attention_of_a_nan_key_is_nan_from_there_on(dtype, sign):
    T = 35
    for at in (0, 4, 31, 33):
        qkv = normal(T, 12).astype(dtype)
        qkv[at, 4] = np.copysign(np.nan, sign)
        out, p = attention_space(1, T, 1, 4, qkv)
        attention_forward(out, p, qkv, 1, 0.0, KEYS[:1])
        assert np.isnan(out[at:]).all() and np.isfinite(out[:at]).all()


def test_attention_survives_large_numbers():
    qkv = np.zeros((2, 12), np.float32)
    qkv[:, :4], qkv[0, 4:8], qkv[1, 4:8] = 100, 100, -100
    qkv[0, 8:], qkv[1, 8:] = 1, 2
    out, p = attention_space(1, 2, 1, 4, qkv)
    attention_forward(out, p, qkv, 1, 0.0, KEYS[:1])
    np.testing.assert_allclose(out, 1)


@pytest.mark.parametrize("rate", [0, 0.3])
@pytest.mark.parametrize("T", [1, 41, 256, 300, 601])
def test_attention_that_keeps_no_weights_gives_the_same_numbers(T, rate, monkeypatch):
    B, NH, hs, dtype = 2, 2, 6, np.float32
    assert T < 600 or T > 2 * long_attention.ROWS  # three blocks of rows and more
    qkv, dout = normal(B * T, 3 * NH * hs).astype(dtype), normal(B * T, NH * hs).astype(dtype)
    results = []
    for kept_tokens in (T, T - 1):
        monkeypatch.setattr(attention_layer, "KEPT_TOKENS", kept_tokens)
        out, p = attention_space(B, T, NH, hs, qkv)
        attention_forward(out, p, qkv, NH, rate, KEYS[:B])
        dqkv = nans(qkv.shape, qkv)
        attention_backward(dqkv, dout, out, p, qkv, NH, rate, KEYS[:B])
        results.append((p.size, out, dqkv))
    (kept, out, dqkv), (not_kept, out_2, dqkv_2) = results
    assert not_kept < kept or T == 1
    np.testing.assert_allclose(out_2, out, 1e-5, 1e-5)
    np.testing.assert_allclose(dqkv_2, dqkv, 1e-5, 1e-5)


def test_attention_drops_differently_by_head_and_by_key():
    T, hs = 8, 4
    one = np.tile(normal(T, hs), (2, 6))  # q = k = v, the same in both heads and sequences
    out, p = attention_space(2, T, 2, hs, one)
    attention_forward(out, p, one, 2, 0.5, np.array([3, 3], np.uint64))
    np.testing.assert_array_equal(out[:T], out[T:])
    assert not np.array_equal(out[:, :hs], out[:, hs:])
    attention_forward(out, p, one, 2, 0.5, np.array([3, 4], np.uint64))
    assert not np.array_equal(out[:T], out[T:])


def test_tokens_are_numbered_as_they_first_occur():
    number, distinct = numbered(np.array([7, 2, 7, 0, 2, 9]), 10)
    assert number.tolist() == [0, 1, 0, 2, 1, 3]
    assert distinct.tolist() == [7, 2, 0, 9]
