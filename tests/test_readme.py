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


def help_of(name):
    context = click.Context(main, info_name="femtogpt", terminal_width=88, max_content_width=88,
                            **main.context_settings)
    command = main.get_command(context, name)
    with click.Context(command, info_name=name, parent=context, terminal_width=88) as inner:
        return command.get_help(inner)


def generated():
    blocks = []
    for name in COMMANDS:
        if name not in HIDDEN:
            lines = "\n".join(f"    {line}".rstrip() for line in help_of(name).splitlines())
            blocks.append(f"### {name}\n\n{lines}\n\n")
    return "".join(blocks)


def test_the_readmes_command_section_is_what_help_prints():
    text = README.read_text(encoding="utf-8")
    written = text.split(BEGIN)[1].split(END)[0]
    # Another version of click may break lines elsewhere; the words must be the same.
    assert written.split() == generated().split(), "run `python tests/test_readme.py`"


def test_every_help_has_an_example_that_runs_its_own_command():
    for name in COMMANDS:
        text = help_of(name)
        own_name = COMMANDS[name].replace("_", "-")
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
