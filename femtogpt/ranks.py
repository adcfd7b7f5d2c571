"""The processes of one training: ranks, under mpiexec or srun; elsewhere one, that is alone.

All ranks go through the same steps with the same parameters. Each computes some shards of every
batch, owns a range of the parameters, whose gradient it sums and which it updates, and has the
rest from the others. What they decide (to stop, to save) they decide together, so that none
waits for what another does not send.
"""

import itertools
import json
import os

import numpy as np

from .errors import FemtoError

# What mpiexec (MPICH, Open MPI) and srun tell a process of how many it is one.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def cut(count, parts):
    """range(count) in `parts` runs that differ by one at most: a list of (start, stop)."""
    edges = [count * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(edges))


class Ranks:
    """rank of size. The one that is alone needs no MPI and sends nothing."""

    rank, size, here = 0, 1, 1  # here: how many there are on this machine

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

    def exchange(self, sent, received, owners):
        """Slices of rows to the ranks that own them.

        sent: this rank's rows, flat float32 each, of which owners[q] goes to rank q. received: of
        each rank, arrays for the rows it sends, as long as this rank's range (its own: none).
        """

    def decided(self, values):
        """The first rank's list of numbers, by all."""
        return values

    def highest(self, value):
        """The highest of all ranks' numbers."""
        return value

    def told(self, facts):
        """A list of what each rank tells (a dict that JSON can hold)."""
        return [facts]

    def abort(self):
        """Ends all processes, at once."""


class MPIRanks(Ranks):
    """Ranks of an MPI communicator."""

    def __init__(self, mpi):
        self.mpi, self.world = mpi, mpi.COMM_WORLD
        self.rank, self.size = self.world.rank, self.world.size
        self.here = self.world.Split_type(mpi.COMM_TYPE_SHARED).size

    def gather(self, values, count):
        found = np.empty(count)
        runs = cut(count, self.size)
        counts, places = [b - a for a, b in runs], [a for a, _ in runs]
        self.world.Allgatherv(np.asarray(values, np.float64),
                              [found, counts, places, self.mpi.DOUBLE])
        return found

    def _runs(self, owners):
        return [stop - start for start, stop in owners], [start for start, _ in owners]

    def share(self, flat, owners):
        self.world.Allgatherv(self.mpi.IN_PLACE, [flat, *self._runs(owners), self.mpi.FLOAT])

    def share_squares(self, squares, owners):
        counts, _ = self._runs(owners)
        found, places = np.empty(sum(counts)), np.cumsum([0, *counts])
        start, stop = owners[self.rank]
        self.world.Allgatherv(squares[start:stop],
                              [found, counts, places[:-1].tolist(), self.mpi.DOUBLE])
        for (start, stop), place in zip(owners, places, strict=False):
            squares[start:stop] = found[place : place + stop - start]

    def collect(self, flat, owners):
        start, stop = owners[self.rank]
        if self.first:
            self.world.Gatherv(self.mpi.IN_PLACE, [flat, *self._runs(owners), self.mpi.FLOAT])
        else:
            self.world.Gatherv([flat[start:stop], self.mpi.FLOAT], None)

    def exchange(self, sent, received, owners):
        waiting = []
        for q, rows in enumerate(received):
            waiting += [self.world.Irecv(row, q, tag) for tag, row in enumerate(rows)]
        for q, (start, stop) in enumerate(owners):
            if q != self.rank:
                waiting += [self.world.Isend(row[start:stop], q, tag)
                            for tag, row in enumerate(sent)]
        self.mpi.Request.Waitall(waiting)

    def decided(self, values):
        return self.world.bcast(values)

    def highest(self, value):
        return self.world.allreduce(value, self.mpi.MAX)

    def told(self, facts):
        return [json.loads(text) for text in self.world.allgather(json.dumps(facts))]

    def abort(self):
        self.world.Abort(1)


ALONE = Ranks()


def launched():
    """Whether mpiexec or srun started this process as one of several."""
    return any(os.environ.get(name, "1") != "1" for name in SIZES)


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
    return MPIRanks(MPI)
