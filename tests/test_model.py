"""The whole model: its gradient, its formula, its parameters and its start."""

import math

import naive
import numba
import numpy as np
import pytest
from gradients import check

from femtogpt.activations import allocate_activations, constants
from femtogpt.config import POSITIONAL_ENCODINGS, RECIPES, GPTConfig
from femtogpt.errors import FemtoError
from femtogpt.model import initial_parameters
from femtogpt.passes import loss_and_gradients, summed_loss
from femtogpt.tensors import (
    MUON_FIELDS,
    Tensors,
    count_adamw_parameters,
    count_parameters,
    lined_up,
    lined_up_vectors,
    named,
    ranges,
    shape_table,
    views,
)

COMPILED = not numba.config.DISABLE_JIT
KINDS = [(recipe, encoding) for recipe in RECIPES for encoding in POSITIONAL_ENCODINGS]
SMALL = {"vocab_size": 11, "num_tokens": 6, "embedding_degree": 12, "num_layers": 2, "num_heads": 2}
KEYS = np.array([77, 2**32 - 5, 3], np.uint64)


def some_parameters(config, dtype=np.float64, seed=0):
    """Random everywhere: with the zeros of a fresh model most gradients would be zero."""
    rng = np.random.default_rng(seed)
    flat = 0.3 * rng.standard_normal(count_parameters(config))
    for field, tensor in views(flat, config)._asdict().items():
        if field.endswith("gain"):
            tensor += 1
    return flat.astype(dtype)


def some_tokens(config, sequences, seed=0):
    """(tokens, targets), each (B T,)."""
    rng = np.random.default_rng(seed)
    windows = rng.integers(0, config.vocab_size, (sequences, config.num_tokens + 1))
    return windows[:, :-1].ravel(), windows[:, 1:].ravel()


def loss_and_gradient(config, flat, tokens, targets, rate=0.0, scale=1.0, gradient=None):
    """(summed loss, activations, gradient) of the whole pass, in flat's type."""
    sequences = tokens.size // config.num_tokens
    activations = allocate_activations(config, sequences, flat.dtype)
    for array in activations:
        if array.dtype == flat.dtype:
            array[...] = np.nan  # nothing may be read that this pass has not written
    gradient = np.zeros_like(flat) if gradient is None else gradient
    loss = loss_and_gradients(
        views(gradient, config), activations, views(flat, config), tokens, targets,
        constants(config, flat.dtype), scale, rate, KEYS[:sequences],
    )
    return loss, activations, gradient


def loss_of(config, flat, tokens, targets):
    sequences = tokens.size // config.num_tokens
    activations = allocate_activations(config, sequences, flat.dtype)
    return summed_loss(activations, views(flat, config), tokens, targets,
                       constants(config, flat.dtype), KEYS[:sequences]), activations


def logits_of(config, flat, tokens):
    """The model's logits without dropout. They become probabilities in place: logs of
    these are the logits but for a number a row."""
    _, activations = loss_of(config, flat, tokens, tokens)
    return np.log(activations.logits)


def log_softmax(logits):
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


# --- forward and backward ----------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize(("recipe", "encoding"), KINDS)
def test_gradient_of_every_parameter_is_that_of_differences(recipe, encoding, rate):
    config = GPTConfig(**SMALL, recipe=recipe, positional_encoding=encoding)
    tokens, targets = some_tokens(config, 2)
    flat = some_parameters(config)
    # Field by field; with the JIT off, for its speed, all in one.
    fields = dict(zip(Tensors._fields, ranges(config), strict=True))
    if not COMPILED:
        fields = {"parameters": (0, flat.size)}
    inputs = {field: flat[start:stop] for field, (start, stop) in fields.items() if start < stop}

    def forward(i):
        whole = np.concatenate(list(i.values()))
        return np.array(loss_and_gradient(config, whole, tokens, targets, rate)[0]), whole

    def backward(g, dout, i, whole):
        gradient = np.concatenate(list(g.values()))
        loss_and_gradient(config, whole, tokens, targets, rate, float(dout), gradient)
        for field, start in zip(g, np.cumsum([0] + [a.size for a in g.values()]), strict=False):
            g[field][...] = gradient[start : start + g[field].size]

    check(forward, inputs, backward, adds=tuple(inputs), directions=1)


