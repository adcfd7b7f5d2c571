"""Probabilities as colours: of the cell behind a character, since a blank has no other."""

import os
import re
import sys
from itertools import groupby

import click

# (at least, the background's number among a terminal's 256 colours), the likely blue, the unlikely
# red, which the colour-blind tell apart too. Black stands on each at a contrast of 7 and more,
# whether the terminal is dark or light.
COLOURS = ((0.9, 117), (0.5, 159), (0.2, 230), (0.05, 222), (0.01, 215), (0.0, 203))
BLACK = 16
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def colours_wanted():
    """Whether standard output gets colours: a terminal that has them, unless NO_COLOR is set
    (no-color.org); FORCE_COLOR, for `less -R`, has them in a pipe too."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _on(colour, text):
    return f"\x1b[38;5;{BLACK};48;5;{colour}m{text}\x1b[0m"


def legend():
    """What each colour stands for, in one line."""
    names = [f"{least:.0%} up" for least, _ in COLOURS[:-1]] + ["less"]
    cells = (_on(colour, f" {name} ") for name, (_, colour) in zip(names, COLOURS, strict=True))
    return "how likely each token was: " + "".join(cells)


def painted(text, odds):
    """text, each character on the colour of its probability. odds: as many; None: no colour.

    A newline's colour is that of a blank before it: behind it, some terminals would colour the
    rest of the line. Control characters stand as escapes, since they might be half of a
    terminal's command.
    """
    parts = []
    for colour, run in groupby(zip(text, odds, strict=True), lambda pair: _colour(pair[1])):
        letters = "".join(letter for letter, _ in run)
        if colour is not None:
            *lines, last = CONTROLS.sub(lambda found: ascii(found[0])[1:-1], letters).split("\n")
            letters = "".join(_on(colour, f"{line} ") + "\n" for line in lines)
            letters += _on(colour, last) if last else ""
        parts.append(letters)
    return "".join(parts)


def _colour(probability):
    if probability is None:
        return None
    return next(colour for least, colour in COLOURS if probability >= least)


def write(text):
    """Writes what is painted; click makes of it what Windows' terminals understand."""
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, "replace").decode(encoding), nl=False, color=True)
