"""import femtogpt: models, training and what is inside them, from Python."""

import doctest
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from small import SIZES, environment, fresh_model, run, text

import femtogpt
from femtogpt import api, checkpoint, inspection
from femtogpt.decoder import Decoder
from femtogpt.parallel import Engine

SHAPE = {"num_tokens": 8, "embedding_degree": 16, "num_layers": 2, "num_heads": 2}


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "dataset.txt"
    path.write_text(text())
    return path


def test_the_examples_in_docstrings_run():
    failures, tried = doctest.testmod(api)
    assert tried >= 5 and not failures


def test_the_package_offers_what_it_lists():
    for name in femtogpt.__all__:
        assert getattr(femtogpt, name) is not None and name in dir(femtogpt)
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        _ = femtogpt.fly


def test_importing_it_imports_nothing_heavy():
    code = ("import sys, femtogpt\n"
            "print([m for m in ('numpy', 'numba', 'click') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=environment(), check=True)
    assert done.stdout.strip() == "[]"


def test_python_m_femtogpt_is_the_command():
    done = subprocess.run([sys.executable, "-m", "femtogpt", "--help"], capture_output=True,
                          text=True, env=environment(), check=True)
    assert done.stdout.startswith("Usage: femtogpt ")


@pytest.mark.parametrize("recipe", ["standard", "femto"])
def test_from_python_and_from_the_command_line_are_the_same_bytes(dataset, tmp_path, recipe):
    options = [f"--recipe={recipe}", "--seed=3"]
    assert run("init", *SIZES, *options, cwd=tmp_path).returncode == 0
    assert run("train", "--steps=12", "--batch-size=4", cwd=tmp_path).returncode == 0
    model = femtogpt.new(num_tokens=8, embedding_degree=16, num_layers=1, num_heads=2,
                         recipe=recipe, seed=3)
    path = tmp_path / "mine.safetensors"
    records = list(femtogpt.train(model, dataset, steps=12, batch_size=4, path=path))
    assert [record.step for record in records] == list(range(1, 13))
    assert path.read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    again = femtogpt.load(path)
    assert again.step == 12 and again.losses == model.losses


def test_tensors_are_views():
    model = femtogpt.new(**SHAPE)
    model.tensors["head.bias"][...] = 7
    assert (model.state.parameters == 7).sum() == 256


def test_generate_and_stream_are_seeded_and_stop():
    model = api.GPT(fresh_model())
    made = model.generate("ab", 30, seed=5)
    assert made == model.generate("ab", 30, seed=5) == b"".join(
        model.stream("ab", 30, seed=5)).decode()
    assert model.generate("ab", 30, seed=6) != made
    assert model.generate("ab", 30, seed=5, stop=made[7]) == made.split(made[7])[0]
    assert model.generate(seed=1, count=4, temperature=0) == model.generate(
        seed=2, count=4, temperature=0)


@pytest.mark.parametrize("changes", [{}, {"recipe": "femto"}, {"positional_encoding": "learned"},
                                     {"positional_encoding": "none"}])
@pytest.mark.parametrize("n", [1, 5, 8])
def test_logits_are_the_decoders(changes, n):
    state = fresh_model(**changes)
    ids = np.random.default_rng(0).integers(0, state.config.vocab_size, n)
    logits = api.GPT(state).logits(ids)
    for i in range(n):
        decoder = Decoder(state.config, state.parameters, 1)
        np.testing.assert_allclose(logits[i], np.ravel(
            decoder.read(0, ids[: i + 1].tolist())), atol=2e-5)


def test_loss_is_the_engines_and_short_texts_have_one_too():
    model = api.GPT(fresh_model())
    sample = text(9)
    window = model.tokenizer.encode(sample)[None].astype(np.int64)
    with Engine(model.config, 1) as engine:
        expected = engine.mean_loss(model.state.parameters, window)
    assert model.loss(sample) == pytest.approx(expected, rel=1e-5)
    assert model.loss(sample[:4]) == pytest.approx(
        -np.log([p for _, p in model.probabilities(sample[:4])]).mean())
    probabilities = model.probabilities(sample)
    assert b"".join(piece for piece, _ in probabilities).decode() == sample[1:]
    assert -np.log([p for _, p in probabilities]).mean() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(femtogpt.FemtoError, match="two tokens"):
        model.loss("a")


@pytest.mark.parametrize("changes", [{}, {"recipe": "femto"}])
def test_activations_follow_from_one_another(changes):
    state = fresh_model(**changes)
    model, n, C = api.GPT(state), 6, 16
    ids = np.arange(n) % 4  # some tokens twice
    found, p = model.activations(ids), model.tensors
    for l in range(2):
        at = f"layers.{l}."
        values = p[at + "attention.query_key_value.weight"][:, 2 * C :]
        np.testing.assert_allclose(found[at + "attention_norm"] @ values,
                                   found[at + "query_key_value"][:, 2 * C :], atol=1e-5)
        before = found["embedding"] if l == 0 else found[f"layers.{l - 1}.output"]
        v = found[at + "query_key_value"][:, 2 * C :].reshape(n, 2, 8).swapaxes(0, 1)
        heads = (found[at + "attention_weights"] @ v).swapaxes(0, 1).reshape(n, C)
        np.testing.assert_allclose(heads, found[at + "attention"], atol=1e-5)
        kept = found[at + "attention_norm"] if changes else before
        added = heads @ p[at + "attention.projection.weight"] + p[at + "attention.projection.bias"]
        np.testing.assert_allclose(kept + added, found[at + "after_attention"], atol=1e-4)
        kept = found[at + "mlp_norm"] if changes else found[at + "after_attention"]
        added = found[at + "gelu"] @ p[at + "mlp.down.weight"] + p[at + "mlp.down.bias"]
        np.testing.assert_allclose(kept + added, found[at + "output"], atol=1e-4)
    attention = model.attention("abc")
    np.testing.assert_allclose(attention.sum(3), 1, atol=1e-5)
    assert np.triu(attention[0, 0], 1).max() == 0


def test_what_cannot_be_read_is_said():
    model = api.GPT(fresh_model())
    for ids, what in (([], "0 tokens"), (range(9), "9 tokens"), ([99], "from 0 to"),
                      ([-1], "from 0 to")):
        with pytest.raises(femtogpt.FemtoError, match=what):
            model.logits(ids)


def test_a_tokenizers_name_is_no_tokenizer():
    with pytest.raises(femtogpt.FemtoError, match="'bpe' is a name: give an object"):
        femtogpt.new("bpe")


def test_whole_numbers_do_for_any_option(dataset, tmp_path):
    path = tmp_path / "m.safetensors"
    model = api.GPT(fresh_model())
    options = {"dropout": 0, "learning_rate": 1, "val_fraction": 0, "weight_decay": 1}
    next(iter(femtogpt.train(model, dataset, 3, path=path, batch_size=2, **options)))
    model = femtogpt.load(path)
    assert [r.step for r in femtogpt.train(model, dataset, **options)] == [2, 3]


def test_an_interrupt_waits_for_the_step_and_training_goes_on(dataset, tmp_path, monkeypatch):
    model, whole = femtogpt.new(**SHAPE), femtogpt.new(**SHAPE)
    options = {"steps": 10, "batch_size": 4}
    list(femtogpt.train(whole, dataset, **options))
    path, update = tmp_path / "model", api.Trainer._step

    def interrupted(self, engine):
        if self.model.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, engine)

    monkeypatch.setattr(api.Trainer, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        for _ in femtogpt.train(model, dataset, path=path, **options):
            pass
    assert model.step == 5 and checkpoint.load(path).step == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(api.Trainer, "_step", update)
    assert [record.step for record in femtogpt.train(model, dataset)] == [6, 7, 8, 9, 10]
    np.testing.assert_array_equal(model.state.parameters, whole.state.parameters)


def test_training_works_in_another_thread(dataset):
    model = femtogpt.new(**SHAPE)
    thread = threading.Thread(target=lambda: list(femtogpt.train(model, [dataset], steps=3)))
    thread.start()
    thread.join()
    assert model.step == 3


def test_attention_weights_of_far_scores_are_finite():
    qkv = np.random.default_rng(0).normal(0, 1e3, (5, 12)).astype(np.float32)
    assert np.isfinite(inspection.attention_weights(qkv, 2)).all()
