"""What mpiexec and srun tell a process of those that they started with it."""

import os

# MPICH and all with its hydra, Open MPI, Slurm; the first that is there counts, for an mpiexec may
# itself be started by srun.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
NUMBERS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")


def _told(names, otherwise):
    return next((os.environ[name] for name in names if name in os.environ), otherwise)


def launched():
    """Whether mpiexec or srun started this process as one of several."""
    return _told(SIZES, "1") != "1"


def launched_first():
    """Whether it is the first of them, or alone."""
    return not launched() or _told(NUMBERS, "0") == "0"
