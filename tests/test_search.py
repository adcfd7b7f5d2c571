"""Searching among starts: who goes on, going on after a kill, what is measured, and the command."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from small import LETTERS, MAIN, TOKENIZER, environment, start, text

from femtogpt import checkpoint, durable
from femtogpt.cli import main
from femtogpt.cli import search as cli_search
from femtogpt.config import GPTConfig
from femtogpt.data import find_texts
from femtogpt.errors import FemtoError
from femtogpt.model import initial_parameters
from femtogpt.scoring import evaluate
from femtogpt.search import halving
from femtogpt.search.candidates import Candidate, arithmetic, draw
from femtogpt.search.halving import Search
from femtogpt.search.outcome import conclude
from femtogpt.session import prepare
from femtogpt.trainer import Trainer

CONFIG = GPTConfig(len(LETTERS), 8, 16, 1, 2)
OPTIONS = {"candidates": 5, "steps": 4, "batch_size": 4, "dropout": 0.1, "threads": 1}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: empty but for dataset.txt."""
    monkeypatch.chdir(tmp_path)
    # Which looks at all there is of numba: longer than these models train.
    monkeypatch.setattr(halving, "give_back_memory", lambda: None)
    (tmp_path / "dataset.txt").write_text(text())
    return tmp_path


def searched(name="search", compare=False, **changes):
    """A Search in folder `name`, gone through, and what it came to."""
    os.makedirs(name, exist_ok=True)
    search = Search(find_texts(["dataset.txt"]), TOKENIZER, CONFIG, name, **OPTIONS | changes)
    for _ in search.train(compare):
        pass
    return search, conclude(search, f"{name}.safetensors")


def timeless(values):
    """Without the times, which nobody can repeat."""
    if isinstance(values, dict):
        return {name: timeless(value) for name, value in values.items()
                if name not in ("seconds", "output")}
    return [timeless(value) for value in values] if isinstance(values, list) else values


def files(name):
    """All that is left of a search but its times: its models' bytes, and search.json."""
    found = {path.name: path.read_bytes() for path in Path(name).glob("*.safetensors")}
    return found | {"best": Path(f"{name}.safetensors").read_bytes(),
                    "state": timeless(json.loads(Path(name, "search.json").read_text()))}


# ---- who goes on


