"""Printing what is generated, while it is: as text, as coloured text, or a line a token."""

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
        from ..tokenizer.whole_text import WholeText

        self.coloured, self.streams = coloured, streams
        self.text = WholeText(stop)
        self.ready, self.odds = "", []  # odds: one a character

    def begin(self, prompt):
        """Prints a prompt that is to be seen before its continuation."""
        click.echo((prompt or "").encode("utf-8", "surrogateescape"), nl=False)

    def show(self, piece, probability=None):
        """Prints what can be printed by now. Returns False once the stop text was met."""
        self._keep(self.text.take(piece, probability))
        if self.streams:
            self._print()
        return not self.text.ended

    def end(self):
        """Prints the rest, and a newline."""
        self._keep(self.text.rest())
        self._print()
        click.echo()

    def _keep(self, parts):
        for text, probabilities in parts:
            self.ready += text
            if self.coloured:
                self.odds += [min(probabilities)] * len(text)

    def _print(self):
        if self.coloured:
            write(painted(self.ready, self.odds))
        else:
            click.echo(self.ready.encode(), nl=False)
        self.ready, self.odds = "", []


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
