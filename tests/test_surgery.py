"""Grown models compute what they computed before."""

import numpy as np
import pytest
from click.testing import CliRunner
from small import fresh_model, some_run, text

from femtogpt import checkpoint
from femtogpt.checkpoint import History
from femtogpt.cli import main
from femtogpt.decoder import Decoder
from femtogpt.errors import FemtoError
from femtogpt.model import allocate_activations, constants, summed_loss
from femtogpt.optimizer import fresh_state
from femtogpt.surgery.depth import insert_layers, random_windows
from femtogpt.tensors import Tensors, named, views


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text())
    return tmp_path


def invoke(line, exit_code=0):
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == exit_code, result.output
    return result


def logits(model, windows):
    """(N, V) float32, of all positions of windows (B, T + 1)."""
    a = allocate_activations(model.config, len(windows))
    p = views(model.parameters, model.config)
    summed_loss(a, p, windows[:, :-1].ravel(), windows[:, 1:].ravel(), constants(model.config),
                np.zeros(len(windows), np.uint64))
    return a.norm[-1] @ p.head_weight + p.head_bias


def trained_model(**changes):
    """A model with moments, a history and a run."""
    model = fresh_model(**changes)
    model.optimizer = fresh_state(model.config, "muon" if model.config.recipe == "standard"
                                  else "adamw")
    rng = np.random.default_rng(3)
    model.optimizer.m[:] = rng.normal(size=model.optimizer.m.size)
    model.optimizer.v[:] = rng.random(model.optimizer.v.size)
    model.optimizer.t = model.step = 4
    model.history = History([3.0, 2.5, 2.0, 1.5], [(2, 2.4)])
    model.run = some_run(val_begin=2700, val_end=3000).to_json()
    return model


# ---- insert-layer


@pytest.mark.parametrize("places", [[0], [1], [2], [0, 2, 1, 1]])
@pytest.mark.parametrize("positional_encoding", ["rope", "learned"])
def test_inserted_layers_change_no_bit_of_the_logits(places, positional_encoding):
    model = trained_model(positional_encoding=positional_encoding)
    deeper = insert_layers(model, places)
    assert deeper.config.num_layers == 2 + len(places)
    windows = random_windows(model.config, 5)
    assert logits(deeper, windows).tobytes() == logits(model, windows).tobytes()
    a, b = (Decoder(m.config, m.parameters).read(0, windows[0, :8]) for m in (model, deeper))
    assert a.tobytes() == b.tobytes()


def test_old_layers_keep_their_moments_and_new_ones_begin_at_zero():
    model = trained_model()
    deeper = insert_layers(model, [1])
    for flat, before in ((deeper.parameters, model.parameters),
                         (deeper.optimizer.m, model.optimizer.m)):
        new, old = named(flat, deeper.config), named(before, model.config)
        for name, tensor in old.items():
            assert (new[name.replace("layers.1.", "layers.2.")] == tensor).all()
    fields = [f for f in Tensors._fields if not f.endswith(("_weight",)) or f == "head_weight"]
    v, old_v = (named(m.optimizer.v, m.config, fields) for m in (deeper, model))
    assert (v["layers.2.mlp.up.bias"] == old_v["layers.1.mlp.up.bias"]).all()
    m = named(deeper.optimizer.m, deeper.config)
    for name, tensor in (m | v).items():
        assert name.startswith("layers.1.") == (not tensor.any())
    new = named(deeper.parameters, deeper.config)
    assert new["layers.1.attention.query_key_value.weight"].std() == pytest.approx(0.25, rel=0.1)
    assert new["layers.1.mlp.up.weight"].std() == pytest.approx(0.25, rel=0.1)
    assert (deeper.step, deeper.history, deeper.run) == (4, model.history, model.run)
    assert deeper.lineage == [*model.lineage,
                              {"insert_layer": {"at": [1], "step": 4, "seed": 1}}]


@pytest.mark.parametrize("size", [0.02, 1.0])
def test_recipe_femto_starts_as_near_as_can_be(size):
    model = trained_model(recipe="femto")
    p = views(model.parameters, model.config)
    for gain in (p.attention_norm_gain, p.mlp_norm_gain):
        gain *= size / abs(gain).mean()
    windows = random_windows(model.config, 5)
    deeper = insert_layers(model, [0, 1, 2], windows=windows)
    before, after = logits(model, windows), logits(deeper, windows)
    # Gains of 1 would be off by up to eps over the stream's variance.
    assert abs(after - before).max() < 2e-4 * abs(before).max()


def test_a_place_that_is_none_is_named():
    with pytest.raises(FemtoError, match="--insert-at 3: the model has 2 layers"):
        insert_layers(fresh_model(), [0, 3])


def test_a_deeper_model_goes_on_with_its_run(folder):
    invoke("init --tokenizer=char --num-tokens=8 --embedding-degree=16 --num-layers=1 "
           "--num-heads=2")
    invoke("train --steps=40 --until-loss=2.5 --batch-size=8")
    before = checkpoint.load("model.safetensors")
    assert before.step < 40
    out = invoke("insert-layer --output=deep --insert-at=0 --insert-at=1").stdout
    assert "3 layers, 2 of them new; it computes what it computed before" in out
    assert invoke("insert-layer --output=deep --insert-at=0", 1).stderr.count("--force") == 1
    invoke("train --model=deep")
    after = checkpoint.load("deep")
    assert after.step == 40 and after.history.losses[: before.step] == before.history.losses
    new = named(after.parameters, after.config)
    assert new["layers.0.mlp.down.weight"].any() and new["layers.2.mlp.down.weight"].any()


def test_insert_layer_tells_the_loss(folder):
    checkpoint.save(fresh_model(recipe="femto"), "model.safetensors")
    out = invoke("insert-layer --output=a --insert-at=1").stdout
    assert "loss on random tokens: " in out
    out = invoke("insert-layer --output=b --insert-at=1 --dataset=dataset.txt").stdout
    before, after = (float(word) for word in out.split("dataset: ")[1].split()[:3:2])
    assert before == pytest.approx(after, abs=1e-3)
