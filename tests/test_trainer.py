"""Training: one result whatever the machine does, and a run's beginning, end and rules."""

import json
import signal
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from small import TOKENIZER, environment, fresh_model, run, some_run, start, text

from femtogpt import checkpoint, trainer
from femtogpt.batches import Batches, draw_batch, windows
from femtogpt.cli import main
from femtogpt.data import split
from femtogpt.errors import FemtoError
from femtogpt.optimizer import MUON_PER_ADAMW
from femtogpt.parallel import Engine
from femtogpt.run import Run, plan
from femtogpt.tensors import named, views
from femtogpt.trainer import Diverged, Trainer, best_path

TOKENS = TOKENIZER.encode(text())
KINDS = [("standard", "muon"), ("standard", "adamw"), ("femto", "adamw"), ("femto", "muon")]


def train(path, model=None, steps=10, until=None, threads=1, save_every=10**9, **options):
    """Trains a model along a run of `steps` (or its own unfinished one) and saves it at path.

    until: stop there, as a signal does. Returns the records.
    """
    model = model or fresh_model()
    if steps is not None:
        options = {name: value for name, value in asdict(some_run(**options)).items()
                   if name not in ("first_step", "last_step", "data") and value is not None}
    chosen = plan(model, "d", steps, **options).with_held_back(len(TOKENS), 8)
    training, validation = split(TOKENS, chosen.val_begin, chosen.val_end, 8)
    session = Trainer(model, chosen, training, validation, path, threads, save_every)
    records = []
    for record in session:
        records.append(record)
        if record.step == until:
            break
    session.save()
    return records


# ---- one result


@pytest.mark.parametrize(("recipe", "optimizer"), KINDS)
def test_the_same_bytes_again_with_any_threads_and_any_save_every(tmp_path, recipe, optimizer):
    files = []
    for threads, save_every in ((1, 10**9), (1, 1), (2, 3), (3, 10**9), (8, 4)):
        files.append(tmp_path / f"{threads} {save_every}")
        train(files[-1], fresh_model(recipe=recipe), threads=threads, save_every=save_every,
              optimizer=optimizer, batch_size=37, eval_every=3)  # enough for several shards
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize(("recipe", "optimizer"), KINDS)
def test_samples_a_log_and_measuring_change_no_bit(tmp_path, recipe, optimizer):
    (tmp_path / "dataset.txt").write_text(text())
    files = []
    log = f"--log={tmp_path / 'log'}"
    for number, more in enumerate(([], ["--sample-every=2"], [log],
                                   ["--threads=8", "--save-every=3", "--sample-every=3"])):
        files.append(tmp_path / f"{number}")
        checkpoint.save(fresh_model(recipe=recipe), files[-1])
        arguments = ["train", f"--model={files[-1]}", f"--dataset={tmp_path / 'dataset.txt'}",
                     "--steps=12", "--batch-size=37", "--dropout=0.1", "--val-fraction=0.1",
                     f"--optimizer={optimizer}", "--eval-every=5"]
        assert CliRunner().invoke(main, arguments + more).exit_code == 0
    assert len({file.read_bytes() for file in files}) == 1
    assert len({best_path(file).read_bytes() for file in files}) == 1


@pytest.mark.parametrize(("recipe", "optimizer"), KINDS)
def test_with_and_without_validation_the_parameters_are_the_same(recipe, optimizer):
    states = []
    for validation, every in (([], None), (TOKENS[:300], 1), (TOKENS[:300], 4)):
        model = fresh_model(recipe=recipe)
        chosen = some_run(optimizer=optimizer, eval_every=every)
        list(Trainer(model, chosen, TOKENS, validation, None, 2))
        states.append((model.parameters.tobytes(), model.optimizer.m.tobytes(),
                       model.optimizer.v.tobytes(), tuple(model.history.losses)))
    assert len(set(states)) == 1


