"""A model as a page: its JavaScript, run by Node.js and by a browser, does what we do."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from click.testing import CliRunner
from small import ROOT, fresh_model

from femtogpt import checkpoint
from femtogpt.cli import main
from femtogpt.config import GPTConfig
from femtogpt.decoder import Decoder
from femtogpt.errors import FemtoError
from femtogpt.exchange import html
from femtogpt.exchange.html import writing
from femtogpt.model import initial_parameters
from femtogpt.sampler import generate_with_probabilities, prompt_ids
from femtogpt.tensors import views
from femtogpt.tokenizer import (
    AsciiTokenizer,
    ByteTokenizer,
    LowercaseTokenizer,
    PiecesTokenizer,
    ReservedTokenizer,
    train_bpe,
    train_char,
    train_pathpiece,
)
from femtogpt.tokenizer.characters import classes
from femtogpt.tokenizer.cutting import split_chunks

NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium")
with_node = pytest.mark.skipif(NODE is None, reason="no Node.js")
ODD = [
    "", " ", "\n", "\n\n", "a", "KING:", "the king's the king'S they'LL I'ſ 's 'll '",
    "  the\n\n  king  ",
    "tabs\t\tand \r\n\r\n lines\u2028\u2029\x85\x0b.", "\ufeffmark \ufeff",
    "\u00a0\u3000wide  spaces", "12345 ½ Ⅷ ٣٤ 1a2b", "naïve café straße ÀÉÎ ΣΑΣ ς İıſK",
    "日本語 ひらがな 한국어",
    "emoji 👩‍👩‍👧 🇩🇪 e\u0301 \u0301",
    "<unk> </script><script>alert(1)</script> <!-- &amp;",
    "<|reserved_0|> <|end|>", "\x00\x01\x7f\x1b[0m",
    "!!!??? --- ... \"quoted\" 'single'", "ǅ ǈ Ꮳ 𐐀 𝒜 𞤀 \U0001e030 \U00016d40",
    "a" * 33,
    "KING\nQUEEN \n \n x", "the the the thethe  the", "\u180e\u200b\u200d\u0085", "x" * 70 + " the",
    "don't  DON'T 're'RE 'vE we'rest we'REst I'vest you'LLama you'llama it'Sand 'ſand'Dad",
    "I'moo a'Tee",
    ".\n.\r\n . \n", "9\n99 999\t9999 99999",
]


def rng_text():
    """Strings of all sorts of characters side by side."""
    rng = np.random.default_rng(3)
    letters = [*"  \n\t'.,sStTrReEvVlLdDmM019ſéΣ日👩\u0301\u00a0\u0085\ufeff\r", "the", "ing", "ll"]
    return ["".join(rng.choice(letters, size=20)) for _ in range(60)]


def shakespeare(length=40_000):
    return (ROOT / "texts" / "shakespeare.txt").read_text()[:length]


def model_of(tokenizer, seed=1, **changes):
    """A Model whose every parameter is other than zero, float32 and not float16."""
    shape = {"num_tokens": 8, "embedding_degree": 16, "num_layers": 2, "num_heads": 2} | changes
    config = GPTConfig(tokenizer.vocab_size, **shape)
    rng, start = np.random.default_rng(seed), initial_parameters(config, seed)
    noise = rng.normal(0, 0.2, start.size).astype(np.float32)
    return checkpoint.Model(config, tokenizer, start + noise)


def page_of(model, folder, dtype="float32", name="page.html"):
    path = folder / name
    html.write(model, path, dtype)
    return path


def in_node(page, *requests):
    """The answers of page_in_node.js."""
    ran = subprocess.run([NODE, Path(__file__).with_name("page_in_node.js"), page],
                         input=json.dumps(requests), capture_output=True, text=True,
                         encoding="utf-8", timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


class Page(HTMLParser):
    """A page's elements: [(tag, attributes)], and the text of each id."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "input", "br", "link"):
            self.open.append((tag, dict(attributes).get("id")))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for tag, name in self.open:
            key = name or tag
            self.texts[key] = self.texts.get(key, "") + data


TOKENIZERS = {
    "byte": ByteTokenizer,
    "ascii": AsciiTokenizer,
    "char": lambda: train_char("\n abcKINGthe ',é日👩"),
    "lowercase": lambda: LowercaseTokenizer(train_char(shakespeare().lower() + "éσi\u0307àîß")),
    "reserved": lambda: ReservedTokenizer(ReservedTokenizer(ByteTokenizer(), 3), 2),
    "bpe gpt2": lambda: train_bpe([shakespeare()], 500),
    "bpe gpt4": lambda: train_bpe([shakespeare()], 500, split="gpt4", case_sensitive=False),
    "bpe none": lambda: train_bpe([shakespeare()], 500, split="none"),
    "bpe super": lambda: train_bpe([shakespeare()], 500, split="super", reserve_tokens=2),
    "bpe seen": lambda: train_bpe([shakespeare()], 300, base="seen"),
    "pathpiece": lambda: train_pathpiece([shakespeare()], 500),
    "pieces": lambda: PiecesTokenizer.from_strings([*"a ekin\n", "the", "th"]),
    "pieces unk": lambda: PiecesTokenizer.from_strings(["the", "<unk>", "th", " the", "\n", "é"]),
}


