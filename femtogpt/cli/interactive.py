"""femtogpt generate --interactive: prompt after prompt."""

import sys
from contextlib import suppress
from importlib import import_module

import click

from ..errors import FemtoError
from .options import printable, say, say_if_compiling
from .streaming import drawn, make_printer, say_legend

SIGN = "> "
NONE = "off"  # the word for an option that is not given
MAY_BE_OFF = ("top_k", "top_p", "seed", "stop")
HELP = """\
/keep                from here on, what is said stays before what comes
/forget              what was kept is dropped, and no more is kept
/quit                the end, as the end of file (Ctrl-D)
/NAME tells an option, /NAME VALUE sets it, /NAME off takes back top-k, top-p,
seed or stop. In /stop, \\n is a newline. Ctrl-C ends a continuation. An empty
line goes on with what was kept, or begins a line. // begins a prompt with /."""


def lines(first=None):
    """Yields what is typed, or piped, line by line, after `first` if that is given."""
    if first is not None:
        yield first
    if not sys.stdin.isatty():
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        for line in sys.stdin:
            yield line.removesuffix("\n")
        return
    sys.stdin.reconfigure(errors="surrogateescape")
    with suppress(ImportError):  # Windows has its own
        import_module("readline")  # from here on input() has editing and history
    while True:
        line = None
        try:
            if not sys.stdout.isatty():  # where input() would write the sign
                click.echo(SIGN, nl=False, err=True)
            line = input(SIGN if sys.stdout.isatty() else "")
        except KeyboardInterrupt:  # the line is given up
            click.echo(err=True)
        except EOFError:
            click.echo(err=True)
            return
        if line is not None:
            yield line


class Conversation:
    """Answers lines: a prompt by its continuation, a command (/NAME) by obeying."""

    def __init__(self, model, settings, echo, probabilities):
        """settings: generate's options count, temperature, top_k, top_p, seed, stop by name. echo:
        whether to print a prompt before its continuation, unless it was typed there."""
        self.model, self.settings, self.probabilities = model, settings, probabilities
        self.terminal = sys.stdin.isatty()
        self.echo = echo and not self.terminal
        self.keeps, self.kept = False, []  # the ids of what was said
        self.options = {p.name: p for p in click.get_current_context().command.params
                        if p.name in settings}

    def hold(self, lines):
        """Answers each line, up to /quit."""
        say_if_compiling(what="text")
        if self.terminal:
            say("A line is continued. /help tells the commands, Ctrl-D ends.")
        if self.probabilities:
            say_legend()
        for line in lines:
            if not line.startswith("/"):
                self.answer(line)
            elif line.startswith("//"):
                self.answer(line[1:])
            elif line.strip() == "/quit":
                return
            else:
                self.obey(*line[1:].rstrip().partition(" ")[::2])

    def answer(self, prompt):
        """Prints what continues the prompt, until Ctrl-C at most."""
        from ..sampler import random_seed

        settings = dict(self.settings)
        seed, stop = settings.pop("seed"), settings.pop("stop")
        try:
            said = self._ids(prompt)
        except FemtoError as error:
            say(error)
            return
        printer = make_printer(stop, self.probabilities)
        try:
            printer.begin(prompt if self.echo else None)
            for _, token, *probability in drawn(self.model, self.probabilities, list(said),
                                                seeds=[random_seed() if seed is None else seed],
                                                ended=(), **settings):
                said.append(token)
                if not printer.show(self.model.tokenizer.piece(token), *probability):
                    break
        except KeyboardInterrupt:
            if not self.terminal:
                raise
        finally:
            printer.end()
        if self.keeps:
            self.kept = said

    def _ids(self, prompt):
        """What the model is to read: the prompt after what was kept, each on a line of its own."""
        from ..sampler import prompt_ids

        tokenizer, seen = self.model.tokenizer, self.model.config.num_tokens
        if not self.kept:
            return prompt_ids(tokenizer, seen, prompt or None)
        if not prompt:
            return self.kept[-seen:]
        ids = prompt_ids(tokenizer, seen, prompt)
        if tokenizer.piece(self.kept[-1]).endswith(b"\n"):
            ids = tokenizer.encode(prompt).tolist()
        return (self.kept + ids)[-seen:]

    def obey(self, name, value):
        """Does what a command says, or says why not."""
        name = name.replace("-", "_")
        if name == "help":
            for option in self.options:
                say(f"{self._told(option):<20} {self.options[option].help}")
            say(HELP)
        elif name in ("keep", "forget"):
            self.keeps, self.kept = name == "keep", self.kept if name == "keep" else []
            say("kept from here on" if self.keeps else "forgotten")
        elif name not in self.options:
            say(f"/{name} is no command: /help lists them; a prompt that begins with / is //{name}")
        else:
            if value:
                self._set(name, value.strip())
            say(self._told(name))

    def _set(self, name, value):
        option = self.options[name]
        if value == NONE and name in MAY_BE_OFF:
            self.settings[name] = None
            return
        try:
            value = option.type.convert(value, option, None)
        except click.BadParameter as error:
            say(f"/{name.replace('_', '-')}: {error.message}")
            return
        self.settings[name] = value.replace("\\n", "\n") if name == "stop" else value

    def _told(self, name):
        value = self.settings[name]
        value = NONE if value is None else printable(str(value).encode())
        return f"/{name.replace('_', '-')} {value}"
