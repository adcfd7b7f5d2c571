"""The examples run, small, and do what they say."""

import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from small import ROOT, environment

import femtogpt
from femtogpt.drawing import heat_maps
from femtogpt.parallel import Engine
from femtogpt.tensors import views

SVG = "{http://www.w3.org/2000/svg}"


def example(name, folder, steps):
    """What an example prints."""
    done = subprocess.run([sys.executable, ROOT / "examples" / name], cwd=folder, text=True,
                          capture_output=True, env=environment(STEPS=str(steps)), timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def own_layer():
    spec = importlib.util.spec_from_file_location("own_layer", ROOT / "examples" / "own_layer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_attention_draws_its_loss_and_where_heads_look(tmp_path):
    out = example("attention.py", tmp_path, 3)
    assert len(re.findall(r"^\d+ \+ \d+ = .*$", out, re.M)) == 5
    assert len(re.findall(r"^'.' +\d+\.\d+%$", out, re.M)) == 13
    for name in ("loss.svg", "attention.svg"):
        root = ElementTree.parse(tmp_path / name).getroot()
        assert root.tag == SVG + "svg"
    titles = [text.text for text in root.iter(SVG + "text") if "layer" in text.text]
    assert titles[0] == "layer 0, head 0" and len(titles) == 12


def test_tracking_tells_each_step_of_each_run(tmp_path):
    assert re.fullmatch(r"run 1: 3 steps, lowest loss \d\.\d+, [\d,]+ tokens/s\n",
                        example("tracking.py", tmp_path, 3))
    assert re.findall(r"run (\d): (\d) steps", example("tracking.py", tmp_path, 2)) == [
        ("1", "3"), ("2", "2")]


def test_own_layer_checks_its_gradient_and_trains(tmp_path):
    lines = example("own_layer.py", tmp_path, 25).splitlines()
    assert [line.split(":")[0] for line in lines] == ["dx", "dweight", "without the gate",
                                                      "with the gate"]
    (first, last), (gated_first, gated_last) = (
        map(float, re.findall(r"loss (\S+) at first, (\S+) at last", line)[0])
        for line in lines[2:])
    assert first == gated_first  # the gate begins as nothing
    assert last < 0.9 * first and gated_last < 0.9 * gated_first and last != gated_last


def test_own_layers_check_sees_a_wrong_gradient(own_layer, monkeypatch, capsys):
    own_layer.check()
    right = own_layer.gate_backward
    for wrong in (lambda *given: (right(*given)[0] * 1.001, right(*given)[1]),
                  lambda *given: (right(*given)[0], right(*given)[1].T)):
        monkeypatch.setattr(own_layer, "gate_backward", wrong)
        with pytest.raises(AssertionError):
            own_layer.check()


def test_own_layers_gradient_is_that_of_the_models_loss(own_layer):
    model = femtogpt.new(num_tokens=8, embedding_degree=16, num_layers=1, num_heads=2)
    rng = np.random.default_rng(1)
    config, parameters = model.config, model.state.parameters
    parameters += rng.normal(0, 0.2, parameters.size).astype(np.float32)
    table = views(parameters, config).token_embedding
    weight = rng.normal(0, 0.2, (16, 16)).astype(np.float32)
    windows, keys = rng.integers(0, 256, (4, 9)), np.zeros(4, np.uint64)
    with Engine(config, 4) as engine:
        def loss_and_gradient(weight):
            seen = parameters.copy()
            out, s = own_layer.gate_forward(table, weight)
            views(seen, config).token_embedding[...] = out
            loss, gradient, _ = engine.loss_and_gradient(seen, windows, 0.0, keys)
            return loss, own_layer.gate_backward(views(gradient, config).token_embedding, table, s,
                                                 weight)[1]

        _, gradient = loss_and_gradient(weight)
        direction = gradient / np.linalg.norm(gradient)
        above, below = (loss_and_gradient(weight + sign * 0.02 * direction)[0] for sign in (1, -1))
    assert (above - below) / 0.04 == pytest.approx(np.linalg.norm(gradient), rel=0.01)


def test_a_heat_map_has_a_cell_a_number():
    rows = np.array([[1.0, 0.0], [0.25, 0.75]])
    root = ElementTree.fromstring(heat_maps([("a & b", rows), ("c", rows.T)], "<x", 2, cell=10))
    opacities = [float(r.get("fill-opacity")) for r in root.iter(SVG + "rect")
                 if r.get("fill-opacity")]
    assert opacities == [1, 0.25, 0.75, 1, 0.25, 0.75]  # 0 is drawn as nothing
    cells = [(r.get("x"), r.get("y")) for r in root.iter(SVG + "rect") if r.get("fill-opacity")]
    assert cells[:3] == [("20", "30"), ("20", "40"), ("30", "40")]
    assert (root.get("width"), root.get("height")) == ("100", "60")
    assert [t.text for t in root.iter(SVG + "text")][:3] == ["a & b", "<", "<"]
