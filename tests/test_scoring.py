"""Scores by the bundled data's rules, and how sure they are."""

import numpy as np
import pytest
from small import LETTERS, fresh_model

from dummy_data import simple_sequence, simple_sequence2
from femtogpt import scoring
from femtogpt.batches import windows
from femtogpt.parallel import Engine
from femtogpt.scoring import Share, difference, evaluate


# statsmodels.stats.proportion.proportion_confint(right, of, method="wilson") says the same.
@pytest.mark.parametrize(("right", "of", "low", "high"), [
    (8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (40, 40, 0.9124, 1.0),
    (190, 200, 0.9104, 0.9726), (0, 0, 0.0, 1.0),
])
def test_intervals_of_shares_are_wilsons(right, of, low, high):
    assert Share(right, of).interval == pytest.approx((low, high), abs=1e-4)


def test_the_loss_and_its_interval_are_those_of_the_windows():
    model = fresh_model()
    # Of independent tokens, groups of windows tell what the windows tell.
    tokens = np.random.default_rng(0).integers(0, len(LETTERS), 8000)
    measured = evaluate(model, tokens)
    starts = range(0, len(tokens) - 8, 8)
    with Engine(model.config, 8) as engine:
        losses = np.array([engine.mean_loss(model.parameters, windows(tokens, [start], 8))
                           for start in starts])
    assert measured["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    error = 1.96 * losses.std(ddof=1) / np.sqrt(len(losses))
    low, high = measured["interval"]
    assert (high - low) / 2 == pytest.approx(error, rel=0.35)
    assert (high + low) / 2 == pytest.approx(measured["loss"])


def test_one_window_has_no_interval_to_speak_of():
    model = fresh_model()
    measured = evaluate(model, model.tokenizer.encode(LETTERS[:9]))
    assert measured["interval"] == [measured["loss"]] * 2


@pytest.mark.parametrize("module", [simple_sequence, simple_sequence2])
@pytest.mark.parametrize("wrong", [0, 3])
def test_a_sequence_continued_right_is_told_from_one_with_errors(monkeypatch, module, wrong):
    model = type("Model", (), {"tokenizer": scoring_tokenizer(), "config": fresh_model().config,
                               "parameters": None})()
    asked = []

    def oracle(config, parameters, prompts, count, seeds, temperature):
        assert temperature == 0 and count == 50
        for sample, prompt in enumerate(prompts):
            before = bytes(prompt).decode()
            asked.append(before)
            phase = next(p for p in range(module.PERIOD)
                         if module.continuation(p - len(before), len(before)) == before)
            right = module.continuation(phase, count).encode()
            for i, letter in enumerate(right):
                yield sample, ord("!") if i < wrong else letter

    # Eight characters do not tell the phase of either; 64 do, but for where it repeats itself.
    monkeypatch.setattr(model, "config", fresh_model(num_tokens=64).config)
    monkeypatch.setattr(scoring, "generate_together", oracle)
    monkeypatch.setattr(scoring, "CONTINUED", 50)
    monkeypatch.setattr(scoring, "PHASES", 6)
    monkeypatch.setattr(module, "PERIOD", 240)  # all phases of it are tried below
    share = scoring.TASKS[{"simple_sequence": "sequence"}.get(module.__name__.split(".")[1],
                                                              "sequence2")](model, "", 1)
    assert share["continued"] == Share(6 * (50 - wrong), 6 * 50)
    assert len(set(asked)) > 3


def scoring_tokenizer():
    from femtogpt.tokenizer import ByteTokenizer

    return ByteTokenizer()


def test_a_difference_is_that_of_the_losses_and_surer_than_they_are():
    model, other = fresh_model(), fresh_model()
    other.parameters *= np.float32(1.01)
    tokens = np.random.default_rng(0).integers(0, len(LETTERS), 8000)
    mean, low, high = difference(other, model, tokens)
    losses = [evaluate(one, tokens) for one in (other, model)]
    assert mean == pytest.approx(losses[0]["loss"] - losses[1]["loss"]) != 0
    assert low < mean < high and high - low < 0.2 * np.diff(losses[0]["interval"])[0]
    assert difference(model, model, tokens) == (0, 0, 0)
