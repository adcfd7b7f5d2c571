"""What the processes of one training, under mpiexec, have to see to together."""

import hashlib
import socket
import sys
import time
from contextlib import contextmanager

import click

from ..errors import FemtoError

# mpiexec passes on what a process says; told to abort, it ends without reading what is still on
# its way. Seconds for that way.
ON_ITS_WAY = 1.0


class NotAlike(FemtoError):
    """The processes would not train the same."""

    agreed = True


@contextmanager
def together(ranks):
    """In here, what ends one process ends all: else they would wait for it for ever. An error that
    all have (agreed) the first one tells."""
    try:
        yield
    except BaseException as error:
        if ranks.size == 1:
            raise
        if not getattr(error, "agreed", False):
            where = f"process {ranks.rank} of {ranks.size}, on {socket.gethostname()}"
            click.echo(f"femtogpt: {where}: {error or type(error).__name__}", err=True)
            sys.stderr.flush()
            time.sleep(ON_ITS_WAY)
            ranks.abort()
        if ranks.first:
            raise
        sys.exit(1)


def require_alike(ranks, model, run, training):
    """Refuses to start where a process has another version, file, data or options."""
    if ranks.size == 1:
        return
    import numba
    import numpy

    from .. import __version__
    from ..layers.vectors import VECTORS

    facts = {"femtogpt": __version__, "numpy": numpy.__version__, "numba": numba.__version__,
             "processor's vectors": str(VECTORS), "step": model.step,
             "model": hashlib.sha256(model.parameters).hexdigest()[:16],
             "tokens to train on": len(training), **run.to_json()}
    first, *others = ranks.told(facts)
    for rank, other in enumerate(others, 1):
        unlike = [f"{name} {other.get(name)} is not {value}" for name, value in first.items()
                  if other.get(name) != value]
        if unlike:
            raise NotAlike(f"process {rank} of {ranks.size} differs from the first: "
                           f"{'; '.join(unlike)}: start all with the same version, files and "
                           "options")
