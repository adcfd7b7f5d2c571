"""Draws README's picture of a run, docs/run.svg: what a terminal of 100 columns shows.

    pip install rich; python docs/picture.py
"""

import os
import pty
import random
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dummy_data import addition_dummy

HERE = Path(__file__).resolve().parent
WIDTH = 100
COMMANDS = (
    ["init", "--embedding-degree=64"],
    ["train", "--steps=700", "--sample-every=140"],
    ["generate", "--prompt=13 + 29 = ", "--temperature=0", "--stop=;"],
    ["loss", "--plot=-"],
    ["eval", "--task=addition"],
)


def shown(arguments, folder):
    """What a terminal has on it once a command has run there."""
    parent, child = pty.openpty()
    os.set_blocking(parent, True)
    process = subprocess.Popen(
        [sys.executable, "-m", "femtogpt", *arguments], cwd=folder, stdin=child, stdout=child,
        stderr=child, close_fds=True,
        env=os.environ | {"COLUMNS": str(WIDTH), "LINES": "24", "TERM": "xterm-256color"})
    os.close(child)
    output = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # how Linux says that it is closed
            break
        if not part:
            break
        output += part
    if process.wait():
        sys.exit(output.decode())
    lines = output.decode().replace("\r\n", "\n").split("\n")
    # A carriage return begins a line anew: what was written last is there.
    return "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines).rstrip()


def main():
    with open(os.devnull, "w") as nowhere, tempfile.TemporaryDirectory() as folder:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True,
                          color_system="truecolor")
        dataset = Path(folder, "dataset.txt")
        dataset.write_text("".join(addition_dummy.generate(random.Random(1))))
        for arguments in COMMANDS:
            command = shlex.join(["femtogpt", *arguments])
            console.print(Text.assemble(("$ ", "green"), (command, "bold")))
            console.print(Text.from_ansi(shown(arguments, folder)))
            console.print()
        svg = console.export_svg(title="A model that learns to add")
        # The fonts it would fetch are not needed: each line has its length.
        (HERE / "run.svg").write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.S),
                                      encoding="utf-8")


if __name__ == "__main__":
    main()
