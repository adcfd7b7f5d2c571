"""What the processes of one training, under mpiexec, have to see to together."""

import hashlib
import socket
import sys
import time
from contextlib import contextmanager, suppress

import click

from ..errors import FemtoError
from ..watchdog import Watchdog
from .witness import witnessed

# mpiexec passes on what a process says; told to abort, it ends without reading what is still on
# its way. Seconds for that way.
ON_ITS_WAY = 1.0
WAIT_SECONDS = 30  # for others, before a process tells that it waits; longer than most saves take


class NotAlike(FemtoError):
    """The processes would not train the same."""

    agreed = True


@contextmanager
def together(ranks, reached):
    """In here, what ends one process ends all: else they would wait for it for ever. An error that
    all have (agreed) the first one tells. One that has to wait for long tells that too: of whom
    nothing is heard, he is waited for. reached: a function that gives the model's step, or None.
    """
    if ranks.size == 1:
        yield
        return
    where = f"process {ranks.rank} of {ranks.size}, on {socket.gethostname()}"

    def tell(what, seconds):
        step = reached()
        at = "at the start" if step is None else f"after step {step}"
        with suppress(OSError):
            click.echo(f"femtogpt: {where}, has waited {seconds:.0f} s for the others in {what}, "
                       f"{at}", err=True)

    try:
        with Watchdog(WAIT_SECONDS, tell) as ranks.watchdog, witnessed(ranks, where):
            yield
    except BaseException as error:
        if not getattr(error, "agreed", False):
            click.echo(f"femtogpt: {where}: {error or type(error).__name__}", err=True)
            sys.stderr.flush()
            time.sleep(ON_ITS_WAY)
            ranks.abort()
        if ranks.first:
            raise
        sys.exit(1)


def let_be_heard(ranks):
    """Before an exit code other than 0, at which mpiexec may end without reading what is still on
    its way (seen once in CI)."""
    if ranks.size > 1:
        sys.stderr.flush()
        time.sleep(ON_ITS_WAY)


def require_alike(ranks, model, run, training, **options):
    """Refuses to start where a process has another version, file, data or options. options: those
    that decide together with the run's when something is done."""
    if ranks.size == 1:
        return
    import numba
    import numpy

    from .. import __version__
    from ..layers.vectors import VECTORS

    state = model.optimizer
    moments = () if state is None else (state.kind, state.t, _digest(state.m), _digest(state.v))
    facts = {"femtogpt": __version__, "numpy": numpy.__version__, "numba": numba.__version__,
             "processor's vectors": str(VECTORS), "step": model.step,
             "model": _digest(model.parameters), "moments": " ".join(map(str, moments)),
             "tokens to train on": len(training), **run.to_json(), **options}
    first, *others = ranks.told(facts)
    for rank, other in enumerate(others, 1):
        unlike = [f"{name} {other.get(name)} is not {value}" for name, value in first.items()
                  if other.get(name) != value]
        if unlike:
            raise NotAlike(f"process {rank} of {ranks.size} differs from the first: "
                           f"{'; '.join(unlike)}: start all with the same version, files and "
                           "options")


def _digest(array):
    return hashlib.sha256(array).hexdigest()[:16]
