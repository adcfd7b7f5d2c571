"""A file for onnxruntime: it computes there, and by ONNX's own reference, what the model does."""

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from small import LETTERS, fresh_model, text

import femtogpt
from femtogpt import checkpoint
from femtogpt.cli import main
from femtogpt.decoder import Decoder
from femtogpt.errors import FemtoError
from femtogpt.exchange import onnx as exchange
from femtogpt.exchange.onnx import format as file_format
from femtogpt.exchange.onnx import graph, writing
from femtogpt.inspection import activations

# Every size another, so that no two can be taken for each other.
SHAPE = {"num_tokens": 9, "embedding_degree": 12, "num_layers": 2, "num_heads": 3}
RECIPES = ["standard", "femto"]
POSITIONS = ["rope", "absolute", "learned", "none"]
SLIDING = ("rope", "none")
every_recipe = pytest.mark.parametrize("recipe", RECIPES)
every_position = pytest.mark.parametrize("positions", POSITIONS)
every_shape = pytest.mark.parametrize("shape", [
    {}, {"embedding_degree": 10, "num_heads": 1}, {"num_tokens": 1, "num_layers": 1},
    {"embedding_degree": 15}], ids=str)


@pytest.fixture
def unchecked(monkeypatch):
    """As where onnxruntime is not installed: what needs it is below."""
    monkeypatch.setattr(writing, "missing", lambda: ["onnxruntime"])


def model_of(positions="rope", recipe="standard", **changes):
    """A Model whose every parameter matters. Heads are of odd width where they can be."""
    shape = SHAPE | changes
    if positions == "rope" and shape["embedding_degree"] // shape["num_heads"] % 2:
        shape["embedding_degree"] *= 2
    model = fresh_model(recipe=recipe, positional_encoding=positions, **shape)
    rng = np.random.default_rng(3)
    model.parameters += rng.normal(0, 0.3, model.parameters.size).astype(np.float32)
    return model


