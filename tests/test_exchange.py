"""Files of other programs: what comes from them computes the same, and goes back the same."""

import json
import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rust_femtogpt import logits_of, moments_of, tensors_of, written
from small import ROOT, fresh_model, text

from femtogpt import checkpoint
from femtogpt.batches import draw_batch
from femtogpt.cli import main
from femtogpt.config import GPTConfig
from femtogpt.decoder import Decoder
from femtogpt.errors import FemtoError
from femtogpt.exchange import femto
from femtogpt.exchange.femto import layout
from femtogpt.model import initial_parameters
from femtogpt.optimizer import fresh_state
from femtogpt.parallel import Engine
from femtogpt.tensors import count_parameters
from femtogpt.tokenizer import (
    AsciiTokenizer,
    ByteTokenizer,
    LowercaseTokenizer,
    PiecesTokenizer,
    ReservedTokenizer,
    train_bpe,
    train_char,
)

# Written by the Rust program after 60 steps on texts/shakespeare.txt, and what it says of it.
REAL = Path(__file__).parent / "data" / "femtogpt" / "absolute.dat"
TOLD = json.loads(REAL.with_suffix(".json").read_text())
SHAPE = (6, 5, 8, 2, 2, 4)  # num_tokens vocab_size embedding_degree num_layers num_heads head_size


def small_file(shape=SHAPE, **options):
    """A Writer of a small file with everything in it."""
    tensors = tensors_of(shape)
    return written(shape, tensors, **{"moments": moments_of(tensors), "t": 2} | options)


def read(data, folder):
    """The model in a file of these bytes."""
    path = folder / "model.dat"
    path.write_bytes(data)
    return femto.read(path)[0]


def refused(data, folder):
    """What is said of a file of these bytes: one line that names it."""
    with pytest.raises(FemtoError) as caught:
        read(data, folder)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(folder / "model.dat"))
    assert len(message) < 500
    return message


def decoded(model, ids):
    """The decoder's logits after each token."""
    decoder = Decoder(model.config, model.parameters)
    return np.array([decoder.feed([token])[0] for token in ids])


def femto_model(tokenizer=None, trained=True, seed=1, **changes):
    """A Model of recipe femto, with moments and losses if trained."""
    tokenizer = tokenizer or ByteTokenizer()
    config = GPTConfig(tokenizer.vocab_size, **{
        "num_tokens": 8, "embedding_degree": 16, "num_layers": 2, "num_heads": 2,
        "recipe": "femto"} | changes)
    model = checkpoint.Model(config, tokenizer, initial_parameters(config, seed),
                             lineage=[{"init": {"seed": seed}}])
    if trained:
        rng = np.random.default_rng(seed)
        model.optimizer = state = fresh_state(config, "adamw")
        state.m[:], state.v[:], state.t = rng.normal(size=state.m.size), rng.random(state.v.size), 3
        model.step, model.history.losses = 3, [3.5, 2.5, 1.5]
    return model


# ---- it is the same model


def test_the_real_file_computes_what_the_rust_program_computed():
    model, notes = femto.read(REAL)
    expected = np.array(TOLD["logits"])
    # At every position others, so that no wrong order of tokens or positions passes.
    assert np.abs(expected[1:] - expected[:-1]).max(1).min() > 2e-5
    assert model.parameters.size == TOLD["num_params"] == count_parameters(model.config)
    ids = model.tokenizer.encode(TOLD["prompt"])[: model.config.num_tokens]
    assert ids.tolist() == TOLD["ids"] and notes == []
    assert np.abs(decoded(model, ids) - expected).max() < 1e-7  # 1e-5 is asked for
    assert model.history.losses == TOLD["losses"]
    assert model.step == model.optimizer.t == len(TOLD["losses"]) == 60
    assert (model.config.recipe, model.config.positional_encoding) == ("femto", "absolute")


def gradient(model, ids):
    """The mean gradient of some batches, as a flat vector times 1e6."""
    total = np.zeros(model.parameters.size)
    with Engine(model.config, 256, threads=1) as engine:
        for step in range(12):
            windows, keys = draw_batch(ids, model.config.num_tokens, 256, 1, step)
            total += engine.loss_and_gradient(model.parameters, windows, 0.0, keys)[1]
    return (1e6 * total).astype(np.float32)


