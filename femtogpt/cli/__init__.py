"""The command line: parses, calls the library, prints. One file a command.

A command's module is imported when it is asked for, and imports numba and the rest of
the library inside its body: --help must answer at once.
"""

import atexit
import gc
import importlib
import os
import sys
from contextlib import suppress

import click

from .. import __version__
from ..errors import FemtoError
from ..launch import launched, launched_first
from .options import COMPLETE, say

# What is listed under --help, in the order of use: heading -> name -> module.
SECTIONS = {
    "Make and train a model": {
        "quickstart": "quickstart",
        "train-bpe": "train_bpe",
        "estimate": "estimate",
        "init": "init",
        "train": "train",
        "search": "search",
        "reset-optimizer": "reset_optimizer",
    },
    "Use it": {
        "generate": "generate",
        "infer": "generate",
        "playground": "playground",
        "eval": "eval",
    },
    "Look at what it learnt, and why not": {
        "info": "info",
        "loss": "loss",
        "diagnose": "diagnose",
        "report": "report",
        "chunks": "chunks",
        "cluster-tokens": "cluster_tokens",
        "compare": "compare",
    },
    "Look at tokens": {
        "tokenize": "tokenize",
        "count-tokens": "count_tokens",
        "dump-tokenizer": "dump_tokenizer",
    },
    "Grow it": {
        "insert-layer": "insert_layer",
        "init-with": "init_with",
    },
    "Exchange it with other programs": {
        "import": "import_",
        "export": "export",
    },
    "More": {
        "experiment": "experiment",
        "completion": "completion",
    },
}
COMMANDS = {name: module for section in SECTIONS.values() for name, module in section.items()}
HIDDEN = {"infer"}  # femtoGPT's name for generate

# As it ends, Python would look for garbage once more: in half a second, where it has compiled.
atexit.register(gc.freeze)


def say_error(message):
    """One line on standard error: a file's name, or its content, may hold anything."""
    say("femtogpt: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(message)))


class Commands(click.Group):
    """A group that loads its commands late and says every error in one line."""

    def list_commands(self, context):
        return [name for name in COMMANDS if name not in HIDDEN]

    def get_command(self, context, name):
        if name not in COMMANDS:
            return None
        return importlib.import_module(f".{COMMANDS[name]}", __name__).command

    def format_commands(self, context, formatter):
        width = max(map(len, COMMANDS))
        for heading, section in SECTIONS.items():
            names = [name for name in section if name not in HIDDEN]
            with formatter.section(heading):
                formatter.write_dl([
                    (name.ljust(width), self.get_command(context, name).get_short_help_str(
                        formatter.width - width - 4)) for name in names])

    def main(self, *args, **kwargs):
        try:
            return self._main(*args, **kwargs)
        finally:
            _let_go(sys.stdout)
            _let_go(sys.stderr)

    def _main(self, *args, **kwargs):
        if COMPLETE in os.environ:
            importlib.import_module(".completion", __name__)  # it has bash's, which click looks up
        if not kwargs.pop("standalone_mode", True):
            return super().main(*args, standalone_mode=False, **kwargs)
        try:
            sys.exit(super().main(*args, standalone_mode=False, **kwargs) or 0)
        except getattr(click.exceptions, "NoArgsIsHelpError", ()) as error:  # click 8.2 and later
            click.echo(error.format_message())
            sys.exit(0)
        except click.ClickException as error:
            message = " ".join(error.format_message().split())
            context = getattr(error, "ctx", None)
            where = context.command_path if context else "femtogpt"
            hint = f" (see {where} --help)" if isinstance(error, click.UsageError) else ""
            click.echo(f"{where}: {message}{hint}", err=True)
            sys.exit(error.exit_code)
        except FemtoError as error:
            say_error(error)
            sys.exit(1)
        except MemoryError:
            say_error("out of memory: use a smaller --batch-size or model")
            sys.exit(1)
        except OSError as error:  # of standard output, above all; files are looked after below
            name = f"{error.filename}: " if error.filename else ""
            say_error(f"{name}{error.strerror}")
            sys.exit(1)
        except click.Abort:
            say_error("stopped")
            sys.exit(130)


def _let_go(stream):
    """What a closed pipe or a full disk did not take goes nowhere: else Python tries again as it
    ends, and exits with 120 whatever the code was."""
    try:
        stream.flush()
    except (AttributeError, OSError, ValueError):  # AttributeError: there is none
        with suppress(AttributeError, OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


EPILOG = """\b
Files, where no option names others:
  model.safetensors  what init writes and all else reads
  dataset.txt        the text that train learns
  tokenizer.json     what train-bpe writes

\b
Environment:
  NO_COLOR, FORCE_COLOR  no colours; colours in a pipe too
  XDG_CACHE_HOME         where compiled code and tokens are kept (Linux)
  FEMTOGPT_VECTORS       avx512, avx2, neon or none: the processor's vectors

`femtogpt COMMAND --help` tells a command's options, and shows an example.
"""


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="femtogpt")
@click.pass_context
def main(context):
    """Train a small language model on an ordinary computer.

    \b
    A first model:
      python3 dummy_data/simple_dummy.py > dataset.txt
      femtogpt init
      femtogpt train --steps 600
      femtogpt generate --prompt "bad"
    """
    command = context.invoked_subcommand
    if command != "train" and launched():
        if launched_first():
            say_error(f"`femtogpt {command}` is one process, not one of several: start it without "
                      "mpiexec or srun, which are for train")
        sys.exit(2)
