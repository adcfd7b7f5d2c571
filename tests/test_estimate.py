"""What training a shape takes, against what it took."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from small import SIZES, text

import femtogpt
from femtogpt import checkpoint, estimate
from femtogpt.batches import draw_batch
from femtogpt.cli import main
from femtogpt.config import GPTConfig
from femtogpt.experiment.entries import nearest_in_log

SMALL = GPTConfig(11, num_tokens=8, embedding_degree=16, num_layers=2, num_heads=2)


def asked(*arguments, exit_code=0):
    result = CliRunner().invoke(main, ["estimate", *arguments])
    assert result.exit_code == exit_code, result.output
    return result


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_file_is_as_large_as_told(tmp_path, optimizer):
    (tmp_path / "dataset.txt").write_text(text())
    model = femtogpt.new(num_tokens=16, embedding_degree=64, num_layers=2, num_heads=2)
    for _ in femtogpt.train(model, tmp_path / "dataset.txt", steps=2, batch_size=4,
                            optimizer=optimizer):
        pass
    model.save(tmp_path / "model.safetensors")
    real = (tmp_path / "model.safetensors").stat().st_size
    told = estimate.file_bytes(model.config, optimizer)
    assert told < real < told + 15_000


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_step_is_timed(monkeypatch, whole, optimizer):
    monkeypatch.setattr(estimate, "WHOLE", math.inf if whole else 0)
    step = estimate.step_time(SMALL, 4, optimizer, threads=2, seconds=0.01)
    assert step.whole == whole
    assert 0 < step.update < step.seconds < 60
    assert 0 < step.share < 2


def test_a_step_is_the_sum_of_its_parts(monkeypatch):
    """F's shape: two shards of 16 sequences, 4 at once; so each of two threads does 4 passes."""
    shape = GPTConfig(1054, num_tokens=80, embedding_degree=768, num_layers=8, num_heads=16)
    asked_for = []

    def passes(config, shards, micro_batch, bfloat16):
        asked_for.append((config.num_layers, shards, micro_batch))
        yield 100
        yield from {1: (0.4, 0.6), 3: (1.3, 0.9)}[config.num_layers]

    monkeypatch.setattr(estimate, "_passes", passes)
    monkeypatch.setattr(estimate, "_update_seconds", lambda *_: 0.25)
    seconds = {threads: estimate._parts(shape, 32, "muon", threads)[0] for threads in (1, 2, 4)}
    assert asked_for == [(1, 1, 4), (3, 1, 4)] + 2 * [(1, 2, 4), (3, 2, 4)]
    assert seconds[2] == pytest.approx(4 * (0.5 + 7 * 0.3) + 0.25)
    assert seconds[1] == pytest.approx(8 * (0.5 + 7 * 0.3) + 0.25)
    assert seconds[4] == seconds[2]  # there are two shards
    assert estimate._parts(shape, 32, "muon", 2, 5)[0] - 0.25 == pytest.approx(
        5 * (seconds[2] - 0.25))  # five passes, one update
    assert estimate._parts(shape, 32, "muon", 4, 5)[0] - 0.25 == pytest.approx(
        3 * (seconds[2] - 0.25))  # passes of four shards


def test_an_update_goes_with_layers_and_parameters(monkeypatch):
    """A clock that each update sets forward by a second, and one of Muon's by five more."""
    now = [0.0]

    def update(engine_map, config, parameters, gradient, squares, state, rate):
        now[0] += 1 + 5 * (state.kind == "muon")

    monkeypatch.setattr(estimate, "update", update)
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    one = GPTConfig(300, num_tokens=8, embedding_degree=16, num_layers=1, num_heads=2)
    many = GPTConfig(300, num_tokens=8, embedding_degree=16, num_layers=10, num_heads=2)
    size = estimate.count_parameters
    assert estimate._update_seconds(many, "adamw", 2) == pytest.approx(size(many) / size(one))
    assert estimate._update_seconds(one, "muon", 2) == pytest.approx(6)
    first = estimate.count_adamw_parameters
    assert estimate._update_seconds(many, "muon", 2) == pytest.approx(
        10 * (6 - first(one) / size(one)) + first(many) / size(one))


