"""Experiments: what their entries claim, going on after a stop, judging, showing."""

import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict

import pytest
from click.testing import CliRunner
from small import environment, text

from femtogpt import checkpoint
from femtogpt.cli import main
from femtogpt.config import GPTConfig
from femtogpt.drawing import line_chart, ticks
from femtogpt.errors import FemtoError
from femtogpt.experiment import entries as entries_module
from femtogpt.experiment import sources
from femtogpt.experiment.attempt import Attempt
from femtogpt.experiment.entries import Entry, entries, find
from femtogpt.experiment.measures import MEASURES, closed_brackets, reached
from femtogpt.experiment.pages import as_json, html, load_results, markdown, one_line, verdict
from femtogpt.experiment.sources import make_text
from femtogpt.tensors import count_parameters

SHAPE = {"num_tokens": 8, "embedding_degree": 16, "num_layers": 1, "num_heads": 2}


def tiny(number=2, **changes):
    values = {
        "number": number, "title": "small", "parameters": "13K", "tokenizer": "byte",
        "shape": SHAPE, "train": {"steps": 12, "batch_size": 4, "dropout": 0.1},
        "data": "simple_sequence", "task": "text", "prompt": "a", "goal": {"loss": 9.0},
        "log": {"steps": 500, "loss": 2.5, "minutes": 60, "verdict": "fail"}}
    return Entry(**values | changes)


def run(attempt, stop_after=None):
    trainer = attempt.begin()
    for record in attempt.train(trainer):
        if record.step == stop_after:
            return None
    return attempt.conclude(trainer)


def rounded(count):
    """As the log rounds: 232K, 1.2M, 39.7M."""
    if count < 1e6:
        return f"{int(count / 1e3)}K"
    return f"{int(count / 1e5) / 10:g}M"


@pytest.mark.parametrize("entry", entries().values(), ids=lambda entry: entry.name)
def test_an_entry_is_the_logs_model_in_at_most_its_steps(entry):
    kind = entry.tokenizer
    vocabulary = next(iter(kind.values())) if isinstance(kind, dict) else {"byte": 256,
                                                                           "char": 65}[kind]
    config = GPTConfig(vocabulary, **entry.shape)
    assert rounded(count_parameters(config)) == entry.parameters
    if entry.log and entry.number != 13:  # whose log is one step
        assert entry.train["steps"] <= entry.log["steps"]
    assert set(entry.goal) <= set(MEASURES)
    assert set(entry.train) <= {"steps", "dropout", "batch_size", "seconds"}


def test_the_log_is_whole():
    assert list(entries()) == list(range(1, 32))
    assert [entry.number for entry in entries().values() if entry.log] == list(range(1, 29))


def test_a_number_there_is_not_is_said():
    with pytest.raises(FemtoError, match=r"no experiment 99.*list"):
        find([3, 99])


def timeless(result):
    return {name: value for name, value in result.items()
            if name not in ("minutes", "seconds_a_step", "memory_mb", "date")}


def test_a_stopped_attempt_goes_on_and_comes_to_the_same(tmp_path):
    whole = run(Attempt(tiny(), 3, tmp_path / "whole"))
    assert run(Attempt(tiny(), 3, tmp_path / "cut"), stop_after=5) is None
    cut = Attempt(tiny(), 3, tmp_path / "cut")
    assert cut.result is None
    with open(cut.folder / "log.jsonl", "a") as log:
        log.write('{"step": 6, "ms')  # what a kill may leave
    assert timeless(run(cut)) == timeless(whole) == timeless(cut.result)
    assert list(cut._lines()) == list(range(1, 13))
    other = run(Attempt(tiny(), 4, tmp_path / "whole"))
    assert other["curve"] != whole["curve"]
    assert whole["steps"] == 12 and whole["minutes"] > 0
    assert whole["curve"][-1][0] == 12 and len(whole["curve"]) == 12


def test_an_attempt_killed_before_it_was_judged_is_judged_and_trains_no_more(tmp_path):
    whole = run(Attempt(tiny(), 3, tmp_path / "whole"))
    attempt = Attempt(tiny(), 3, tmp_path / "cut")
    for _ in attempt.train(attempt.begin()):
        pass
    assert attempt.result is None
    assert timeless(run(Attempt(tiny(), 3, tmp_path / "cut"))) == timeless(whole)


def test_a_damaged_result_is_said(tmp_path):
    attempt = Attempt(tiny(), 1, tmp_path)
    run(attempt)
    (attempt.folder / "result.json").write_text("{")
    with pytest.raises(FemtoError, match=r"result\.json is damaged"):
        _ = attempt.result


