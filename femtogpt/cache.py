"""Arrays too large for memory, mapped from files in the user's cache folder."""

import contextlib
import hashlib
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import platformdirs

FOLDER = Path(platformdirs.user_cache_dir("femtogpt", appauthor=False)) / "tokens"
LIMIT = 16 * 2**30  # bytes of files that are kept
DAY = 86400
BLOCK = 1 << 20  # bytes
DIGEST = hashlib.sha256().digest_size


def cached(key, dtype, parts, warn=None):
    """The array (n,) that parts() yields in pieces, read-only: from its file, made once.

    key: a hash (hex) of all that decides the array. parts: called where there is no sound
    file yet; it yields 1-D arrays of dtype. Where no file can be written the array is
    in memory, and warn, if given, is called with a sentence that says so.
    """
    path = FOLDER / f"{key}.tokens"
    if _sound(path, key):
        with contextlib.suppress(OSError):
            os.utime(path)  # what was used last is dropped last
        return _map(path, dtype)
    try:
        _write(path, key, parts())
        return _map(path, dtype)
    except OSError as error:  # the cache's own: a text's are FemtoErrors by now
        if warn:
            warn(f"the cache folder {FOLDER} cannot be written ({error.strerror}): the tokens "
                 "are kept in memory")
    memory = io.BytesIO()  # grows in place, where a list of parts would be there twice
    for part in parts():
        memory.write(part)
    return np.frombuffer(memory.getbuffer(), dtype)


def _map(path, dtype):
    count = (path.stat().st_size - DIGEST) // np.dtype(dtype).itemsize
    return np.memmap(path, dtype, "r", shape=(count,)).view(np.ndarray)


def _sound(path, key):
    """Whether the file at path is whole: the array's bytes, then a hash of them and the key."""
    digest = hashlib.sha256(key.encode())
    try:
        with open(path, "rb") as file:
            left = os.fstat(file.fileno()).st_size - DIGEST
            while left > 0 and (block := file.read(min(left, BLOCK))):
                digest.update(block)
                left -= len(block)
            return left == 0 and file.read() == digest.digest()
    except OSError:
        return False


def _write(path, key, parts):
    """Beside path, then renamed: whoever else makes the same file now makes the same bytes."""
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=FOLDER, suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:
            digest = hashlib.sha256(key.encode())
            for part in parts:
                file.write(part)
                digest.update(part)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(beside, path)
        except PermissionError:  # Windows: another has made the file and mapped it already
            if not _sound(path, key):
                raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(beside)
    _drop_oldest(keep=path)


def _drop_oldest(keep):
    """Until the others fit in LIMIT with `keep`; what a killed process left goes after a day.

    A file that another process has mapped lives on for it (on Windows it stays)."""
    with contextlib.suppress(OSError):  # another may be at it too
        files = [(file.stat(), file) for file in FOLDER.iterdir() if file != keep]
        room = LIMIT - keep.stat().st_size
        for stat, file in sorted(files, key=lambda entry: -entry[0].st_mtime):
            room -= stat.st_size
            abandoned = file.suffix == ".tmp" and stat.st_mtime < time.time() - DAY
            if abandoned or (file.suffix == ".tokens" and room < 0):
                with contextlib.suppress(OSError):
                    file.unlink()


def scratch(size, dtype):
    """An array (size,) of zeros to work in; where there is room its file, without a name."""
    try:
        FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=FOLDER) as file:
            return np.memmap(file, dtype, "w+", shape=(size,)).view(np.ndarray)
    except OSError:
        return np.zeros(size, dtype)
