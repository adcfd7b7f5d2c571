"""The generators in dummy_data: what the scripts print, and the rules models are scored by.

The rules are stated here once more, in other words than the scripts' own (mostly as
regular expressions), and checked against what the scripts print as programs.
"""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from dummy_data import (
    addition_dummy,
    mask,
    simple_dummy,
    simple_dummy2,
    simple_sequence,
    simple_sequence2,
)

SCRIPTS = Path(__file__).parent.parent / "dummy_data"
GENERATORS = [
    "simple_dummy",
    "addition_dummy",
    "simple_dummy2",
    "simple_sequence",
    "simple_sequence2",
]
RANDOM = [name for name in GENERATORS if name != "simple_sequence"]


def run(name, *args, flags=("-E", "-S"), **options):
    """Run a script. -E and -S leave it its folder and the standard library to import, no more."""
    command = [sys.executable, *flags, str(SCRIPTS / f"{name}.py"), *args]
    return subprocess.run(command, capture_output=True, timeout=60, **options)


@cache
def printed(name, *args):
    done = run(name, *args)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode("ascii")


# All scripts alike


@pytest.mark.parametrize("name", GENERATORS)
def test_same_seed_same_bytes_whatever_the_environment(name, tmp_path):
    # Not the isolated mode here: that would ignore the environment.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-16", "PYTHONHASHSEED": "7"}
    done = run(name, "--seed", "5", flags=("-S",), cwd=tmp_path, env=environment)
    assert done.stderr == b""
    assert done.stdout == printed(name, "--seed", "5").encode("ascii")
    assert b"\r" not in done.stdout


@pytest.mark.parametrize("name", RANDOM)
def test_without_a_seed_different_each_time(name):
    assert run(name).stdout != run(name).stdout
    assert printed(name, "--seed", "5") != printed(name, "--seed", "6")


@pytest.mark.parametrize("name", GENERATORS)
def test_what_is_printed_is_what_generate_makes(name):
    module = globals()[name]
    assert printed(name, "--seed", "5") == "".join(module.generate(random.Random(5)))


@pytest.mark.parametrize(
    ("name", "args", "newlines", "characters"),
    [
        ("simple_dummy", (), 8000, None),
        ("simple_dummy", ("--lines", "7"), 7, None),
        ("addition_dummy", (), 8000, None),
        ("addition_dummy", ("--lines", "7"), 7, None),
        ("simple_dummy2", (), 50000, None),
        ("simple_dummy2", ("--lines", "7"), 7, None),
        ("simple_sequence", (), 0, 6000),
        ("simple_sequence", ("--lines", "7"), 0, 21),
        ("simple_sequence2", (), None, 16000),  # the noise adds and takes newlines
        ("simple_sequence2", ("--no-noise",), 2000, 16000),
        ("simple_sequence2", ("--lines", "7", "--no-noise"), 7, 56),
    ],
)
def test_how_much_is_printed(name, args, newlines, characters):
    text = printed(name, "--seed", "5", *args)
    assert newlines in (None, text.count("\n"))
    assert characters in (None, len(text))
    if newlines:
        assert text.endswith(";\n")


@pytest.mark.parametrize("name", GENERATORS)
def test_no_lines_at_all(name):
    assert printed(name, "--lines", "0") == ""


@pytest.mark.parametrize(
    ("name", "args"),
    [(name, args) for name in GENERATORS for args in (["--lines", "-1"], ["--seed", "x"], ["y"])]
    + [("mask", ["--threshold", x]) for x in ("-0.1", "1.1", "nan", "x")]
    + [("mask", ["--seed", "x"])],
)
def test_bad_arguments_are_told_by_argparse(name, args):
    done = run(name, *args, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"usage: ") and b" error: " in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", [*GENERATORS, "mask"])
