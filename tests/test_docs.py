"""The pages of docs/, the help texts and the docstrings build without a warning."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """name -> text of each page, with <pre> kept of all tags."""
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "-d", folder],
                          cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {page.stem: html.unescape(re.sub(r"<(?!/?pre)[^>]*>", "", page.read_text("utf-8")))
            for page in folder.glob("*.html")}


def test_there_is_a_page_for_every_part(pages):
    assert {"index", "commands", "python", "model"} | {
        path.stem for path in (ROOT / "docs").glob("*.md")} <= set(pages)


def test_they_have_the_help_texts_and_the_docstrings(pages):
    for command in ("train", "generate", "completion", "experiment run"):
        assert f"<pre>Usage: femtogpt {command} [OPTIONS]" in pages["commands"]
    for name in ("stream(", "generate(", "attention(", "heat_maps(", "load_tokenizer(",
                 "Writes the model file"):
        assert name in pages["python"]
    for name in ("linear", "attention", "norm", "gelu"):
        assert f"femtogpt.layers.{name}\n" in pages["model"]


def test_formulas_are_laid_out_as_they_stand(pages):
    for formula in ("out = x weight + bias", "loss = -log p[target]", "W <- W - lr sqrt"):
        assert any(formula in block
                   for block in re.findall(r"<pre>(.*?)</pre>", pages["model"], re.S)), formula
