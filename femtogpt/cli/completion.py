"""femtogpt completion"""

import sys

import click
from click.shell_completion import (
    BashComplete,
    FishComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

from .options import COMPLETE, say

PLACES = {
    "bash": "~/.local/share/bash-completion/completions/femtogpt",
    "zsh": "_femtogpt in a folder of your fpath",
    "fish": "~/.config/fish/completions/femtogpt.fish",
}


def edited(script, *changes):
    """click's script, which completes `--option value`, to complete `--option=value` too."""
    for old, new in changes:
        script = script.replace(old, new)
    return script


@add_completion_class
class Bash(BashComplete):
    """bash takes the option, = and the value for three words."""

    def get_completion_args(self):
        args, incomplete = super().get_completion_args()
        return [word for word in args if word != "="], "" if incomplete == "=" else incomplete


@add_completion_class
class Zsh(ZshComplete):
    """zsh is to have the option before each value, and to see the file name alone."""

    source_template = edited(
        ZshComplete.source_template,
        ("local -a response", "local -a response\n    local option=\n"
         "    [[ $PREFIX == --*=* ]] && option=${PREFIX%%%%=*}="),
        ('"$key"', '"$option$key"'),
        ("_path_files", "compset -P '--*='; _path_files"),
    )


@add_completion_class
class Fish(FishComplete):
    """fish is to have the option before each value."""

    source_template = edited(
        FishComplete.source_template,
        ("for completion", "set -l option (string match -r -- '^--[^=]+=' (commandline -t); "
         "or echo);\n\n    for completion"),
        ("echo $metadata", "echo $option$metadata"),
        ("__fish_complete_directories $metadata[2]",
         'printf "$option%%s\\n" (__fish_complete_directories $metadata[2])'),
        ("__fish_complete_path $metadata[2]",
         'printf "$option%%s\\n" (__fish_complete_path $metadata[2])'),
    )


@click.command()
@click.argument("shell", type=click.Choice(list(PLACES)))
def command(shell):
    """Print what makes a shell complete commands and files.

    \b
    Into a file that the shell reads by itself:
      bash  ~/.local/share/bash-completion/completions/femtogpt
      zsh   _femtogpt, in a folder of your fpath
      fish  ~/.config/fish/completions/femtogpt.fish
    Or a line for ~/.bashrc, or for ~/.zshrc behind compinit:
      eval "$(femtogpt completion bash)"
    Example:
      femtogpt completion fish > ~/.config/fish/completions/femtogpt.fish
    """
    group = click.get_current_context().parent.command
    click.echo(get_completion_class(shell)(group, {}, "femtogpt", COMPLETE).source())
    if sys.stdout.isatty():
        say(f"this is to be written into {PLACES[shell]}, or evaluated: see --help")