def test_what_the_rust_program_names_q_asks(monkeypatch):
    # The logits of so young a model don't tell q from k; where its gradients pointed does, and
    # the file's first moments say that, layer 0's, which have the least noise.
    whole = (ROOT / "texts" / "shakespeare.txt").read_bytes()
    found = {}
    for order in ("qkv", "kqv"):
        monkeypatch.setattr(layout, "HEAD_TENSORS", order)
        model, _ = femto.read(REAL)
        ids = model.tokenizer.encode(whole[:300_000]).astype(np.int64)
        gradients = layout.spelled(gradient(model, ids), model.config)
        moments = layout.spelled(model.optimizer.m, model.config)
        found[order] = [np.corrcoef(gradients[name].ravel(), moments[name].ravel())[0, 1]
                        for name in gradients if re.fullmatch(r"head_0_\d_[qk]", name)]
    assert min(found["qkv"]) > 0.4 and max(map(abs, found["kqv"])) < 0.3, found


@pytest.mark.parametrize("positions", [0, 1])
@pytest.mark.parametrize("shape", [SHAPE, (7, 6, 12, 1, 3, 4), (5, 4, 6, 3, 1, 6)])
def test_logits_where_every_tensor_matters(tmp_path, shape, positions):
    tensors = tensors_of(shape, scale=0.5)
    model = read(written(shape, tensors, positions=positions).data, tmp_path)
    ids = np.random.default_rng(5).permutation(shape[0]) % shape[1]
    expected = logits_of(shape, tensors, ids, positions)
    for changed in tensors:  # so that the test itself can fail
        other = logits_of(shape, tensors | {changed: np.roll(tensors[changed], 1)}, ids, positions)
        assert np.abs(other - expected).max() > 1e-3, changed
    np.testing.assert_allclose(decoded(model, ids), expected, atol=1e-5)


def test_moments_are_those_of_their_tensors(tmp_path):
    tensors = tensors_of(SHAPE)
    moments = moments_of(tensors)
    state = read(small_file(moments=moments, t=9).data, tmp_path).optimizer
    # Spelled like parameters, they are where the parameters of those names are.
    m = read(small_file(moments=moments).data, tmp_path).parameters * 0
    v = m.copy()
    for name in tensors:
        layout.spelled(m, GPTConfig(5, 6, 8, 2, 2, "femto"))[name][...] = moments[f"{name}_m"]
        layout.spelled(v, GPTConfig(5, 6, 8, 2, 2, "femto"))[name][...] = moments[f"{name}_v"]
    np.testing.assert_array_equal(state.m, m)
    np.testing.assert_array_equal(state.v, v)
    assert (state.kind, state.t) == ("adamw", 9)
    assert read(small_file(moments=None, t=0).data, tmp_path).optimizer is None


# ---- there and back


@pytest.mark.parametrize("options", [
    {}, {"moments": None, "t": 0}, {"unit": 1}, {"case_sensitive": 0}, {"positions": 0},
    {"losses": ()}, {"unk": 4, "tokens": {3: b"a", 0: b"\xff\x00", 4: b"<unk>", 2: b"b", 1: b"ab"}},
])
def test_there_and_back_are_the_same_bytes(tmp_path, options):
    data = bytes(small_file(**options).data)
    model = read(data, tmp_path)
    checkpoint.save(model, tmp_path / "model.safetensors")
    femto.write(checkpoint.load(tmp_path / "model.safetensors"), tmp_path / "back.dat")
    assert (tmp_path / "back.dat").read_bytes() == data


def test_the_real_file_comes_back_to_the_byte(tmp_path):
    checkpoint.save(femto.read(REAL)[0], tmp_path / "model.safetensors")
    notes = femto.write(checkpoint.load(tmp_path / "model.safetensors"), tmp_path / "back.dat")
    assert (tmp_path / "back.dat").read_bytes() == REAL.read_bytes()
    assert notes == []


def test_a_log_too_long_to_be_kept_leaves_its_losses(tmp_path, monkeypatch):
    data = small_file(losses=[2.5] * 9).data
    monkeypatch.setattr(femto.reading, "MOST_KEPT", 500)
    (tmp_path / "model.dat").write_bytes(data)
    model, (note,) = femto.read(tmp_path / "model.dat")
    assert "too long" in note and "log" not in model.lineage[0]["import"]
    femto.write(model, tmp_path / "back.dat")
    assert femto.read(tmp_path / "back.dat")[0].history.losses == [2.5] * 9