def test_another_seed_gives_other_bytes_and_dropout_is_at_work(tmp_path):
    files = {}
    for name, options in {"a": {}, "seed": {"seed": 6}, "dropout": {"dropout": 0.0}}.items():
        train(tmp_path / name, **options)
        files[name] = checkpoint.load(tmp_path / name).parameters.tobytes()
    assert len(set(files.values())) == 3


@pytest.mark.parametrize(("recipe", "optimizer"), KINDS)
def test_stopped_and_resumed_is_the_same_bytes(tmp_path, recipe, optimizer):
    options = {"steps": 60, "optimizer": optimizer, "val_fraction": 0.1}
    whole = train(tmp_path / "whole", fresh_model(recipe=recipe), **options)
    parts = train(tmp_path / "parts", fresh_model(recipe=recipe), until=7, **options)
    for until in (8, 33, None):
        parts += train(tmp_path / "parts", checkpoint.load(tmp_path / "parts"), steps=None,
                       until=until)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()
    timeless = [[(r.step, r.loss, r.lr, r.norm, r.val_loss) for r in records]
                for records in (whole, parts)]
    assert timeless[0] == timeless[1] and len(whole) == 60
    assert sum(r.val_loss is not None for r in whole) == 3
    assert [look.step for look in checkpoint.load(tmp_path / "parts").history.looks] == [20, 40, 60]


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(("recipe", "optimizer"), [("standard", "muon"), ("femto", "adamw")])
def test_a_process_killed_at_any_moment_and_resumed_gives_the_same_bytes(
        tmp_path, recipe, optimizer):
    (tmp_path / "dataset.txt").write_text(text())
    options = ["--steps=150", "--batch-size=8", "--dropout=0.1", f"--optimizer={optimizer}",
               "--warmup-steps=5", "--sample-every=0"]
    for name in ("whole", "parts"):
        checkpoint.save(fresh_model(recipe=recipe), tmp_path / name)
    # One process compiles its kernels, the others find them in the cache: code that was
    # just compiled must round like the same code loaded.
    empty = environment(XDG_CACHE_HOME=str(tmp_path)) if recipe == "standard" else environment()
    whole = run("train", "--model=whole", *options, cwd=tmp_path, env=empty)
    assert whole.returncode == 0
    if recipe == "standard":
        assert whole.stderr.count("compiling for this machine") == 1
        # What the second process compiled was what the first one wanted.
        for kernel in ("attention_backward", "muon_update", "adamw_update", "sum_shards", "decode"):
            assert len(list(tmp_path.rglob(f"*.{kernel}-*.nbc"))) == 1, kernel
    log, seen = tmp_path / "log", []
    for more in (40, 50):
        process = start("train", "--model=parts", "--save-every=1", "--log=log",
                        *(options if not seen else []), cwd=tmp_path)
        goal = lines(log) + more
        while lines(log) < goal and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        seen.append(checkpoint.load(tmp_path / "parts").step)
        assert process.returncode == -signal.SIGKILL
    assert 0 < seen[0] < seen[1] < 150
    again = run("train", "--model=parts", "--threads=1", cwd=tmp_path)
    assert again.returncode == 0 and f"step {seen[1]} -> 150" in again.stderr
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()
    losses = checkpoint.load(tmp_path / "whole").history.losses
    for line in map(json.loads, log.read_text().splitlines()):  # some steps twice
        assert np.float32(line["loss"]) == np.float32(losses[line["step"] - 1])


# ---- from run to run


def test_a_second_run_goes_on_and_keeps_the_history(tmp_path):
    path = tmp_path / "model"
    train(path)
    first = checkpoint.load(path)
    records = train(path, checkpoint.load(path), steps=5, learning_rate=1e-4)
    second = checkpoint.load(path)
    assert [record.step for record in records] == [11, 12, 13, 14, 15]
    assert second.step == 15 and second.optimizer.t == 15
    assert second.history.losses[:10] == first.history.losses
    assert len(second.history.losses) == 15
    assert second.history.validation[: len(first.history.validation)] == first.history.validation
    assert second.history.losses[10:] == [float(np.float32(record.loss)) for record in records]
    assert (second.run["first_step"], second.run["last_step"]) == (10, 15)
    assert second.run["learning_rate"] == 1e-4
    assert second.lineage == [*first.lineage, {"run": first.run}]