def test_a_rival_has_the_other_ones_text_and_time(tmp_path, monkeypatch):
    entry = tiny(18, goal={"bits_per_byte": {"rival": 4}}, data={"crates": ["some-1.0"]},
                 tokenizer={"bpe": 270}, task="code")
    source = tmp_path / "texts" / "some-1.0" / "src"
    source.mkdir(parents=True)
    (source / "a.rs").write_text(text(120_000))
    monkeypatch.setitem(sources.CRATES, "some-1.0", "")
    attempt = Attempt(entry, 1, tmp_path / "runs", texts=[tmp_path / "texts"])
    mine = run(attempt)
    rival = attempt.rival()
    assert rival.entry.number == 4 and rival.entry.data == entry.data
    assert rival.entry.shape == entries()[4].shape and rival.entry.tokenizer == "byte"
    monkeypatch.setattr(rival, "_seconds", 0.5)
    theirs = run(rival)
    assert theirs["steps"] < 100_000 and theirs["text_bytes"] == mine["text_bytes"]
    results = load_results(tmp_path / "runs")
    assert set(results) == {(18, 1), ("rival", 18, 1)}
    [(measure, value, bound, ok)] = verdict(entry, mine, results)
    assert (measure, value, bound) == ("bits_per_byte", mine["bits_per_byte"],
                                       theirs["bits_per_byte"])
    assert ok == (value <= bound)
    assert "some-1.0" in mine["other_text"]  # its hash is not the pinned one


def test_a_bound_may_be_another_entrys(tmp_path):
    entry = tiny(12, goal={"bits_per_byte": {"entry": 11}})
    mine, theirs = ({"entry": n, "seed": 2, "bits_per_byte": b} for n, b in ((12, 2.2), (11, 2.3)))
    assert verdict(entry, mine, {(11, 2): theirs}) == [("bits_per_byte", 2.2, 2.3, True)]
    assert verdict(entry, mine, {(11, 1): theirs}) == [("bits_per_byte", 2.2, None, None)]
    assert "nothing to compare with" in one_line(entry, mine, {})


def test_more_is_better_or_less_is():
    assert reached("right", 0.95, 0.95) and not reached("right", 0.949, 0.95)
    assert reached("val_loss", 1.62, 1.62) and not reached("val_loss", 1.621, 1.62)


@pytest.mark.parametrize(("code", "share"), [
    ("fn f(x: [u8; 4]) { g(x[0]) }", 1.0), ("(((", 0.0), ("(]", 0.0), ("({)}", 0.5), ("x", 0.0),
    ("{{}", 2 / 3),
])
def test_brackets(code, share):
    assert closed_brackets(code) == share


def test_pages_hold_every_result_and_are_well_formed(tmp_path):
    entry, attempt = entries()[2], Attempt(tiny(2, prompt="</pre>"), 1, tmp_path)
    result = run(attempt)
    result_file = attempt.folder / "result.json"
    result_file.write_text(json.dumps(result | {"valid": 0.985, "sample": "<b>&"}))
    results = load_results(tmp_path)
    page, table = html(results, "x"), markdown(results, "x")
    for shown in (entry.title, "98.5%", "629 steps", f"{result['parameters']:,}"):
        assert shown in page and shown in table
    assert "| yes |" in table and '<span class="yes">' in page
    assert "<b>" not in page and "&lt;b&gt;&amp;" in page
    svg = page[page.index("<svg"):page.index("</svg>") + 6]
    assert "log: 1.48 after 629 steps" in "".join(ElementTree.fromstring(svg).itertext())


def test_results_outlive_their_folder(tmp_path):
    def result(number, seed, loss):
        return {"entry": number, "seed": seed, "loss": loss, "curve": [(1.5, 2 / 3)]}

    folder, kept = tmp_path / "runs", tmp_path / "runs.json"
    old = {(2, 1): result(2, 1, 0.5), ("rival", 18, 1): result(4, 1, 0.25)}
    kept.write_text(as_json(old))
    found = load_results(folder)
    assert found.keys() == old.keys() and found[2, 1]["loss"] == 0.5
    assert found["rival", 18, 1]["curve"] == [[1.5, 0.6667]]
    mine = folder / "2" / "seed-1" / "result.json"
    mine.parent.mkdir(parents=True)
    mine.write_text(json.dumps(result(2, 1, 0.125)))
    assert load_results(folder)[2, 1]["loss"] == 0.125  # the folder's own counts
    for damaged in ("[", "3", '[["a"]]'):
        kept.write_text(damaged)
        with pytest.raises(FemtoError, match=r"runs\.json is damaged"):
            load_results(folder)


def test_pages_of_no_results():
    assert "No results yet" in markdown({}, "x") and "No results yet" in html({}, "x")


def test_charts_place_points_and_levels():
    svg = line_chart([("a <b>", [(0, 0.0), (10, 1.0), (20, float("nan"))])], levels=[("goal", 0.5)])
    tree = ElementTree.fromstring(svg)
    text = "".join(tree.itertext())
    assert "a <b>" in text and "goal" in text and "nan" not in svg
    paths = [path.get("d") for path in tree.iter("{http://www.w3.org/2000/svg}path")]
    line = next(d for d in paths if "L" in d)
    (x0, y0), (x1, y1) = ([float(v) for v in point.split()] for point in line[1:].split("L"))
    assert x0 < x1 and y0 > y1  # up is less


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.93, 5.55), (3, 3), (0, 0), (-2, 1e6)])
def test_ticks_hold_the_range(low, high):
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 9


