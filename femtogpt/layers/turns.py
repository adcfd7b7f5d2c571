"""Micro-batches of one shard that several threads work on, and that add to its gradient in turn.

A gradient of their own for each thread would be another 650 MB at 162 million parameters. So all
add to one, and for the same bits with any number of threads they do so in the micro-batches'
order: each passes the same stages, and before it adds something in one of them it waits until the
micro-batch before has done that stage. Who is behind once does not wait again.

A turn is the address of two words, or 0 where there is nobody to wait for: how many stages the
micro-batch before has done, and after it the same of this one.
"""

import numpy as np

from . import team
from .numeric import kernel

NO_TURN = 0
ALL = 2**62  # more stages than there are


class Turns:
    """Of one shard. Iterated, by any number of threads, it gives each micro-batch (number, (start,
    stop)) once, in order: so who waits does so for one that is at work, or done.

    parts: (start, stop) of each micro-batch. threads: how many work on them. losses: (n,), of
    each, to be filled.
    """

    def __init__(self, parts, threads=1, losses=None):
        self.last, self.losses = len(parts) - 1, np.zeros(len(parts)) if losses is None else losses
        self._left = enumerate(parts)
        # The first waits for nobody, and who is alone for none.
        self._done = np.array([ALL] + [0] * len(parts)) if threads > 1 else None

    def __iter__(self):
        return self._left

    @property
    def loss(self):
        return sum(self.losses.tolist())

    def turn(self, number):
        """That micro-batch's, valid as long as this is."""
        if self._done is None:
            return NO_TURN
        return self._done.ctypes.data + number * self._done.itemsize

    def end(self):
        """Nobody is to wait any more, for one has failed."""
        if self._done is not None:
            self._done[:] = ALL


@kernel
def wait_for(turn, stages):
    """Until the micro-batch before has done so many."""
    if turn != NO_TURN:
        spins = 0
        while team.number(turn) < stages:
            spins = team.wait(spins)


@kernel
def end_stage(turn, stages):
    """This one has done so many."""
    if turn != NO_TURN:
        team.put_number(turn + 8, stages)