@with_node
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_pages_ids_are_ours(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]()
    texts = [*ODD, *rng_text(), shakespeare(3000)]
    page = page_of(model_of(tokenizer, num_layers=1), tmp_path)
    encoded, pieces = in_node(page, ["encode", texts], ["pieces"])
    assert [p.encode("latin-1") for p in pieces] == [*map(tokenizer.piece,
                                                          range(tokenizer.vocab_size))]
    refused = 0
    for source, (ids, joined) in zip(texts, encoded, strict=True):
        try:
            ours = tokenizer.encode(source)
        except FemtoError as error:
            character = re.search(r"\(U\+[0-9A-F]+\)", str(error))[0]
            assert character in ids, (source, ids)
            refused += 1
            continue
        assert ids == ours.tolist(), source
        assert joined.encode("latin-1") == tokenizer.decode(ours)
    assert (refused > 0) == (kind in ("ascii", "char", "lowercase", "bpe seen", "pieces"))


@with_node
@pytest.mark.parametrize("split", ["gpt2", "gpt4"])
def test_the_pages_chunks_are_ours(split, tmp_path):
    tokenizer, texts = train_bpe(["a"], 256, split=split), [*ODD, *rng_text(), shakespeare(3000)]
    [chunks] = in_node(page_of(model_of(tokenizer, num_layers=1), tmp_path), ["chunks", texts])
    for source, found in zip(texts, chunks, strict=True):
        assert [c.encode() for c in found] == split_chunks(source.encode(), split), source
    edges = np.flatnonzero(np.diff(classes()))  # the last of each range of characters
    edges = edges[(edges < 0xD7FF) | (edges > 0xE000)]
    edge = "".join(f"{chr(c)}x1 {chr(c + 1)}x1 " for c in edges.tolist())
    [[found]] = in_node(tmp_path / "page.html", ["chunks", [edge]])
    assert [c.encode() for c in found] == split_chunks(edge.encode(), split)


def decoded(model, ids):
    decoder = Decoder(model.config, model.parameters)
    return np.array([decoder.feed([token])[0] for token in ids])


SHAPES = {
    "rope": {},
    "odd sizes": {"num_tokens": 7, "embedding_degree": 18, "num_heads": 3},
    "one head, one token": {"num_tokens": 1, "num_heads": 1, "positional_encoding": "absolute"},
    "none": {"positional_encoding": "none"},
    "learned": {"positional_encoding": "learned", "num_tokens": 9},
    "absolute": {"positional_encoding": "absolute", "embedding_degree": 15, "num_heads": 5},
    "femto": {"recipe": "femto"},
    "femto rope": {"recipe": "femto", "positional_encoding": "rope"},
}


@with_node
@pytest.mark.parametrize("shape", SHAPES)
def test_the_pages_logits_and_text_are_ours(shape, tmp_path):
    model = model_of(train_char(" \nabcdefghijk"), **SHAPES[shape])
    ids = np.random.default_rng(1).integers(0, 13, 40).tolist()  # many contexts
    prompt = "abcab"[: model.config.num_tokens]
    seeds = [0, 1, 2**63 - 1]
    drawn = [("abc"[: model.config.num_tokens], 30, {"temperature": 0, "top_k": None, "seed": 5})]
    drawn += [(prompt, 40, {"temperature": 0.7, "top_k": k, "seed": seed})
              for seed in seeds for k in (None, 3)]
    page = page_of(model, tmp_path)
    logits, *generated = in_node(page, ["logits", ids], *(
        ["generate", text, {"count": count, "temperature": s["temperature"], "topK": s["top_k"],
                            "seed": str(s["seed"])}] for text, count, s in drawn))
    ours = decoded(model, ids)
    assert np.abs(np.array(logits) - ours).max() < 1e-4
    assert ours.std() > 0.3  # else a wrong forward might pass
    for (start, count, settings), (tokens, probabilities) in zip(drawn, generated, strict=True):
        seed = settings.pop("seed")
        steps = [*generate_with_probabilities(
            model.config, model.parameters,
            [prompt_ids(model.tokenizer, model.config.num_tokens, start)], count, [seed],
            **settings)]
        assert tokens == [token for _, token, _ in steps]
        np.testing.assert_allclose(probabilities, [p for *_, p in steps], atol=1e-5)


