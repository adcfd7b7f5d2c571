"""Training with products of bfloat16 (tests/test_matmul.py has the products themselves)."""

import naive
import numba
import numpy as np
import pytest
from click.testing import CliRunner
from small import SIZES, text
from test_model import some_parameters, some_tokens
from test_vectors import start

from femtogpt import checkpoint
from femtogpt.activations import allocate_activations, constants
from femtogpt.batches import draw_batch
from femtogpt.cli import main
from femtogpt.cli.options import say_if_compiling
from femtogpt.config import GPTConfig
from femtogpt.errors import FemtoError
from femtogpt.layers import matmul, numeric, precision
from femtogpt.layers.vectors import HAS_BFLOAT16
from femtogpt.model import initial_parameters
from femtogpt.optimizer import fresh_state
from femtogpt.parallel import Engine
from femtogpt.passes import loss_and_gradients
from femtogpt.run import Run
from femtogpt.tensors import named, views
from femtogpt.tokenizer import BPETokenizer
from femtogpt.update import update

COMPILED = not numba.config.DISABLE_JIT
CONFIG = GPTConfig(vocab_size=33, num_tokens=12, embedding_degree=48, num_layers=2, num_heads=2)
here = pytest.mark.skipif(COMPILED and not HAS_BFLOAT16,
                          reason="this processor has no products of bfloat16")


def loss_and_gradient(flat, name):
    """(mean loss, gradient) of two sequences with a precision."""
    tokens, targets = some_tokens(CONFIG, 2)
    activations, gradient = allocate_activations(CONFIG, 2), np.zeros_like(flat)
    loss = loss_and_gradients(
        views(gradient, CONFIG), activations, views(flat, CONFIG), tokens, targets,
        constants(CONFIG, bfloat16=precision.use(name)), 1 / tokens.size, 0.0,
        np.zeros(2, np.uint64))
    return loss / tokens.size, gradient


@here
def test_the_loss_is_that_of_rounded_linear_maps(monkeypatch):
    flat = some_parameters(CONFIG, np.float32)
    found, _ = loss_and_gradient(flat, "bf16")
    exact, _ = loss_and_gradient(flat, "float32")
    tokens, targets = some_tokens(CONFIG, 2)

    def rounded_linear(x, weight, bias=None):
        out = matmul.rounded(x).astype(np.float64) @ matmul.rounded(weight)
        return out if bias is None else out + bias

    monkeypatch.setattr(naive, "linear", rounded_linear)
    logits = naive.logits(CONFIG, named(flat, CONFIG), tokens)
    wanted = naive.cross_entropy(logits, targets) / tokens.size
    assert found == pytest.approx(wanted, rel=1e-4)
    assert abs(found - wanted) < abs(exact - wanted) / 5


@here
def test_the_gradient_is_float32s_but_for_rounding():
    flat = some_parameters(CONFIG, np.float32)
    (_, exact), (_, found) = (loss_and_gradient(flat, name) for name in ("float32", "bf16"))
    for name, wanted in named(exact, CONFIG).items():
        error = np.linalg.norm(named(found, CONFIG)[name] - wanted) / np.linalg.norm(wanted)
        assert 1e-4 < error < 0.05, name


@pytest.mark.skipif(COMPILED, reason="numba calls no Python")
def test_every_linear_map_is_rounded(monkeypatch):
    calls, rounded = [], matmul.rounded
    monkeypatch.setattr(matmul, "rounded", lambda x: calls.append(x) or rounded(x))
    loss_and_gradient(some_parameters(CONFIG, np.float32), "bf16")
    # Two factors of three products, of four linear maps a layer and the head.
    assert len(calls) == 2 * 3 * (4 * CONFIG.num_layers + 1)


