"""Tells where a process waits, when what it waits for does not come."""

import threading
import time
from contextlib import contextmanager


class Watchdog:
    """A context manager that looks after the waits in it.

    A thread of its own calls tell(what, seconds) once over(what) has lasted `limit` seconds, and
    again whenever it has lasted twice as long as when it was last told.
    """

    def __init__(self, limit, tell):
        self._limit, self._tell = limit, tell
        self._wait = None  # what for, and since when
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="femtogpt watchdog", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    @contextmanager
    def over(self, what):
        """In here something is waited for. what: a phrase for it."""
        self._wait = what, time.monotonic()
        try:
            yield
        finally:
            self._wait = None

    def _watch(self):
        seen, due = None, self._limit
        while not self._end.wait(self._limit / 10):
            wait = self._wait
            if wait is not seen:
                seen, due = wait, self._limit
            if wait is None:
                continue
            what, since = wait
            seconds = time.monotonic() - since
            if seconds >= due:
                self._tell(what, seconds)
                due = 2 * seconds
