"""How threads that are in kernels share work, and wait for each other.

To come back to Python for it takes some 80 us where several do so at once: one has the interpreter,
and the system lets the others sleep until it is free.

Flags are an array of int64, one for each piece of work; a counter is an array of one.
"""

import threading
import time

import numba

from . import team
from .numeric import kernel
from .vectors import address_of

NOT_YET, DONE, FAILED = 0, 1, 2  # a flag's


@kernel
def take(counter):
    """The number of the next piece of work, from 0 on."""
    return team.add_one(address_of(counter))


@kernel
def tell(flags, place):
    """Says that a piece is done."""
    team.put_number(address_of(flags) + 8 * place, DONE)


@kernel
def wait_for_all(flags):
    """Waits until all pieces are done, or some have failed. Returns whether none has."""
    well = True
    for i in range(flags.size):
        address, spins = address_of(flags) + 8 * i, 0
        while team.number(address) == NOT_YET:
            spins = team.wait(spins)
        well = well and team.number(address) == DONE
    return well


if numba.config.DISABLE_JIT:
    _one_at_a_time = threading.Lock()

    def take(counter):
        with _one_at_a_time:
            counter[0] += 1
            return int(counter[0]) - 1

    def tell(flags, place):
        flags[place] = DONE

    def wait_for_all(flags):
        while (flags == NOT_YET).any():
            time.sleep(0)
        return bool((flags == DONE).all())
