"""What a model writes while it is trained: at once, or once what that takes is compiled."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest
from small import fresh_model, some_run, text

from femtogpt import checkpoint, compiling
from femtogpt.trainer import Trainer, best_path
from femtogpt.writing import Writing


@pytest.fixture
def busy():
    """A process that ends when it is told to."""
    waits = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE) as process:
        yield process


def end(process):
    process.communicate()


def test_what_cannot_be_written_yet_is_written_later_as_the_model_was(busy):
    model, writing, written = fresh_model(), Writing(), []

    def write(model):
        written.append((model.step, model.parameters[0]))

    writing.ask(model, write)
    first = model.parameters[0]
    assert written == [(0, first)]
    writing.compiling = busy
    writing.ask(model, write)
    model.step, model.parameters[0] = 1, 7
    writing.go_on()
    writing.ask(model, write)
    assert len(written) == 1
    end(busy)
    model.parameters[0] = 8
    writing.go_on()
    writing.go_on()
    assert written[1:] == [(0, first), (1, 7)]


def test_what_is_forgotten_is_not_written(busy):
    writing = Writing()
    writing.compiling = busy
    writing.ask(fresh_model(), pytest.fail)
    writing.forget()
    end(busy)
    writing.go_on(wait=True)


@pytest.mark.parametrize("ends", ["in time", "last", "at a save", "cut off"])
def test_a_first_run_leaves_the_looks_of_any_other(monkeypatch, tmp_path, busy, ends):
    """busy is what compiles: it ends in the middle, or only when it is waited for."""
    def session(name, **options):
        model = fresh_model()
        tokens = model.tokenizer.encode(text())
        return Trainer(model, some_run(last_step=12, eval_every=3), tokens[:2000],
                       tokens[2000:], tmp_path / name, **options)

    def looks(name):
        """Of the model's file and of its best's."""
        return [checkpoint.load(path).history.looks
                for path in (tmp_path / name, best_path(tmp_path / name))]

    stop = 7 if ends == "cut off" else None
    other = session("other")
    for record in other:
        if record.step == stop:
            break
    other.save()
    assert all(look.sample for look in looks("other")[0]) and other.curve.best_step >= 6

    class Waited:
        """busy, that ends once it is waited for."""

        poll = busy.poll

        def wait(self):
            end(busy)
            assert busy.returncode == 0

    @contextlib.contextmanager
    def process(part):
        assert part == "text"
        yield Waited()
        end(busy)

    monkeypatch.setattr(compiling, "compile_training", lambda *_: True)
    monkeypatch.setattr(compiling, "process", process)
    first = session("first", save_every=8 if ends == "at a save" else None)
    for record in first:
        samples = [look.sample for look in first.model.history.looks]
        if ends == "in time" and record.step == 7:
            end(busy)
        expected = {"in time": record.step > 7, "at a save": record.step >= 8}.get(ends, False)
        assert all(samples) if expected else not any(samples)
        if record.step == stop:
            break
    assert ends == "cut off" or all(look.sample for look in first.model.history.looks)
    first.save()
    np.testing.assert_array_equal(first.model.parameters, other.model.parameters)
    assert looks("first") == looks("other")