@with_node
def test_random_numbers_and_refusals_are_ours(tmp_path):
    page = page_of(model_of(PiecesTokenizer.from_strings(["a", "b", "ab"]), num_layers=1), tmp_path)
    once = {"count": 1, "temperature": 0, "topK": None, "seed": "1"}
    uniforms, empty, unknown, long, longer = in_node(
        page, ["uniforms", str(2**63 - 1), 600], ["generate", "", once], ["generate", "ac", once],
        ["generate", "aa" * 5, once], ["generate", "a" * 10**6, once])
    assert uniforms == np.random.Generator(np.random.Philox(key=2**63 - 1)).random(600).tolist()
    assert "give a prompt" in empty[0] and "“c” (U+0063)" in unknown[0]
    assert "10 tokens, the model sees 8" in long[0] and "more than 8 tokens" in longer[0]


@with_node
def test_float16_is_decoded_to_the_bit(tmp_path):
    model = model_of(train_char(" \nabcdefghijk"))
    model.parameters[:8] = [0, -6e-8, 6e-5, -5.9e-5, 65504, 1e-9, 2**-14, 1 / 3]
    half = model.parameters.astype(np.float16)
    [weights] = in_node(page_of(model, tmp_path, "float16"), ["weights"])
    assert np.float32(weights).tolist() == half.astype(np.float32).tolist()


@with_node
def test_a_diverged_model_is_told(tmp_path):
    model = fresh_model(num_layers=1)
    model.parameters *= 1e19  # finite, but not its logits
    [(message, _)] = in_node(page_of(model, tmp_path), [
        "generate", "a", {"count": 1, "temperature": 0, "topK": None, "seed": "1"}])
    assert "diverged" in message
    model.parameters[0] = np.nan
    with pytest.raises(FemtoError, match=r"nan\.html cannot be written: .* diverged"):
        html.write(model, tmp_path / "nan.html", "float32")


def test_float16_is_the_default_only_where_greedy_text_is_the_same(tmp_path):
    model = model_of(train_char(" \nabcdefghijk"))
    page = tmp_path / "a.html"

    def dtype(*asked):
        notes = html.write(model, page, *asked)
        return json.loads(Page(page.read_text("utf-8")).texts["model"])["dtype"], notes[0]

    assert dtype()[0] == "float16" and "is the same" in dtype()[1]
    assert dtype("float32")[0] == "float32"
    # The head tells two tokens apart by less than float16 does, so which is likelier changes.
    p = views(model.parameters, model.config)
    p.head_weight[:] = 0
    p.head_bias[:] = 0
    p.head_bias[3:5] = 1, 1.0001
    assert dtype() == ("float32", dtype()[1]) and "NOT the same" in dtype()[1]
    assert dtype("float16")[0] == "float16" and "NOT the same" in dtype("float16")[1]
    p.head_bias[0] = -70000
    assert dtype()[0] == "float32" and "beyond float16" in dtype()[1]
    with pytest.raises(FemtoError, match="--dtype float32"):
        dtype("float16")


