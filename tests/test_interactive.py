"""generate --interactive and --show-probabilities: in pipes, and on a terminal."""

import os
import re
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from small import MAIN, TOKENIZER, environment, fresh_model, run

from femtogpt import checkpoint
from femtogpt.api import GPT, new
from femtogpt.cli import main
from femtogpt.cli.colours import COLOURS, legend, painted
from femtogpt.cli.streaming import Printer
from femtogpt.sampler import AT_ONCE, generate_together, generate_with_probabilities, probability

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and terminals")
CODES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    checkpoint.save(fresh_model(), "model.safetensors")
    return tmp_path


def invoke(*arguments, input=None, exit_code=0):
    result = CliRunner().invoke(main, ["generate", *arguments], input=input)
    assert result.exit_code == exit_code, result.output
    return result


def talk(text, *arguments):
    """What --interactive answers to a pipe, without prompts."""
    return invoke("-i", "--no-echo", *arguments, input=text)


# ---- probabilities


@pytest.mark.parametrize("encoding", ["rope", "learned"])
@pytest.mark.parametrize("more", [{}, {"top_k": 4}, {"temperature": 2.0}, {"temperature": 0}])
def test_with_probabilities_the_tokens_are_the_same(encoding, more):
    model = fresh_model(positional_encoding=encoding)
    given = (model.config, model.parameters, [[1], [2, 3]], 5 * AT_ONCE + 3, [7, 8])
    whole = list(generate_with_probabilities(*given, **more))
    assert [pair[:2] for pair in whole] == list(generate_together(*given, **more))


@pytest.mark.parametrize("more", [{}, {"top_k": 9}])
def test_a_probability_is_the_models_own_whatever_the_temperature(more):
    model = GPT(fresh_model())
    drawn = list(generate_with_probabilities(model.config, model.state.parameters, [[1]], 7, [3],
                                             temperature=3.0, **more))
    ids = [1] + [token for _, token, _ in drawn]
    logits = model.logits(np.array(ids[:-1])).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = shares[np.arange(7), ids[1:]]
    np.testing.assert_allclose([p for *_, p in drawn], expected, rtol=1e-4)
    assert len(set(expected.round(3))) > 3


def test_the_probability_of_what_is_far_off_is_no_overflow():
    assert probability(np.array([0.0, 2000.0], np.float32), 0) == 0
    assert probability(np.array([-3e38, 3e38, 3e38], np.float32), 1) == 0.5


# ---- colours


def cell(colour, text):
    return f"\x1b[38;5;16;48;5;{colour}m{text}\x1b[0m"


def test_each_character_stands_on_its_probabilitys_colour():
    (_, likely), *_, (_, unlikely) = COLOURS
    assert painted("ab", [0.95, 0.001]) == cell(likely, "a") + cell(unlikely, "b")
    assert painted("ab", [0.95, 0.99]) == cell(likely, "ab")
    assert painted("a", [None]) == "a" and painted("", []) == ""
    # A newline is a blank of its colour; nothing coloured goes over it.
    assert painted("a\nb\n", [1.0] * 4) == (cell(likely, "a ") + "\n" + cell(likely, "b ") + "\n")
    assert painted("\x1b[2J\x9b\r", [1.0] * 6) == cell(likely, r"\x1b[2J\x9b\r")
    assert [str(colour) in legend() for _, colour in COLOURS] == [True] * len(COLOURS)


def test_black_is_readable_on_every_colour():
    levels = (0, 95, 135, 175, 215, 255)  # of the 6 x 6 x 6 cube
    for _, colour in COLOURS:
        digits = (colour - 16) // 36, (colour - 16) // 6 % 6, (colour - 16) % 6
        parts = [levels[d] / 255 for d in digits]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
        assert (luminance + 0.05) / 0.05 >= 7  # WCAG's AAA


def coloured(capsys, stop, *shown):
    printer = Printer(stop, coloured=True)
    for piece, p in shown:
        if not printer.show(piece, p):
            break
    printer.end()
    return capsys.readouterr().out


def test_a_character_of_several_tokens_has_the_least_probability(capsys):
    euro = "€".encode()
    (_, likely), (_, middle), *_, (_, unlikely) = COLOURS
    assert coloured(capsys, None, (b"a", 1.0), (euro[:1], 0.001), (euro[1:] + b"b", 1.0),
                    (b"c", 0.6)) == (cell(likely, "a") + cell(unlikely, "€") + cell(likely, "b")
                                     + cell(middle, "c") + "\n")
    assert coloured(capsys, None, (b"a" + euro[:1], 0.001), (euro[1:], 1.0)) == (
        cell(unlikely, "a") + cell(unlikely, "€") + "\n")
    assert coloured(capsys, None, (b"\xff", 1.0), (b"\xe2", 0.001)) == (
        cell(likely, "\ufffd") + cell(unlikely, "\ufffd") + "\n")
    assert coloured(capsys, "xyz", (b"axy", 1.0), (b"b", 0.6), (b"xyzq", 0.001)) == (
        cell(likely, "a") + cell(likely, "xy") + cell(middle, "b") + "\n")


