"""Arrays for what is done again and again, block by block of a text."""

from __future__ import annotations

import numpy as np

MOST = 1 << 24  # bytes of an array that is kept: a block's need fewer, a whole text's may not stay


class Room:
    """Gives the same array each time it is asked for one of that name, grown if need be. Not for
    two threads at once.

    A thread gives memory back to the system when it is done with a block, and to get it again, a
    page at a time, took a fifth of the time of encoding on two threads (a Xeon).
    """

    def __init__(self):
        self._arrays = {}

    def array(self, name: str, length: int, dtype: type) -> np.ndarray:
        """(length,), of whatever was in it before; valid until that name is asked for again."""
        kept = self._arrays.get(name)
        if kept is None or len(kept) < length:
            kept = np.empty(length, dtype)
            if kept.nbytes <= MOST:
                self._arrays[name] = kept
        return kept[:length]
