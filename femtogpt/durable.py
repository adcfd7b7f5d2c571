"""Files that outlive their writer: written beside the old one and renamed over it, one writer at
a time."""

import contextlib
import errno
import os
import platform
import shutil
import stat
import time
from pathlib import Path

import filelock

from .errors import FemtoError

WINDOWS_PATIENCE = 5  # seconds that a rename waits for a reader, where that forbids it


def previous_path(path):
    """Where the file that stood at path before the newest is kept."""
    return Path(f"{path}.previous")


def replace(path, parts, keep_previous=True):
    """Writes parts (bytes-like objects) as the file at path: at every moment a whole one is there.

    Beside the target, made to last, then renamed over it. keep_previous: the file that
    stood there becomes previous_path(path). A link stays one: the file it stands for is
    written. Raises FemtoError, which names the file, where that can't be; the file that
    was there is then untouched.
    """
    temporary = None
    try:
        path = Path(os.path.realpath(path))
        temporary = Path(f"{path}.writing")
        temporary.unlink(missing_ok=True)  # a killed process's, or a link that someone put there
        with open(temporary, "xb") as file:
            with contextlib.suppress(OSError):
                _copy_mode(path, file)
            for part in parts:
                file.write(part)
            file.flush()
            _to_disk(file.fileno())
        if keep_previous:
            _keep_previous(path)
        _rename(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        for stray in (temporary, Path(f"{path}.linking")):
            with contextlib.suppress(OSError, TypeError):
                os.unlink(stray)
        raise FemtoError(f"cannot write {path}: {error.strerror}. The file that was there is "
                         "untouched; make room or choose another place") from None


def require_writable(path):
    """Raises FemtoError, which names the file, where replace could not write it: before long work.
    """
    temporary = Path(f"{os.path.realpath(path)}.writing")
    try:
        temporary.unlink(missing_ok=True)
        open(temporary, "xb").close()
        temporary.unlink()
    except OSError as error:
        raise FemtoError(f"cannot write {path}: {error.strerror}. Choose another place") from None


def _copy_mode(path, file):
    """What only its owner could read stays so."""
    if hasattr(os, "fchmod"):
        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))


def _to_disk(descriptor):
    """fsync, and on a Mac what makes the drive write its own cache out too."""
    try:
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    except (ImportError, AttributeError, OSError):
        try:
            os.fsync(descriptor)
        except OSError as error:  # a file system that knows no fsync can still hold a model
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
                raise


def _keep_previous(path):
    """Lets path.previous be the file at path, which stays there too."""
    if not path.exists():
        return
    linked = Path(f"{path}.linking")
    try:
        linked.unlink(missing_ok=True)
        os.link(path, linked)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, linked)
    _rename(linked, previous_path(path))


def _rename(source, target):
    """os.replace; on Windows, where who reads the target forbids it, after a while."""
    until = time.monotonic() + WINDOWS_PATIENCE
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if os.name != "nt" or time.monotonic() > until:
                raise
            time.sleep(0.05)


def _sync_folder(folder):
    """Makes a rename last through a power cut, where folders can be opened and synced: not on
    Windows nor on some network file systems."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def lock(path, what="trained", option="--model"):
    """Holds a model, or another file, for one writer. Raises FemtoError, which names the holder,
    what is done to it and the option to take another, if it is taken.

    The operating system drops the lock when its holder dies, so none is ever stale.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FemtoError(f"{path}: there is no folder {path.parent}; make it first")
    beside = path.with_name(f".{path.name}.lock")
    held = filelock.FileLock(beside, timeout=0)
    try:
        held.acquire()
    except filelock.Timeout:
        holder = "another process"
        with contextlib.suppress(OSError):
            holder = beside.read_text() or holder
        raise FemtoError(f"{path} is being {what} by {holder}: wait for it, stop it, or work on "
                         f"another {option}") from None
    except NotImplementedError:  # a file system without locks: training there beats refusing to
        pass
    except OSError as error:
        raise FemtoError(f"cannot write beside {path}: {error.strerror}") from None
    try:
        with contextlib.suppress(OSError):
            beside.write_text(f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        if not path.exists():  # there was nothing to protect
            with contextlib.suppress(OSError):
                beside.unlink()
        held.release()
