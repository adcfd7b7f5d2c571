"""Threads that go through a list together."""

import contextlib
import threading
import time

import numpy as np
import pytest

from femtogpt.crew import Crew
from femtogpt.layers.denormals import ON_X86
from femtogpt.layers.together import take, tell, wait_for_all


@pytest.fixture(params=[1, 2, 5])
def crew(request):
    one = Crew(request.param)
    one.threads = request.param
    yield one
    one.close()


def test_results_come_in_order(crew):
    for count in (0, 1, 3, 50):
        assert crew.map(lambda x: x * x, range(count)) == [x * x for x in range(count)]


def test_all_threads_work_and_the_callers_is_one_of_them(crew):
    """Each waits for all others: with fewer it would never end."""
    everyone = threading.Barrier(crew.threads, timeout=60)

    def meet(_):
        everyone.wait()
        return threading.get_ident()

    assert len(set(crew.map(meet, range(crew.threads)))) == crew.threads
    assert threading.get_ident() in crew.map(meet, range(crew.threads))


@pytest.mark.parametrize("fails_here", [True, False])
def test_an_error_is_raised_when_all_have_ended(crew, fails_here):
    everyone, ended = threading.Barrier(crew.threads, timeout=60), []

    def fail(x):
        everyone.wait()
        if (threading.current_thread() is threading.main_thread()) == fails_here:
            raise MemoryError("no more")
        time.sleep(0.05)
        ended.append(x)

    some_fail = fails_here or crew.threads > 1
    with (pytest.raises(MemoryError, match="no more") if some_fail
          else contextlib.nullcontext()):
        crew.map(fail, range(crew.threads))
    assert len(ended) == (crew.threads - 1 if fails_here else 1)
    assert crew.map(abs, [-1, 2]) == [1, 2]  # and it goes on


def test_a_phase_begins_when_all_of_the_one_before_is_done(crew):
    done = []

    def slow(_, x):
        time.sleep(0.02 * (x == 0))  # the first ends last
        done.append(x)
        return x

    def count(stage, _):
        assert wait_for_all(stage.before)
        return len(done)

    results = crew.in_turn((slow, range(6)), (count, range(3)), (slow, []), (count, [0]))
    assert results == [*range(6), 6, 6, 6, 6]


def test_those_of_a_phase_wait_for_each_other(crew):
    done = []

    def meet(stage, x):
        time.sleep(0.02 * (x == 0))
        done.append(x)
        tell(stage.beside, stage.place)
        assert wait_for_all(stage.beside)
        return sorted(done)

    everyone = list(range(crew.threads))
    assert crew.in_turn((lambda *_: None, [7]), (meet, everyone)) == [None] + [everyone] * len(
        everyone)


def test_nobody_waits_for_a_phase_that_fails_or_begins_another_piece(crew):
    everyone, others = threading.Barrier(crew.threads, timeout=60), crew.threads - 1
    begun, told = [], []

    def fail(_, x):
        everyone.wait()
        begun.append(x)
        if x == 0:
            while begun.count("wait") < others:
                time.sleep(0.001)
            raise MemoryError("no more")

    def wait(stage, _):
        begun.append("wait")
        told.append(wait_for_all(stage.before))

    with pytest.raises(MemoryError, match="no more"):
        crew.in_turn((fail, range(crew.threads)), (wait, range(20)))
    assert sorted(begun, key=str) == [*range(crew.threads), *["wait"] * others]
    assert told == [False] * others
    assert crew.map(abs, [-1, 2]) == [1, 2]


def test_each_piece_of_work_is_taken_once(crew):
    counter = np.zeros(1, np.int64)
    taken = crew.map(lambda _: [take(counter) for _ in range(500)], range(crew.threads))
    numbers = [number for each in taken for number in each]
    assert sorted(numbers) == list(range(500 * crew.threads))


@pytest.mark.skipif(not ON_X86, reason="denormals are the processor's there")
def test_denormals_are_zero_in_every_thread_meanwhile(crew):
    everyone = threading.Barrier(crew.threads, timeout=60)

    def half(x):
        everyone.wait()
        return float(np.float32(x) / np.float32(2))

    smallest = np.finfo(np.float32).tiny
    assert crew.map(half, [smallest] * crew.threads) == [0.0] * crew.threads
    assert np.float32(smallest) / np.float32(2) > 0


def test_close_ends_its_threads():
    before = set(threading.enumerate())
    one = Crew(4)
    begun = set(threading.enumerate()) - before
    assert len(begun) == 3
    one.close()
    assert not any(thread.is_alive() for thread in begun)
