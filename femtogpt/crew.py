"""Threads that go through a list of work together; the caller's is one of them.

A pool of concurrent.futures does the same, but takes longer from the call to the work and from the
work to the return, and a step of a few milliseconds has several such calls (A of
benchmarks/steps.py takes 1 to 2% longer with one: Zen 5).
"""

import itertools
import threading
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from .layers.denormals import ON_X86, no_denormals
from .layers.together import DONE, FAILED, tell


class Stage(NamedTuple):
    """Where a piece of work stands among others. before: the flags of all in earlier phases.
    beside: those of its own phase, of which its own is at place."""

    before: np.ndarray
    beside: np.ndarray
    place: int


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
        return self.in_turn((lambda _, item: function(item), items))

    def in_turn(self, *phases):
        """Calls several (function, items), each function with a Stage and an item, one phase after
        the other; returns the results of all in one list.

        A phase's work begins while threads may still be at that of the one before: its functions
        wait for what they need (together.py).
        """
        jobs, stages = [], []
        done = np.zeros(sum(len(items) for _, items in phases), np.int64)
        for function, items in phases:
            begin, end = len(jobs), len(jobs) + len(items)
            jobs += [(function, item) for item in items]
            stages += [Stage(done[:begin], done[begin:end], i) for i in range(len(items))]
        results, numbers, ended = [None] * len(jobs), itertools.count(), SimpleQueue()
        failed = []

        def work():
            try:
                while not failed and (number := next(numbers)) < len(jobs):
                    function, item = jobs[number]
                    results[number] = function(stages[number], item)
                    if ON_X86:  # which lets others see what was stored in its order
                        done[number] = DONE
                    else:  # not tried
                        tell(done, number)
            except BaseException:
                failed.append(True)
                done[:] = FAILED  # nobody is to wait for what does not come
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