def assert_equal(found, model):
    assert found.config == model.config
    np.testing.assert_array_equal(found.parameters, model.parameters)
    assert (found.optimizer is None) == (model.optimizer is None)
    if model.optimizer:
        np.testing.assert_array_equal(found.optimizer.m, model.optimizer.m)
        np.testing.assert_array_equal(found.optimizer.v, model.optimizer.v)
        assert found.optimizer.t == model.optimizer.t
    assert (found.step, found.history.losses) == (model.step, model.history.losses)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("encoding", ["absolute", "none"])
@pytest.mark.parametrize("tokenizer", [
    ByteTokenizer(), LowercaseTokenizer(ByteTokenizer()), PiecesTokenizer([b"a", b"<unk>", b"ab"]),
])
def test_a_model_of_our_own_comes_back_equal(tmp_path, tokenizer, encoding, trained):
    model = femto_model(tokenizer, trained, positional_encoding=encoding)
    assert femto.write(model, tmp_path / "a.dat") == []
    found, notes = femto.read(tmp_path / "a.dat")
    assert_equal(found, model)
    assert found.tokenizer.to_json() == tokenizer.to_json() and notes == []
    femto.write(found, tmp_path / "b.dat")
    assert (tmp_path / "b.dat").read_bytes() == (tmp_path / "a.dat").read_bytes()


def test_ids_of_the_log_tell_models_apart():
    entries = {femto.writing._log_bytes(femto_model(seed=seed), {}) for seed in (1, 1, 2)}
    assert len(entries) == 2


def test_the_ascii_tokenizer_goes_as_pieces_and_says_so(tmp_path):
    model = femto_model(AsciiTokenizer())
    (note,) = femto.write(model, tmp_path / "a.dat")
    found = femto.read(tmp_path / "a.dat")[0].tokenizer
    assert "refused here, is <unk> there" in note
    np.testing.assert_array_equal(found.encode("To be,\n"), model.tokenizer.encode("To be,\n"))
    assert found.encode("é").tolist() == [100, 100]


def test_what_has_no_place_there_is_told(tmp_path):
    model = femto_model(trained=False)
    model.optimizer, model.history.validation = fresh_state(model.config, "muon"), [(3, 2.0)]
    notes = femto.write(model, tmp_path / "a.dat")
    assert "muon" in notes[0] and "held-back" in notes[1] and len(notes) == 2
    assert femto.read(tmp_path / "a.dat")[0].optimizer is None


@pytest.mark.parametrize("kept", [
    7, {}, {"format": "femto", "unk": 1.0, "unit": [], "tokens": 3, "tensors": [[]], "log": 4},
    {"format": "femto", "unk": 2**70, "tokens": [0.0] * 256, "tensors": ["x"], "moments": [1, {}],
     "log": "AAAA", "entries": 2**70, "steps": -1},
    {"format": "femto", "tokens": [0, *range(255)], "tensors": ["norm_0_bias"] * 37, "log": "é"},
])
def test_what_a_model_file_claims_to_have_kept_is_not_believed(tmp_path, kept):
    model = femto_model()
    model.lineage.append({"import": kept})
    femto.write(model, tmp_path / "a.dat")
    assert_equal(femto.read(tmp_path / "a.dat")[0], model)


@pytest.mark.parametrize(("model", "reason"), [
    (lambda: fresh_model(), "recipe standard"),
    (lambda: femto_model(positional_encoding="rope"), "positional encoding rope"),
    (lambda: femto_model(positional_encoding="learned"), "positional encoding learned"),
    (lambda: femto_model(train_char("abc")), "CharTokenizer"),
    (lambda: femto_model(train_bpe([b"low lower lowest " * 9], 262)), "BPETokenizer"),
    (lambda: femto_model(ReservedTokenizer(ByteTokenizer(), 2)), "ReservedTokenizer"),
    (lambda: femto_model(PiecesTokenizer([b"a", b"b"])), "no <unk>"),
])
def test_what_cannot_go_back_is_refused_with_the_reason(tmp_path, model, reason):
    with pytest.raises(FemtoError, match=reason) as caught:
        femto.write(model(), tmp_path / "out.dat")
    assert str(caught.value).startswith(str(tmp_path / "out.dat")) and os.listdir(tmp_path) == []


