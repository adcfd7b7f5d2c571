"""The models that are served, each as its file is now: train may write it at any time."""

import os
import threading
import time
from typing import NamedTuple

from .. import checkpoint
from ..about import about
from ..drawing import thinned
from ..errors import FemtoError
from ..run import newest_run
from ..scoring import sample_text
from .answers import attention

SAMPLE_TOKENS = 60  # as train shows


class Reading(NamedTuple):
    """A file as it was read: its stamp, which changes with it, and the checkpoint.Model."""

    stamp: str
    model: checkpoint.Model


class Served:
    """A model file. Any number of threads may ask."""

    def __init__(self, path):
        self.path = str(path)
        self._lock = threading.Lock()
        self._stamp = self._found = self._status = None

    def reading(self):
        """The Reading of the file as it is now. Raises FemtoError, which names it."""
        with self._lock:
            stamp, _ = _stamp(self.path)
            if self._found is None or stamp != self._stamp:
                self._stamp, self._status = stamp, None
                try:
                    model = checkpoint.load(self.path)
                    model.optimizer = None  # two thirds of the memory
                    self._found = Reading(stamp, model)
                except FemtoError as error:
                    self._found = error
        if isinstance(self._found, FemtoError):
            raise self._found
        return self._found

    def status(self, seen=None):
        """What there is to tell of it, for JSON: stamp, seconds since it was saved (None where
        there is no file) and, unless its stamp is `seen`, step, run, losses, a sample, and what
        it is. Raises FemtoError."""
        reading, now = self.reading(), time.time()
        saved = _stamp(self.path)[1]
        told = {"stamp": reading.stamp, "age": None if saved is None else max(0, now - saved)}
        if seen == reading.stamp:
            return told
        with self._lock:
            if self._status is None or self._status[0] != reading.stamp:
                self._status = reading.stamp, _told(reading.model)
            return told | self._status[1]


def _stamp(path):
    """(what changes when a file is replaced, when it was saved), of no file ("", None)."""
    try:
        found = os.stat(path)
    except OSError:
        return "", None
    return f"{found.st_mtime_ns}-{found.st_ino}-{found.st_size}", found.st_mtime


def _told(model):
    history, run = model.history, newest_run(model)
    first = model.step - len(history.losses) + 1
    return {
        "about": about(model), "step": model.step, "last_step": run.last_step if run else None,
        "recovered": model.recovered,
        "loss": thinned(list(enumerate(history.losses, first))),
        "validation": thinned(history.validation), "sample": _sample(model),
    }


def _sample(model):
    """What `train` shows at this step; None where a newline cannot be spelt."""
    try:
        return sample_text(model, "\n", SAMPLE_TOKENS, seed=model.step)
    except FemtoError:
        return None


def warm(served):
    """Reads all models, and compiles what they need before anyone waits for it. Returns what
    was recovered, a sentence each. Raises FemtoError."""
    for one in served:
        one.status()
        attention(one.reading().model, [0])
    return [text for one in served if (text := one.reading().model.recovered)]
