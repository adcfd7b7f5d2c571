"""README's command section is generated, and says what the code says.

`python tests/test_readme.py` writes it anew.
"""

import re
from pathlib import Path

import click

from femtogpt.cli import COMMANDS, HIDDEN, main

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN = "<!-- commands: written by `python tests/test_readme.py` -->\n"
END = "<!-- end of commands -->\n"


def helps(name, parent=None):
    """(name, help) of a command, and of those below it."""
    parent = parent or click.Context(main, info_name="femtogpt", terminal_width=88,
                                     max_content_width=88, **main.context_settings)
    command = parent.command.get_command(parent, name)
    with click.Context(command, info_name=name, parent=parent, terminal_width=88) as inner:
        yield inner.command_path.removeprefix("femtogpt "), command.get_help(inner)
        if isinstance(command, click.Group):
            for below in command.list_commands(inner):
                yield from helps(below, inner)


def generated():
    blocks = []
    for name in COMMANDS:
        for path, text in helps(name) if name not in HIDDEN else ():
            lines = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
            blocks.append(f"### {path}\n\n{lines}\n\n")
    return "".join(blocks)


def test_the_readmes_command_section_is_what_help_prints():
    text = README.read_text(encoding="utf-8")
    written = text.split(BEGIN)[1].split(END)[0]
    # Another version of click may break lines elsewhere; the words must be the same.
    assert written.split() == generated().split(), "run `python tests/test_readme.py`"


def test_every_help_has_an_example_that_runs_its_own_command():
    for name in COMMANDS:
        for path, text in helps(name):
            own_name = path if path != "infer" else COMMANDS[name]
            assert "Example:" in text and f"femtogpt {own_name}" in text


def test_the_readmes_two_commands_name_what_is_in_the_repository():
    text = README.read_text(encoding="utf-8")
    first, second = re.findall(r"^    (python3 -m venv .*)$", text, re.M)
    assert "pip install ." in first and "pytest" in second
    assert (ROOT / re.search(r"--dataset (\S+)", first)[1]).is_file()


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(before + BEGIN + generated() + END + after, encoding="utf-8")
