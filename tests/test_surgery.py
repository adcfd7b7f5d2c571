"""Grown models compute what they computed before."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from small import fresh_model, some_run, text

import femtogpt.surgery.compare
from femtogpt import checkpoint
from femtogpt.activations import allocate_activations, constants
from femtogpt.checkpoint import History
from femtogpt.cli import main
from femtogpt.decoder import Decoder
from femtogpt.errors import FemtoError
from femtogpt.looks import Look
from femtogpt.optimizer import fresh_state
from femtogpt.parallel import Engine
from femtogpt.passes import summed_loss
from femtogpt.run import earlier_runs
from femtogpt.surgery.child import init_with
from femtogpt.surgery.compare import compare, nearest_tokens
from femtogpt.surgery.depth import insert_layers, random_windows
from femtogpt.tensors import Tensors, named, views
from femtogpt.tokenizer import ByteTokenizer, PiecesTokenizer
from femtogpt.update import update


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
    numbers = [0.5 + part for part in range(model.config.num_layers + 2)]
    model.history = History([3.0, 2.5, 2.0, 1.5], [(2, 2.4)], [Look(3, numbers, numbers, "ab")])
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
    [look] = deeper.history.looks  # of the new layer there was nothing to see
    assert look == model.history.looks[0]._replace(gradient=[0.5, 0, 1.5, 2.5, 3.5],
                                                   update=[0.5, 0, 1.5, 2.5, 3.5])
    assert (deeper.step, deeper.history.losses, deeper.run) == (4, model.history.losses, model.run)
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


# ---- init-with


def noisy(recipe="standard", **shape):
    """A model whose every parameter, gains and biases too, is far from where it began."""
    model = trained_model(recipe=recipe, **shape)
    rng = np.random.default_rng(8)
    model.parameters += rng.normal(0, 0.2, model.parameters.size).astype(np.float32)
    return model


SHAPES = [
    {},
    {"num_layers": 3},
    {"num_tokens": 12},
    {"num_tokens": 5},
    {"embedding_degree": 32},
    {"embedding_degree": 24},
    {"embedding_degree": 48, "num_heads": 2},
    {"embedding_degree": 60, "num_heads": 3},
    {"embedding_degree": 20},
    {"embedding_degree": 64, "num_heads": 4, "num_layers": 4, "num_tokens": 20},
]


@pytest.mark.parametrize("shape", SHAPES, ids=map(str, SHAPES))
@pytest.mark.parametrize("positional_encoding", ["rope", "learned", "none"])
def test_a_child_computes_what_its_parent_does(shape, positional_encoding):
    parent = noisy(positional_encoding=positional_encoding)
    check_child(parent, shape, 2e-5)


@pytest.mark.parametrize("shape", [{}, {"num_tokens": 12}, {"embedding_degree": 32},
                                   {"embedding_degree": 48, "num_heads": 2},
                                   {"embedding_degree": 48, "num_heads": 3}])
@pytest.mark.parametrize("positional_encoding", ["rope", "absolute"])
def test_a_child_of_recipe_femto_computes_what_its_parent_does(shape, positional_encoding):
    parent = noisy("femto", positional_encoding=positional_encoding)
    if positional_encoding == "absolute" and "embedding_degree" in shape:
        with pytest.raises(FemtoError, match="--positional-encoding learned"):
            init_with(parent, **shape)
        shape = shape | {"positional_encoding": "learned"}
    check_child(parent, shape, 5e-5)


def check_child(parent, shape, tolerance):
    child, carried = init_with(parent, **shape)
    assert carried == parent.config.vocab_size
    for name, value in shape.items():
        assert getattr(child.config, name) == value
    T = min(parent.config.num_tokens, child.config.num_tokens)
    windows = random_windows(parent.config, 5)[:, : T + 1]
    whole = np.zeros((len(windows), child.config.num_tokens + 1), int)
    whole[:, : T + 1] = windows
    of_parent = np.zeros((len(windows), parent.config.num_tokens + 1), int)
    of_parent[:, : T + 1] = windows
    before = logits(parent, of_parent).reshape(len(windows), -1, parent.config.vocab_size)[:, :T]
    after = logits(child, whole).reshape(len(windows), -1, parent.config.vocab_size)[:, :T]
    assert abs(after - before).max() < tolerance * abs(before).max()
    assert (child.step, child.optimizer, child.history.losses) == (0, None, [])
    changed = set(child.lineage[-1]["init_with"]["changes"])
    assert changed - {"rotary_base", "num_heads"} == set(shape) - {"num_heads"}
    assert child.lineage[:2] == [*parent.lineage, {"run": parent.run}]


@pytest.mark.parametrize("recipe", ["standard", "femto"])
def test_all_of_a_wider_child_learns(recipe):
    """No two channels, units or heads are bound to stay equal, and none is dead."""
    child, _ = init_with(trained_model(recipe=recipe, positional_encoding="rope"),
                         embedding_degree=32)
    start = child.parameters.copy()
    windows = random_windows(child.config, 5, 64)
    with Engine(child.config, 64, 1) as engine:
        child.optimizer = fresh_state(child.config, "adamw")
        for _ in range(3):
            _, gradient, squares = engine.loss_and_gradient(
                child.parameters, windows, 0.0, np.zeros(64, np.uint64))
            update(engine.map, child.config, child.parameters, gradient, squares,
                   child.optimizer, 1e-2)
    moved = views(child.parameters - start, child.config)
    for field, tensor in moved._asdict().items():
        assert (tensor != 0).sum() >= 0.99 * tensor.size, field
    columns = moved.token_embedding.T
    assert len(np.unique(columns.round(6), axis=0)) == 32
    assert len(np.unique(moved.up_weight[0].T.round(6), axis=0)) == 128


@pytest.mark.parametrize(("recipe", "shape", "reason"), [
    ("standard", {"embedding_degree": 8}, "--embedding-degree 8 is less .* nearest .* is 16"),
    ("standard", {"num_layers": 1}, "--num-layers 1 is less .* nearest that can is 2"),
    ("standard", {"embedding_degree": 19}, "--embedding-degree 19 cannot .* nearest .* is 20"),
    ("standard", {"num_heads": 4}, "--num-heads 4: .* nearest is 2"),
    ("standard", {"embedding_degree": 32, "num_heads": 1}, "--num-heads 1: .* nearest is 2"),
    ("standard", {"embedding_degree": 256, "num_heads": 2}, "--num-heads 2 makes .* nearest is 32"),
    ("standard", {"positional_encoding": "learned"}, "--positional-encoding learned: what .*rope"),
    ("femto", {"embedding_degree": 40, "positional_encoding": "learned"}, "nearest is 32"),
])
def test_what_cannot_be_is_refused_with_the_nearest_that_can(recipe, shape, reason):
    with pytest.raises(FemtoError, match=reason):
        init_with(fresh_model(recipe=recipe), **shape)


def test_tokens_that_both_spell_are_carried_over_and_new_ones_are_means_of_their_pieces():
    parent = noisy()  # on the characters of LETTERS
    tokenizer = PiecesTokenizer([b"cab", b"a", b"\n", b"?", b"bb"])
    child, carried = init_with(parent, tokenizer)
    assert (carried, child.config.vocab_size) == (2, 5)
    p, q = (views(m.parameters, m.config) for m in (child, parent))
    for new, old in ((p.token_embedding, q.token_embedding), (p.head_weight.T, q.head_weight.T),
                     (p.head_bias, q.head_bias)):
        a, b, c, newline = (old[parent.tokenizer.encode(x)[0]] for x in "abc\n")
        for got, expected in zip(new, [(c + a + b) / 3, a, newline, old.mean(0), b], strict=True):
            assert got == pytest.approx(expected, abs=1e-6)
    assert (p.up_weight == q.up_weight).all()
    assert child.lineage[-1]["init_with"]["changes"]["tokenizer"] == ["char", "pieces"]


def test_a_child_trains_on_nothing_its_parent_held_back_and_counts_other_tokens_anew():
    parent = trained_model()
    child, _ = init_with(parent, num_tokens=4)
    assert [run.val_begin for run in earlier_runs(child)] == [2700]
    child, _ = init_with(parent, ByteTokenizer())
    assert earlier_runs(child) == []


def test_init_with_makes_a_child_that_trains_and_never_overwrites(folder):
    checkpoint.save(fresh_model(), "model.safetensors")
    out = invoke("init-with --num-layers=3 --embedding-degree=32").stdout
    assert "num layers: 2 -> 3" in out and "computes what its parent does" in out
    assert "--force" in invoke("init-with --num-layers=3", 1).stderr
    (folder / "t.json").write_text('["a", "b", "ab", "bab", "\\n", "<unk>"]')
    out = invoke("init-with --child=c --tokenizer-data=t.json --num-tokens=12").stdout
    assert "tokenizer: char -> pieces" in out and "tokens carried over: 3, new: 3" in out
    invoke("train --model=c --steps=2 --batch-size=4")
    assert checkpoint.load("c").step == 2
    assert "--tokenizer-data" in invoke("init-with --child=d --tokenizer-data=missing", 1).stderr


# ---- compare, cluster-tokens


def test_compare_follows_a_layer_past_those_inserted():
    model = trained_model()
    deeper = insert_layers(model, [2, 0])
    views(deeper.parameters, deeper.config).up_weight[2] *= -2  # what was layer 1
    for a, b, name, other in ((model, deeper, "layers.1", "layers.2"),
                              (deeper, model, "layers.2", "layers.1")):
        found = compare(a, b)
        rows = {row["name"] or row["name_b"]: row for row in found["tensors"]}
        row = rows[f"{name}.mlp.up.weight"]
        assert row["name_b"] == f"{other}.mlp.up.weight"
        assert row["cosine"] == pytest.approx(-1)
        assert row["norm_b"] == pytest.approx(row["norm_a"] * (2 if b is deeper else 0.5))
        assert row["difference"] == pytest.approx(3 if b is deeper else 1.5)
        assert rows[f"{name}.mlp.down.weight"]["cosine"] == pytest.approx(1)
        only = [row for row in found["tensors"] if None in (row["name"], row["name_b"])]
        assert {(row["name"] or row["name_b"])[:8] for row in only} == {"layers.0", "layers.3"}
        assert found["shared"] == 2  # its init and the run
    deeper = insert_layers(deeper, [1, 1])
    twice = compare(deeper, replace(deeper))
    assert all(row["name"] == row["name_b"] for row in twice["tensors"])
    assert twice["shared"] == 4 and all(row["cosine"] for row in twice["tensors"] if row["norm_a"])


def test_compare_takes_any_lineage():
    a, b = fresh_model(), fresh_model(seed=2)
    for strange in ([{"insert_layer": {"at": 5}}], [{"insert_layer": {"at": [0] * 9}}], [7, None],
                    [{}], [{"run": 1}], [{"init_with": 3}], [{"insert_layer": {"at": ["x"]}}]):
        b.lineage = strange
        assert len(compare(a, b)["tensors"]) == len(named(a.parameters, a.config))


def test_compare_tells_tensors_and_tokens(folder):
    a = fresh_model()
    b, _ = init_with(a, PiecesTokenizer([b"b", b"a", b"ab", b"<unk>"]))
    p = views(b.parameters, b.config)
    p.token_embedding[0] *= -1
    checkpoint.save(a, "a")
    checkpoint.save(b, "b")
    out = invoke("compare a b --limit=1").stdout
    assert "1 entries of lineage, 1 of them shared" in out and "shapes differ" in out
    assert out.endswith("farthest of 2 tokens that both have:\n  -1.0000  |b|\n"
                        "nearest of 2 tokens that both have:\n   1.0000  |a|\n")
    assert invoke("compare a b --limit=1 --reverse").stdout.endswith("-1.0000  |b|\n")
    found = json.loads(invoke("compare a b --json").stdout)
    assert [token["piece"] for token in found["tokens"]] == ["b", "a"]
    assert found["tokens"][0]["cosine"] == pytest.approx(-1)
    wider, _ = init_with(a, embedding_degree=24)
    checkpoint.save(wider, "wider")
    assert "widths differ" in invoke("compare a wider").stdout


def test_cluster_tokens_finds_the_tokens_that_are_alike(folder):
    model = fresh_model()
    p = views(model.parameters, model.config)
    a, b, c, d = model.tokenizer.encode("abcd")
    p.token_embedding[b] = 2 * p.token_embedding[a]
    p.head_weight[:, d] = p.head_weight[:, c]
    p.head_weight[:] += 5  # softmax does not see it
    checkpoint.save(model, "model.safetensors")
    by_embedding, by_head = invoke("cluster-tokens --limit=2").stdout.split("by head:\n")
    assert by_embedding.splitlines()[1:][0].startswith("  |a|  |b| 1.000  |")
    assert by_embedding.splitlines()[1:][1].startswith("  |b|  |a| 1.000  |")
    assert by_head.splitlines()[0].startswith("  |c|  |d| 1.000  |")
    found = json.loads(invoke("cluster-tokens --json --limit=1").stdout)
    first, second = found["head"][0]["nearest"][:2]
    assert first["piece"] == "d" and second["cosine"] < 0.95
    (folder / "some.txt").write_text("abcabc")
    found = json.loads(invoke("cluster-tokens --json --dataset=some.txt").stdout)
    assert [len(row["nearest"]) for row in found["head"]] == [2, 2, 2]


@pytest.mark.parametrize("count", [1, 2, 70])
def test_nearest_tokens_are_those_of_all_cosines(count, monkeypatch):
    monkeypatch.setattr(femtogpt.surgery.compare, "BLOCK", 350)
    table = np.random.default_rng(0).normal(size=(count, 5))
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosines = unit @ unit.T - 3 * np.eye(count)
    found = nearest_tokens(table, 3, 10)
    assert len(found) == (0 if count == 1 else min(10, count))
    best = sorted(cosines.max(1), reverse=True)
    for rank, (id, nearest) in enumerate(found):
        assert nearest[0][1] == pytest.approx(best[rank])
        assert [n for n, _ in nearest] == np.argsort(-cosines[id])[: min(3, count - 1)].tolist()
