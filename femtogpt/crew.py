"""Threads that go through a list of work together; the caller's is one of them.

A pool of concurrent.futures does the same, but takes longer from the call to the work and from the
work to the return, and a step of a few milliseconds has several such calls (A of
benchmarks/steps.py takes 1 to 2% longer with one: Zen 5).
"""

import itertools
import threading
import time
from queue import SimpleQueue

import numba
import numpy as np

from .layers import team
from .layers.denormals import no_denormals
from .layers.numeric import kernel
from .layers.vectors import address_of


class Crew:
    """threads: with the one that calls map."""

    def __init__(self, threads):
        self._calls = [SimpleQueue() for _ in range(threads - 1)]
        self._threads = [threading.Thread(target=_help, args=(calls,), name="femtogpt", daemon=True)
                         for calls in self._calls]
        for thread in self._threads:
            thread.start()

    def map(self, function, items):
        """Calls function on every item; returns the results in order, or raises what it raised."""
        return self.in_turn((function, items))

    def in_turn(self, *phases):
        """map of several (function, items), each of which begins when all of the one before is
        done; the results of all in one list.

        Threads wait for each other in a kernel: to come back and be sent out again takes longer.
        """
        jobs, begins = [], []  # begins: of each, where its phase does
        for function, items in phases:
            begin = len(jobs)
            jobs += [(function, item) for item in items]
            begins += [begin] * (len(jobs) - begin)
        results, done = [None] * len(jobs), np.zeros(len(jobs), np.int64)
        numbers, ended = itertools.count(), SimpleQueue()

        def work():
            try:
                while (number := next(numbers)) < len(jobs):
                    if begins[number] > 0:
                        wait_for_all(done[: begins[number]])
                    function, item = jobs[number]
                    results[number] = function(item)
                    done[number] = 1
            except BaseException:
                done[:] = 1  # nobody is to wait for what does not come
                raise

        helpers = self._calls[: max(0, len(jobs) - 1)]
        for calls in helpers:
            calls.put((work, ended))
        try:
            with no_denormals():
                work()
        finally:
            errors = [error for error in (ended.get() for _ in helpers) if error is not None]
        if errors:
            raise errors[0]
        return results

    def close(self):
        """Ends its threads, after what they are at."""
        for calls in self._calls:
            calls.put(None)
        for thread in self._threads:
            thread.join()


def _help(calls):
    with no_denormals():
        while call := calls.get():
            work, ended = call
            try:
                work()
            except BaseException as error:
                ended.put(error)
            else:
                ended.put(None)
            del call, work, ended  # what they hold is not to live until the next call


@kernel
def _wait_in_kernel(done):
    for i in range(done.size):
        spins = 0
        while team.number(address_of(done) + 8 * i) == 0:
            spins = team.wait(spins)


def wait_for_all(done):
    """Until none of done, (N,) int64, is 0, which other threads set."""
    if numba.config.DISABLE_JIT:
        while not done.all():
            time.sleep(0)
    else:
        _wait_in_kernel(done)
