"""A small process beside the ranks of a machine, which tells the one that was killed.

mpiexec tells that one was, and kills the others; which it was MPICH's does not know. Each rank
holds a connection to the witness: the first that is closed without a word is that of the one.
Run as a file by itself it needs the standard library alone.
"""

import os
import select
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext, suppress


@contextmanager
def witnessed(ranks, name):
    """In here a witness tells, if this rank ends without leaving. name: what it calls the rank.

    Where none can be started (Windows) there is none: that is no reason not to train.
    """
    with tempfile.TemporaryDirectory() if ranks.first_here else nullcontext() as folder:
        path, connection, process = None, None, None
        with suppress(OSError, AttributeError), socket.socket(socket.AF_UNIX) as server:
            if ranks.first_here:
                path = os.path.join(folder, "witness")
                server.bind(path)
                server.listen(ranks.here)
                connection = _connect(path, name)
                process = subprocess.Popen(
                    [sys.executable, "-I", __file__, str(server.fileno())],
                    pass_fds=[server.fileno()], stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, start_new_session=True)  # not killed with the ranks
        path = ranks.decided_here(path if process else None)
        if path and not ranks.first_here:
            with suppress(OSError):
                connection = _connect(path, name)
        ranks.told({})  # until all have connected
    try:
        yield
    finally:
        if connection:
            with suppress(OSError):
                connection.sendall(b"\n")
            connection.close()
        if process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)


def _connect(path, name):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(name.encode())
    return connection


def watch(server):
    """The names of those whose connections to server end first without a word; nobody's, if one
    takes its leave."""
    names = {}
    while True:
        gone = []
        for ready in select.select([server, *names], [], [])[0]:
            if ready is server:
                names[server.accept()[0]] = b""
                continue
            said = ready.recv(1000)
            if said.endswith(b"\n"):
                return []
            if not said:
                gone.append(names.pop(ready).decode())
            else:
                names[ready] += said
        if gone:
            return gone


if __name__ == "__main__":
    for lost in watch(socket.socket(fileno=int(sys.argv[1]))):
        os.write(2, f"femtogpt: {lost}, ended without a word (killed? out of memory?), and so all "
                    "end; `femtogpt train` goes on from the last save\n".encode())
