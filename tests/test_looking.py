"""What tells how a model came to be and does: chunks, loss --plot, info's tree."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from small import fresh_model, some_run, text

from femtogpt import checkpoint
from femtogpt.checkpoint import History
from femtogpt.cli import main
from femtogpt.drawing import letter_chart, thinned
from femtogpt.run import chronicle
from femtogpt.scoring import chunks, evaluate
from femtogpt.surgery.child import init_with
from femtogpt.surgery.depth import insert_layers
from femtogpt.tensors import views


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text(500))
    checkpoint.save(fresh_model(), "model.safetensors")
    return tmp_path


def invoke(line, exit_code=0):
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == exit_code, result.output
    return result


# ---- chunks


def lover_of(letter):
    """A model that always expects one letter."""
    model = fresh_model()
    views(model.parameters, model.config).head_bias[model.tokenizer.encode(letter)] += 9
    return model


def test_chunks_are_the_parts_of_a_text_with_their_losses():
    model = lover_of("a")
    content = "b" * 25 + "a" * 24 + "c" * 24 + "bbb"  # windows of 8, chunks of 3
    tokens = model.tokenizer.encode(content)
    found = chunks(model, tokens, 17)
    assert [(c["begin"], c["end"]) for c in found] == [(1, 25), (25, 49), (49, 73)]
    assert [content[c["byte"]] for c in found] == ["b", "a", "c"]
    assert found[1]["loss"] < 0.1 < 5 < min(found[0]["loss"], found[2]["loss"])
    whole = evaluate(model, tokens)
    assert np.mean([c["loss"] for c in found]) == pytest.approx(whole["loss"])
    assert np.mean([c["bits_per_byte"] for c in found]) == pytest.approx(whole["bits_per_byte"])
    assert len(chunks(model, tokens, 1)) == 9 and len(chunks(model, tokens, 10**9)) == 1


def test_the_chunks_command_shows_both_ends_and_writes_the_hard_parts(folder):
    checkpoint.save(lover_of("a"), "model.safetensors")
    parts = ["h" * 17, "a" * 16, "ghghghgh\n" + "e" * 7, "a" * 16]
    (folder / "dataset.txt").write_text("".join(parts))
    out = invoke("chunks --chunk-size=16 --count=2 --output=hard.txt").stdout
    hardest, easiest = out.split("easiest")
    assert hardest.startswith("hardest of 4 chunks")
    assert {line.split("|")[1] for line in hardest.splitlines()[1:]} == {
        "h" * 16, "ghghghgh\\neeeeeee"}
    assert [line.split("|")[1] for line in easiest.splitlines()[1:3]] == ["a" * 16] * 2
    assert (folder / "hard.txt").read_text() == "h" * 16 + "\nghghghgh\neeeeeee\n"
    assert "--force" in invoke("chunks --output=hard.txt", 1).stderr
    found = json.loads(invoke("chunks --chunk-size=16 --json").stdout)
    assert [chunk["byte"] for chunk in found] == [1, 17, 33, 49]
    assert found[1]["text"] == "a" * 16


# ---- loss --plot


def curved():
    model = fresh_model()
    model.step = 1000
    model.history = History([4 / (1 + i / 50) for i in range(1000)], [(500, 1.0), (1000, 0.9)])
    return model


def test_a_loss_curve_is_drawn_as_svg(folder):
    checkpoint.save(curved(), "model.safetensors")
    assert invoke("loss --plot=curve.svg").stdout == "curve.svg: 1000 steps\n"
    drawn = ElementTree.parse("curve.svg").getroot()
    assert drawn.tag.endswith("svg")
    paths = [p.get("d") for p in drawn.iter("{http://www.w3.org/2000/svg}path")
             if p.get("fill") == "none"]
    assert [path.count("L") + 1 for path in paths] == [334, 2]
    assert "--force" in invoke("loss --plot=curve.svg", 1).stderr
    invoke("loss --plot=curve.svg --force")


def test_a_loss_curve_is_drawn_in_the_terminal(folder):
    checkpoint.save(curved(), "model.safetensors")
    lines = invoke("loss --plot=-").stdout.splitlines()
    assert max(map(len, lines)) <= 82 and lines[0].startswith("   3.9") and "*" in lines[0][:13]
    assert lines[-1].split() == ["step;", "*", "training,", "o", "held", "back"]
    columns = [line.index("o") for line in lines[:-2] if "o" in line]
    assert columns[-1] == 81


def test_a_chart_of_letters_puts_every_point_in_its_place():
    chart = letter_chart([("up", [(0, 1.0), (10, 2.0), (20, 3.0)])], width=21, height=5)
    assert [line[10:] for line in chart.splitlines()[:5]] == [
        " " * 20 + "*", "", " " * 10 + "*", "", "*"]
    assert "*" in letter_chart([("one point", [(3, 1.0)])])


def test_thinned_points_are_means():
    assert thinned([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(1.5, 3.0), (3, 9.0)]
    assert thinned([], 2) == [] and thinned([(1, 2.0)]) == [(1, 2.0)]


# ---- info


def test_info_draws_the_lineage_as_a_tree(folder):
    model = fresh_model()
    model.run = some_run(last_step=200).to_json()
    model.step = 200
    model = insert_layers(model, [0, 2])
    model.lineage.append({"run": model.run})  # as when the next run begins
    model.run = some_run(first_step=200, last_step=300).to_json()
    model.step = 300
    model, _ = init_with(model, num_tokens=12)
    model.run, model.step = some_run(last_step=50).to_json(), 7
    model.lineage.append({"reset_optimizer": {"step": 3}})
    checkpoint.save(model, "model.safetensors")
    assert invoke("info").stdout.split("lineage:\n")[1] == (
        "    init: seed 1\n"
        "    |- run: step 0 to 200; muon, batch 4, dropout 0.1\n"
        "    |- insert-layer at 0, 2: step 200\n"
        "    |- run: step 200 to 300; muon, batch 4, dropout 0.1\n"
        "    `- child of this at step 300: num tokens 8 -> 12\n"
        "       |- run: step 0 to 50, now at 7; muon, batch 4, dropout 0.1\n"
        "       `- reset-optimizer: step 3\n")


def test_a_strange_lineage_is_drawn_too(folder):
    model = fresh_model()
    model.lineage = [7, None, [], {}, {"run": 3}, {"init_with": []}, {"insert_layer": {"at": 1}},
                     {"a": {"b": "\x1b[31m\u2603"}}, {"run": {"first_step": "x"}},
                     {"x": {"step": []}},
                     *[{"init_with": {"step": 1, "changes": {}}}] * 99]
    checkpoint.save(model, "model.safetensors")
    out = invoke("info").stdout
    assert out.isascii() and "\x1b" not in out
    assert "(69 earlier entries, see --json)" in out and len(out.splitlines()) < 65
    model.lineage = model.lineage[:10]
    checkpoint.save(model, "model.safetensors")
    assert r"a: b \x1b[31m\u2603" in invoke("info").stdout


def test_a_chronicle_puts_runs_where_they_began():
    model = fresh_model()
    run = {"run": some_run().to_json()}
    model.lineage = [{"init": {"seed": 1}}, {"insert_layer": {"at": [0], "step": 5, "seed": 1}}]
    model.run = run["run"]
    assert chronicle(model) == [model.lineage[0], run, model.lineage[1]]
