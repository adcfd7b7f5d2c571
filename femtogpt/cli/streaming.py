"""Printing what is generated, while it is: as text, as coloured text, or a line a token."""

import codecs

import click

from .colours import colours_wanted, legend, painted, write
from .options import printable, say


def drawn(model, probabilities, ids, count, seeds, ended, temperature, top_k, top_p):
    """What generate_together yields for ids and each of the seeds; with `probabilities`, what
    generate_with_probabilities does."""
    from ..sampler import generate_together, generate_with_probabilities

    draw = generate_with_probabilities if probabilities else generate_together
    return draw(model.config, model.parameters, [ids] * len(seeds), count, seeds, temperature,
                top_k, top_p, ended)


def say_legend():
    """What the colours stand for, where there are any."""
    if colours_wanted():
        say(legend())


def make_printer(stop, probabilities, streams=True):
    """What prints tokens: their text; with `probabilities` in colours, or else in rows."""
    if probabilities and not colours_wanted():
        return Rows(stop, streams)
    return Printer(stop, probabilities, streams)


class Printer:
    """Streams bytes as text: whole characters only, and never a part of the stop text."""

    def __init__(self, stop, coloured=False, streams=True):
        """coloured: each character by its token's probability; of several tokens that make one,
        by the least. streams: else all is kept for end()."""
        self.stop, self.coloured, self.streams = stop, coloured, streams
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.ready, self.waiting, self.odds = "", "", []  # odds: of both, one a character
        self.least = 1.0  # of the tokens of a character that is not whole yet

    def begin(self, prompt):
        """Prints a prompt that is to be seen before its continuation."""
        click.echo((prompt or "").encode("utf-8", "surrogateescape"), nl=False)

    def show(self, piece, probability=None):
        """Prints what can be printed by now. Returns False once the stop text was met."""
        self._decode(piece, probability)
        keep = 0
        if self.stop:
            if self.stop in self.waiting:
                self.waiting = self.waiting.split(self.stop)[0]
                self.decoder.reset()  # of what is behind it
                return False
            keep = next((n for n in range(min(len(self.stop), len(self.waiting)), 0, -1)
                         if self.stop.startswith(self.waiting[-n:])), 0)
        held = len(self.waiting) - keep
        self.ready, self.waiting = self.ready + self.waiting[:held], self.waiting[held:]
        if self.streams:
            self._print()
        return True

    def end(self):
        """Prints the rest, and a newline."""
        self._decode(b"", None, final=True)
        self.ready, self.waiting = self.ready + self.waiting, ""
        self._print()
        click.echo()

    def _decode(self, piece, probability, final=False):
        text = self.decoder.decode(piece, final)
        if probability is not None:
            self.least = min(self.least, probability)
        if text:
            self.waiting += text
            self.odds += [self.least] + [probability] * (len(text) - 1)
            begun = self.decoder.getstate()[0] and probability is not None
            self.least = probability if begun else 1.0

    def _print(self):
        if self.coloured:
            write(painted(self.ready, self.odds[: len(self.ready)]))
        else:
            click.echo(self.ready.encode(), nl=False)
        self.ready, self.odds = "", self.odds[len(self.ready) :]


class Rows:
    """Prints a line a token, its probability and its piece, those of the stop text too."""

    def __init__(self, stop, streams=True):
        self.stop, self.streams = (stop or "").encode(), streams
        self.tail, self.lines = b"", []

    def begin(self, prompt):
        """Prints nothing: no token of it was drawn."""

    def show(self, piece, probability):
        """Takes a token. Returns False once the stop text was met."""
        line = f"{probability:.4g}\t{printable(piece)}"
        if self.streams:
            click.echo(line)
        else:
            self.lines.append(line)
        self.tail += piece
        met = bool(self.stop) and self.stop in self.tail
        self.tail = self.tail[-len(self.stop) :] if self.stop else b""
        return not met

    def end(self):
        """Prints what was kept."""
        for line in self.lines:
            click.echo(line)
