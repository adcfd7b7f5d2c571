"""What this machine is, and what memory of it this process has."""

import contextlib
import ctypes
import gc
import os
import platform
import re
import subprocess
import sys
from pathlib import Path


def available_processors():
    """How many of the processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def processor_name():
    """The processor's, as its maker calls it, with family and model where those are told."""
    if sys.platform == "darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"],
                                       text=True).strip()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = [re.search(rf"^{field}\s*: (.*)", text, re.M)
             for field in ("model name", "cpu family", "model")]
    if all(found):
        return "{} (family {}, model {})".format(*(field[1] for field in found))
    return platform.processor() or platform.machine()


def resident_mb():
    """The memory this process holds, in MB of 2**20 bytes: now on Linux, the most it ever held
    on macOS, None where neither is told."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def give_back_memory():
    """Gives the system what was freed: the C library (glibc) else keeps it for later."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
