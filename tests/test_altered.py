"""Changes of the model that benchmarks/recipe.py tries: that the lines they replace are there."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "altered.py"
spec = importlib.util.spec_from_file_location("altered", FILE)
altered = importlib.util.module_from_spec(spec)
spec.loader.exec_module(altered)


@pytest.mark.parametrize("name", altered.ALTERED)
def test_a_change_can_be_made(name, tmp_path):
    source = altered.copy_altered([name], tmp_path) / "femtogpt"
    for file in {file for file, _, _ in altered.ALTERED[name]}:
        text = (source / file).read_text(encoding="utf-8")
        assert text != (altered.REPOSITORY / "femtogpt" / file).read_text(encoding="utf-8")
        compile(text, file, "exec")


def test_a_change_of_lines_that_are_gone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(altered.ALTERED, "z-loss 1e-4", [("model.py", "no such line", "")])
    with pytest.raises(SystemExit, match="not there once"):
        altered.copy_altered(["z-loss 1e-4"], tmp_path)