def test_training_learns():
    records = train(None, steps=150, batch_size=16)
    assert records[0].loss > 2.4 > 1.8 > records[-1].loss


def test_a_changed_optimizer_begins_with_fresh_moments(tmp_path):
    train(tmp_path / "model")
    train(tmp_path / "model", checkpoint.load(tmp_path / "model"), optimizer="adamw")
    state = checkpoint.load(tmp_path / "model").optimizer
    assert (state.kind, state.t) == ("adamw", 10)


def unfinished(step=4):
    return replace(fresh_model(), step=step, run=some_run().to_json())


def test_an_unfinished_run_goes_on_with_its_own_options():
    assert plan(unfinished(), "d") == some_run()
    assert plan(unfinished(), "d", dropout=0.1, batch_size=4, accumulate=1) == some_run()


@pytest.mark.parametrize(("name", "value"), [
    ("dropout", 0.2), ("batch_size", 5), ("learning_rate", 1e-3), ("optimizer", "adamw"),
    ("seed", 1), ("accumulate", 2), ("val_fraction", 0.1), ("eval_every", 7),
    ("decay_steps", 3), ("min_lr", 1e-4),
])
def test_an_option_that_contradicts_the_unfinished_run_is_refused(name, value):
    with pytest.raises(FemtoError, match=rf"step 4 of 10.*{name}.*--steps"):
        plan(unfinished(), "d", **{name: value})


def test_another_dataset_in_an_unfinished_run_is_refused():
    with pytest.raises(FemtoError, match="dataset is not the one"):
        plan(unfinished(), "other")


def test_a_changed_dataset_is_taken_when_it_is_asked_for():
    assert plan(unfinished(), "other", changed_data=True) == replace(some_run(), data="other")


def test_what_is_kept_and_when_to_give_up_may_change_in_an_unfinished_run():
    changed = {"on_nan": "rollback", "keep_best": False, "patience": 3}
    assert plan(unfinished(), "d", **changed) == replace(some_run(), **changed)


def test_a_tenth_of_a_text_of_over_100_kb_is_held_back():
    assert plan(fresh_model(), "d", 7, size=100_001).val_fraction == 0.1
    assert plan(fresh_model(), "d", 7, size=100_000).val_fraction == 0.0
    assert plan(fresh_model(), "d", 7, size=10**6, val_fraction=0.2).val_fraction == 0.2


def test_what_was_held_back_is_never_trained_on_by_a_later_run():
    """Through a run on another text, and from the best model too."""
    model, held_back = fresh_model(), {}
    for steps, data, expected in ((5, "d", (900, 1000)), (5, "other", (1000, 1000)),
                                  (5, "d", (900, 1000))):
        chosen = plan(model, data, steps, size=200_000 if data == "d" else 10)
        chosen = chosen.with_held_back(1000, 8)
        assert (chosen.val_begin, chosen.val_end) == expected, held_back
        Trainer(model, chosen, TOKENS, [])
        model.step += steps
    assert [entry["run"]["data"] for entry in model.lineage[1:]] == ["d", "other"]
    best = replace(model, run=None, lineage=[*model.lineage, {"run": model.run}])
    assert plan(best, "d", 5, size=10).val_begin == 900
    # Asked for explicitly, another part it is.
    assert plan(model, "d", 5, val_fraction=0.3).with_held_back(1000, 8).val_begin == 700


def test_steps_and_until_step_begin_a_new_run_with_fresh_options():
    new = plan(unfinished(), "other", 7, dropout=0.3)
    assert (new.first_step, new.last_step, new.data, new.dropout) == (4, 11, "other", 0.3)
    assert (new.batch_size, new.seed) == (32, 1)
    assert plan(unfinished(), "d", until_step=9).last_step == 9