@here
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_same_bits_with_any_number_of_threads(optimizer):
    tokens, results = np.random.default_rng(0).integers(0, 33, 5000), []
    for threads, name in ((1, "bf16"), (3, "bf16"), (3, "float32")):
        flat, state = initial_parameters(CONFIG, 1), fresh_state(CONFIG, optimizer)
        with Engine(CONFIG, 12, threads, bfloat16=precision.use(name)) as engine:
            for step in range(3):
                windows, keys = draw_batch(tokens, CONFIG.num_tokens, 12, 3, step)
                _, gradient, squares = engine.loss_and_gradient(flat, windows, 0.1, keys)
                update(engine.map, CONFIG, flat, gradient, squares, state, 1e-3)
        assert np.isfinite(flat).all()
        results.append(flat.tobytes())
    assert results[0] == results[1] != results[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text())
    assert CliRunner().invoke(main, ["init", "--tokenizer=char", *SIZES]).exit_code == 0
    return tmp_path


def train(*arguments):
    return CliRunner().invoke(main, ["train", "--sample-every=0", *arguments])


@here
def test_a_run_keeps_its_precision(folder):
    assert train("--steps=4", "--precision=bf16").exit_code == 0
    model = checkpoint.load("model.safetensors")
    assert Run.from_json(model.run).precision == "bf16"
    assert ", bf16" in CliRunner().invoke(main, ["info"]).stdout
    model.run["last_step"] = 6  # as if it had been cut off
    checkpoint.save(model, "model.safetensors")
    refused = train("--precision=float32")
    assert refused.exit_code == 1 and "precision bf16, not float32" in refused.stderr
    assert "bf16" in CliRunner().invoke(main, ["estimate", "--model=model.safetensors"]).stdout
    assert train().exit_code == 0
    model = checkpoint.load("model.safetensors")
    assert (model.step, model.run["precision"]) == (6, "bf16")
    assert train("--steps=2").exit_code == 0  # a new run is float32's again
    assert checkpoint.load("model.safetensors").run["precision"] == "float32"


def test_a_processor_without_it_says_so_and_nothing_is_lost(folder):
    before = (folder / "model.safetensors").read_bytes()
    for command in (["train", "--steps=2"], ["estimate", *SIZES]):
        process = start("-m", "femtogpt", *command, "--precision=bf16", cwd=folder,
                        FEMTOGPT_VECTORS="none")
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 1 and "--precision bf16 needs a processor" in output
    assert (folder / "model.safetensors").read_bytes() == before


def test_an_unknown_precision_in_a_file_is_refused(folder):
    train("--steps=2")
    run = checkpoint.load("model.safetensors").run
    with pytest.raises(FemtoError, match="options that cannot be"):
        Run.from_json(run | {"precision": "int8"})


PAIRS, FIRST, SECOND = ("layers_1/bfloat16._strip-1.py.1.nbc",
                        "femtogpt_1/model.model_backward-1.py.1.nbc",
                        "femtogpt_1/model.model_backward-1.py.2.nbc")


@pytest.mark.parametrize(("files", "told"), [
    ([], ["float32", "bf16"]),
    ([FIRST], ["bf16"]),
    ([FIRST, PAIRS], ["float32"]),
    ([FIRST, SECOND, PAIRS], []),
])
def test_it_says_when_it_compiles_for_a_precision(tmp_path, monkeypatch, capsys, files, told):
    monkeypatch.setattr(numeric, "CACHE_FOLDER", tmp_path)
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = []
    for name in precision.PRECISIONS:
        say_if_compiling(what="training", precision=name)
        if "compiling for this machine" in "".join(capsys.readouterr()):
            found.append(name)
    assert found == told


def test_text_and_tokenizers_are_compiled_for_no_precision(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(numeric, "CACHE_FOLDER", tmp_path)
    for name in (PAIRS, "femtogpt_1/decoder.decode-1.py.1.nbc", "tokenizer_1/bpe.merge-1.py.1.nbc"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    say_if_compiling(what="text")
    say_if_compiling(BPETokenizer)
    assert not "".join(capsys.readouterr())
    say_if_compiling()
    assert "compiling for this machine" in "".join(capsys.readouterr())