def test_a_reader_that_leaves_early(name, tmp_path):
    much = tmp_path / "much.txt"
    much.write_text("a line\n" * 300_000)
    args = [] if name == "mask" else ["--lines", "1000000000"]
    command = [sys.executable, "-E", "-S", str(SCRIPTS / f"{name}.py"), *args]
    with (
        much.open() as source,
        subprocess.Popen(
            command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("name", [*GENERATORS, "mask"])
def test_a_reader_that_has_left_before_anything_is_written(name):
    # -E also lets no PYTHONUNBUFFERED get in the way: the output is to be held back until
    # the end here, where Python would write it while exiting and print the failure.
    args = [] if name == "mask" else ["--lines", "3"]
    command = [sys.executable, "-E", "-S", str(SCRIPTS / f"{name}.py"), *args]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command, input=b"a line\n", stdout=writer, stderr=subprocess.PIPE, timeout=60
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_told():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("w") as disk:
        command = [sys.executable, str(SCRIPTS / "simple_dummy.py")]
        done = subprocess.run(command, stdout=disk, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode != 0 and b"No space left" in done.stderr


# simple_dummy


def test_words_keep_the_rules():
    lines = printed("simple_dummy", "--seed", "5").splitlines()
    for line in lines:
        assert re.fullmatch("([bcdfghjk][aeiou]){2,3};", line)
        assert not re.search(r"(.).*\1", line)
    firsts = "".join(line[0] for line in lines)
    assert not re.search(r"(.).{0,2}\1", firsts)


def test_words_are_drawn_evenly():
    lines = printed("simple_dummy", "--seed", "5").splitlines()
    # One standard deviation: 0.0056 of the lines, and 29 of 1000 first letters.
    assert abs(sum(len(line) == 5 for line in lines) / len(lines) - 0.5) < 0.025
    firsts = Counter(line[0] for line in lines)
    assert sorted(firsts) == list("bcdfghjk") and all(850 < n < 1150 for n in firsts.values())
    # The fourth word back may share the first letter: 1 in 5 does, for 5 letters are free.
    again = sum(a[0] == b[0] for a, b in zip(lines, lines[4:], strict=False))
    assert abs(again / len(lines) - 0.2) < 0.025


def words(*lines):
    """A generated text: the lines, between a cut first and a cut last line."""
    return simple_dummy.valid_lines("\n".join(["fo;", *lines, "ga"]))


def test_the_datas_own_words_are_all_valid():
    text = printed("simple_dummy", "--seed", "5")
    assert simple_dummy.valid_lines(text) == (7999, 7999)  # all but the first
    assert simple_dummy.valid_lines(text[2:-2]) == (7998, 7998)  # the last is cut, too


@pytest.mark.parametrize(
    "bad",
    [
        "daf",
        "",
        ";",
        "da;",
        "dafeg;",
        "dafegibo;",  # length
        "dafe",
        "dafe:",
        "dafe;;",
        "dafe ;",
        " dafe;",
        "dafe;\r",  # not a word and `;`
        "afeg;",
        "ddfe;",
        "dfae;",
        "dafg;",  # vowels and consonants
        "dafd;",
        "dafa;",
        "dafeda;",
        "dafega;",  # a letter twice
        "lafe;",
        "dafy;",
        "Dafe;",
        "dAfe;",  # other letters
        "bafe;",
        "cafe;",
        "hafe;",  # one of the three first letters before
    ],
)
def test_every_broken_rule_is_noticed(bad):
    good = ["bafe;", "cagihu;", "hafe;"]
    assert words(*good, "dafe;") == (4, 4)
    assert words(*good, bad) == (3, 4)


def test_first_letters_count_three_lines_back_and_no_further():
    assert words("dafe;", "bafe;", "cafe;", "hafe;", "dafe;") == (5, 5)
    assert words("dafe;", "bafe;", "cafe;", "dafe;") == (3, 4)
    # Broken lines are previous lines like any other: they count, and they take a place.
    assert words("dxx;", "dafe;") == (0, 2)
    assert words("dafe;", "", "!", "bafe;", "dafe;") == (3, 5)
    # The cut first line is not known, so it forbids nothing.
    assert words("fabe;", "gabe;") == (2, 2)


@pytest.mark.parametrize("text", ["", "dafe;", "dafe;\n", "\n", "x\ny"])
def test_texts_without_a_whole_line(text):
    assert simple_dummy.valid_lines(text) == (0, 0)
    assert addition_dummy.form(text) == (0, 0)
    assert addition_dummy.true_sums(text) == (0, 0)


# addition_dummy


def sums(text):
    found = [re.fullmatch(r"(\d+) \+ (\d+) = (\d+);", line) for line in text.splitlines()]
    return [tuple(map(int, match.groups())) for match in found]  # fails where one is None


def test_additions_are_true_and_uniform():
    lines = sums(printed("addition_dummy", "--seed", "5"))
    assert all(a + b == c for a, b, c in lines)
    for side in (0, 1):
        counts = Counter(line[side] for line in lines)
        assert sorted(counts) == list(range(101))
        # 100 degrees of freedom: mean 100, standard deviation 14
        assert sum((n - 8000 / 101) ** 2 / (8000 / 101) for n in counts.values()) < 160
    # and independent: as many different pairs as 8000 draws out of 10,201 give
    assert abs(len({line[:2] for line in lines}) - 10201 * (1 - (1 - 1 / 10201) ** 8000)) < 150


@pytest.mark.parametrize("line", ["1 + 2 = 3;", "1+2=3;", "007 +2 =9;", "100 + 100 = 7;"])
def test_form(line):
    assert addition_dummy.has_form(line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "1 + 2 = 3",
        "1 + 2 = ;",
        "1  + 2 = 3;",
        "1 - 2 = 3;",
        " 1 + 2 = 3;",
        "1 + 2 = 3; ",
        "1 + 2 = 3;\n",
        "1 + 2 = 3;;",
        "1 + 2 + 3 = 6;",
        "+ 2 = 3;",
        "1 + = 3;",
        "1 + 2 3;",
        "1 + x = 3;",
        "1 + ٢ = 3;",
    ],
)
def test_no_form(line):
    assert not addition_dummy.has_form(line)
    if "\n" not in line:
        assert addition_dummy.form(f"4;\n{line}\n1 + 1 = 2;\n1 +") == (1, 2)


def test_form_and_sums_of_a_text():
    long = "1" * 5000  # more digits than Python reads
    lines = ["1 + 2 = 3;", "1 + 2 = 4;", "1 + 2 3;", "40+2=42;", f"{long} + 1 = 2;", "x", "9 + 9"]
    assert addition_dummy.form("\n".join(lines)) == (3, 5)  # the first and the last are not judged
    assert addition_dummy.true_sums("\n".join(lines)) == (1, 3)
    assert addition_dummy.form("\n" + "\n".join(lines)) == (4, 6)
    assert addition_dummy.true_sums("\n" + "\n".join(lines)) == (2, 4)
    data = printed("addition_dummy", "--seed", "5")
    assert addition_dummy.form(data) == addition_dummy.true_sums(data) == (7999, 7999)


def test_held_out_pairs_are_not_in_the_data():
    data = printed("addition_dummy", "--seed", "5")
    seen = {(a, b) for a, b, _ in sums(data)}
    pairs = addition_dummy.held_out_pairs(data, random.Random(1), 300)
    assert len(set(pairs)) == 300 and not seen & set(pairs)
    assert all(0 <= n <= 100 for pair in pairs for n in pair)
    assert pairs == addition_dummy.held_out_pairs(data, random.Random(1), 300)
    assert pairs != addition_dummy.held_out_pairs(data, random.Random(2), 300)
    # All there are, if more are asked for than there are.
    every = addition_dummy.held_out_pairs(data, random.Random(1), 20000)
    assert sorted([*every, *seen]) == [(a, b) for a in range(101) for b in range(101)]


def test_held_out_pairs_of_small_data():
    def seen(text):
        every = {(a, b) for a in range(101) for b in range(101)}
        return every - set(addition_dummy.held_out_pairs(text, random.Random(1), 20000))

    assert seen("") == set()
    assert seen("3 + 4 = 7;") == {(3, 4)}
    assert seen("3+4=7;\n100 +5 = x05;") == {(3, 4), (100, 5)}
    assert seen("1 + 2 + 3 = 6;") == {(1, 2), (2, 3)}


def test_a_prompt_and_its_answer_make_a_line_of_the_data():
    assert addition_dummy.prompt(13, 29) == "\n13 + 29 = "
    assert addition_dummy.answer(13, 29) == "42;"


# simple_dummy2

MOVED = dict(zip("abcdef", "ghijkl", strict=True))


def expected_result(action, data, previous):
    """The ten actions, restated as a table."""
    moved = "".join(MOVED[c] for c in data)
    moved_previous = "".join(MOVED[c] for c in previous)
    return {
        "0": "",
        "1": data[0] + data[1] + data[2],
        "2": data[-3] + data[-2] + data[-1],
        "3": moved[0] + moved[1] + moved[2],
        "4": moved[-3] + moved[-2] + moved[-1],
        "5": previous[:3],
        "6": previous[-3:],
        "7": moved_previous[:3],
        "8": moved_previous[-3:],
        "9": "z",
    }[action]


ACTION_LINE = re.compile("([a-f]{4,8})([0-9])([a-l]{3}|z|);")


def test_action_lines_keep_the_rules():
    previous = ""
    actions, lengths, letters = Counter(), Counter(), Counter()
    for line in printed("simple_dummy2", "--seed", "5").splitlines():
        data, action, result = ACTION_LINE.fullmatch(line).groups()
        assert previous or action not in "5678"
        assert result == expected_result(action, data, previous)
        actions[action] += 1
        lengths[len(data)] += 1
        letters.update(data)
        previous = data
    assert sorted(actions) == list("0123456789")
    assert all(4700 < n < 5300 for n in actions.values())  # standard deviation 67
    assert sorted(lengths) == [4, 5, 6, 7, 8] and all(9600 < n < 10400 for n in lengths.values())
    assert all(49000 < n < 51000 for n in letters.values())


def test_a_first_line_looks_at_no_previous_line():
    rng = random.Random(1)
    firsts = Counter(next(simple_dummy2.generate(rng))[:-1] for _ in range(300))
    actions = {ACTION_LINE.fullmatch(line)[2] for line in firsts}
    assert actions == set("012349")


def test_results():
    results = [simple_dummy2.result(action, "abcdef", "fedcba") for action in range(10)]
    assert results == ["", "abc", "def", "ghi", "jkl", "fed", "cba", "lkj", "ihg", "z"]
    assert simple_dummy2.result(2, "abcd", None) == "bcd"
    for action in (5, 6, 7, 8, -1, 10):
        with pytest.raises(ValueError, match="action"):
            simple_dummy2.result(action, "abcdef", None)


@pytest.mark.parametrize("action", range(10))
def test_action_prompts(action):
    training = printed("simple_dummy2", "--seed", "5")
    seen = set(training.splitlines())
    questions = simple_dummy2.prompts(random.Random(3), action, 200, training)
    assert len(questions) == len(set(questions)) == 200
    assert questions == simple_dummy2.prompts(random.Random(3), action, 200, training)
    whole_lines = 0
    for prompt, expected in questions:
        assert 20 < len(prompt) <= 60
        # The previous line is there, whole, and so is the newline before it, unless it
        # is the prompt's first line: at least two lines come before every question.
        *before, question = prompt.split("\n")
        assert len(before) >= 2
        previous = ACTION_LINE.fullmatch(before[-1])[1]
        data, digit = re.fullmatch("([a-f]{4,8})([0-9])", question).groups()
        assert digit == str(action)
        assert expected == expected_result(digit, data, previous) + ";"
        assert question + expected not in seen
        for line in before[1:]:
            assert ACTION_LINE.fullmatch(line) and line not in seen
            whole_lines += 1
        for older, newer in pairwise(before[1:]):
            data, digit, result = ACTION_LINE.fullmatch(newer).groups()
            assert result == expected_result(digit, data, ACTION_LINE.fullmatch(older)[1])
    assert whole_lines > 400
    assert any(len(prompt) == 60 for prompt, _ in questions)
    assert any(len(prompt) < 50 for prompt, _ in questions)


def test_sixty_characters_never_lose_the_previous_line():
    longest = "abcdefab5abc;\n"
    assert len("\n" + longest + "abcdefab5") <= simple_dummy2.PROMPT_LENGTH == 60
    assert simple_dummy2.LINES_BEFORE[0] >= 1 and simple_dummy2.LINES_BEFORE[1] == 10


def test_lines_of_the_training_data_are_never_asked_for():
    # Training data that holds every short line with action 0 but one.
    letters = "abcdef"
    short = [a + b + c + d for a in letters for b in letters for c in letters for d in letters]
    short.remove("face")
    training = "".join(f"{data}0;\n" for data in short)
    questions = simple_dummy2.prompts(random.Random(3), 0, 300, training)
    asked = [prompt.split("\n")[-1][:-1] for prompt, _ in questions]
    assert {data for data in asked if len(data) == 4} <= {"face"}
    assert len(set(asked)) > 200


def test_when_every_line_is_in_the_training_data(monkeypatch):
    monkeypatch.setattr(simple_dummy2, "new_data", lambda rng: "abcd")
    training = "".join(f"abcd{n}{expected_result(str(n), 'abcd', 'abcd')};\n" for n in range(10))
    with pytest.raises(ValueError, match="none is left"):
        simple_dummy2.prompts(random.Random(3), 1, 1, training)


@pytest.mark.parametrize(
    ("generated", "right"),
    [
        ("abc;\nfade0;", True),
        ("abc;\n", True),
        ("abc;", True),
        ("abc", False),
        ("abc\n;", False),
        ("abd;\n", False),
        ("abc;;\n", False),
        (" abc;\n", False),
        ("\nabc;", False),
        ("", False),
    ],
)
def test_action_answers(generated, right):
    assert simple_dummy2.is_right(generated, "abc;") is right


# simple_sequence and simple_sequence2


def test_sequence():
    text = printed("simple_sequence", "--seed", "5")
    assert text.startswith("a@@b##c$$d%%e^^f@@g##h$$a%%b^^")
    assert text[0::3] == "abcdefgh" * 250
    assert text[1::3] == text[2::3] == "@#$%^" * 400


def test_sequence2():
    text = printed("simple_sequence2", "--lines", "9240", "--no-noise")
    circles = ["abc", "defg", "hijkl", "mnopqrs", "mnopqrs", "tuvwxyz0123", ";", "\n"]
    for column, circle in enumerate(circles):
        assert text[column::8] == (circle * 9240)[:9240]
    lines = text.splitlines()
    assert len(set(lines)) == 4620 and lines[:4620] == lines[4620:]
    assert lines[:2] == ["adhmmt;", "beinnu;"]


def test_sequence2_noise():
    clean = printed("simple_sequence2", "--lines", "30000", "--no-noise")
    noisy = printed("simple_sequence2", "--lines", "30000", "--seed", "5")
    assert noisy == printed("simple_sequence2", "--lines", "30000", "--seed", "5", "--noise")
    changed = [(a, b) for a, b in zip(clean, noisy, strict=True) if a != b]
    # 1 of the 38 replacements is what was there already; standard deviation 22.
    assert abs(len(changed) - 240_000 * 0.002 * 37 / 38) < 90
    new = Counter(b for _, b in changed)
    assert set(new) == set("abcdefghijklmnopqrstuvwxyz0123456789;\n")
    assert max(new.values()) < 35  # 12 on average
    old = Counter(a for a, _ in changed)
    assert 30 < old[";"] < 90 and 30 < old["\n"] < 90  # each an eighth


@pytest.mark.parametrize("module", [simple_sequence, simple_sequence2])
def test_continuation_from_any_phase(module):
    noise = [False] if module is simple_sequence2 else []
    lines = 2 * module.PERIOD // (8 if noise else 3)
    text = "".join(module.generate(random.Random(5), lines, *noise))
    assert len(text) == 2 * module.PERIOD
    step = max(1, module.PERIOD // 97)
    for phase in range(0, module.PERIOD, step):
        assert module.continuation(phase, 80) == text[phase : phase + 80]
        assert module.continuation(phase - module.PERIOD, 80) == text[phase : phase + 80]
    assert module.continuation(5, 0) == ""
    # the period is the shortest there is
    for divisor in (2, 3, 5, 7, 11):
        if module.PERIOD % divisor == 0:
            part = module.PERIOD // divisor
            assert text[part : 2 * part] != text[:part]


@pytest.mark.parametrize("module", [simple_sequence, simple_sequence2])
def test_continuations_are_scored(module):
    for phase in (0, 1, 77, -3):
        right = module.continuation(phase, 200)
        assert module.score(right, phase) == (200, 200)
        assert module.score(right + "x", phase) == (200, 200)
        assert module.score(right[:-1], phase) == (199, 200)
        assert module.score("?" + right[1:], phase) == (199, 200)
        assert module.score(right[:50] + "?" * 150, phase) == (50, 200)
        assert module.score("", phase) == (0, 200)
        assert module.score(right[:10], phase, 10) == (10, 10)
        assert module.score(right, phase + 1)[0] < 200


# mask


def masked(text, *args):
    done = run("mask", *args, input=text.encode("utf-8", "surrogateescape"))
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode("utf-8", "surrogateescape")


def test_mask_rate():
    text = "abcdefghi\n" * 30_000
    new = masked(text, "--seed", "5")
    changed = [(a, b) for a, b in zip(text, new, strict=True) if a != b]
    assert abs(len(changed) - 300) < 70  # standard deviation 17
    assert {b for _, b in changed} == {"x"}
    assert {a for a, _ in changed} == set("abcdefghi\n")
    many = masked(text, "--seed", "5", "--threshold", "0.25", "--replacement", "?")
    assert abs(many.count("?") - 75_000) < 1000  # standard deviation 237


def test_mask_seeds():
    text = "abcdefghi\n" * 3000
    assert masked(text, "--seed", "5") == masked(text, "--seed", "5")
    assert masked(text, "--seed", "5") != masked(text, "--seed", "6")
    assert masked(text) != masked(text)
    assert masked(text, "--seed", "5") == mask.mask(random.Random(5), text)


def test_mask_extremes():
    text = "one\r\ntwo\rthrée — 𝄞\n\udcff\udcfe no newline at the end"
    assert masked(text, "--threshold", "0") == text
    assert masked(text, "--threshold", "1") == "x" * len(text)
    assert masked("aé𝄞", "--threshold", "1", "--replacement", "<é>") == "<é>" * 3
    assert masked("") == ""