@pytest.mark.parametrize("until_step", [3, 4])
def test_an_end_that_is_reached_already_is_refused(until_step):
    with pytest.raises(FemtoError, match=f"step 4 already.*--until-step {until_step}"):
        plan(unfinished(), "d", until_step=until_step)


def test_a_batch_larger_than_any_is_refused():
    assert plan(fresh_model(), "d", 5, accumulate=2048).total_batch_size == 65536
    with pytest.raises(FemtoError, match="--accumulate 2049 times --batch-size 32 are 65,568"):
        plan(fresh_model(), "d", 5, accumulate=2049)


def test_an_accumulated_batch_is_the_larger_one_but_for_rounding():
    """The same sequences and dropout, in one step: a loss, a rate, an update."""
    large, parts = (train(None, steps=12, **sizes)
                    for sizes in ({"batch_size": 12}, {"batch_size": 3, "accumulate": 4}))
    assert [record.step for record in parts] == list(range(1, 13))
    assert [record.lr for record in parts] == [record.lr for record in large]
    np.testing.assert_allclose([record.loss for record in parts],
                               [record.loss for record in large], rtol=1e-4)
    other = train(None, steps=12, batch_size=3)
    assert abs(other[0].loss - large[0].loss) > 1e-3


def test_a_finished_run_is_followed_by_a_new_one():
    new = plan(unfinished(step=10), "other")
    assert (new.first_step, new.last_step) == (10, 100_010)


@pytest.mark.parametrize(("recipe", "expected"), [
    ("standard", (4.5e-3, 0.0, 20, None, "muon")), ("femto", (1e-3, 1e-5, 100, 50000, "adamw")),
])
def test_each_recipe_has_its_own_defaults(recipe, expected):
    new = plan(fresh_model(recipe=recipe), "d", 5)
    assert (new.learning_rate, new.min_lr, new.warmup_steps, new.decay_steps,
            new.optimizer) == expected
    assert (new.dropout, new.batch_size, new.val_fraction) == (0.0, 32, 0.0)


def test_a_run_survives_the_file():
    for values in ({}, {"decay_steps": 3}):
        chosen = some_run(**values)
        assert Run.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


def test_a_run_of_an_earlier_version_is_read():
    values = {name: value for name, value in some_run().to_json().items()
              if name not in ("val_begin", "val_end", "eval_every", "patience", "on_nan",
                              "keep_best", "accumulate")}
    assert Run.from_json(values) == some_run()


@pytest.mark.parametrize("change", [
    {"extra": 1}, {"seed": "one"}, {"last_step": 2.5}, {"dropout": None}, {"data": 3},
    {"dropout": float("nan")}, {"dropout": 1.0}, {"batch_size": 0}, {"optimizer": "sgd"},
    {"on_nan": "pray"}, {"first_step": -1}, {"seed": 2**63}, {"eval_every": 0}, {"patience": 0},
    {"accumulate": 0}, {"accumulate": 16385}, {"accumulate": 2.0},
])
def test_a_run_that_is_damaged_is_refused(change):
    with pytest.raises(FemtoError, match="--steps"):
        Run.from_json(some_run().to_json() | change)
    for values in ([], {}, "run"):
        with pytest.raises(FemtoError):
            Run.from_json(values)


# ---- the schedule and the ends


def test_the_standard_schedule_goes_up_stays_and_comes_down_over_two_fifths(tmp_path):
    path = tmp_path / "model"
    first = [r.lr for r in train(path, steps=30, learning_rate=1e-3, warmup_steps=5)]
    expected = [1e-3 * min(1, (i + 1) / 5, (30 - i) / 12) for i in range(30)]
    np.testing.assert_allclose(first, expected, rtol=1e-12)
    # A second run has its own warm-up and its own end.
    second = [r.lr for r in train(path, checkpoint.load(path), steps=10, learning_rate=1e-3,
                                  warmup_steps=4, decay_steps=3, min_lr=1e-4)]
    expected = [1e-4 + 9e-4 * min(1, (i + 1) / 4, (10 - i) / 3) for i in range(10)]
    np.testing.assert_allclose(second, expected, rtol=1e-12)