@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize(("recipe", "encoding"), KINDS)
def test_forward_is_naives(recipe, encoding, rate):
    config = GPTConfig(**SMALL, recipe=recipe, positional_encoding=encoding)
    tokens, targets = some_tokens(config, 2)
    flat = some_parameters(config)
    logits = naive.logits(config, named(flat, config), tokens, rate, KEYS[:2])
    expected = naive.cross_entropy(logits, targets)
    loss, _, _ = loss_and_gradient(config, flat, tokens, targets, rate)
    assert loss == pytest.approx(expected, rel=1e-12)
    single, _, _ = loss_and_gradient(config, flat.astype(np.float32), tokens, targets, rate)
    assert single == pytest.approx(expected, rel=1e-5)
    if rate == 0:
        np.testing.assert_allclose(
            logits_of(config, flat, tokens), log_softmax(logits), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("recipe", "encoding"), [("standard", "rope"), ("femto", "absolute")])
def test_forward_and_gradient_in_float32_are_right_at_odd_sizes(recipe, encoding):
    config = GPTConfig(65, 19, 36, 1, 3, recipe, encoding)
    tokens, targets = some_tokens(config, 2)
    flat = some_parameters(config)
    logits = naive.logits(config, named(flat.astype(np.float32), config), tokens)
    np.testing.assert_allclose(
        logits_of(config, flat.astype(np.float32), tokens), log_softmax(logits), atol=2e-4)
    _, _, single = loss_and_gradient(config, flat.astype(np.float32), tokens, targets, 0.2)
    _, _, double = loss_and_gradient(config, flat, tokens, targets, 0.2)
    for field, right in views(double, config)._asdict().items():
        if right.size:
            size = np.sqrt(np.mean(right**2))
            np.testing.assert_allclose(
                getattr(views(single, config), field), right, rtol=1e-3, atol=2e-4 * size)


@pytest.mark.parametrize(("recipe", "encoding"), [("standard", "rope"), ("femto", "learned")])
def test_a_later_token_does_not_change_earlier_logits(recipe, encoding):
    config = GPTConfig(**{**SMALL, "num_tokens": 19}, recipe=recipe, positional_encoding=encoding)
    flat = some_parameters(config, np.float32)
    tokens, _ = some_tokens(config, 1)
    before = logits_of(config, flat, tokens)
    for t in (0, 7, 18):
        other = tokens.copy()
        other[t] = (other[t] + 1) % config.vocab_size
        after = logits_of(config, flat, other)
        np.testing.assert_array_equal(after[:t], before[:t])
        assert (after[t:] != before[t:]).any(1).all()


def test_sequences_of_a_batch_do_not_touch_each_other():
    config = GPTConfig(**SMALL)
    flat = some_parameters(config, np.float32)
    tokens, targets = some_tokens(config, 3)
    T = config.num_tokens
    together = logits_of(config, flat, tokens)
    gradient = np.zeros_like(flat)
    for b in range(3):
        part = slice(b * T, (b + 1) * T)
        alone = logits_of(config, flat, tokens[part])
        np.testing.assert_allclose(alone, together[part], rtol=1e-4, atol=1e-5)
        loss_and_gradient(config, flat, tokens[part], targets[part], gradient=gradient)
    _, _, whole = loss_and_gradient(config, flat, tokens, targets)
    np.testing.assert_allclose(gradient, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("rows", "used"), [(12, 12), (11, 6), (5, 4), (1, 1)])
