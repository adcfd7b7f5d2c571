"""Decoding one token at a time is the same model as the training forward."""

import itertools
import math

import numpy as np
import pytest
from small import fresh_model

from femtogpt import decoder as decoding
from femtogpt.activations import allocate_activations, constants
from femtogpt.config import POSITIONAL_ENCODINGS, RECIPES
from femtogpt.decoder import MOST_THREADS, Decoder
from femtogpt.errors import FemtoError
from femtogpt.layers.blocks import COMPILED
from femtogpt.layers.numeric import kernel
from femtogpt.layers.row_product import assist, rows_product
from femtogpt.layers.team import Team
from femtogpt.model import model_forward
from femtogpt.sampler import BLOCK, draw, generate, generate_together
from femtogpt.tensors import views

T = 8
KINDS = list(itertools.product(RECIPES, POSITIONAL_ENCODINGS))


def strong_model(**changes):
    """A Model whose parameters are large, so that every part of it shows in the logits."""
    model = fresh_model(**changes)
    model.parameters += np.random.default_rng(9).normal(0, 0.2, model.parameters.size).astype("f4")
    return model


def some_tokens(model, count, seed=0):
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, count)


def forward(model, tokens):
    """The training forward's logits (T, V). tokens: (T,)."""
    a, p = allocate_activations(model.config, 1), views(model.parameters, model.config)
    model_forward(a, p, np.asarray(tokens, np.int64), constants(model.config), 0.0,
                  np.zeros(1, np.uint64))
    return a.norm[-1] @ p.head_weight + p.head_bias


def decode(model, tokens):
    """The decoder's logits after each token."""
    decoder = Decoder(model.config, model.parameters)
    return np.array([decoder.feed([token])[0] for token in tokens])


def assert_close(found, expected):
    assert np.abs(expected).max() > 0.1  # or closeness says nothing
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("recipe", "encoding"), KINDS)
def test_decoder_and_training_forward_agree_position_by_position(recipe, encoding):
    model = strong_model(recipe=recipe, positional_encoding=encoding)
    tokens = some_tokens(model, T)
    assert_close(decode(model, tokens), forward(model, tokens))


def test_they_agree_at_a_width_that_no_vector_divides():
    model = strong_model(num_tokens=T, embedding_degree=6, num_heads=3, num_layers=3)
    tokens = some_tokens(model, T)
    assert_close(decode(model, tokens), forward(model, tokens))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("encoding", ["rope", "none"])
def test_with_one_layer_a_slid_window_is_the_forward_on_the_last_tokens(recipe, encoding):
    model = strong_model(recipe=recipe, positional_encoding=encoding, num_layers=1)
    tokens = some_tokens(model, 4 * T + 3)
    found = decode(model, tokens)
    for end in range(T, len(tokens) + 1):
        assert_close(found[end - 1], forward(model, tokens[end - T : end])[-1])


def sliding_reference(model, tokens):
    """Logits after each token in float64: every layer attends to its last T keys and values,
    which stay as they were when their token was read."""
    config, p = model.config, views(model.parameters.astype(np.float64), model.config)
    hs, NH = config.head_size, config.num_heads

    def norm(x, gain, bias):
        return gain * (x - x.mean()) / np.sqrt(x.var() + 1e-5) + bias

    def turn(x, position):
        if config.positional_encoding != "rope":
            return x
        half = hs // 2
        angle = position * config.rotary_base ** (-np.arange(half) / half)
        first, second = x[:, :half], x[:, half:]
        return np.concatenate([first * np.cos(angle) - second * np.sin(angle),
                               second * np.cos(angle) + first * np.sin(angle)], 1)

    past = [[] for _ in range(config.num_layers)]
    result = []
    for position, token in enumerate(tokens):
        x = p.token_embedding[token]
        for l in range(config.num_layers):
            n = norm(x, p.attention_norm_gain[l], p.attention_norm_bias[l])
            q, k, v = (n @ p.query_key_value_weight[l]).reshape(3, NH, hs)
            past[l] = [*past[l], (turn(k, position), v)][-config.num_tokens :]
            out = np.zeros((NH, hs))
            for h, query in enumerate(turn(q, position)):
                scores = np.array([key[h] @ query for key, _ in past[l]]) / math.sqrt(hs)
                weights = np.exp(scores - scores.max())
                out[h] = weights / weights.sum() @ np.array([value[h] for _, value in past[l]])
            branch = out.ravel() @ p.projection_weight[l] + p.projection_bias[l]
            x = (n if config.recipe == "femto" else x) + branch
            n = norm(x, p.mlp_norm_gain[l], p.mlp_norm_bias[l])
            up = n @ p.up_weight[l] + p.up_bias[l]
            gelu = 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
            branch = gelu @ p.down_weight[l] + p.down_bias[l]
            x = (n if config.recipe == "femto" else x) + branch
        n = norm(x, p.final_norm_gain, p.final_norm_bias)
        result.append(n @ p.head_weight + p.head_bias)
    return np.array(result)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("encoding", ["rope", "none"])