def test_the_femto_schedule_counts_from_step_0_whatever_the_run(tmp_path):
    path, options = tmp_path / "model", {"learning_rate": 1e-3, "min_lr": 1e-4,
                                         "warmup_steps": 4, "decay_steps": 20}
    rates = [r.lr for r in train(path, fresh_model(recipe="femto"), steps=10, **options)]
    rates += [r.lr for r in train(path, checkpoint.load(path), steps=20, **options)]
    expected = [1e-3 * (i + 1) / 4 if i < 4 else max(1e-4, 1e-3 - 9e-4 * (i - 4) / 20)
                for i in range(30)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def with_a_second_a_step(monkeypatch, model):
    clock = SimpleNamespace(monotonic=lambda: float(model.step), perf_counter=time.perf_counter)
    monkeypatch.setattr(trainer, "time", clock)


def test_a_time_fixes_the_end_and_the_rate_decays_to_it(monkeypatch):
    model = fresh_model()
    with_a_second_a_step(monkeypatch, model)
    chosen = some_run(last_step=100_000, warmup_steps=0)
    rates = [r.lr for r in Trainer(model, chosen, TOKENS, [], seconds=50)]
    assert len(rates) == model.run["last_step"] == 50
    expected = [chosen.learning_rate * min(1, (50 - i) / 20) for i in range(50)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_a_time_longer_than_the_run_changes_nothing(monkeypatch):
    model = fresh_model()
    with_a_second_a_step(monkeypatch, model)
    assert len(list(Trainer(model, some_run(), TOKENS, [], seconds=11))) == 10
    assert model.run == some_run().to_json()


def test_without_save_every_it_saves_after_30_seconds(tmp_path, monkeypatch):
    model = fresh_model()
    with_a_second_a_step(monkeypatch, model)
    saved = []
    monkeypatch.setattr(checkpoint, "save", lambda model, path: saved.append(model.step))
    for _ in Trainer(model, some_run(last_step=70), TOKENS, [], tmp_path / "model"):
        pass
    assert saved == [31, 62]
    saved.clear()
    for _ in Trainer(fresh_model(), some_run(), TOKENS, [], tmp_path / "model", save_every=4):
        pass
    assert saved == [4, 8]


def test_until_loss_stops_once_the_smoothed_loss_is_there():
    model = fresh_model()
    records = list(Trainer(model, some_run(last_step=5000, batch_size=16), TOKENS, [],
                           until_loss=2.0))
    smoothed = records[0].loss
    for record in records[1:]:
        assert smoothed > 2.0
        smoothed = 0.95 * smoothed + 0.05 * record.loss
    assert smoothed == pytest.approx(2.0, abs=0.1) and 10 < len(records) < 1000
    assert model.run["last_step"] == 5000  # it can go on


def test_the_smoothed_loss_is_the_same_after_a_resume(tmp_path):
    def smoothed(model):
        return Trainer(model, some_run(), TOKENS, []).curve.smoothed

    model = fresh_model()
    session = Trainer(model, some_run(), TOKENS, [], tmp_path / "model")
    for _ in session:
        pass
    session.save()
    found = checkpoint.load(tmp_path / "model")
    assert session.curve.smoothed == smoothed(model) == smoothed(found)
    assert smoothed(fresh_model()) is None


# ---- what goes wrong


def assert_diverges(path, session):
    before = path.read_bytes()
    with pytest.raises(Diverged) as caught:
        for _ in session:
            pass
    assert "\n" not in str(caught.value) and "--learning-rate" in str(caught.value)
    session.save()  # as the command line does when it leaves
    assert path.read_bytes() == before
    return str(caught.value)


@pytest.mark.parametrize("recipe", ["standard", "femto"])
def test_a_rate_that_diverges_leaves_the_file_as_it_was(tmp_path, recipe):
    path, model = tmp_path / "model", fresh_model(recipe=recipe)
    checkpoint.save(model, path)
    chosen = some_run(learning_rate=1e30, last_step=100, optimizer="adamw")
    assert_diverges(path, Trainer(model, chosen, TOKENS, [], path))
    assert np.isfinite(checkpoint.load(path).parameters).all()


@pytest.mark.parametrize("place", [0, -1])
def test_a_nan_among_the_parameters_is_noticed_at_once(tmp_path, place):
    path, model = tmp_path / "model", fresh_model()
    checkpoint.save(model, path)
    model.parameters[place] = np.nan
    # A token may not occur in a batch, so its embedding is not looked at: take them all.
    session = Trainer(model, some_run(batch_size=64), TOKENS, [], path)
    said = assert_diverges(path, session)
    name = list(named(model.parameters, model.config))[place]
    assert "at step 1," in said and f"first in the parameter {name} (" in said


def test_a_validation_loss_that_is_not_finite_is_noticed(tmp_path, monkeypatch):
    path, model = tmp_path / "model", fresh_model()
    checkpoint.save(model, path)
    monkeypatch.setattr(Engine, "mean_loss", lambda *_: float("nan"))
    session = Trainer(model, some_run(), TOKENS, TOKENS, path)
    assert "validated after step 10" in assert_diverges(path, session)
    assert model.history.validation == []


# ---- validation and memorising


def test_memorising_is_noticed_after_two_validations_worse_than_the_best():
    def noticed(losses, first_step=0):
        model = fresh_model()
        model.step = model.history.losses = [1.0] * 10
        model.step = 10
        model.history.validation = list(enumerate(losses, start=1))
        chosen = some_run(first_step=first_step, last_step=20)
        return Trainer(model, chosen, TOKENS, []).curve.memorising

    assert noticed([1.0, 1.02, 1.02])
    assert noticed([1.0, 1.02, 1.02, 0.9])  # for good
    assert not noticed([1.0, 1.005, 1.02])
    assert not noticed([1.0, 1.02, 1.005])
    assert not noticed([1.0, 0.9])
    assert not noticed([1.0, 1.02, 1.02], first_step=1)  # another run's best does not count


@pytest.mark.parametrize("memorising, asked, decay", [
    (True, None, 1.0), (False, 0.5, 0.5), (True, 0.5, 0.5), (True, 0.0, 0.0),
])
def test_memorising_or_an_option_turns_weight_decay_on_for_the_blocks_matrices(memorising, asked,
                                                                               decay):
    def after_a_step(memorising, weight_decay):
        model = fresh_model()
        session = Trainer(model, some_run(warmup_steps=0, weight_decay=weight_decay), TOKENS, [])
        session.curve.memorising = memorising
        return views(model.parameters, model.config), next(iter(session)).lr

    (plain, rate), (decayed, _) = after_a_step(False, None), after_a_step(memorising, asked)
    before = views(fresh_model().parameters, fresh_model().config)
    for field in plain._fields:
        one, other, old = (getattr(p, field) for p in (plain, decayed, before))
        if field.endswith("_weight") and field != "head_weight":
            np.testing.assert_allclose(other - one, -MUON_PER_ADAMW * rate * decay * old,
                                       atol=1e-6)
        else:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("optimizer, asked, said", [
    ("muon", None, "; weight decay is on"), ("muon", 0.2, ""), ("adamw", None, ""),
])
def test_memorising_is_told_and_what_is_done_about_it(monkeypatch, optimizer, asked, said):
    planned = iter([2.0, 2.1, 2.2])
    monkeypatch.setattr(Engine, "mean_loss", lambda *_: next(planned))
    chosen = some_run(last_step=3, eval_every=1, optimizer=optimizer, weight_decay=asked)
    (_, _, last) = Trainer(fresh_model(), chosen, TOKENS, TOKENS)
    (note,) = last.notes
    assert note.startswith("the text is being memorised") and note.endswith(f"now 2.2000){said}")


@pytest.mark.parametrize("keep_best", [True, False])
def test_the_best_state_and_the_last_are_both_kept(tmp_path, monkeypatch, keep_best):
    path, model = tmp_path / "model.safetensors", fresh_model()
    planned = iter([2.0, 1.5, 1.6, 1.7])
    monkeypatch.setattr(Engine, "mean_loss", lambda *_: next(planned))
    chosen = some_run(last_step=80, keep_best=keep_best)
    session = Trainer(model, chosen, TOKENS, TOKENS, path)
    states = {}
    for record in session:
        states[record.step] = model.parameters.copy()
        if record.step in (20, 40, 50):
            session.save()
            assert best_path(path).exists() == keep_best
            if keep_best:
                assert checkpoint.load(best_path(path)).step == min(record.step, 40)
    session.save()
    assert checkpoint.load(path).step == 80
    assert best_path(path) == tmp_path / "model.best.safetensors"
    if not keep_best:
        assert not best_path(path).exists()
        return
    best = checkpoint.load(best_path(path))
    assert (best.step, len(best.history.losses)) == (40, 40)
    assert best.history.validation == [(20, 2.0), (40, 1.5)]
    np.testing.assert_array_equal(best.parameters, states[40])
    assert best.run is None and best.optimizer is None
    assert best.lineage == [*model.lineage, {"run": chosen.to_json()}]


def test_the_best_of_a_run_outlives_a_kill_and_a_worse_second_run(tmp_path, monkeypatch):
    path, model = tmp_path / "model", fresh_model()
    planned = iter([2.0, 1.5, 1.6, 1.7, 1.6])
    monkeypatch.setattr(Engine, "mean_loss", lambda *_: next(planned))
    chosen = some_run(last_step=80, data="d", val_begin=2000, val_end=3000)
    for record in Trainer(model, chosen, TOKENS, TOKENS, path, save_every=50):
        if record.step == 55:
            break  # killed: nothing is saved
    model = checkpoint.load(path)
    for _ in (session := Trainer(model, chosen, TOKENS, TOKENS, path)):
        pass
    session.save()
    assert session.curve.best_step == 40
    second = replace(chosen, first_step=80, last_step=100)
    for _ in (session := Trainer(model, second, TOKENS, TOKENS, path)):
        pass
    session.save()
    assert checkpoint.load(best_path(path)).step == 40
    assert session.curve.best_loss == 1.5


def test_validation_is_the_mean_loss_without_dropout_of_windows_over_all_of_the_text():
    model = fresh_model()
    session = Trainer(model, some_run(last_step=1), TOKENS, TOKENS[:100], None)
    (record,) = session
    starts = np.linspace(0, 91, 12).astype(int)
    assert starts[-1] + 9 == 100
    with Engine(model.config, 4, 1) as engine:
        expected = engine.mean_loss(model.parameters, windows(TOKENS[:100], starts, 8))
    assert record.val_loss == expected
    assert model.history.validation == [(1, float(np.float32(expected)))]


# ---- the data's parts and batches


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.05, 0.3, 0.5])
@pytest.mark.parametrize("length", [60, 200, 1000, 12345])
def test_the_texts_end_is_held_back_and_not_trained_on(length, fraction):
    tokens = np.arange(length)
    chosen = some_run(val_fraction=fraction).with_held_back(length, 8)
    training, validation = split(tokens, chosen.val_begin, chosen.val_end, 8)
    np.testing.assert_array_equal(np.concatenate([*training.parts, validation]), tokens)
    assert len(validation) == (int(length * fraction) if length * fraction >= 9 else 0)


