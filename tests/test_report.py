"""A page on a model: what it says is what was measured, and a browser shows it alone."""

import json
import math
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from small import TOKENIZER, fresh_model, some_run, text

from femtogpt import checkpoint, report
from femtogpt.cli import main
from femtogpt.config import GPTConfig
from femtogpt.inspection import activations, probabilities
from femtogpt.looks import Look
from femtogpt.model import initial_parameters
from femtogpt.report.attention import attention_maps
from femtogpt.report.curves import losses, smoothed
from femtogpt.report.hardest import hardest
from femtogpt.report.tokens_map import KINDS, flattened, kind
from femtogpt.report.writing import write
from femtogpt.run import counted_runs
from femtogpt.tensors import named
from femtogpt.tokenizer import PiecesTokenizer
from femtogpt.trainer import Trainer

EVIL = "<script>alert(1)</script>\n"
TOKENS = TOKENIZER.encode(text())
CHROMIUM = shutil.which("chromium")


def trained(steps=12, **changes):
    """A Model that was trained a little, with looks every 2 steps."""
    model = fresh_model(num_layers=1, **changes)
    run = some_run(last_step=steps, eval_every=2, dropout=0.0)
    list(Trainer(model, run, TOKENS, TOKENS[:100], None, 1))
    return model


@pytest.fixture(scope="module")
def measured():
    """Measureds: of a model of letters, and of one that reads a text that is a script."""
    tokenizer = PiecesTokenizer.from_strings([*"alert(1)\n&'", "<script>", "</script>"])
    config = GPTConfig(tokenizer.vocab_size, 8, 16, 2, 2)
    script = checkpoint.Model(config, tokenizer, initial_parameters(config, 1), step=3)
    script.history.losses = [5.0, 4.0, 3.0]
    script.history.looks = [Look(2, [0.5] * 4, [0.5] * 4, EVIL)]
    evil = np.tile(tokenizer.encode(EVIL), 20)
    return {"letters": report.measure("letters", trained(), 1000, TOKENS, 1),
            "evil": report.measure("<img src=x>&", script, 2000, evil, 1)}


class Page(HTMLParser):
    """A page's elements, and its text by the id of the section."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.sections = [], {}
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "section":
            self.sections[dict(attributes)["id"]] = ""

    def handle_data(self, data):
        if self.sections:
            self.sections[next(reversed(self.sections))] += data


def page(tmp_path, *models):
    path = tmp_path / "page.html"
    write(list(models), path)
    return path.read_text("utf-8")


def test_looks_are_what_a_step_did():
    model, before, records = fresh_model(num_layers=1), None, []
    for record in Trainer(model, some_run(last_step=4, eval_every=2, dropout=0.0), TOKENS, [],
                          None, 1):
        records.append(record)
        if record.step == 3:
            before = named(model.parameters.copy(), model.config)
    look = model.history.looks[-1]
    assert [look.step for look in model.history.looks] == [2, 4] and look.sample
    assert math.hypot(*look.gradient) == pytest.approx(records[-1].norm, rel=0.01)
    after = named(model.parameters, model.config)
    ratios = {name: np.linalg.norm(after[name] - before[name]) / np.linalg.norm(before[name])
              for name in after}
    layer = np.median([ratios[name] for name in ratios
                       if name.startswith("layers.") and name.endswith("weight")])
    assert look.update == pytest.approx(
        [layer, ratios["token_embedding"], ratios["head.weight"]], rel=0.01)


def test_the_page_has_its_parts_and_is_the_same_again(tmp_path, measured):
    m = measured["letters"]
    source = page(tmp_path, m)
    assert page(tmp_path, m) == source and len(source) < 200_000
    found = Page(source)
    said = "".join(found.sections.values())
    for words in (f"unigram {m.numbers['text']['unigram']:.3f}", "step 0 to 12", "layer 0, head 1",
                  "12, now", f"{m.mean_loss()[0]:.3f} nats a token", "Gradient norm by layer"):
        assert words in said + source, words
    for finding in m.findings:
        assert finding.name in said
    links = [a["href"][1:] for tag, a in found.elements if tag == "a"]
    assert links == list(found.sections) and len(links) == 9
    tags = [tag for tag, _ in found.elements]
    assert tags.count("svg") > 6 and tags.count("script") == 1


def test_what_comes_from_a_text_or_a_name_is_escaped(tmp_path, measured):
    source = page(tmp_path, measured["evil"])
    found = Page(source)
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 1 and "img" not in tags and "&lt;img src=x&gt;&amp;" in source
    assert source.count("alert(1)") == source.count("&lt;script&gt;alert(1)") > 0
    assert "“&lt;script&gt;”, several characters, 20 times" in source  # on the map
    assert '&quot;&lt;script&gt;&quot;' in source and ">&lt;script&gt;</span>" in source
    for _, attributes in found.elements:
        assert not {"src", "style", "onclick", "onload", "action"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")
    assert "http" not in source.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    [policy] = [a["content"] for tag, a in found.elements if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy


def test_several_models_stand_beside_each_other(tmp_path, measured):
    letters, evil = measured["letters"], measured["evil"]
    source = page(tmp_path, letters, evil)
    said = Page(source).sections
    assert "2 models" in source and "lineage in common" in said["s1"]
    chart = losses([letters, evil])  # of other tokens: bits a byte
    assert "loss, bits a byte" in chart and "uniform" not in chart
    assert "loss, nats a token" in losses([letters, letters]) and "uniform" in losses([letters])
    without = [report.measure(m.name, m.model) for m in (letters, evil)]
    assert "do not compare" in losses(without)


def points(chart, name):
    """The (x, y) of the last line of a chart's that has a name, from its pixels."""
    [x, y] = [[float(n) for n in re.search(rf'data-{axis}="([^"]*)"', chart)[1].split()]
              for axis in "xy"]
    path = re.findall(rf'data-name="{name}" d="M([^"]*)"', chart)[-1]
    for point in path.split("L"):
        at, up = map(float, point.split())
        yield (x[2] + (at - x[0]) / (x[1] - x[0]) * (x[3] - x[2]),
               y[2] + (up - y[0]) / (y[1] - y[0]) * (y[3] - y[2]))