def test_the_better_half_goes_on_and_the_last_is_trained_to_its_end(folder):
    search, result = searched()
    left = search.candidates
    for r, (count, step) in enumerate([(5, 4), (3, 12), (2, 28), (1, 60)]):
        assert len(left) == count == result["rounds"][r]["candidates"]
        assert all(one.rounds[r]["step"] == step for one in left)
        losses = sorted(one.rounds[r]["loss"] for one in left)
        assert len(set(losses)) == count  # or nothing could be chosen by them
        assert (result["rounds"][r]["best"], result["rounds"][r]["worst"]) == (
            losses[0], losses[-1])
        left = [one for one in left if one.rounds[r]["loss"] in losses[: (count + 1) // 2]]
        assert {one.number for one in search.candidates if len(one.rounds) > r + 1} == (
            {one.number for one in left} if r < 3 else set())
    assert left == [search.winner] and result["winner"] == left[0].number
    assert all(checkpoint.load(search.path_of(one)).step == one.rounds[-1]["step"]
               for one in search.candidates)


def test_the_best_is_what_init_and_train_make_of_its_options(folder):
    search, _ = searched(vary=("learning-rate", "dropout"))
    best = search.winner
    model = checkpoint.Model(CONFIG, TOKENIZER, initial_parameters(CONFIG, best.seed),
                             lineage=[{"init": {"seed": best.seed}}])
    run, _, training, validation = prepare(
        model, find_texts(["dataset.txt"]), steps=60, batch_size=4, dropout=best.dropout,
        learning_rate=best.learning_rate, seed=best.seed, val_fraction=0.1, keep_best=False)
    for _ in Trainer(model, run, training, validation, threads=1):
        pass
    checkpoint.save(model, "alone.safetensors")
    assert (folder / "alone.safetensors").read_bytes() == (
        folder / "search.safetensors").read_bytes()


def test_rounds_too_few_leave_several_to_choose_from_and_more_train_the_last_on(folder):
    search, _ = searched("few", rounds=2)
    assert [len(one.rounds) for one in search.candidates].count(2) == 3
    assert search.winner.rounds[1]["loss"] == min(
        one.rounds[1]["loss"] for one in search.candidates if len(one.rounds) == 2)
    search, result = searched("many", candidates=2, rounds=3)
    assert [told["candidates"] for told in result["rounds"]] == [2, 1, 1]
    assert result["steps"] == 28


def test_who_diverges_is_out(folder, monkeypatch):
    def drawn(*arguments):
        found = draw(*arguments)
        found[1].learning_rate = 1e38
        return found

    monkeypatch.setattr(halving, "draw", drawn)
    search, result = searched(candidates=3)
    entry = search.candidates[1].rounds[-1]
    assert len(search.candidates[1].rounds) == 1 and entry["loss"] is None
    assert entry["note"].startswith("diverged at step") and entry["step"] < 4
    assert [told["candidates"] for told in result["rounds"]] == [3, 2, 1]
    assert searched(candidates=3)[1] == result  # from the file: it is not trained again


def test_all_that_diverge_are_said(folder):
    with pytest.raises(FemtoError, match=r"every candidate diverged.*--learning-rate.*--folder"):
        searched(learning_rate=1e38)


def test_what_varies_is_drawn_by_the_seed_alone_and_costs_the_same():
    first = Candidate(0, 3, 3e-3, 0.1, GPTConfig(256, num_layers=4))
    every = ("learning-rate", "dropout", "num-layers")
    found = draw(first, 40, every, 100, 3)
    assert found[0].to_json() | {"candidate": 0} == first.to_json()
    assert [one.seed for one in found] == list(range(3, 43))
    assert draw(first, 7, every, 100, 3) == found[:7]
    alone = draw(first, 40, ("dropout",), 100, 3)
    assert [one.dropout for one in alone] == [one.dropout for one in found]
    assert {one.learning_rate for one in alone} == {3e-3}
    rates, layers = [one.learning_rate for one in found], [one.config.num_layers for one in found]
    assert 9.4e-4 <= min(rates) < 1.5e-3 and 6e-3 < max(rates) <= 9.5e-3
    assert {2, 4, 8} <= set(layers) <= set(range(2, 9))
    assert all(0 <= one.dropout <= 0.3 for one in found)
    for one in found:
        costs = np.array(one.ends) * arithmetic(one.config)
        assert costs == pytest.approx(
            np.array([100, 300, 700]) * arithmetic(first.config), rel=0.02)
    assert draw(first, 3, (), 10, 3)[2].ends == [10, 30, 70]


# ---- going on


class Killed(Exception):
    pass


def test_killed_at_any_file_it_goes_on_and_comes_to_the_same(folder, monkeypatch):
    """It ends as by a kill right before the n-th file would be written, or right after."""
    changes = {"candidates": 2, "compare": True, "vary": ("learning-rate",)}
    whole = searched("whole", **changes)[1]
    replace, written, last = durable.replace, 0, None

    def dying(*arguments, **options):
        nonlocal written
        written += 1
        if written == last and last % 2:
            raise Killed
        replace(*arguments, **options)
        if written == last:
            raise Killed

    for module in (durable, checkpoint):
        monkeypatch.setattr(module, "replace", dying)
    # search.json; of two candidates and a rival fresh, trained, measured; the last trained on,
    # measured; the output.
    for last in range(1, 14):
        written, name = 0, f"killed-{last}"
        with pytest.raises(Killed):
            searched(name, **changes)
        last = None
        assert timeless(searched(name, **changes)[1]) == timeless(whole)
        assert files(name) == files("whole")
    assert written == 13 + 1  # all there are, and the output again


def test_left_in_the_middle_of_a_round_it_is_saved_there(folder):
    whole = searched("whole")[1]
    os.mkdir("cut")
    before = 0
    for until in (2, 3, 11, 40):
        search = Search(find_texts(["dataset.txt"]), TOKENIZER, CONFIG, "cut", **OPTIONS)
        with contextlib.closing(search.train()) as steps:
            one, first = next(steps)
            assert first.step == before + 1  # it does not begin again
            while first.step != until:
                one, record = next(steps)
                first = record or first
        assert checkpoint.load(search.path_of(one)).step == first.step == until
        before = until
    assert timeless(searched("cut")[1]) == timeless(whole)
    assert files("cut") == files("whole")


COMMAND = ("search", "--tokenizer=char", "--num-tokens=8", "--embedding-degree=16",
           "--num-layers=1", "--num-heads=2", "--batch-size=4", "--candidates=4")


def test_a_process_killed_in_the_middle_goes_on(folder):
    """kill -9, while some candidate of the second round is trained; in another folder not."""
    state = folder / "killed" / "search.json"
    with start(*COMMAND, "--steps=80", "--folder=killed", "--output=killed.safetensors",
               cwd=folder) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(OSError):
                if state.read_text().count('"loss"') >= 5:
                    break
            time.sleep(0.005)
        process.kill()
    assert process.returncode not in (0, 1)
    assert not (folder / "killed.safetensors").exists()
    for name in ("killed", "whole"):
        invoke(*COMMAND[1:], "--steps=80", f"--folder={name}", f"--output={name}.safetensors")
    assert files("killed") == files("whole")


def test_other_options_are_refused_with_the_way_out(folder):
    searched()
    for changes, said in [({"candidates": 4}, "--candidates 5, not 4"),
                          ({"steps": 5}, "--steps 4, not 5"),
                          ({"vary": ("dropout",)}, "--vary nothing, not dropout"),
                          ({"dropout": 0.0}, "--dropout 0.1, not 0.0"),
                          ({"seed": 2}, "--seed 1, not 2")]:
        with pytest.raises(FemtoError) as error:
            searched(**changes)
        assert said in str(error.value) and "--folder" in str(error.value)
    searched(threads=2)  # changes nothing
    (folder / "dataset.txt").write_text(text(3100))
    with pytest.raises(FemtoError, match="with another --dataset"):
        searched()


def test_a_damaged_state_and_a_candidate_trained_by_others_are_said(folder):
    search, _ = searched()
    kept = search.path.read_text()
    for bad in ("{", "[]", "{}", kept.replace('"loss"', '"lost"')):
        search.path.write_text(bad)
        with pytest.raises(FemtoError, match=r"search\.json is damaged.*--folder"):
            searched()
    values = json.loads(kept)
    values["candidates"][search.winner.number - 1]["rounds"].pop()  # as if killed before that
    values["candidates"][search.winner.number - 1]["rounds"].pop()
    search.path.write_text(json.dumps(values))
    with pytest.raises(FemtoError, match=r"is at step 60, but its round ends at 28.*remove it"):
        searched()
    search.path_of(search.winner).unlink()
    searched()
    assert timeless(json.loads(search.path.read_text())) == timeless(json.loads(kept))


# ---- what is measured


def test_the_end_is_measured_on_text_that_nobody_was_chosen_by(folder):
    search, result = searched(compare=True)
    tokens = TOKENIZER.encode(text())
    held = len(tokens) - int(0.1 * len(tokens))
    middle = held + (len(tokens) - held) // 2
    np.testing.assert_array_equal(search.choosing, tokens[held:middle])
    np.testing.assert_array_equal(search.telling, tokens[middle:])
    best, rival = (checkpoint.load(path) for path in ("search.safetensors",
                                                      "search/rival.safetensors"))
    assert result["loss"] == evaluate(best, tokens[middle:])["loss"]
    compare = result["compare"]
    assert compare["loss"] == evaluate(rival, tokens[middle:])["loss"]
    # Five of 4 steps, three of 8 more, two of 16 more, one of 32 more.
    assert compare["steps"] == result["rival_steps"] == rival.step == 108
    assert rival.run["last_step"] == 108 and rival.lineage[0] == {"init": {"seed": 1}}
    mean, low, high = compare["difference"]
    assert mean == pytest.approx(result["loss"] - compare["loss"]) and low < mean < high
    assert compare["worth"] is (True if high < 0 else False if low > 0 else None)


def test_what_differs_by_nothing_was_neither_worth_it_nor_not(folder):
    search, result = searched(candidates=1, rounds=1, compare=True)
    assert search.path_of(search.rival).read_bytes() == (folder / "search.safetensors").read_bytes()
    assert result["compare"]["difference"] == [0, 0, 0] and result["compare"]["worth"] is None


def test_a_text_too_small_is_said(folder):
    (folder / "dataset.txt").write_text(text(150))
    with pytest.raises(FemtoError, match=r"half of 15 tokens .*--num-tokens"):
        searched()


# ---- the command


def invoke(*arguments, status=0):
    result = CliRunner().invoke(main, ["search", *arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


QUICK = (*COMMAND[1:], "--steps=4", "--threads=1")


def test_the_command_tells_what_came_out_and_whether_it_was_worth_it(folder):
    first = invoke(*QUICK)
    lines = first.stdout.splitlines()
    assert lines[0].split() == ["candidate", "seed", "step", "held", "back"]
    assert [line.split()[:2] for line in lines[1:5]] == [[str(k), str(k)] for k in range(1, 5)]
    assert sum(line.endswith("  the best") for line in lines) == 1
    assert "round 1: 4 candidates" in first.stdout and "seeds alone" in first.stdout
    # 4 of 4 steps, 2 of 8 more, 1 of 16 more.
    assert "worth it? --compare" in lines[-1] and " 48 steps" in lines[-1]
    assert "round 1 of 3: candidate 2 (seed 2) at step 1 of 28" in first.stderr
    before = (folder / "model.safetensors").read_bytes()
    again = invoke(*QUICK, "--compare", "--json")  # trains the rival alone
    assert "candidate" not in again.stderr and "the rival" in again.stderr
    result = json.loads(again.stdout)
    assert result["compare"]["steps"] == 48 and result["steps"] == 28
    assert (folder / "model.safetensors").read_bytes() == before
    told = invoke(*QUICK).stdout.splitlines()[-1]
    assert told.startswith({True: "worth it:", False: "not worth it:", None: "worth it?"}[
        result["compare"]["worth"]])
    info = CliRunner().invoke(main, ["train", "--steps=2", "--val-fraction=0.1"])
    assert info.exit_code == 0, info.output  # what it wrote is a model like any other
    assert "--force" in invoke(*QUICK, status=1).stderr


def test_what_is_asked_wrongly_is_said(folder):
    assert "'rate' is not one of" in invoke("--vary=dropout,rate", status=2).stderr
    assert "--num-heads" in invoke("--num-heads=7", status=2).stderr
    (folder / "model.safetensors").write_text("mine")
    assert "--force" in invoke(*QUICK, status=1).stderr
    assert not (folder / "search" / "search.json").exists()
    invoke(*QUICK, "--output=a")
    assert "--candidates 4, not 3" in invoke(*QUICK, "--output=a", "--candidates=3",
                                             status=1).stderr


def test_two_in_one_folder_are_refused(folder):
    os.mkdir("search")
    with durable.lock("search/search.json"):
        said = invoke(*QUICK, status=1).stderr
    assert "search.json is being worked on by process" in said and "another --folder" in said


def test_a_signal_stops_it_and_the_same_command_goes_on(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cli_search, "stop_signals", lambda: contextlib.nullcontext(
            SimpleNamespace(signal=signal.SIGINT)))
        stopped = invoke(*QUICK, status=130)
    assert "stopped by SIGINT and saved; the same command goes on" in stopped.stderr
    assert not stopped.stdout and checkpoint.load("search/candidate-1.safetensors").step == 1
    assert "candidate 1 (seed 1) at step 2 of 28" in invoke(*QUICK).stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX terminals")
def test_on_a_terminal_the_table_is_redrawn_in_place(folder):
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen([*MAIN, *COMMAND, "--steps=4", "--vary=dropout"], cwd=folder,
                          env=environment(), stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        drawn = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 65536):
                drawn += part
    os.close(ours)
    assert process.returncode == 0, drawn
    assert b"round 3 of 3 |" in drawn and b"\x1b[A" in drawn
    assert b"candidate   seed dropout         step    loss held back" in drawn
    assert b"out after round 1" in drawn and b"training" in drawn