def test_the_text_under_the_colours_is_the_text(folder, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    plain = invoke("--prompt=abc", "--count=40", "--seed=1").stdout
    result = invoke("--prompt=abc", "--count=40", "--seed=1", "--show-probabilities")
    assert CODES.sub("", result.stdout).replace(" \n", "\n") == plain.replace(" \n", "\n")
    assert result.stdout.startswith("abc\x1b[") and "how likely each token was" in result.stderr
    two = invoke("--count=4", "--seed=1", "--show-probabilities", "--num-samples=2").stdout
    assert re.match(r"--- 1 \(seed 1\)\n(.*\n)+--- 2 \(seed 2\)\n.*\x1b", two)
    monkeypatch.setenv("NO_COLOR", "1")
    result = invoke("--count=4", "--seed=1", "--show-probabilities")
    assert not CODES.search(result.output)


def test_bytes_that_are_no_text_are_coloured_too(folder, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    new(num_tokens=8, embedding_degree=16, num_layers=1, num_heads=2).save("bytes.safetensors")
    done = invoke("--model=bytes.safetensors", "--seed=1", "--temperature=9", "--count=300",
                  "--show-probabilities")
    assert done.stdout.count("\ufffd") > 20
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", CODES.sub("", done.stdout))


def test_without_colours_a_token_is_a_row(folder):
    text = invoke("--prompt=abc", "--no-echo", "--count=9", "--seed=1").stdout[:-1]
    rows = invoke("--prompt=abc", "--count=9", "--seed=1", "--show-probabilities")
    pairs = [row.split("\t") for row in rows.stdout.splitlines()]
    assert "".join(piece for _, piece in pairs).replace("\\n", "\n") == text
    assert all(0 < float(p) <= 1 for p, _ in pairs) and "how likely" not in rows.stderr
    stop = text[4]
    cut = invoke("--prompt=abc", "--count=9", "--seed=1", "--show-probabilities", "--stop", stop)
    assert len(cut.stdout.splitlines()) == text.index(stop) + 1
    two = invoke("--count=3", "--seed=1", "--show-probabilities", "--num-samples=2").stdout
    assert re.fullmatch(r"--- 1.*\n(.+\t.+\n){3}--- 2.*\n(.+\t.+\n){3}", two)


# ---- interactive, in a pipe


def test_each_line_of_a_pipe_is_continued_as_generate_does(folder):
    one, two = (invoke(f"--prompt={p}", "--seed=4", "--count=9").stdout for p in ("abc", "de"))
    assert invoke("-i", "--seed=4", "--count=9", input="abc\nde\n").stdout == one + two
    assert talk("abc\r\nde", "--seed=4", "--count=9").stdout == one[3:] + two[2:]
    begun = invoke("--seed=4", "--count=9").stdout
    assert talk("\n", "--seed=4", "--count=9").stdout == begun
    assert invoke("-i", "--seed=4", "--count=9", "--prompt=abc", input="de\n").stdout == one + two
    done = run("generate", "-i", "--seed=4", "--count=9", cwd=folder, input="abc\nde\n")
    assert (done.returncode, done.stdout) == (0, one + two)


def test_commands_set_the_options(folder):
    def made(*options):
        return invoke("--prompt=abc", "--no-echo", *options).stdout

    result = talk("/count 30\n/seed 4\nabc\n/temperature 0\nabc\n/temperature 2\n/top-k 3\nabc\n"
                  "/top-k off\n/top-p 0.5\nabc\n/top-p off\n/stop  a\nabc\n/stop off\nabc\n")
    common = ("--count=30", "--seed=4")
    hot = (*common, "--temperature=2")
    assert result.stdout == "".join((
        made(*common), made(*common, "--temperature=0"), made(*hot, "--top-k=3"),
        made(*hot, "--top-p=0.5"), made(*hot, "--stop=a"), made(*hot)))
    assert "/temperature 2.0\n/top-k 3\n/top-k off\n/top-p 0.5\n" in result.stderr
    newline = talk("/seed 4\n/stop \\n\nabc\n").stdout
    assert newline == made("--seed=4", "--stop=\n")
    assert talk("/seed 4\nabc\n/seed off\nabc\nabc\nabc\n").stdout.count(made("--seed=4")[:50]) == 1


def test_wrong_lines_get_a_line_and_no_end(folder):
    result = talk("/temperature warm\n/count 0\n/temperature off\n/nonsense 3\nABC\nabcabcabc\n"
                  "/seed\n/help\n/quit\nabc\n")
    assert result.stdout == ""
    said = result.stderr
    for part in ("/temperature: 'warm' is not a valid", "/count: 0 is not in the range x>=1",
                 "/temperature: 'off'", "/temperature 0.5", "/nonsense is no command: /help",
                 "'A'", "9 tokens, the model sees 8", "/seed off\n", "/top-k off  ", "/keep  "):
        assert part in said, part
    assert max(map(len, said.splitlines()[-13:])) <= 80


def test_a_prompt_may_begin_with_a_slash(folder):
    new(num_tokens=8, embedding_degree=16, num_layers=1, num_heads=2).save("bytes.safetensors")
    common = ("--model=bytes.safetensors", "--seed=1", "--count=3")
    assert invoke("-i", *common, input="//ab\n").stdout_bytes == invoke(
        "--prompt=/ab", *common).stdout_bytes


def seen(monkeypatch, text, says="bc"):
    """The prompts that a talk gave a model that always says the same, as text."""
    given = []

    def generate_together(config, parameters, prompts, *_):
        given.append(TOKENIZER.decode(prompts[0]).decode())
        return ((0, token) for token in TOKENIZER.encode(says).tolist())

    monkeypatch.setattr("femtogpt.sampler.generate_together", generate_together)
    talk(text)
    return given


def test_what_was_said_is_kept_or_not(folder, monkeypatch):
    # It sees eight tokens.
    assert seen(monkeypatch, "a\na\n") == ["\na", "\na"]
    assert seen(monkeypatch, "d\n/keep\na\nd\n\nee\n") == [
        "\nd", "\na", "\nabc\nd", "\nabc\ndbc"[-8:], "abc\ndbcbc\nee"[-8:]]
    assert seen(monkeypatch, "/keep\na\n/forget\na\na\n") == ["\na", "\na", "\na"]


def test_no_second_newline_stands_after_one(folder, monkeypatch):
    assert seen(monkeypatch, "/keep\na\nd\n", says="c\n") == ["\na", "\nac\nd"]


@pytest.mark.parametrize("more", [["--num-samples=2"], ["--prompt=-"]])
def test_what_does_not_go_with_interactive(folder, more):
    result = invoke("-i", *more, exit_code=2)
    assert "--interactive" in result.stderr and result.stderr.count("\n") == 1


@posix
def test_ctrl_c_ends_a_piped_one(folder):
    with subprocess.Popen([*MAIN, "generate", "-i", "--count=100000000"], cwd=folder,
                          env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        process.stdin.write(b"abc\n")
        process.stdin.flush()
        assert process.stdout.read(50)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in errors


# ---- interactive, on a terminal


class Terminal:
    """femtogpt generate on a pseudo-terminal."""

    def __init__(self, folder, *arguments, **more):
        import pty

        ours, theirs = pty.openpty()
        self.process = subprocess.Popen([*MAIN, "generate", "-i", *arguments], cwd=folder,
                                        env=environment(TERM="xterm-256color", **more),
                                        stdin=theirs, stdout=theirs, stderr=theirs,
                                        preexec_fn=lambda: own_terminal(theirs))
        os.close(theirs)
        self.fd, self.text = ours, ""

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def until(self, pattern, again=None):
        """Waits for what matches, and forgets all up to its end. again: keys to type every second:
        Python's input() may miss a signal that comes just before it waits for a key."""
        began, typed = time.monotonic(), 0
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() - began < 60, self.text[-2000:]
            if again and time.monotonic() - began >= typed:
                self.type(again)
                typed += 1
            if select.select([self.fd], [], [], 0.1)[0]:
                self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
        self.text = self.text[found.end():]


def own_terminal(theirs):
    """Makes it the process's own, so that Ctrl-C there is its signal."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)


@posix
def test_on_a_terminal(folder):
    terminal = Terminal(folder, "--show-probabilities", "--count=6", "--seed=1")
    terminal.until(r"(?s)/help.*Ctrl-D.*less.*> $")
    terminal.type("abc\n")
    terminal.until(r"abc\r\n(.*\r\n)?\x1b\[38;5;16;48;5;\d+m")  # typed, and not printed again
    terminal.until("> $")
    terminal.type("half a li")
    terminal.until("half a li")
    terminal.until("\\n> $", again="\x03")  # gives that line up
    terminal.type("/count 100000000\n")
    terminal.until(r"(?s)/count 100000000\r.*/count 100000000\r.*> $")
    terminal.type("abc\n")
    terminal.until(r"(\x1b[^\x1b]*){50}")
    terminal.until("> $", again="\x03")  # ends the continuation alone
    terminal.type("/temperature\n")
    terminal.until(r"(?s)/temperature 0\.5\r.*> $")
    if sys.platform == "linux":  # elsewhere Python may have no readline
        terminal.type("\x1b[A\x1b[A\x1b[A\n")
        terminal.until(r"(?s)/count 100000000\r\n> $")
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
    os.close(terminal.fd)


@posix
def test_no_color_is_respected_on_a_terminal(folder):
    terminal = Terminal(folder, "--show-probabilities", "--count=3", NO_COLOR="1")
    terminal.until("> $")
    terminal.type("abc\n")
    terminal.until(r"(0\.\d+\t.+\r\n){3}> $")
    terminal.type("/quit\n")
    assert terminal.process.wait(60) == 0
    os.close(terminal.fd)