def test_the_curves_data_give_the_losses_back(measured):
    history = measured["letters"].model.history
    wide = losses([measured["letters"]]).split('class="narrow"')[0]
    found = list(points(wide, "held back"))
    assert found == [pytest.approx(at, abs=0.02) for at in history.validation]
    levels = re.findall(r'>(uniform|unigram|bigram)</text>', wide)
    assert sorted(levels) == ["bigram", "uniform", "unigram"]


def test_smoothed_losses_lag_behind_nothing():
    line = np.arange(40.0)
    assert smoothed(line) == pytest.approx(line)
    noise = np.random.default_rng(1).normal(size=2000)
    assert smoothed(noise)[10:-10].std() == pytest.approx(21**-0.5, rel=0.1)
    assert smoothed([3.0, 1.0])[1] == 1 and smoothed([]).size == 0


def test_a_map_keeps_distances_and_has_one_sign():
    rng = np.random.default_rng(2)
    flat = rng.normal(size=(9, 2)) @ np.linalg.qr(rng.normal(size=(5, 2)))[0].T + 3
    places, share = flattened(flat)
    apart = [np.linalg.norm(t[:, None] - t[None], axis=2) for t in (flat, places)]
    np.testing.assert_allclose(*apart, atol=1e-6)
    assert share == pytest.approx(1)
    directions = np.linalg.lstsq(places, flat - flat.mean(0), rcond=None)[0]
    assert all(row[np.abs(row).argmax()] > 0 for row in directions)
    assert flattened(flat[:1])[0].tolist() == [[0, 0]]
    kinds = {b"a": 0, b"Q": 1, b"7": 2, b"\n": 3, b"  ": 3, b"<": 4, b"\xc3": 5, b"th": 6,
             b" the": 7, "é".encode(): 0}
    assert {piece: kind(piece) for piece in kinds} == kinds and len(KINDS) == 8


def test_attention_is_what_the_model_computes(measured):
    m = measured["letters"]
    source = attention_maps(m, b"abcabdab")
    ids = m.model.tokenizer.encode("abcabdab")
    weights = activations(m.model.config, m.model.parameters, ids)["layers.0.attention_weights"]
    values = re.findall(r'data-values="(\d+)"', source)
    assert len(values) == 2
    for found, head in zip(values, weights, strict=True):
        digits = [int(found[i : i + 2]) for i in range(0, len(found), 2)]
        assert digits == pytest.approx((100 * head[np.tril_indices(8)]), abs=1)