# ---- damaged, hostile and old files


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "model.dat"
    for data, step in ((small_file((3, 2, 2, 1, 1, 2)).data, 1), (REAL.read_bytes(), 997)):
        assert read(data, tmp_path).parameters.size
        for length in range(len(data) - 1, -1, -step):
            os.truncate(path, length)
            with pytest.raises(FemtoError, match=r"(ends|claims more)[^\n]*$") as caught:
                femto.read(path)
            assert str(caught.value).startswith(str(path))
    assert "33 bytes more" in refused(small_file().data + b"x" * 33, tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_byte_is_refused_or_only_a_number(tmp_path, seed):
    rng, source = np.random.default_rng(seed), small_file()
    in_numbers = np.zeros(len(source.data), bool)
    for start, stop in source.floats:
        in_numbers[start:stop] = True
    loaded = refusals = 0
    for place in rng.choice(len(source.data), 250, replace=False):
        data = bytearray(source.data)
        data[place] ^= rng.integers(1, 256)
        path = tmp_path / "model.dat"
        path.write_bytes(data)
        try:
            model = femto.read(path)[0]
        except FemtoError as error:
            refusals += not in_numbers[place]
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            loaded += 1
            for numbers in (model.parameters, model.optimizer.m, model.optimizer.v):
                assert np.isfinite(numbers).all()
            checkpoint.save(model, tmp_path / "model.safetensors")
    assert loaded > 100 and refusals > 20


@pytest.mark.parametrize("claim", [2**64 - 1, 2**40, 2**20, 0])
def test_no_count_makes_it_allocate(tmp_path, claim):
    source = small_file()
    path = tmp_path / "model.dat"
    num_tokens = source.data.index(np.array(SHAPE, "<u8").tobytes())
    assert len(source.counts) > 500
    data = bytearray(source.data)
    data[source.counts[0] : source.counts[0] + 8] = claim.to_bytes(8, "little")
    assert ("tokenizer claims more than the file holds" in refused(data, tmp_path)) == (claim > 0)
    for place in source.counts:
        data = bytearray(source.data)
        data[place : place + 8] = claim.to_bytes(8, "little")
        path.write_bytes(data)
        tracemalloc.start()
        try:
            femto.read(path)
        except FemtoError as error:
            assert "\n" not in str(error)
        else:  # num_tokens decides no tensor's size here; an entry may have an empty id
            assert claim == 0 or place == num_tokens, place
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 30 * len(source.data), (place, peak)


def test_a_large_file_of_nothing_costs_little(tmp_path):
    # Sparse: a petabyte's shape is believed for no byte of it.
    source, path = small_file(), tmp_path / "model.dat"
    shape = source.data.index(np.array(SHAPE, "<u8").tobytes())
    for claims in ((2**20, 5, 2**16, 2**12, 1, 2**16), (6, 5, 2**16, 1, 2**12, 16)):
        data = bytearray(source.data)
        data[shape : shape + 48] = np.array(claims, "<u8").tobytes()
        path.write_bytes(data)
        os.truncate(path, 2**33)
        tracemalloc.start()
        with pytest.raises(FemtoError, match="claims more parameters"):
            femto.read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


@pytest.mark.parametrize(("options", "reason"), [
    ({"tokens": {0: b"<unk>", 1: b"a", 2: b"b", 3: b"c", 5: b"d"}}, "token 4 is missing"),
    ({"tokens": {0: b"<unk>", 1: b"a", 2: b"b", 3: b"c", 4: b"c"}}, "ids 3 and 4"),
    ({"tokens": {0: b"<unk>", 1: b"a", 2: b"b", 3: b"c", 4: b""}}, "id 4 is empty"),
    ({"tokens": {0: b"a", 1: b"b"}}, "token for the unknown is b'a'"),
    ({"tokens": {0: b"<unk>", 1: b"b"}, "unk": 1}, "token for the unknown is b'b'"),
    ({"tokens": {0: b"<unk>", 1: b"b"}, "unk": 2}, "for the unknown, 2, is missing"),
    ({"tokens": {0: b"<unk>", 1: b"b"}}, "has 2 tokens, its shape says 5"),
    ({"positions": 2}, "positions are of kind 2"),
    ({"unit": 2}, "older layout"),
    ({"t": 2**60}, "optimizer did"),
    ({"losses": (2.5, float("nan"))}, "step 2 of its log"),
])
def test_what_cannot_be_is_told(tmp_path, options, reason):
    assert reason in refused(small_file(**options).data, tmp_path)


def test_what_is_wrong_with_a_tensor_is_told(tmp_path):
    tensors, moments = tensors_of(SHAPE), moments_of(tensors_of(SHAPE))
    bias = tensors["norm_0_bias"]
    for changed, reason in (
        ({"norm_0_bias": bias[:4]}, "norm_0_bias has not the 8 numbers"),
        ({"norm_0_bias": bias.reshape(2, 4)}, "norm_0_bias is not of the shape (8,)"),
        ({"norm_0_bias": bias * np.float32("nan")}, "norm_0_bias holds NaN"),
        ({"norm_9_bias": bias}, "'norm_9_bias' has no place"),
        ({"norm\n": bias}, "'norm\\n' has no place"),
    ):
        assert reason in refused(written(SHAPE, tensors | changed).data, tmp_path)
    without = {name: tensor for name, tensor in tensors.items() if name != "norm_0_bias"}
    assert "tensor norm_0_bias is missing" in refused(written(SHAPE, without).data, tmp_path)
    del moments["proj_1_bias_v"]
    assert "proj_1_bias_v is missing" in refused(written(SHAPE, tensors, moments).data, tmp_path)
    moments["proj_1_bias_v"] = -np.ones(8, "<f4")
    assert "negative" in refused(written(SHAPE, tensors, moments).data, tmp_path)


def test_of_older_files_it_tells_what_is_missing(tmp_path):
    source = small_file()
    tensors = source.data.index(np.array(SHAPE, "<u8").tobytes()) + 48
    upstream = source.data[tensors:]  # a map of tensors first
    said = refused(upstream, tmp_path)
    assert all(word in said for word in ("tokenizer", "positions", "shape", "log are missing"))
    no_positions = source.data[: tensors - 52] + source.data[tensors - 48 :]
    assert "positions" in refused(no_positions, tmp_path)
    named = b"\4\0\0\0\0\0\0\0byte" + source.data[tensors - 48 :]
    assert "tokenizer" in refused(named, tmp_path)
    log = source.data.index(np.array([6, 0], "<u4").tobytes(), source.floats[-1][1])
    assert "ends before its log" in refused(source.data[:log], tmp_path)


# ---- the commands


def femtogpt(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == exit_code, result.output
    return result


def test_an_imported_model_trains_on_and_goes_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text(4000))
    out = femtogpt("import", "--format", "femto", REAL).stdout
    assert out == "model.safetensors: 9,829 parameters, step 60\n"
    femtogpt("train", "--steps=20", "--batch-size=8")
    femtogpt("export", "--format=femto", "back.dat")
    model, (back, _) = checkpoint.load("model.safetensors"), femto.read("back.dat")
    assert model.step == model.optimizer.t == 80
    assert model.history.losses[:60] == TOLD["losses"]
    assert model.history.losses[-1] < model.history.losses[60] - 0.01
    assert_equal(back, model)
    real = REAL.read_bytes()
    log = real.index(b"6c0f54e5fd461c932ca9ee163c31ca10") - 60  # the first entry
    assert real[log:] in Path("back.dat").read_bytes()


def test_nothing_is_overwritten_without_force(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(femto_model(), "model.safetensors")
    before = Path("model.safetensors").read_bytes()
    said = femtogpt("import", "--format=femto", REAL, exit_code=1).stderr
    assert "--force" in said and Path("model.safetensors").read_bytes() == before
    Path("out.dat").write_text("mine")
    assert "--force" in femtogpt("export", "--format=femto", "out.dat", exit_code=1).stderr
    assert Path("out.dat").read_text() == "mine"
    femtogpt("export", "--format=femto", "out.dat", "--force")
    femtogpt("import", "--format=femto", "out.dat", "--force", "--model=model.safetensors")
    assert_equal(checkpoint.load("model.safetensors"), femto_model())
    assert sorted(os.listdir()) == [".model.safetensors.lock", "model.safetensors",
                                    "model.safetensors.previous", "out.dat"]


@pytest.mark.parametrize("file", ["missing", "folder", "empty", "pipe", "model.safetensors"])
def test_what_is_no_file_of_the_program_is_refused(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    Path("empty").touch()
    if file == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes with names")
        os.mkfifo("pipe")
    checkpoint.save(femto_model(), "model.safetensors")
    said = femtogpt("import", "--format=femto", file, "--model=new", exit_code=1).stderr
    assert said.startswith(f"femtogpt: {file} ") and said.count("\n") == 1
    assert not os.path.exists("new")