def test_a_page_is_closed_to_the_network_and_to_its_own_words(tmp_path):
    evil = ["a", "\n", "</script><script>alert(1)</script>", "<!--<script>", "&lt;", "é\u2028"]
    model = model_of(PiecesTokenizer.from_strings(evil), num_layers=1)
    path = page_of(model, tmp_path, name="<b>&'.html" if os.name != "nt" else "&'.html")
    source = path.read_text("utf-8")
    page = Page(source)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3 and "b" not in tags and "<b>" not in source
    assert page.texts["title"] == path.stem
    assert json.loads(page.texts["model"])["tokenizer"]["pieces"] == [
        piece.encode().decode("latin-1") for piece in evil]
    [policy] = [a["content"] for tag, a in page.elements if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag in ("script", "style"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.S)
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert len(inline) == 1 and f"{tag}-src 'sha256-{digest}'" in policy
    for _, attributes in page.elements:
        assert not {"src", "href", "style", "onclick", "onload", "action"} & set(attributes)
    assert "http" not in source.replace("http-equiv", "")
    labelled = {a.get("for") for tag, a in page.elements if tag == "label"}
    assert "prompt" in labelled
    assert html.write(model, path, "float32") and path.read_text("utf-8") == source


def test_a_model_that_no_page_holds_is_refused(tmp_path, monkeypatch):
    model = model_of(ByteTokenizer(), num_layers=1)
    for largest, dtype, way_out in ((50_000, "float32", "--dtype float16 halves that"),
                                    (70_000, "float32", "--dtype float16 halves that"),
                                    (20_000, "float16", "smaller models")):
        monkeypatch.setattr(writing, "LARGEST", largest)
        with pytest.raises(FemtoError, match=rf"a\.html cannot be written: .* MB: .*{way_out}"):
            html.write(model, tmp_path / "a.html", dtype)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_page_small_enough_to_send(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a = {"num_tokens": 64, "embedding_degree": 64, "num_layers": 4, "num_heads": 4}
    checkpoint.save(model_of(ByteTokenizer(), **a), "a.safetensors")

    def femtogpt(*arguments, exit_code=0):
        result = CliRunner().invoke(main, ["export", "--format=html", *arguments])
        assert result.exit_code == exit_code, result.output
        return result

    told = femtogpt("--model=a.safetensors", "--output", "a.html", "--dtype=float16")
    assert told.stdout == "a.html: 232,320 parameters, step 0\n"
    assert "greedy text of 9 beginnings" in told.stderr and "float16" in told.stderr
    assert Path("a.html").stat().st_size < 5e6
    assert "--force" in femtogpt("--model=a.safetensors", "a.html", exit_code=1).stderr
    assert "--output" in femtogpt("a.html", "--output=b.html", exit_code=2).stderr
    assert "--output" in femtogpt(exit_code=2).stderr
    refused = CliRunner().invoke(main, ["export", "--format=femto", "x", "--dtype=float16"])
    assert refused.exit_code == 2 and "--dtype" in refused.stderr


@pytest.mark.skipif(CHROMIUM is None or os.name == "nt", reason="no Chromium, or no pipes to it")
def test_a_browser_runs_the_page_alone(tmp_path):
    from browser import Browser

    pieces = [b"\n", b" ", b"ab", b"c", b"<b>", b"</b>", b"&lt;", b"\xc3", b"\xa9"]
    model = model_of(PiecesTokenizer(pieces), seed=10, num_tokens=16)
    page, prompt = page_of(model, tmp_path, name="a page.html"), "ab <b>é\n c"
    steps = [*generate_with_probabilities(model.config, model.parameters,
                                          [prompt_ids(model.tokenizer, 16, prompt)], 60, [1], 0)]
    made = model.tokenizer.decode([token for _, token, _ in steps]).decode("utf-8", "replace")
    assert {"é", "\ufffd", "<b>", "c"} <= {*re.findall(r"<b>|.", made)}
    browser = Browser(tmp_path / "profile",
                      f"{page.as_uri()}#prompt={quote(prompt)}&temperature=0&count=60&seed=5")

    def shown(name):
        return browser.value(f"document.getElementById('{name}').textContent")

    def wait(name, pattern):
        browser.wait(f"/{pattern}/.test(document.getElementById('{name}')?.textContent)")

    try:
        wait("message", "Done")
        assert shown("text") == prompt + made and shown("button") == "Generate"
        assert re.fullmatch(r"60 tokens, [\d,]+ tokens/s, seed 5", shown("speed"))
        assert browser.value("document.querySelectorAll('b').length") == 0
        for key, place in (None, 0), ("ArrowRight", 1), ("End", -1), ("ArrowLeft", -2):
            if key is None:
                browser.value("document.querySelector('.token').focus()")
            else:
                browser.press(key)
            focused = browser.value("document.activeElement.tokens.map(Object.values)")
            if key in (None, "ArrowRight"):
                assert focused[0] == pytest.approx(steps[place][1:], abs=1e-5)
            percents = [float(p) for p in re.findall(r"([\d.]+) %", shown("readout"))]
            assert percents == pytest.approx([100 * p for _, p in focused], abs=0.06)
        # Keys work while it generates: it leaves the browser time.
        browser.value("document.getElementById('count').value = 10000,"
                      "document.getElementById('prompt').select()")
        browser.call("Input.insertText", text="c")
        browser.press("Enter", 13, modifiers=2)
        wait("speed", "tokens.s, seed")
        assert shown("button") == "Stop"
        browser.press("Escape", 27)
        wait("message", "Stopped")
        assert shown("text").startswith("c") and not shown("speed").startswith("10,000")
        browser.value("document.getElementById('button').click()")
        wait("button", "Stop")
        browser.value("document.getElementById('top-k').value = 0,"  # no k: not valid
                      "document.getElementById('button').click()")
        wait("message", "Stopped")
        browser.value("document.getElementById('top-k').value = ''")
        browser.value("document.getElementById('prompt').value = 'a'.repeat(1000)")
        browser.press("Enter", 13, modifiers=2)
        wait("message", "shorten it")
        assert browser.value("performance.getEntriesByType('resource').length") == 0
        assert browser.told == []
        browser.value("document.body.append(Object.assign(document.createElement('script'),"
                      "{textContent: 'window.ran = true'}))")
        assert browser.value("typeof ran") == "undefined" and len(browser.told) == 1
    finally:
        browser.close()
