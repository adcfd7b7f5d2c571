"""Stopping: the first signal asks for it, the second does it."""

import os
import signal
import socket
import threading
from contextlib import contextmanager

SIGNALS = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop:
    """signal: the number of the first signal to stop, None before."""

    signal = None


@contextmanager
def stop_signals():
    """Yields a Stop. The second signal ends the process at once, with 128 + its number: a save
    writes beside the model and renames, so the last good file stays.

    A thread waits for them, for Python's own handlers run between two lines of the main
    thread, which may be compiling, or writing to a slow disk. What is ignored (SIGHUP
    under nohup) stays ignored.
    """
    stop, before = Stop(), {}
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def watch():
        while number := ours.recv(1):
            if stop.signal:
                os._exit(128 + number[0])
            if number[0] in before:
                stop.signal = number[0]

    for name in SIGNALS:
        number = getattr(signal, name)
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.getsignal(number)
    watcher = threading.Thread(target=watch, name="femtogpt signals", daemon=True)
    watcher.start()
    descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, lambda *_: None)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(descriptor)
        theirs.close()
        watcher.join()
        ours.close()
