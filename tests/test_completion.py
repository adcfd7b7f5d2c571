"""Shells complete commands, options and files; the group's help is in the order of use."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from small import environment, run

from femtogpt.cli import COMMANDS, HIDDEN, SECTIONS, main
from femtogpt.cli.completion import PLACES


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs a line in a shell whose folder has some files, and whose PATH has this femtogpt."""
    folder = tmp_path / "work"
    (folder / "runs").mkdir(parents=True)
    for name in ("one.safetensors", "text file.txt"):
        (folder / name).touch()
    binary = tmp_path / "femtogpt"
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m femtogpt "$@"\n')
    binary.chmod(0o755)

    def run_in(*command):
        if not shutil.which(command[0]):
            pytest.skip(f"there is no {command[0]}")
        path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
        done = subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=60,
                              env=environment(PATH=path, HOME=str(tmp_path)))
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_in


# What is typed (bash's words apart), what is offered. FILES: the shell is to offer files.
FILES, FOLDERS = "default", "dirnames"
CASES = [
    (["tr"], ["train", "train-bpe"]),
    (["train", "--data"], ["--dataset"]),
    (["init", "--recipe", ""], ["femto", "standard"]),
    (["init", "--recipe", "=", "f"], ["femto"]),
    (["init", "--recipe", "="], ["femto", "standard"]),
    (["experiment", "r"], ["run"]),
    (["completion", ""], ["bash", "fish", "zsh"]),
    (["train", "--dataset", ""], FILES),
    (["train", "--dataset", "=", "o"], FILES),
    (["import", "o"], FILES),
    (["compare", "a", "b"], FILES),
    (["experiment", "run", "--texts", "o"], FOLDERS),
    (["generate", "--prompt", "o"], []),
]


def test_bash_completes(shell):
    script = ['compopt() { echo "compopt $2"; }', 'eval "$(femtogpt completion bash)"',
              "type -t _femtogpt_completion", "complete -p femtogpt"]
    for words, _ in CASES:
        quoted = " ".join(f"'{word}'" for word in ("femtogpt", *words))
        script += [f"COMPREPLY=(); COMP_WORDS=({quoted}); COMP_CWORD={len(words)}",
                   "echo ==; _femtogpt_completion femtogpt", 'echo "${COMPREPLY[*]}"']
    first, *parts = shell("bash", "--norc", "-c", "\n".join(script)).split("==")
    assert first.startswith("function\n") and "-F _femtogpt_completion femtogpt" in first
    for (words, expected), part in zip(CASES, parts, strict=True):
        found = part.split()
        assert (found == ["compopt", expected] if isinstance(expected, str)
                else sorted(found) == expected), (words, found)


@pytest.mark.parametrize(("line", "expected"), [
    ("femtogpt tr", ["train", "train-bpe"]),
    ("femtogpt init --recipe=f", ["--recipe=femto"]),
    ("femtogpt train --dataset o", ["one.safetensors"]),
    ("femtogpt train --dataset=o", ["--dataset=one.safetensors"]),
    ("femtogpt experiment run --texts ", ["runs/"]),
])
def test_fish_completes(shell, line, expected):
    out = shell("fish", "--no-config", "-c",
                f'femtogpt completion fish | source; complete -C "{line}"')
    assert [row.split("\t")[0] for row in out.splitlines()] == expected


def test_zsh_completes(shell):
    # Outside its line editor zsh completes nothing: the functions that would insert are told.
    out = shell("zsh", "-f", "-c", """
        compdef() { echo "compdef $*" }; compadd() { echo "add $completions" }
        _describe() { echo "describe $completions_with_descriptions" }
        _path_files() { echo "files $*" }; compset() { echo "compset $*" }
        eval "$(femtogpt completion zsh)"
        try() { words=("$@"); CURRENT=$#; PREFIX=$words[-1]; _femtogpt_completion }
        try femtogpt tra; try femtogpt init --recipe=f; try femtogpt train --dataset=o
        try femtogpt train --dataset o
    """)
    lines = out.splitlines()
    assert lines[0] == "compdef _femtogpt_completion femtogpt"
    assert re.fullmatch(r"describe train-bpe:Learn .* train:Train .*", lines[1])
    assert lines[2:] == ["add --recipe=femto", "compset -P --*=", "files -f", "compset -P --*=",
                         "files -f"]


@pytest.mark.parametrize("shell", PLACES)
def test_the_script_is_all_that_is_printed(shell, tmp_path):
    done = run("completion", shell, cwd=tmp_path)
    assert "_femtogpt_completion" in done.stdout and done.stderr == ""
    assert "option" in done.stdout or shell == "bash"  # what was to be changed of click's is there
    help_text = CliRunner().invoke(main, ["completion", "--help"]).stdout
    assert PLACES[shell].removeprefix("_femtogpt ") in help_text


def test_a_shell_that_is_not_known(tmp_path):
    done = run("completion", "tcsh", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "tcsh" in done.stderr


def test_the_groups_help_has_its_sections_in_order_and_whole_sentences():
    out = CliRunner().invoke(main, ["--help"]).stdout
    assert [line[:-1] for line in out.splitlines() if re.fullmatch(r"\S.*:", line)] == [
        "Options", *SECTIONS]
    listed = re.findall(r"^  ([a-z][a-z-]+)  +[A-Z].*\.$", out, re.M)
    assert listed == [name for name in COMMANDS if name not in HIDDEN]
    assert "..." not in out.split("\n", 1)[1] and max(map(len, out.splitlines())) <= 80