def test_the_hardest_tokens_are_told_as_likely_as_they_were(measured):
    m = measured["letters"]
    worst = max(m.chunks, key=lambda chunk: chunk["loss"])
    source = hardest(m)
    first = re.search(r"<tbody>.*?</tr>", source, re.S)[0]
    assert f"{worst['loss']:.2f}" in first and f"{worst['byte']:,}" in first
    told = [float(p) for p in re.findall(r'title="([\d.]+) %"', first)]
    begin = worst["begin"] - 1
    odds = probabilities(m.model.config, m.model.parameters,
                         m.tokens[begin : begin + 9].astype(int))
    assert told[:8] == pytest.approx(100 * odds, rel=0.02, abs=0.01)
    assert len(told) == worst["end"] - worst["begin"]


def test_runs_are_counted_from_the_last_child_on():
    model = trained()
    [(run, end)] = counted_runs(model)
    assert (run.first_step, end) == (0, 12)
    model.lineage += [{"run": model.run}, {"init_with": {"step": 12, "seed": 1, "changes": {}}}]
    model.run, model.step = some_run(last_step=3).to_json(), 2
    assert [(run.last_step, end) for run, end in counted_runs(model)] == [(3, 2)]


def test_the_command_writes_a_page_with_and_without_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(trained(), "model.safetensors")

    def femtogpt(*arguments, exit_code=0):
        result = CliRunner().invoke(main, ["report", "--threads=1", *arguments])
        assert result.exit_code == exit_code, result.output
        return result

    told = femtogpt()
    assert re.fullmatch(r"report\.html: a page of \d+ KB on model\.safetensors\n", told.stdout)
    assert "dataset.txt does not exist" in told.stderr
    bare = (tmp_path / "report.html").read_text("utf-8")
    assert "with --dataset, this is measured on it" in bare and "uniform" in bare
    assert "--force" in femtogpt(exit_code=1).stderr
    assert "none.txt" in femtogpt("--dataset=none.txt", "--force", exit_code=1).stderr
    (tmp_path / "dataset.txt").write_text("abc\n")  # too short for a window
    assert "does not exist" not in femtogpt("--force").stderr
    assert "Could not be measured: the dataset has 4 tokens" in (
        tmp_path / "report.html").read_text("utf-8")
    os.mkdir("b")
    shutil.copy("model.safetensors", "b")
    told = femtogpt("--model=model.safetensors", "--model=b/model.safetensors", "--output=two.html")
    assert "on model.safetensors, b/model.safetensors" in told.stdout


@pytest.mark.skipif(CHROMIUM is None or os.name == "nt", reason="no Chromium, or no pipes to it")
def test_a_browser_tells_values_by_keys_and_pointer(tmp_path, measured):
    from browser import Browser

    page(tmp_path, measured["letters"])
    browser = Browser(tmp_path / "profile", (tmp_path / "page.html").as_uri())

    def told(selector, *keys):
        browser.value(f"document.querySelector({json.dumps(selector)}).focus()")
        for key in keys:
            browser.press(key)
        return browser.value("(e => e.closest('.attention') ?? e.closest('.hardest')?.parentNode"
                             " ?? e)(document.activeElement).nextElementSibling.textContent")

    try:
        browser.wait("document.querySelectorAll('.readout').length > 3")
        history = measured["letters"].model.history
        found = told(".wide .chart", "End")
        assert found.startswith("step 12: training ")
        assert float(found.split("held back ")[1]) == pytest.approx(history.validation[-1][1],
                                                                    abs=0.02)
        assert told(".wide .chart", "Home").startswith("step 1: ")
        first, second = told(".map", "Home"), told(".map", "ArrowRight")
        assert "letters" in first + second and "times" in first and first != second
        assert re.match(r"“.*”: [\d.]+ %", told(".hardest .text", "End"))
        found = told(".attention svg", "ArrowUp", "ArrowLeft", "ArrowLeft")
        assert "layer 0, head 0: " in found and "(7) looks at" in found and "(5) with" in found
        x, y = browser.value("(r => [r.x + r.width / 2, r.y + r.height / 2])("
                             "(e => (e.scrollIntoView(), e.getBoundingClientRect()))("
                             "document.querySelector('.wide .chart')))")
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert "training" in browser.value(
            "document.querySelector('.wide .chart').nextElementSibling.textContent")
        for width, hidden in ((375, "wide"), (1200, "narrow")):
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=700,
                         deviceScaleFactor=1, mobile=False)
            assert browser.value("document.documentElement.scrollWidth <= innerWidth")
            assert browser.value(
                f"getComputedStyle(document.querySelector('.{hidden}')).display") == "none"
        assert browser.value("performance.getEntriesByType('resource').length") == 0
        assert browser.told == []
    finally:
        browser.close()