def test_what_is_compiled_to_estimate_is_what_training_calls():
    """Other types of windows or keys would be compiled for by themselves, which takes long."""
    windows, keys = estimate._batch(SMALL, 4)
    tokens = np.arange(100, dtype=np.uint8) % 11
    real, real_keys = draw_batch(tokens, SMALL.num_tokens, 4, seed=1, step=0)
    for ours, theirs in ((windows, real), (keys, real_keys)):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_steps_to_twenty_tokens_a_parameter():
    tokens = 20 * estimate.count_parameters(SMALL)
    steps = estimate.compute_optimal_steps(SMALL, 4)
    assert (steps - 1) * 4 * 8 < tokens <= steps * 4 * 8


def test_the_logs_nearest():
    assert nearest_in_log(232_320) == {
        "parameters": 232_320, "experiments": [1, 2, 6, 7, 27], "steps": [685, 629, 508, 716, 1665]}
    assert nearest_in_log(10**9)["experiments"] == [14]
    assert nearest_in_log(1)["experiments"] == [10]


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text())
    told = asked("--tokenizer=char", *SIZES).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.txt"]
    for part in ("parameters (char, ", "memory to train", "a step", "20 tokens a parameter"):
        assert part in told
    assert "cut off" not in told

    CliRunner().invoke(main, ["init", "--tokenizer=char", *SIZES])
    CliRunner().invoke(main, ["train", "--steps=9", "--batch-size=8"])
    values = json.loads(asked("--model=model.safetensors", "--json").stdout)
    assert values["steps_left"] == 0
    assert values["parameters"] == checkpoint.load("model.safetensors").parameters.size
    assert values["tokens_per_second"] * values["seconds_a_step"] == pytest.approx(
        8 * femtogpt.load("model.safetensors").config.num_tokens)
    more = json.loads(asked("--model=model.safetensors", "--accumulate=3", "--json").stdout)
    assert more["tokens_per_second"] * more["seconds_a_step"] == pytest.approx(3 * 8 * 8)
    assert more["memory_to_train_bytes"] >= values["memory_to_train_bytes"]
    assert more["compute_optimal_steps"] * 3 - values["compute_optimal_steps"] in (0, 1, 2)
    assert "(batch 3 x 8, " in asked("--model=model.safetensors", "--accumulate=3").stdout


def test_a_shape_or_a_model():
    refused = asked("--model=model.safetensors", "--num-layers=2", exit_code=2)
    assert "--num-layers" in refused.stderr and "--model" in refused.stderr
    missing = asked("--model=nothing.safetensors", exit_code=1)
    assert "nothing.safetensors" in missing.stderr


@pytest.mark.parametrize(("shards", "micro_batch", "num_tokens"),
                         [(1, 4, 40), (2, 4, 40), (3, 4, 40), (2, 2, 128)])
def test_a_pass_is_of_the_shards_and_sequences_that_are_asked_for(shards, micro_batch, num_tokens):
    """Of a batch that training would cut otherwise."""
    config = GPTConfig(11, num_tokens, embedding_degree=16, num_layers=1, num_heads=2)
    seen = []

    class Seen(estimate.Engine):
        def loss_and_gradient(self, *arguments):
            result = super().loss_and_gradient(*arguments)
            seen.append((len(self.shards), len(self.gradients), self._branches.shards,
                         self.micro_batch))
            return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "Engine", Seen)
        passes = estimate._passes(config, shards, micro_batch)
        assert all(0 < next(passes) < 60 for _ in range(2))
    assert seen == [(shards, shards, shards, micro_batch)] * 2