def test_texts_are_made_found_or_said_where_to_get(tmp_path):
    assert make_text("simple_dummy", 1) == make_text("simple_dummy", 1)
    assert make_text("simple_dummy", 1) != make_text("simple_dummy", 2)
    with pytest.raises(FemtoError, match=r"shakespeare\.txt is not in .*--texts"):
        make_text("shakespeare", 1, [tmp_path])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "shakespeare.txt").write_text("To be")
    found, other = make_text("shakespeare", 1, [tmp_path])
    assert found == b"To be" and "shakespeare.txt is not, to the byte" in other
    with pytest.raises(FemtoError, match=r"hyper-0.14.19.*librust-hyper-dev.*--rust FOLDER"):
        make_text({"crates": ["hyper-0.14.19"]}, 1, [tmp_path])
    with pytest.raises(FemtoError, match=r"no \.rs file in .*--rust"):
        make_text({"crates": ["hyper-0.14.19"]}, 1, [tmp_path], rust=tmp_path)
    (tmp_path / "deep" / "b.rs").write_text("fn b() {}")
    (tmp_path / "a.rs").write_text("fn a() {}")
    found, other = make_text({"crates": ["hyper-0.14.19"]}, 1, [tmp_path], rust=tmp_path)
    assert found == b"fn a() {}fn b() {}" and str(tmp_path) in other


def test_the_bundled_text_is_the_pinned_one():
    from small import ROOT

    _, other = make_text("shakespeare", 1, [ROOT / "texts"])
    assert other is None


# ---- the command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which experiments 2 and 12 are tiny, and all there are."""
    file = tmp_path / "entries.json"
    file.write_text(json.dumps([asdict(tiny(2)), asdict(tiny(12, goal={"loss": 0.1}))]))
    monkeypatch.setattr(entries_module, "_FILE", file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments, status=0):
    result = CliRunner().invoke(main, ["experiment", *arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.stdout


def test_run_list_and_show(folder):
    assert "not run here yet" in invoke("list")
    told = invoke("run", "--all", "--seeds=2").splitlines()
    assert [line.split(":")[0] for line in told] == [
        "#2 small, seed 1", "#12 small, seed 1", "#2 small, seed 2", "#12 small, seed 2"]
    assert "(at most 9.000: reached)" in told[0] and "(at most 0.100: NOT reached)" in told[1]
    assert "goal reached by 2 of 2 seeds" in invoke("list")
    assert "goal reached by 0 of 2 seeds" in invoke("list")
    shown = invoke("show", "12")
    assert "NOT reached" in shown and "12 steps in" in shown
    values = json.loads(invoke("show", "2", "--json"))
    assert values["entry"]["title"] == "small" and len(values["results"]) == 2
    for page in ("experiments.md", "experiments.html"):
        assert "#12 small" in (folder / page).read_text()
    assert '"sample"' in (folder / "experiments.json").read_text()
    before = (folder / "experiments" / "2" / "seed-1" / "result.json").read_bytes()
    invoke("run", "2")  # is there already
    assert (folder / "experiments" / "2" / "seed-1" / "result.json").read_bytes() == before


def test_what_is_asked_wrongly_is_said(folder):
    for arguments in (["run"], ["run", "2", "--all"], ["run", "two"], ["show"]):
        invoke(*arguments, status=2)
    for arguments in (["run", "3"], ["show", "3"]):
        invoke(*arguments, status=1)


def test_an_interrupted_command_goes_on(folder):
    """As a process: stopped by SIGINT when its first line is in the log."""
    slow = asdict(tiny(2, train={"steps": 3000, "batch_size": 4}))
    (folder / "entries.json").write_text(json.dumps([slow]))
    command = [sys.executable, "-c", "from femtogpt.experiment import entries\n"
               "from pathlib import Path\nfrom femtogpt.cli import main\n"
               "entries._FILE = Path('entries.json')\nmain()", "experiment", "run", "2"]
    log = folder / "experiments" / "2" / "seed-1" / "log.jsonl"
    with subprocess.Popen(command, cwd=folder, env=environment(), text=True,
                          stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "stopped by SIGINT and saved" in said and not (log.parent / "result.json").exists()
    steps = checkpoint.load(log.parent / "model.safetensors").step
    assert 0 < steps < 3000
    ended = subprocess.run(command, cwd=folder, env=environment(), text=True, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert f"step {steps} of 3000" in ended.stderr
    assert json.loads((log.parent / "result.json").read_text())["steps"] == 3000