def test_the_head_in_parts_gives_the_same(monkeypatch, rows, used):
    config = GPTConfig(**SMALL)
    tokens, targets = some_tokens(config, 2)
    flat = some_parameters(config)
    loss, _, gradient = loss_and_gradient(config, flat, tokens, targets)
    monkeypatch.setattr("femtogpt.activations.LOGITS", rows * config.vocab_size)
    monkeypatch.setattr("femtogpt.activations.MIN_ROWS", 1)
    in_parts, activations, other = loss_and_gradient(config, flat, tokens, targets)
    assert activations.logits.shape == (used, config.vocab_size)
    assert in_parts == pytest.approx(loss, rel=1e-14)
    assert loss_of(config, flat, tokens, targets)[0] == pytest.approx(loss, rel=1e-14)
    np.testing.assert_allclose(other, gradient, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fresh_gradients_matrices_are_overwritten_and_nothing_else(dtype):
    config = GPTConfig(**SMALL, recipe="standard")
    flat, (tokens, targets) = some_parameters(config, dtype), some_tokens(config, 2)
    _, _, wanted = loss_and_gradient(config, flat, tokens, targets)
    begun = np.full_like(flat, np.nan)
    begun[: count_adamw_parameters(config)] = 0
    activations = allocate_activations(config, 2, dtype)
    for fresh in (True, False):
        loss_and_gradients(views(begun, config), activations, views(flat, config), tokens, targets,
                           constants(config, dtype), 1.0, 0.0, KEYS[:2], fresh)
    np.testing.assert_allclose(begun, 2 * wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("recipe", ["standard", "femto"])
def test_a_huge_models_pass_gives_the_same_and_takes_less_memory(recipe, monkeypatch):
    config = GPTConfig(**SMALL, recipe=recipe)
    flat, (tokens, targets) = some_parameters(config), some_tokens(config, 2)
    loss, activations, gradient = loss_and_gradient(config, flat, tokens, targets, 0.2)
    monkeypatch.setattr("femtogpt.activations.HUGE", 0)
    again, fewer, other = loss_and_gradient(config, flat, tokens, targets, 0.2)
    assert (again, other.tolist()) == (loss, gradient.tolist())
    assert len(fewer.norm) == len(fewer.gelu) == 1 < len(activations.gelu)
    kept = allocate_activations(config, 2, keep_all=True)
    assert [a.shape for a in kept] == [a.shape for a in activations]


def test_dropout_follows_the_sequences_key_and_is_off_in_summed_loss():
    config = GPTConfig(**{**SMALL, "num_tokens": 8})
    flat = some_parameters(config)
    tokens, targets = some_tokens(config, 2)
    plain = loss_and_gradient(config, flat, tokens, targets)[0]
    assert loss_of(config, flat, tokens, targets)[0] == pytest.approx(plain, rel=1e-14)
    dropped = loss_and_gradient(config, flat, tokens, targets, 0.3)[0]
    assert dropped != pytest.approx(plain, rel=1e-4)
    assert dropped == loss_and_gradient(config, flat, tokens, targets, 0.3)[0]
    swapped = loss_and_gradient(
        config, flat, np.roll(tokens, 8), np.roll(targets, 8), 0.3)[0]
    assert dropped != pytest.approx(swapped, rel=1e-4)  # other keys for the same sequences


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_nan_in_any_parameter_gives_a_nan_loss(recipe):
    config = GPTConfig(**SMALL, recipe=recipe, positional_encoding="learned")
    tokens, targets = some_tokens(config, 2)
    for field in Tensors._fields:
        for sign in (1, -1):
            flat = some_parameters(config, np.float32)
            tensor = getattr(views(flat, config), field)
            if field == "token_embedding":
                tensor[tokens[3], 1] = np.copysign(np.nan, sign)
            else:
                tensor[(0,) * tensor.ndim] = np.copysign(np.nan, sign)
            with np.errstate(invalid="ignore"):
                assert np.isnan(loss_of(config, flat, tokens, targets)[0]), (field, sign)


@pytest.mark.parametrize(("recipe", "encoding"), KINDS)
def test_loss_of_a_fresh_model_is_that_of_a_guess(recipe, encoding):
    config = GPTConfig(256, 16, 32, 2, 2, recipe, encoding)
    tokens, targets = some_tokens(config, 3)
    loss, _ = loss_of(config, initial_parameters(config, 1), tokens, targets)
    assert loss / targets.size == pytest.approx(math.log(256), abs=0.05)


# --- the parameters --------------------------------------------------------------------

# Of every entry of femtoGPT's log that states a figure: V, C, L, the formula's value, the
# figure as the log has it, which it cuts, not rounds: 1,575,904 is its "1.5M". (The
# vocabulary of entry 1's tokenizer is not stated; with 256 it would be entry 2.)
LOG = {
    "2, 6, 7, 27": (256, 64, 4, 232_320, "232K"),
    "3, 4, 8": (256, 64, 6, 331_904, "331K"),
    "5": (256, 256, 8, 6_443_776, "6.4M"),
    "9": (256, 80, 6, 506_976, "506K"),
    "10": (256, 32, 4, 67_136, "67K"),
    "11": (256, 128, 6, 1_253_376, "1.2M"),
    "12": (566, 160, 8, 2_652_406, "2.6M"),
    "13": (256, 640, 8, 39_702_016, "39.7M"),
    "14": (1054, 768, 8, 58_306_078, "58.3M"),
    "15, 16": (256, 160, 6, 1_935_296, "1.9M"),
    "17, 20": (256, 80, 4, 351_776, "351K"),
    "18": (1054, 80, 4, 480_254, "480K"),
    "19": (1054, 192, 8, 3_960_478, "3.9M"),
    "21": (256, 96, 6, 718_912, "718K"),
    "22, 23": (256, 144, 6, 1_575_904, "1.5M"),
    "24": (256, 96, 8, 942_016, "942K"),
    "25, 26": (256, 144, 8, 2_076_448, "2.0M"),
    "28": (630, 192, 8, 3_797_238, "3.7M"),
}


@pytest.mark.parametrize("entry", LOG)
def test_parameter_count_is_the_logs(entry):
    V, C, L, exact, figure = LOG[entry]
    config = GPTConfig(V, embedding_degree=C, num_layers=L, num_heads=4)
    assert count_parameters(config) == exact == L * (12 * C * C + 10 * C) + 2 * C * V + V + 2 * C
    assert count_parameters(config) == count_adamw_parameters(config) + L * 12 * C * C
    unit = {"K": 1_000, "M": 100_000}[figure[-1]]
    digits = figure[:-1].replace(".", "")
    assert str(exact // unit) == digits


def test_learned_positions_are_counted_and_other_encodings_have_no_parameters():
    counts = {e: count_parameters(GPTConfig(**SMALL, positional_encoding=e))
              for e in POSITIONAL_ENCODINGS}
    assert counts["learned"] == counts["rope"] + SMALL["num_tokens"] * SMALL["embedding_degree"]
    assert counts["rope"] == counts["absolute"] == counts["none"]


def test_names_and_shapes_are_the_documented_ones():
    config = GPTConfig(**SMALL, positional_encoding="learned")
    V, T, C, L = 11, 6, 12, 2
    expected = {
        "token_embedding": (V, C), "position_embedding": (T, C),
        "final_norm.gain": (C,), "final_norm.bias": (C,),
        "head.weight": (C, V), "head.bias": (V,),
    }
    for l in range(L):
        expected |= {
            f"layers.{l}.attention_norm.gain": (C,), f"layers.{l}.attention_norm.bias": (C,),
            f"layers.{l}.attention.query_key_value.weight": (C, 3 * C),
            f"layers.{l}.attention.projection.weight": (C, C),
            f"layers.{l}.attention.projection.bias": (C,),
            f"layers.{l}.mlp_norm.gain": (C,), f"layers.{l}.mlp_norm.bias": (C,),
            f"layers.{l}.mlp.up.weight": (C, 4 * C), f"layers.{l}.mlp.up.bias": (4 * C,),
            f"layers.{l}.mlp.down.weight": (4 * C, C), f"layers.{l}.mlp.down.bias": (C,),
        }
    flat = np.zeros(count_parameters(config), np.float32)
    assert {name: array.shape for name, array in named(flat, config).items()} == expected
    assert "position_embedding" not in named(flat, GPTConfig(**SMALL))


def test_views_and_names_share_the_flat_vectors_memory_and_cover_it_once():
    config = GPTConfig(**SMALL, positional_encoding="learned")
    flat = np.zeros(count_parameters(config), np.float32)
    for array in named(flat, config).values():
        assert np.shares_memory(array, flat)
        array += 1
    assert (flat == 1).all()
    for array in views(flat, config):
        assert np.shares_memory(array, flat) and array.flags.c_contiguous
        array += 1
    assert (flat == 2).all()
    assert [array.shape for array in views(flat, config)] == list(shape_table(config))
    views(flat, config).up_weight[1, 2, 3] = 9
    assert named(flat, config)["layers.1.mlp.up.weight"][2, 3] == 9


def test_muons_fields_come_last_and_names_can_be_had_of_a_prefix():
    config = GPTConfig(**SMALL)
    assert Tensors._fields[-len(MUON_FIELDS):] == MUON_FIELDS
    first = min(getattr(ranges(config), field)[0] for field in MUON_FIELDS)
    assert first == count_adamw_parameters(config)
    prefix = np.zeros(first, np.float32)
    rest = [field for field in Tensors._fields if field not in MUON_FIELDS]
    names = named(prefix, config, rest)
    assert sum(array.size for array in names.values()) == first
    assert not any(name.endswith(naive.MUON_NAMES) for name in names)


@pytest.mark.parametrize("recipe", RECIPES)
def test_initial_parameters_follow_the_seed(recipe):
    config = GPTConfig(**SMALL, recipe=recipe)
    one = initial_parameters(config, 5)
    assert one.dtype == np.float32
    assert one.tobytes() == initial_parameters(config, 5).tobytes()
    assert one.tobytes() != initial_parameters(config, 6).tobytes()


@pytest.mark.parametrize("recipe", RECIPES)
def test_initial_parameters_have_the_stated_statistics(recipe):
    config = GPTConfig(300, 64, 64, 3, 4, recipe, "learned")
    p = views(initial_parameters(config, 5), config)
    if recipe == "standard":
        spread = {"token_embedding": 1, "position_embedding": 0.02, "head_weight": 0.02,
                  "query_key_value_weight": 1 / 8, "up_weight": 1 / 8}
        ones = ("attention_norm_gain", "mlp_norm_gain", "final_norm_gain")
    else:
        spread = {field: 0.02 for field in Tensors._fields if not field.endswith("_bias")}
        ones = ()
    for field, tensor in p._asdict().items():
        if field in spread:
            count = tensor.size
            assert abs(tensor.mean()) < 5 * spread[field] / math.sqrt(count), field
            assert abs(tensor.std() / spread[field] - 1) < 5 / math.sqrt(2 * count), field
        else:
            assert (tensor == (1 if field in ones else 0)).all(), field
    if recipe == "standard":
        assert not np.array_equal(p.up_weight[0], p.up_weight[1])


# --- the config ------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "says"), [
    ({"recipe": "other"}, "recipe"),
    ({"positional_encoding": "alibi"}, "positional encoding"),
    ({"vocab_size": 0}, "vocab_size"),
    ({"vocab_size": 2**24 + 1}, "vocab_size"),
    ({"num_tokens": -1}, "num_tokens"),
    ({"num_tokens": 8.0}, "whole number"),
    ({"num_layers": True}, "whole number"),
    ({"num_layers": 0}, "num_layers"),
    ({"num_heads": 2**12 + 1}, "num_heads"),
    ({"embedding_degree": 2**17}, "embedding_degree"),
    ({"num_heads": 5}, "--num-heads 5 does not divide --embedding-degree 12.*such as 6"),
    ({"num_heads": 4}, "pairs"),
    ({"rotary_base": 1.0}, "rotary_base"),
    ({"rotary_base": math.nan}, "rotary_base"),
    ({"rotary_base": math.inf}, "rotary_base"),
    ({"rotary_base": "50"}, "rotary_base"),
])
def test_config_refuses_shapes_that_cannot_be(wrong, says):
    with pytest.raises(FemtoError, match=says) as refusal:
        GPTConfig(**(SMALL | wrong))
    assert "\n" not in str(refusal.value)


def test_config_chooses_by_recipe_and_length():
    assert GPTConfig(256).positional_encoding == "rope"
    assert GPTConfig(256, recipe="femto").positional_encoding == "absolute"
    assert GPTConfig(256, num_tokens=40).rotary_base == 50
    assert GPTConfig(256, num_tokens=160).rotary_base == 100
    assert GPTConfig(256, embedding_degree=60, num_heads=5).head_size == 12
    assert GPTConfig(**(SMALL | {"num_heads": 4}), positional_encoding="none").head_size == 3


def test_config_goes_through_json_and_refuses_other_fields():
    config = GPTConfig(**SMALL, recipe="femto", positional_encoding="learned", rotary_base=7.0)
    values = config.to_json()
    assert GPTConfig.from_json(values) == config
    for wrong in (values | {"extra": 1}, {k: values[k] for k in list(values)[:-1]}, [1], None):
        with pytest.raises(FemtoError):
            GPTConfig.from_json(wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [1, 1000, (3, 5, 7)])
def test_arrays_begin_at_a_line_of_the_cache(shape, dtype):
    several = [lined_up(shape, dtype) for _ in range(8)]  # of which few would by chance
    for array in several:
        assert array.ctypes.data % 64 == 0 and array.flags.c_contiguous and array.dtype == dtype
        assert array.shape == np.zeros(shape).shape and not array.any()


@pytest.mark.parametrize("vocab_size", [16, 1001, 1002])
def test_the_blocks_matrices_begin_at_a_line_of_the_cache(vocab_size):
    config = GPTConfig(**SMALL | {"embedding_degree": 16, "vocab_size": vocab_size})
    vectors = lined_up_vectors(config, 3)
    assert len(vectors) == 3 and vectors.flags.c_contiguous and not vectors.any()
    for flat in (*vectors, initial_parameters(config, 1)):
        p = views(flat[: count_parameters(config)], config)
        for field in MUON_FIELDS:
            assert getattr(p, field).ctypes.data % 64 == 0
