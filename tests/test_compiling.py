"""The second process that compiles: that it begins, ends with the first, and may be missing.

That what it compiles is what training wants, test_trainer.py sees where a cache is empty.
"""

import gc
import subprocess
import sys

import numba
import numpy as np
import pytest
from numba import types

from femtogpt import compiling
from femtogpt.layers.numeric import allocation_free, by_address, code_of_types


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The processes that are started, on a machine of two processors with nothing compiled, and in
    their place what compiles here."""
    processes, popen = [], subprocess.Popen

    def begin(*arguments, **options):
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(compiling.subprocess, "Popen", begin)
    monkeypatch.setattr(compiling.numeric, "CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(compiling, "available_processors", lambda: 2)
    monkeypatch.setattr(compiling, "compile_forward", lambda *_: processes.append("forward"))
    return processes


def test_the_other_is_waited_for(started):
    assert compiling.compile_training()
    other, here = started
    assert other.returncode == 0 and here == "forward"


def test_one_ends_with_its_block(started):
    with compiling.process("text") as other:
        assert other.poll() is None
    assert other.returncode  # killed


@pytest.mark.parametrize("part", ["backward", "text"])
def test_it_calls_what_it_is_to_compile(started, monkeypatch, part):
    """A mistake in it would not be seen: all that came of it is a slower first run."""
    monkeypatch.setattr(compiling, "OTHER", compiling.OTHER + "; print('done')")
    monkeypatch.setattr(compiling.subprocess, "DEVNULL", subprocess.PIPE)
    with compiling.process(part) as other:
        output, error = other.communicate()
    assert output == b"done\n", error.decode()


def test_there_is_none_for_one_processor(started, monkeypatch):
    monkeypatch.setattr(compiling, "available_processors", lambda: 1)
    assert not compiling.compile_training()
    assert not started


@pytest.mark.parametrize("kernel", ["model_backward", "forward_and_head"])
def test_there_is_none_where_all_is_compiled(started, tmp_path, kernel):
    (tmp_path / "femtogpt_1").mkdir()
    (tmp_path / "femtogpt_1" / f"model.{kernel}-1.py.1.nbc").touch()
    assert compiling.compile_training() == (kernel == "forward_and_head")
    assert bool(started) == (kernel == "forward_and_head")


@pytest.mark.parametrize("name", ["numeric.CACHE_FOLDER", "sys.executable"])
def test_there_is_none_where_it_cannot_be(started, monkeypatch, name):
    monkeypatch.setattr(f"femtogpt.compiling.{name}", None)
    assert not compiling.compile_training()
    assert not started


def test_one_that_does_not_begin_is_done_without(started, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert compiling.compile_training()
    assert started == ["forward"]


@allocation_free
def number_of(x, i):
    if i >= x.size:
        raise MemoryError("no more")
    return x[i]


call_number = by_address(number_of, types.float32)


@allocation_free
def sum_of(address, x, count):
    total = 0.0
    for i in range(count):
        total += call_number(address, x, i)
    return total


def test_a_kernel_calls_another_by_its_address_and_raises_what_it_raised():
    address = code_of_types(number_of, (types.float32[::1], types.int64))
    x = np.arange(1, 5, dtype=np.float32)
    assert sum_of(address, x, 4) == 10
    with pytest.raises(MemoryError, match="no more"):
        sum_of(address, x, 5)


seen = []  # by what is compiled, whether garbage is collected meanwhile


def probe(x):
    """For what is compiled alone."""


@numba.extending.overload(probe)
def probe_compiled(x):
    seen.append(gc.isenabled())
    return (lambda x: x + 1) if isinstance(x, types.Float) else None


def test_garbage_is_not_looked_for_while_numba_compiles_and_then_as_before():
    compiled, before = numba.njit(lambda x: probe(x)), gc.isenabled()
    try:
        gc.enable()
        assert compiled(1.0) == 2 and gc.isenabled()
        with pytest.raises(numba.TypingError):
            compiled(1)
        assert gc.isenabled()
        gc.disable()
        assert compiled(np.float32(1)) == 2 and not gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()
    assert len(seen) >= 3 and not any(seen)
