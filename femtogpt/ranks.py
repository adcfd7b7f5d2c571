"""The processes of one training: ranks, under mpiexec or srun; elsewhere one, that is alone.

All ranks go through the same steps with the same parameters. Each computes some shards of every
batch, owns a range of the parameters, whose gradient it sums and which it updates, and has the
rest from the others. What they decide (to stop, to save) they decide together, so that none
waits for what another does not send.
"""

import functools
import itertools
import json
from contextlib import nullcontext

import numpy as np

from .errors import FemtoError
from .launch import launched

POLL_SECONDS = 0.001  # between looks at messages, while something is computed


def cut(count, parts):
    """range(count) in `parts` runs that differ by one at most: a list of (start, stop)."""
    edges = [count * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(edges))


class Ranks:
    """rank of size. The one that is alone needs no MPI and sends nothing."""

    rank, size, here = 0, 1, 1  # here: how many there are on this machine
    first_here = True  # whether it is the first of those

    @property
    def first(self):
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    def own(self, count):
        """(start, stop) of this rank's part of `count` things."""
        return cut(count, self.size)[self.rank]

    def gather(self, values, count):
        """All `count` numbers, float64, of which each rank gives its own()."""
        return np.asarray(values, np.float64)

    def share(self, flat, owners):
        """Each rank's range of a flat float32 vector to all. owners: (start, stop) of each rank."""

    def share_squares(self, squares, owners):
        """As share, of float64; ranges may overlap where both ranks have the same."""

    def collect(self, flat, owners):
        """Each rank's range to the first rank's flat."""

    def exchange(self, sent, received, hurry):
        """Arrays to each rank, and from each.

        sent, received: of each rank a list of flat float32 arrays, as long as what that one
        receives and sends (its own: none). hurry: a threading.Event; until it is set something else
        is computed meanwhile.
        """

    def waiting(self, what):
        """A context manager: in it this rank waits for others. what: a phrase for it."""
        return nullcontext()

    def decided(self, values):
        """The first rank's list of numbers, by all."""
        return values

    def decided_here(self, value):
        """As decided, of one value by the first on this machine."""
        return value

    def highest(self, value):
        """The highest of all ranks' numbers."""
        return value

    def told(self, facts):
        """A list of what each rank tells (a dict that JSON can hold)."""
        return [facts]

    def abort(self):
        """Ends all processes, at once."""


def _waits_in(what):
    """Has a method of MPIRanks, which waits for other ranks, say so to the watchdog."""
    def wrap(method):
        @functools.wraps(method)
        def waiting(self, *arguments):
            with self.waiting(what):
                return method(self, *arguments)
        return waiting
    return wrap


class MPIRanks(Ranks):
    """Ranks of an MPI communicator. watchdog: a Watchdog that looks after their waits, or None."""

    watchdog = None

    def __init__(self, mpi):
        self.mpi, self.world = mpi, mpi.COMM_WORLD
        self.rank, self.size = self.world.rank, self.world.size
        self._machine = self.world.Split_type(mpi.COMM_TYPE_SHARED)
        self.here, self.first_here = self._machine.size, self._machine.rank == 0

    def waiting(self, what):
        return self.watchdog.over(what) if self.watchdog else nullcontext()

    @_waits_in("the exchange of losses")
    def gather(self, values, count):
        found = np.empty(count)
        runs = cut(count, self.size)
        counts, places = [b - a for a, b in runs], [a for a, _ in runs]
        self.world.Allgatherv(np.asarray(values, np.float64),
                              [found, counts, places, self.mpi.DOUBLE])
        return found

    def _runs(self, owners):
        return [stop - start for start, stop in owners], [start for start, _ in owners]

    @_waits_in("the exchange of parameters")
    def share(self, flat, owners):
        self.world.Allgatherv(self.mpi.IN_PLACE, [flat, *self._runs(owners), self.mpi.FLOAT])

    @_waits_in("the exchange of the gradient's norm")
    def share_squares(self, squares, owners):
        counts, _ = self._runs(owners)
        found, places = np.empty(sum(counts)), np.cumsum([0, *counts])
        start, stop = owners[self.rank]
        self.world.Allgatherv(squares[start:stop],
                              [found, counts, places[:-1].tolist(), self.mpi.DOUBLE])
        for (start, stop), place in zip(owners, places, strict=False):
            squares[start:stop] = found[place : place + stop - start]

    @_waits_in("the save")
    def collect(self, flat, owners):
        start, stop = owners[self.rank]
        if self.first:
            self.world.Gatherv(self.mpi.IN_PLACE, [flat, *self._runs(owners), self.mpi.FLOAT])
        else:
            self.world.Gatherv([flat[start:stop], self.mpi.FLOAT], None)

    def exchange(self, sent, received, hurry):
        requests = [self.world.Irecv(array, q, tag) for q, arrays in enumerate(received)
                    for tag, array in enumerate(arrays)]
        requests += [self.world.Isend(array, q, tag) for q, arrays in enumerate(sent)
                     for tag, array in enumerate(arrays)]
        # MPI moves large messages only while it is called, and one that waits in it takes a
        # processor.
        while not self.mpi.Request.Testall(requests):
            if hurry.wait(POLL_SECONDS):
                self.mpi.Request.Waitall(requests)
                return

    @_waits_in("hearing what the first one decides")
    def decided(self, values):
        return self.world.bcast(values)

    @_waits_in("hearing what the first one here decides")
    def decided_here(self, value):
        return self._machine.bcast(value)

    @_waits_in("the question whether to stop")
    def highest(self, value):
        return self.world.allreduce(value, self.mpi.MAX)

    @_waits_in("hearing what each one tells")
    def told(self, facts):
        return [json.loads(text) for text in self.world.allgather(json.dumps(facts))]

    def abort(self):
        self.world.Abort(1)


ALONE = Ranks()


def find():
    """The Ranks that this process belongs to. MPI is imported only where launched()."""
    if not launched():
        return ALONE
    try:
        from mpi4py import MPI
    except ImportError:
        raise FemtoError("started as one of several processes, but without mpi4py they cannot "
                         "speak: pip install 'femtogpt[mpi]', or start one") from None
    if MPI.COMM_WORLD.size == 1:
        raise FemtoError("started as one of several processes, but mpi4py is of another MPI and "
                         "finds one: use the mpiexec that came with it")
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise FemtoError("this MPI may be called by the main thread alone, and femtogpt sends from "
                         "another: build mpi4py with an MPI that has MPI_THREAD_SERIALIZED")
    return MPIRanks(MPI)
