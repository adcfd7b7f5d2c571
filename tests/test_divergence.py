"""NaN and infinity: where they are first, that they are never saved, and the way back."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from small import TOKENIZER, fresh_model, some_run, text

from femtogpt import checkpoint, trainer
from femtogpt.batches import draw_batch
from femtogpt.cli import main
from femtogpt.curve import SPIKE_FROM, Curve
from femtogpt.divergence import first_bad_place
from femtogpt.parallel import Engine
from femtogpt.tensors import named, views
from femtogpt.trainer import ROLLBACKS, Diverged, Trainer

TOKENS = TOKENIZER.encode(text())


def place_in(model, gradient=None):
    batch, keys = draw_batch(TOKENS, 8, 16, 1, 0)
    return first_bad_place(model.config, model.parameters, batch, 0.1, keys, gradient)


@pytest.mark.parametrize("recipe", ["standard", "femto"])
def test_every_parameter_that_is_not_finite_is_named(recipe):
    for name in named(fresh_model().parameters, fresh_model(recipe=recipe).config):
        model = fresh_model(recipe=recipe)
        named(model.parameters, model.config)[name].flat[-1] = np.nan
        assert place_in(model) == f"the parameter {name}"


@pytest.mark.parametrize(("field", "place"), [
    ("projection_weight", "layers.1.attention"), ("down_weight", "layers.1.mlp"),
    ("up_weight", "layers.1.mlp"), ("query_key_value_weight", "layers.1.attention"),
    ("final_norm_gain", "final_norm"), ("head_weight", "head"),
])
def test_the_layer_whose_output_overflows_first_is_named(field, place):
    """Finite parameters that are too large: the first sum with them is infinite."""
    model = fresh_model()
    tensor = getattr(views(model.parameters, model.config), field)
    tensor[1 if tensor.ndim == 3 else ...] = 3e38
    assert np.isfinite(model.parameters).all()
    assert place_in(model) == f"the output of {place}"


def test_the_parameter_whose_gradient_is_met_first_on_the_way_back_is_named():
    model = fresh_model()
    gradient = np.zeros_like(model.parameters)
    tensors = named(gradient, model.config)
    expected = ["token_embedding", "layers.0.attention_norm.gain", "layers.0.mlp.up.weight",
                "layers.1.attention.projection.bias", "layers.1.mlp.down.weight",
                "final_norm.gain", "head.weight"]
    for name in expected:  # each met before the ones above it
        tensors[name].flat[0] = np.inf
        assert place_in(model, gradient) == f"the gradient of {name}"
    assert place_in(model, np.zeros_like(gradient)) == "the gradient's norm"


def spoil_from(monkeypatch, step, model_of, only_at_rate=None):
    """Updates that make a parameter infinite from a step on, while the rate is that high."""
    finish = trainer.Update.finish

    def spoiling(self):
        norm, model = finish(self), model_of()
        if model.step + 1 == step and (only_at_rate is None or self.rates.adamw >= only_at_rate):
            named(model.parameters, model.config)["layers.1.mlp.up.bias"][0] = np.inf
        return norm

    monkeypatch.setattr(trainer.Update, "finish", spoiling)


@pytest.mark.parametrize("save_every", [1, 4, 10**9])
def test_an_infinite_parameter_is_never_saved_and_named_by_step_rate_and_layer(
        tmp_path, monkeypatch, save_every):
    path, model = tmp_path / "model", fresh_model()
    checkpoint.save(model, path)
    spoil_from(monkeypatch, 8, lambda: model)
    session = Trainer(model, some_run(last_step=20), TOKENS, [], path, save_every=save_every)
    with pytest.raises(Diverged) as caught:
        for _ in session:
            pass
    said = str(caught.value)
    assert "\n" not in said and "layers.1.mlp.up.bias" in said and "learning rate 0.0045" in said
    assert "--on-nan rollback" in said and "--learning-rate 0.00225" in said
    assert "at step 8," in said or "at step 9," in said
    session.save()
    assert checkpoint.load(path).step == {1: 7, 4: 4}.get(save_every, 0)


def test_rollback_goes_back_with_other_batches_and_half_the_rate(tmp_path, monkeypatch):
    path, model = tmp_path / "model", fresh_model()
    spoil_from(monkeypatch, 8, lambda: model, only_at_rate=3e-3)
    chosen = some_run(last_step=20, on_nan="rollback", decay_steps=1)
    session = Trainer(model, chosen, TOKENS, [], path, save_every=5)
    records = list(session)
    session.save()
    assert [r.step for r in records] == [*range(1, 9), *range(6, 21)]
    assert records[8].notes[0].startswith("diverged at step 9, learning rate 0.0045: NaN or "
                                          "infinity is first in the parameter layers.1.mlp.up.bias")
    assert records[8].notes[0].endswith(
        "Went back to step 5, with --seed 6 --learning-rate 0.00225")
    assert records[8].lr == records[4].lr / 2 and records[8].loss != records[5].loss
    found = checkpoint.load(path)
    assert found.step == 20 and (found.run["seed"], found.run["learning_rate"]) == (6, 0.00225)
    assert found.lineage[-1] == {"rollback": {"from_step": 8, "to_step": 5, "seed": 6,
                                              "learning_rate": 0.00225}}
    assert len(found.history.losses) == 20


def test_rollback_gives_up_when_it_does_not_help(tmp_path, monkeypatch):
    path, model = tmp_path / "model", fresh_model()
    spoil_from(monkeypatch, 3, lambda: model)
    chosen = some_run(last_step=9, on_nan="rollback")
    session = Trainer(model, chosen, TOKENS, [], path)
    with pytest.raises(Diverged):
        for _ in session:
            pass
    assert session.run.learning_rate == chosen.learning_rate / 2**ROLLBACKS
    assert checkpoint.load(path).step == 0


def test_the_command_line_rolls_back_and_a_stopped_run_may_take_it_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text())
    checkpoint.save(fresh_model(), "model.safetensors")

    def train(*arguments):
        return CliRunner().invoke(main, ["train", *arguments])

    options = ["--steps=30", "--optimizer=adamw", "--learning-rate=1e30", "--log=log",
               "--warmup-steps=3", "--save-every=1"]
    done = train(*options)
    assert done.exit_code == 1 and "--on-nan rollback" in done.stderr.splitlines()[-1]
    done = train(*options[:2], "--learning-rate=1e38", "--on-nan=rollback", "--log=log")
    assert done.exit_code == 1
    assert done.stderr.count("Went back to step") == 0  # told with the next step, and none came
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])


# ---- the curve: spikes, patience, memorising


def noisy(n, seed=1):
    return (2 + 0.1 * np.random.default_rng(seed).standard_normal(n)).tolist()


def curve_of(losses=(), validation=(), first_step=0, comparable_from=0):
    history = checkpoint.History(list(losses), list(validation))
    return Curve(history, first_step, comparable_from)


def test_a_spike_is_told_once_and_noise_is_none():
    curve = curve_of()
    assert all(curve.add(loss) is None for loss in noisy(5000))
    said = curve.add(3.5)
    assert said.startswith("a spike: loss 3.500, of late 1.9") and "give or take 0.09" in said
    assert curve.add(3.4) is None  # the same one
    assert all(curve.add(loss) is None for loss in noisy(200, seed=2))
    assert curve.add(3.5)


def test_a_large_spike_does_not_hide_the_next():
    curve = curve_of(noisy(200))
    assert curve.add(9.0)
    assert all(curve.add(loss) is None for loss in noisy(40, seed=3))
    assert curve.add(3.5)


def test_a_falling_loss_and_the_first_steps_are_no_spikes():
    curve = curve_of()
    assert curve.add(2.0) is None and curve.add(9.0) is None
    curve = curve_of()
    assert all(curve.add(loss) is None for loss in np.linspace(5, 1, 500))
    curve = curve_of()
    assert all(curve.add(1.0) is None for _ in range(SPIKE_FROM))
    assert curve.add(1.05) is None and curve.add(1.2)  # a spread of nothing is no spread


def test_a_curve_rebuilt_is_the_curve_that_was_left():
    losses = [*noisy(80), 4.0, 4.0, *noisy(20)]
    validation = [(20, 1.5), (40, 1.4), (60, 1.6), (80, 1.7), (100, 1.3)]
    whole = curve_of(losses, validation, 30, 10)
    for cut in (0, 1, 60, 81, 82, 90):
        parts = curve_of(losses[:cut], [v for v in validation if v[0] <= cut], 30, 10)
        for loss in losses[cut:]:
            parts.add(loss)
        for at, loss in validation:
            if at > cut:
                parts.validated(at, loss)
        assert vars(parts) == vars(whole)


def test_memorising_is_told_with_how_long_and_the_best_step():
    curve = curve_of()
    for step, loss in ((10, 1.5), (20, 1.4), (30, 1.45)):
        assert curve.validated(step, loss) is None
    assert curve.validated(40, 1.5) == (
        "the text is being memorised: validation has risen for 20 steps, best at step 20 (1.4000, "
        "now 1.5000)")
    assert curve.memorising and curve.validated(50, 1.6) is None


def test_patience_ends_the_run_and_the_best_is_kept(tmp_path, monkeypatch):
    path, model = tmp_path / "model.safetensors", fresh_model()
    planned = iter([2.0, 1.5, 1.5, 1.6, 1.4, 1.7, 1.8, 1.9, 0.0])
    monkeypatch.setattr(Engine, "mean_loss", lambda *_: next(planned))
    chosen = some_run(last_step=80, eval_every=5, patience=3)
    session = Trainer(model, chosen, TOKENS, TOKENS, path)
    records = list(session)
    session.save()
    assert [r.step for r in records if r.val_loss is not None] == list(range(5, 45, 5))
    assert records[-1].notes[-1] == (
        "stopped early: 3 validations without a better one than at step 25")
    found = checkpoint.load(path)
    assert found.step == found.run["last_step"] == 40
    assert checkpoint.load(trainer.best_path(path)).step == 25
