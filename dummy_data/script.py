"""What the scripts of this folder share when they are run: options and printing.

They import it only then, as `script`: Python looks for a script's imports beside it.
"""

import argparse
import errno
import os
import sys
from collections.abc import Iterator


def parser(description: str, lines: int | None = None) -> argparse.ArgumentParser:
    """Knows --seed, and --lines where it has a default; a script may add its own options."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--seed", type=int, help="same seed, same data (default: different each time)"
    )
    if lines is not None:
        result.add_argument(
            "--lines", type=number_of_lines, default=lines,
            help="how many to print (default: %(default)s)",
        )
    return result


def number_of_lines(text: str) -> int:
    """The argument of --lines; argparse words the complaint about a bad one."""
    if int(text) < 0:
        raise ValueError
    return int(text)


def write(pieces: Iterator[str]) -> None:
    """Print the pieces: the same bytes on every system, and no traceback after `| head`."""
    # Windows would print "\r\n", and both it and the environment may choose another encoding.
    # What was read as surrogate escapes, bytes that are no UTF-8, goes out as it came.
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
    try:
        sys.stdout.writelines(pieces)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # EINVAL: what Windows says
            raise
        # The reader has gone. What is still buffered would be written, and fail, once
        # more when Python exits, so it goes nowhere instead.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