def test_what_was_held_back_stays_so_when_the_text_changes():
    chosen = some_run(val_fraction=0.1).with_held_back(1000, 8)
    assert chosen.with_held_back(1500, 8) == chosen  # the text was made longer
    training, validation = split(np.arange(1500), chosen.val_begin, chosen.val_end, 8)
    np.testing.assert_array_equal(validation, np.arange(900, 1000))
    np.testing.assert_array_equal(np.concatenate(training.parts),
                                  [*range(900), *range(1000, 1500)])
    for shorter, left in ((950, 50), (905, 0), (800, 0)):
        training, validation = split(np.arange(shorter), chosen.val_begin, chosen.val_end, 8)
        assert (len(training), len(validation)) == (min(900, shorter), left)


def test_too_short_a_text_is_an_error_that_says_how_long_it_must_be():
    assert len(split(np.arange(9), 9, 9, 8)[0]) == 9
    with pytest.raises(FemtoError, match=r"8 tokens.*num_tokens \+ 1 = 9.*--num-tokens"):
        split(np.arange(8), 8, 8, 8)
    with pytest.raises(FemtoError):
        split(np.arange(0), 0, 0, 8)


def test_a_batch_follows_from_seed_and_step_alone():
    tokens = np.arange(1000, dtype=np.uint16)
    one, keys = draw_batch(tokens, 8, 16, 3, 4)
    draw_batch(tokens, 8, 16, 3, 5)
    again, same_keys = draw_batch(tokens, 8, 16, 3, 4)
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(keys, same_keys)
    for seed, step in ((3, 5), (4, 4)):
        other, other_keys = draw_batch(tokens, 8, 16, seed, step)
        assert (one != other).any() and (keys != other_keys).any()