def test_with_more_layers_it_is_a_sliding_window_of_keys_and_values(recipe, encoding):
    model = strong_model(recipe=recipe, positional_encoding=encoding, num_layers=3)
    tokens = some_tokens(model, 5 * T + 1)
    assert_close(decode(model, tokens), sliding_reference(model, tokens))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("encoding", ["absolute", "learned"])
def test_a_full_window_of_fixed_positions_goes_on_from_its_last_half_read_anew(recipe, encoding):
    model = strong_model(recipe=recipe, positional_encoding=encoding)
    tokens = some_tokens(model, 3 * T)
    found = decode(model, tokens)
    window = []
    for end, token in enumerate(tokens):
        window = [*window[-(T // 2) :], token] if len(window) == T else [*window, token]
        padded = window + [0] * (T - len(window))
        assert_close(found[end], forward(model, padded)[len(window) - 1])


@pytest.mark.parametrize("encoding", POSITIONAL_ENCODINGS)
def test_a_window_of_one_token(encoding):
    model = strong_model(num_tokens=1, positional_encoding=encoding)
    tokens = some_tokens(model, 5)
    for token, logits in zip(tokens, decode(model, tokens), strict=True):
        assert_close(logits, forward(model, [token])[0])


# ---- several rows at once


@pytest.mark.parametrize(("recipe", "encoding"), KINDS)
def test_a_prompt_read_at_once_gives_the_bits_of_one_read_token_by_token(recipe, encoding):
    model = strong_model(recipe=recipe, positional_encoding=encoding)
    tokens = some_tokens(model, T + 3)  # the last three after the window is full
    for count in (1, 2, T, T + 3):
        decoder = Decoder(model.config, model.parameters)
        found = [decoder.read(0, tokens[:count].tolist()), *decoder.feed([1]), *decoder.feed([2])]
        np.testing.assert_array_equal(found, decode(model, [*tokens[:count], 1, 2])[-3:])


@pytest.mark.parametrize(("recipe", "encoding"), KINDS)
def test_sequences_side_by_side_give_the_bits_of_each_alone(recipe, encoding):
    model = strong_model(recipe=recipe, positional_encoding=encoding)
    tokens = some_tokens(model, 9 * 2 * T).reshape(9, 2 * T)
    decoder = Decoder(model.config, model.parameters, 9)
    alone = [decode(model, row) for row in tokens]
    decoder.read(8, tokens[8, :3].tolist())  # begins earlier: reaches the window's end earlier
    for t in range(2 * T - 3):
        steps = np.array([t] * 8 + [t + 3])
        found = decoder.feed(tokens[np.arange(9), steps], np.arange(9))
        np.testing.assert_array_equal(found, [alone[s][step] for s, step in enumerate(steps)])


@kernel
def product(out, x, weight, bias, desk):
    rows_product(out, x, weight, bias, desk)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("width", [10, 600, 1040])
def test_a_weight_is_multiplied_in_the_same_order_whatever_the_rows_and_threads(width, threads):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((401, width), np.float32)  # on either side of CACHED
    x, bias = rng.standard_normal((9, 401), np.float32), rng.standard_normal(width, np.float32)
    together, alone = np.full((9, width), np.nan, np.float32), np.empty((9, width), np.float32)
    with Team(threads if COMPILED else 1, assist).desk() as desk:
        product(together, x, weight, bias, desk)
        for n in range(9):
            product(alone[n : n + 1], x[n : n + 1], weight, bias, 0)
        np.testing.assert_array_equal(together, alone)
        for few in (2, 8):
            alone[:] = np.nan
            product(alone[:few], x[1 : few + 1], weight, bias, desk)
            np.testing.assert_array_equal(alone[:few], together[1 : few + 1])
            assert np.isnan(alone[few:]).all()
        for _ in range(300):
            alone[:] = np.nan
            product(alone[:1], x[:1], weight, bias, desk)
            np.testing.assert_array_equal(together[0], alone[0])
    np.testing.assert_allclose(together, x.astype(float) @ weight + bias, rtol=0, atol=1e-3)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_that_share_a_token_give_the_bits_of_one(threads):
    model = strong_model()
    tokens = some_tokens(model, 2 * T)
    decoder = Decoder(model.config, model.parameters, threads=threads)
    found = [decoder.feed([token])[0] for token in tokens]
    np.testing.assert_array_equal(found, decode(model, tokens))


def test_a_token_of_a_large_model_is_shared_among_processors(monkeypatch):
    model = fresh_model()
    monkeypatch.setattr(decoding, "available_processors", lambda: MOST_THREADS + 1)
    for large, threads in ((model.parameters.size + 1, 1), (model.parameters.size, MOST_THREADS)):
        monkeypatch.setattr(decoding, "LARGE", large)
        decoder = Decoder(model.config, model.parameters)
        assert decoder._team.threads == (threads if COMPILED else 1)


# ---- drawing


LOGITS = np.log(np.array([0.1, 0.35, 0.05, 0.3, 0.2])).astype(np.float32)


def frequencies(count=4000, **options):
    uniforms = np.random.Generator(np.random.Philox(key=7)).random(count)
    return np.bincount(draw(np.tile(LOGITS, (count, 1)), uniforms, **options),
                       minlength=LOGITS.size)


def assert_distribution(counts, expected):
    """Pearson's chi-square; with 4 degrees of freedom one draw in 100,000 exceeds 28."""
    expected = np.array(expected) / sum(expected)
    assert (counts[expected == 0] == 0).all()
    wanted = counts.sum() * expected[expected > 0]
    assert ((counts[expected > 0] - wanted) ** 2 / wanted).sum() < 28


def test_temperature_0_takes_the_likeliest():
    logits, uniforms = np.array([LOGITS, LOGITS[::-1]]), np.array([0.0, 0.999])
    assert draw(logits, uniforms, 0).tolist() == [1, 3]
    assert draw(logits, uniforms, 0, top_k=1, top_p=0.1).tolist() == [1, 3]


def test_draws_have_the_softmax_distribution():
    assert_distribution(frequencies(temperature=1), [10, 35, 5, 30, 20])
    assert_distribution(frequencies(temperature=0.5), [1, 12.25, 0.25, 9, 4])
    assert_distribution(frequencies(temperature=2), np.sqrt([10, 35, 5, 30, 20]))


def test_top_k_keeps_the_k_likeliest():
    assert_distribution(frequencies(temperature=1, top_k=1), [0, 1, 0, 0, 0])
    assert_distribution(frequencies(temperature=1, top_k=2), [0, 35, 0, 30, 0])
    assert_distribution(frequencies(temperature=1, top_k=4), [10, 35, 0, 30, 20])
    assert_distribution(frequencies(temperature=1, top_k=99), [10, 35, 5, 30, 20])


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    assert_distribution(frequencies(temperature=1, top_p=0.01), [0, 1, 0, 0, 0])
    assert_distribution(frequencies(temperature=1, top_p=0.5), [0, 35, 0, 30, 0])
    assert_distribution(frequencies(temperature=1, top_p=0.7), [0, 35, 0, 30, 20])
    assert_distribution(frequencies(temperature=1, top_p=1.0), [10, 35, 5, 30, 20])


def test_top_k_comes_before_top_p():
    # Of 35 and 30 alone, 35 is 54%.
    assert_distribution(frequencies(temperature=1, top_k=2, top_p=0.5), [0, 1, 0, 0, 0])


def test_among_equals_top_k_keeps_exactly_k():
    drawn = draw(np.zeros((200, 50), np.float32), np.linspace(0, 0.999, 200), 1, top_k=3)
    assert len(set(drawn.tolist())) == 3


def test_large_logits_and_small_temperatures_are_no_overflow():
    logits = np.array([[1e30, 0, -1e30]], np.float32)
    for temperature in (1e-3, 1e-300):
        assert draw(logits, np.array([0.999]), temperature) == 0


def test_the_smallest_and_the_largest_random_number_draw_a_token_that_can_be():
    logits = np.array([[-np.float32(1e9), 0, 0, -np.float32(1e9)]] * 2, np.float32)
    assert draw(logits, np.array([0, np.nextafter(1, 0)]), 1).tolist() == [1, 2]


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error(bad, temperature):
    with pytest.raises(FemtoError, match="not finite"):
        draw(np.array([[0, 1], [0, bad]], np.float32), np.zeros(2), temperature)


# ---- generating


def test_the_same_seed_gives_the_same_ids_and_another_seed_others():
    model = strong_model()
    one, same, other = (list(generate(model.config, model.parameters, [0, 1], 60, seed, 1.0))
                        for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == 60 and set(one) <= set(range(model.config.vocab_size))


def test_a_longer_generation_begins_like_a_shorter_one():
    model = strong_model()
    short, long = (list(generate(model.config, model.parameters, [3], count, 1, 1.0))
                   for count in (10, 40))
    assert long[:10] == short


def test_greedy_generation_is_the_forwards_likeliest_token():
    model = strong_model()
    tokens = [2]
    for token in generate(model.config, model.parameters, [2], T - 1, 1, temperature=0):
        assert token == forward(model, tokens + [0] * (T - len(tokens)))[len(tokens) - 1].argmax()
        tokens.append(token)


@pytest.mark.parametrize(("recipe", "encoding"), KINDS)
def test_several_tokens_a_call_are_those_drawn_and_read_one_by_one(recipe, encoding):
    """Over many windows and the end of a block of random numbers, to the bit."""
    model = strong_model(recipe=recipe, positional_encoding=encoding)
    count = BLOCK + 3 * T
    found = list(generate(model.config, model.parameters, [2, 3, 4], count, 7, 1.0))
    rng = np.random.Generator(np.random.Philox(key=7))
    decoder = Decoder(model.config, model.parameters)
    logits, expected = decoder.read(0, [2, 3, 4])[None], []
    for uniform in np.concatenate([rng.random(BLOCK), rng.random(BLOCK)])[:count]:
        token = draw(logits, np.array([uniform]), 1.0)
        expected.append(int(token[0]))
        logits = decoder.feed(token)
    assert found == expected


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.0, "top_k": 5},
                                     {"temperature": 1.0}])
def test_samples_generated_together_are_those_generated_alone(options):
    model = strong_model()
    prompts, seeds = [[2, 3], [2, 3], [4], [5, 6, 7]], [1, 2, 3, 4]
    alone = [list(generate(model.config, model.parameters, prompt, 300, seed, **options))
             for prompt, seed in zip(prompts, seeds, strict=True)]
    assert alone[0] != alone[1] or options["temperature"] == 0
    together, ended = [[] for _ in prompts], set()
    for sample, token in generate_together(model.config, model.parameters, prompts, 300, seeds,
                                           **options, ended=ended):
        together[sample].append(token)
        if sample == 1 and len(together[1]) == 10:
            ended.add(1)
    alone[1] = alone[1][:10]
    assert together == alone


def test_generation_ends_when_every_sample_has():
    model, ended = strong_model(), set()
    pairs = []
    for pair in generate_together(model.config, model.parameters, [[1], [2]], 50, [1, 2],
                                  ended=ended):
        pairs.append(pair)
        ended.add(pair[0])
    assert [sample for sample, _ in pairs] == [0, 1]
