"""Threads that go through a list of work together; the caller's is one of them.

A pool of concurrent.futures does the same, but takes longer from the call to the work and from the
work to the return, and a step of a few milliseconds has three such calls (A of benchmarks/steps.py
takes 1 to 2% longer with one: Zen 5).
"""

import itertools
import threading
from queue import SimpleQueue

from .layers.denormals import no_denormals


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
        items = list(items)
        results, numbers, ended = [None] * len(items), itertools.count(), SimpleQueue()

        def work():
            while (number := next(numbers)) < len(items):
                results[number] = function(items[number])

        helpers = self._calls[: max(0, len(items) - 1)]
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