def command(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == exit_code, result.output
    return result


def some_ids(*shape):
    return np.random.default_rng(0).integers(0, len(LETTERS), shape)


def check_logits(model, run):
    """run(ids (B, S)) computes what the model does, and slides as it does when it generates."""
    T = model.config.num_tokens
    for B, S in ((1, T), (3, max(1, T - 2)), (2, 1)):
        ids = some_ids(B, S)
        logits = run(ids)
        assert logits.dtype == np.float32 and logits.shape == (B, S, len(LETTERS))
        assert np.abs(logits).max() > 0.2
        for row, one in zip(logits, ids, strict=True):
            expected = activations(model.config, model.parameters, one)["logits"]
            np.testing.assert_allclose(row, expected, atol=2e-5)
    ids = some_ids(1, 3 * T + 1)
    if model.config.positional_encoding not in SLIDING:
        with pytest.raises(Exception, match="out of"):
            run(ids[:, : T + 1])
        return
    decoder, logits = Decoder(model.config, model.parameters), run(ids)
    for token, row in zip(ids[0], logits[0], strict=True):
        np.testing.assert_allclose(row, decoder.feed([token])[0], atol=2e-5)


# ---- the file, read and computed by the package onnx


@pytest.fixture
def reading():
    pytest.importorskip("onnx.reference")
    return pytest.importorskip("onnx")


@every_shape
@every_position
@every_recipe
def test_the_graph_computes_what_the_model_does(tmp_path, unchecked, reading, recipe, positions,
                                                shape):
    model = model_of(positions, recipe, **shape)
    exchange.write(model, tmp_path / "a.onnx")
    file = reading.load(tmp_path / "a.onnx")
    reading.checker.check_model(file, full_check=True)
    evaluator = reading.reference.ReferenceEvaluator(file)
    check_logits(model, lambda ids: evaluator.run(["logits"], {"input_ids": ids})[0])


def test_the_file_tells_what_it_is(tmp_path, unchecked, reading):
    model = model_of()
    model.step = 7
    exchange.write(model, tmp_path / "a.onnx")
    file = reading.load(tmp_path / "a.onnx")
    assert {entry.key: entry.value for entry in file.metadata_props} == {
        "format_version": "1", "step": "7", "tokenizer": "char", "vocab_size": str(len(LETTERS)),
        "num_tokens": "9", "recipe": "standard", "positional_encoding": "rope", "newline_id": "0"}
    assert file.producer_name == "femtogpt" and "Trained for 7 steps" in file.doc_string
    assert file.producer_version == femtogpt.__version__
    stored = {one.name: reading.numpy_helper.to_array(one) for one in file.graph.initializer}
    for name, tensor in femtogpt.GPT(model).tensors.items():
        np.testing.assert_array_equal(stored[name], tensor)
    [given], [told] = file.graph.input, file.graph.output
    assert [d.dim_param or d.dim_value for one in (given, told)
            for d in one.type.tensor_type.shape.dim] == [
        "batch", "sequence", "batch", "sequence", len(LETTERS)]


def test_messages_are_read_as_they_were_meant(reading):
    for number in (0, 1, 127, 128, 129, 16_383, 16_384, 2**40, -1):
        told = "a" * (number % 20_000)
        data = b"".join(file_format.encoded({5: number, 6: told, 14: [{1: told, 2: "é"}, {}]}))
        read = reading.ModelProto.FromString(data)
        assert (read.model_version, read.doc_string) == (number, told)
        assert [(one.key, one.value) for one in read.metadata_props] == [(told, "é"), ("", "")]


# ---- refusals, and what a failure leaves


def with_number(number):
    model = model_of()
    model.parameters[3] = number
    return model


@pytest.mark.parametrize(("model", "reason"), [
    (lambda: with_number(np.nan), "NaN"), (lambda: with_number(-np.inf), "infinity"),
    (lambda: model_of(num_layers=5), r"it would be \d\d,\d{3} bytes.* ends at 25,000")])
def test_what_cannot_go_is_refused_in_a_line(tmp_path, monkeypatch, model, reason):
    monkeypatch.setattr(writing, "LARGEST", 25_000)
    with pytest.raises(FemtoError, match=reason) as caught:
        exchange.write(model(), tmp_path / "a.onnx")
    assert str(caught.value).startswith(str(tmp_path / "a.onnx"))
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


def test_the_command_writes_a_file_and_replaces_none(tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(model_of(), "model.safetensors")
    told = command("export", "--format=onnx", "--output=a.onnx")
    first = Path("a.onnx").read_bytes()
    assert told.stdout == (f"a.onnx: {len(first) / 1e6:.2f} MB, 4,045 parameters, step 0, "
                           "float32\n")
    assert "not checked, for onnxruntime (pip install onnxruntime)" in told.stderr
    assert 4 * 4045 < len(first) < 4 * 4045 + 10_000
    assert "--force" in command("export", "--format=onnx", "a.onnx", exit_code=1).stderr
    assert Path("a.onnx").read_bytes() == first
    checkpoint.save(model_of("none"), "other.safetensors")
    command("export", "--format=onnx", "a.onnx", "--force", "--model=other.safetensors")
    assert Path("a.onnx").read_bytes() != first
    command("export", "--format=onnx", "a.onnx", "--force")
    assert Path("a.onnx").read_bytes() == first  # the same model is the same bytes
    assert sorted(os.listdir()) == ["a.onnx", "model.safetensors", "other.safetensors"]
    command("export", "--format=onnx", "b.onnx", "--dtype=float16", exit_code=2)


# ---- in onnxruntime, where it is installed


@pytest.fixture
def runtime():
    return pytest.importorskip("onnxruntime")


def runner(runtime, path):
    """A function from ids (B, S) to logits."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options)
    return lambda ids: session.run(None, {"input_ids": np.asarray(ids, np.int64)})[0]


@every_shape
@every_position
@every_recipe
def test_onnxruntime_computes_the_same(tmp_path, runtime, recipe, positions, shape):
    model = model_of(positions, recipe, **shape)
    done = exchange.write(model, tmp_path / "a.onnx", model.tokenizer.encode(text(500)))
    assert done.size == (tmp_path / "a.onnx").stat().st_size and not done.notes
    check, T = done.checked, model.config.num_tokens
    assert check.windows == 8 and 0 < check.difference < 2e-5
    assert check.beyond == (T if positions in SLIDING else 0)
    check_logits(model, runner(runtime, tmp_path / "a.onnx"))


@pytest.mark.parametrize(("recipe", "positions"), [
    ("standard", "rope"), ("femto", "absolute"), ("standard", "learned"), ("femto", "none")])
def test_a_prompt_is_continued_as_generate_does(tmp_path, monkeypatch, runtime, recipe, positions):
    """Past the context's end too: as README says."""
    monkeypatch.chdir(tmp_path)
    model = model_of(positions, recipe, num_tokens=16)
    checkpoint.save(model, "model.safetensors")
    said = command("export", "--format=onnx", "a.onnx").stdout
    assert "in onnxruntime: logits at most" in said and "on 8 windows of random tokens" in said
    assert ("and 16 tokens past the context's end" in said) == (positions in SLIDING)
    run, T = runner(runtime, "a.onnx"), 16
    ids = [*model.tokenizer.encode("\nabc")]
    window = ids.copy()
    for _ in range(T + 60):
        if positions not in SLIDING and len(window) > T:
            window = window[-(T // 2) - 1 :]
        token = int(run([window])[0, -1].argmax())
        ids.append(token)
        window.append(token)
    here = command("generate", "--prompt=abc", f"--count={T + 60}", "--temperature=0").stdout
    there = model.tokenizer.decode(ids).decode()
    assert here.strip("\n") == there.strip("\n") and len(set(there)) > 3


def test_a_difference_is_found_and_nothing_written(tmp_path, monkeypatch, runtime):
    model = model_of()
    tokens = model.tokenizer.encode(text(500))

    def told(name, changed):
        with monkeypatch.context() as patch:
            patch.setattr(graph, name, changed)
            with pytest.raises(FemtoError) as caught:
                exchange.write(model, tmp_path / "a.onnx", tokens)
        assert os.listdir(tmp_path) == []
        return str(caught.value)

    with pytest.raises(FemtoError, match="the dataset has 9 tokens"):
        exchange.write(model, tmp_path / "a.onnx", tokens[:9])
    assert "other logits" in told("CUBIC", 0.07)
    assert "other logits" in told("EPS", 1e-3)
    one_more = graph.out_of_sight
    assert "other logits" in told("out_of_sight", lambda add, c, positions: add(
        "And", one_more(add, c, positions), add("Less", positions, 12)))  # wrong beyond T alone
    assert "fails on it" in told("gelu", lambda add, x: add("Gelo", x))
