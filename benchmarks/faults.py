"""femtogpt, killed at the N-th moment of its saves:

    python benchmarks/faults.py N train --model ...

A moment is before or after a write, an fsync, a rename, a link or an unlink of durable.py, and
in the middle of a write. The kill is a real one (SIGKILL): nothing is flushed or cleaned up.
With FEMTOGPT_FAULT=SIGSTOP it stands still at that moment instead, for another to kill.
"""

import builtins
import os
import signal
import sys

from femtogpt import durable
from femtogpt.cli import main

CALLS = ("fsync", "replace", "link", "unlink", "open")
SIGNAL = getattr(signal, os.environ.get("FEMTOGPT_FAULT", "SIGKILL"))
left = 0


def moment():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), SIGNAL)


def between_moments(function):
    def call(*arguments, **options):
        moment()
        result = function(*arguments, **options)
        moment()
        return result
    return call


class Watched:
    """A file whose writes are moments too, each in two halves."""

    def __init__(self, file):
        self.file = file

    def write(self, part):
        part = memoryview(part)
        for half in (part[: len(part) // 2], part[len(part) // 2 :]):
            moment()
            self.file.write(half)
            self.file.flush()  # as large parts reach the disk without being asked to

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def watched_open(*arguments):
    return Watched(builtins.open(*arguments))


if __name__ == "__main__":
    left = int(sys.argv.pop(1))
    for name in CALLS:
        setattr(os, name, between_moments(getattr(os, name)))
    # Only durable.py's own calls of open, which writes models and nothing else.
    durable.open = watched_open
    main(prog_name="femtogpt")