@pytest.mark.parametrize("num_tokens", [8, 2000])  # made together, made one by one
@pytest.mark.parametrize("part", [None, (3, 7)])
def test_the_batches_of_a_run_are_each_that_of_its_step(num_tokens, part):
    tokens = np.random.default_rng(1).integers(0, 50, 9000, np.uint16)
    given = (tokens, num_tokens, 12, 3)
    batches = Batches(*given, 7, part)
    for step in (4, 5, 15, 16, 40, 3):
        for ours, expected in zip(batches.draw(step), draw_batch(*given, step, 7, part),
                                  strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_batches_are_windows_from_everywhere():
    tokens = np.arange(30, dtype=np.uint16)
    firsts = set()
    for step in range(60):
        batch, keys = draw_batch(tokens, 8, 16, 1, step)
        assert batch.shape == (16, 9) and batch.dtype == np.int64
        assert keys.shape == (16,) and keys.dtype == np.uint64
        assert (np.diff(batch, axis=1) == 1).all()
        firsts |= set(batch[:, 0].tolist())
    assert firsts == set(range(22))  # the last window ends with the last token


def test_half_of_the_windows_begin_with_a_line():
    tokens, newline = np.arange(1000, dtype=np.uint16), 5000
    anywhere = draw_batch(tokens, 32, 400, 1, 0)[0][:, 0]
    tokens[::17] = newline
    batch, _ = draw_batch(tokens, 32, 400, 1, 0, newline)
    at_lines = batch[:, 0] == newline
    assert 160 < at_lines.sum() < 260  # half, and 1 in 17 of the others by chance
    np.testing.assert_array_equal(  # each with the line in which it would have begun
        batch, windows(tokens, np.where(at_lines, anywhere // 17 * 17, anywhere), 32))


def test_windows_of_a_text_without_lines_begin_anywhere():
    tokens = np.arange(1000, dtype=np.uint16)
    tokens[0] = 5000  # more than T tokens before most
    batch, _ = draw_batch(tokens, 32, 400, 1, 0, 5000)
    anywhere, _ = draw_batch(tokens, 32, 400, 1, 0)
    far = anywhere[:, 1] > 33
    np.testing.assert_array_equal(batch[far], anywhere[far])
    assert (batch[~far, 0] == 5000).any()


def test_windows_of_a_text_as_short_as_one():
    batch, _ = draw_batch(np.arange(9), 8, 4, 1, 0)
    np.testing.assert_array_equal(batch, np.arange(9)[None].repeat(4, 0))
