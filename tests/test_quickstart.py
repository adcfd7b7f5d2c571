"""Choices for a text, and the commands that they lead to."""

import shlex

import pytest
from click.testing import CliRunner
from small import text

from femtogpt import checkpoint, quickstart
from femtogpt.cli import main
from femtogpt.data import find_texts
from femtogpt.quickstart import Look, choose, look
from femtogpt.tensors import count_parameters


def seen(size=1_000_000, bytes_a_character=1.0, characters=90):
    return Look(size, bytes_a_character, characters)


def by_arithmetic(config, batch_size):
    """A machine of 1e11 operations a second."""
    return 6 * count_parameters(config) * batch_size * config.num_tokens / 1e11


def test_a_look_at_a_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("Привет, мир\nПривет, мир\nи ты\n".encode())
    (tmp_path / "b.txt").write_bytes(b"\xff")
    told = look(find_texts([tmp_path]))
    letters = "Привет, мир\nПривет, мир\nи ты\n"
    assert told.size == len(letters.encode()) + 1
    assert told.bytes_a_character == pytest.approx(told.size / (len(letters) + 1))
    assert told.characters == len(set(letters)) + 1


def test_a_look_at_a_long_text_is_at_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "SAMPLE", 1000)
    (tmp_path / "text").write_text("a" * 5000 + "b" * 100_000)
    assert look(find_texts([tmp_path / "text"])) == Look(105_000, 1.0, 1)


@pytest.mark.parametrize("told, tokenizer", [
    (seen(3000), "byte"),
    (seen(50_000, 1.8, 120), "char"),
    (seen(50_000, 2.9, 3000), "byte"),  # too many characters for so little
    (seen(1_000_000), "bpe"),
    (seen(1_000_000, 1.8, 120), "bpe"),
])
def test_the_tokenizer_goes_with_the_text(told, tokenizer):
    assert choose(told, 60, by_arithmetic).tokenizer == tokenizer


def test_a_vocabulary_grows_with_the_text():
    sizes = [choose(seen(size), 600, by_arithmetic).vocab_size
             for size in (300_000, 1_100_000, 4_000_000, 10**9)]
    assert sizes == sorted(sizes) and sizes[0] == 384 and sizes[-1] == 4096
    assert sizes[1] < sizes[2]


def test_a_shape_grows_with_the_time_and_the_text():
    def width(size, seconds):
        return choose(seen(size), seconds, by_arithmetic).shape[0]

    widths = [width(10**8, seconds) for seconds in (1, 60, 600)]
    assert widths == sorted(set(widths))
    assert width(3000, 1) == width(3000, 10**6) == quickstart.LADDER[0][0]
    assert width(10**12, 10**9) == quickstart.LADDER[-1][0]


def test_each_shape_gets_steps_enough():
    for seconds in (30, 100, 1000):
        plan = choose(seen(10**8), seconds, by_arithmetic)
        assert plan.steps >= quickstart.ENOUGH_STEPS and not plan.limited


def test_what_is_read_often_gets_dropout_and_an_end():
    plans = [choose(seen(size), 300, by_arithmetic) for size in (3000, 300_000, 10**8)]
    assert [plan.limited for plan in plans] == [True, False, False] or (
        [plan.limited for plan in plans] == [True, True, False])
    assert [plan.weight_decay for plan in plans] == [0.2, 0.2, 0.0]
    rates = [plan.dropout for plan in plans]
    assert rates == sorted(rates, reverse=True) and rates[0] == 0.3 and rates[-1] == 0.0
    assert plans[0].steps == quickstart.FEWEST_STEPS


def test_a_tenth_is_held_back_or_as_much_as_is_enough():
    assert [quickstart.held_back(size) for size in (0, 3000, 400_000)] == [0.1, 0.1, 0.1]
    assert quickstart.held_back(1_000_000) == 0.04
    assert quickstart.held_back(10**9) * 10**9 == pytest.approx(40_000)


def test_every_choice_has_its_reason():
    plan = choose(seen(), 60, by_arithmetic)
    assert plan.tokenizer in plan.why[0]
    assert f"{plan.shape[0]}, {plan.shape[1]} layers" in plan.why[1]
    assert f"{plan.dropout:g}" in plan.why[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my text.txt").write_text(text())
    monkeypatch.setattr(quickstart, "LADDER", ((16, 1, 2),))
    monkeypatch.setattr(quickstart, "FEWEST_STEPS", 30)
    monkeypatch.setattr(quickstart, "MOST_EPOCHS", 1)
    return tmp_path


def test_the_command_makes_trains_speaks_and_reports(folder):
    result = CliRunner().invoke(main, ["quickstart", "my text.txt", "--for=60s"])
    assert result.exit_code == 0, result.output
    calls = [shlex.split(line)[2:] for line in result.stderr.splitlines() if line[:2] == "$ "]
    assert [call[0] for call in calls] == ["init", "train", "generate", "report"]
    assert "--dataset=my text.txt" in calls[1] and "--steps=30" in calls[1]
    size = len(text().encode())
    assert f"--val-fraction={quickstart.held_back(size):.3g}" in calls[1]
    model = checkpoint.load("model.safetensors")
    assert model.step == 30 and model.history.validation
    assert model.run["dropout"] == 0.3 and model.run["weight_decay"] == 0.2
    assert "<html" in (folder / "model.html").read_text()
    assert len(result.stdout) > 300

    for call in calls[:2]:  # what it shows does the same
        more = ["--force"] if call[0] == "init" else []
        assert CliRunner().invoke(main, [*call, *more]).exit_code == 0
    assert (model.parameters == checkpoint.load("model.safetensors").parameters).all()

    again = CliRunner().invoke(main, ["quickstart", "my text.txt"])
    assert again.exit_code == 1 and "--force" in again.stderr
    (folder / "model.safetensors").unlink()  # and the page alone is reason enough, before training
    again = CliRunner().invoke(main, ["quickstart", "my text.txt"])
    assert again.exit_code == 1 and "model.html" in again.stderr and "$ " not in again.stderr
    again = CliRunner().invoke(main, ["quickstart", "my text.txt", "--for=60s", "--force"])
    assert again.exit_code == 0, again.output


def test_a_preset_is_what_it_says(folder, monkeypatch):
    small = quickstart.Plan("bpe", 300, (16, 1, 2), 8, 0.0, 1)
    monkeypatch.setitem(quickstart.PRESETS, "medium", small)
    result = CliRunner().invoke(main, ["quickstart", "my text.txt", "--preset=medium"])
    assert result.exit_code == 0, result.output
    config = checkpoint.load("model.safetensors").config
    assert (config.embedding_degree, config.num_layers, config.num_tokens) == (16, 1, 8)
    assert (folder / "model.tokenizer.json").exists()
