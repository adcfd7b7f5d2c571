"""The second process that compiles: that it begins, ends with the first, and may be missing.

That what it compiles is what training wants, test_trainer.py sees where a cache is empty.
"""

import subprocess
import sys

import pytest

from femtogpt import compiling


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The processes that are started, on a machine of two processors with nothing compiled."""
    processes, popen = [], subprocess.Popen

    def begin(*arguments, **options):
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(compiling.subprocess, "Popen", begin)
    monkeypatch.setattr(compiling.numeric, "CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(compiling, "available_processors", lambda: 2)
    return processes


def test_it_begins_and_ends_with_the_block(started):
    with compiling.in_two_processes():
        process, = started
        assert process.poll() is None
    assert process.returncode  # killed


def test_it_calls_what_it_is_to_compile(started, monkeypatch):
    """A mistake in it would not be seen: all that came of it is a slower first run."""
    monkeypatch.setattr(compiling, "SECOND", compiling.SECOND + "; print('done')")
    monkeypatch.setattr(compiling.subprocess, "DEVNULL", subprocess.PIPE)
    with compiling.in_two_processes():
        output, error = started[0].communicate()
    assert output == b"done\n", error.decode()


def test_there_is_none_for_one_processor(started, monkeypatch):
    monkeypatch.setattr(compiling, "available_processors", lambda: 1)
    with compiling.in_two_processes():
        assert not started


def test_there_is_none_where_all_is_compiled(started, tmp_path):
    (tmp_path / "layers_1").mkdir()
    (tmp_path / "layers_1" / "attention.attention_backward-1.py.1.nbc").touch()
    with compiling.in_two_processes():
        assert not started


@pytest.mark.parametrize("name", ["numeric.CACHE_FOLDER", "sys.executable"])
def test_there_is_none_where_it_cannot_be(started, monkeypatch, name):
    monkeypatch.setattr(f"femtogpt.compiling.{name}", None)
    with compiling.in_two_processes():
        assert not started


def test_one_that_does_not_begin_is_done_without(started, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with compiling.in_two_processes():
        assert not started
