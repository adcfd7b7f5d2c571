"""The playground's page, in a browser: what it shows is what the models say."""

import base64
import os
import shutil
import time

import pytest
from playground import serving
from small import fresh_model, run, text
from test_playground import split_model

from femtogpt import checkpoint
from femtogpt.playground import server
from femtogpt.playground.answers import attention
from femtogpt.sampler import generate_with_probabilities

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None or os.name == "nt",
                                reason="no Chromium, or no pipes to it")


class Page:
    """A playground's page in a browser."""

    def __init__(self, folder, client):
        from browser import Browser

        self.browser = Browser(folder, client.url)
        self.value = self.browser.value
        self.wait("document.getElementById('button')?.textContent === 'Generate'"
                  " && !document.getElementById('button').disabled")

    def wait(self, expression):
        """Until it is true, on a busy machine too."""
        self.browser.wait(expression, 120)

    def all(self, selector, what="textContent"):
        """A property of every element."""
        return self.value(f"[...document.querySelectorAll('{selector}')].map(e => e.{what})")

    def generate(self, **fields):
        """Fills fields in and generates to the end."""
        for name, value in fields.items():
            self.value(f"document.getElementById('{name}').value = {value!r}")
        self.value("document.getElementById('message').textContent = '',"
                   "document.getElementById('button').click()")
        self.wait("document.getElementById('message').textContent === 'Done.'")


@pytest.fixture
def open_page(tmp_path):
    """Opens the page of a client's playground."""
    pages = []

    def open_it(client):
        pages.append(Page(tmp_path / "profile", client))
        return pages[-1]

    yield open_it
    for page in pages:
        page.browser.close()


def test_two_models_side_by_side(tmp_path, open_page):
    paths, models = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], []
    for seed, path in enumerate(paths):
        models.append(split_model())
        models[-1].parameters *= 1 + seed  # another model
        checkpoint.save(models[-1], path)
    with serving(*paths) as client:
        page = open_page(client)
        assert page.all(".name") == [str(path) for path in paths]
        prompt = "<b>ab €\n "
        page.generate(prompt=prompt, count=90, seed=4, temperature="1", top_p="0.9")
        found, first = page.all(".text"), []
        for number, model in enumerate(models):
            given = {"model": number, "prompt": prompt, "count": 90, "seed": 4, "temperature": 1,
                     "top_p": 0.9}
            start, tokens, _, expected = client.generate(**given)
            assert found[number] == prompt + expected
            drawn = [*generate_with_probabilities(model.config, model.parameters, [start["ids"]],
                                                  90, [4], 1, None, 0.9)]
            assert [token["probability"] for token in tokens] == [p for *_, p in drawn]
            first.append(tokens[0])
        assert "€" in found[1][len(prompt) :] and "<b>" in found[1][len(prompt) :]
        assert found[0] != found[1] and page.value("document.querySelectorAll('b').length") == 0
        assert all("90 tokens" in told and "seed 4, step 0" in told for told in page.all(".speed"))
        # By keyboard: the first token has the focus, the arrow goes to the next.
        page.value("document.querySelector('.text .token').focus()")
        for press, place in (None, 0), ("ArrowRight", 1), ("End", -1), ("Home", 0):
            if press:
                page.browser.press(press)
            tokens = page.value("document.activeElement.tokens")
            shown = page.all(".model:first-child .told tr", "children[0].textContent")
            assert len(shown) >= 3 * len(tokens)
            assert page.value("[...document.querySelectorAll('.model:first-child .token')]"
                              f".at({place}) === document.activeElement")
        rows = page.all(".model:first-child .told tr")
        assert len(rows) in (8, 9)
        told = page.value("document.querySelector('.told caption').textContent")
        p = first[0]["probability"]
        assert f"token {first[0]['id']}: " in told
        assert f"{100 * p:.{2 if p < 0.1 else 1}f} %" in told
        # By pointer, in the other column.
        page.value("document.querySelectorAll('.text')[1].querySelector('.token')"
                   ".dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))")
        assert page.value("document.querySelectorAll('.told')[1].querySelector('.drawn')"
                          ".children[0].textContent")
        # The colours' classes are those of probabilities.
        pairs = page.value("[...document.querySelectorAll('.token')].map(e => [e.className.at(-1),"
                           "Math.min(...e.tokens.map(t => t.probability))])")
        for name, p in pairs:
            assert int(name) == next(i for i, least in enumerate(
                (0.9, 0.5, 0.2, 0.05, 0.01, 0)) if p >= least)
        assert len({name for name, _ in pairs}) > 2
        page.value("document.getElementById('colours').click()")
        assert page.value("document.getElementById('legend').hidden")
        _attention_is_drawn(page, models[0], client)
        assert page.browser.told == []
        page.value("document.body.append(Object.assign(document.createElement('script'),"
                   "{textContent: 'window.ran = true'}))")
        assert page.value("typeof ran") == "undefined" and len(page.browser.told) == 1


def _attention_is_drawn(page, model, client):
    page.value("document.querySelector('.attention').open = true")
    page.wait("document.querySelectorAll('.heads canvas').length === 4")
    _, tokens, *_ = client.generate(prompt="<b>ab €\n ", count=90, seed=4, temperature=1, top_p=0.9)
    ids = [token["id"] for token in tokens][-16:]
    expected = base64.b64decode(attention(model, ids)["weights"])
    alphas = page.value("[...document.querySelectorAll('.heads canvas')].flatMap(c => [...c"
                        ".getContext('2d').getImageData(0, 0, 16, 16).data].filter((_, i) => "
                        "i % 4 === 3))")
    assert bytes(alphas) == expected
    page.value("document.querySelector('.heads button').focus()")
    page.browser.press("ArrowDown")
    assert page.all(".heads button", "ariaChecked").index("true") == 2
    assert "layer 2, head 1" in page.all(".chosen")[0]
    page.value("document.querySelector('.strip').children[15].focus()")
    row = expected[2 * 256 + 15 * 16 : 2 * 256 + 16 * 16]
    shades = page.all(".model:first-child .strip span", "style.backgroundColor")
    assert len(shades) == 16 and [bool(shade) for shade in shades] == [w > 0 for w in row]
    assert f"{100 * max(row) / 255:.1f} %" in page.all(".looks")[0]


def test_a_run_that_goes_on_is_seen(tmp_path, open_page):
    (tmp_path / "dataset.txt").write_text(text())
    path = tmp_path / "model.safetensors"
    checkpoint.save(fresh_model(), path)
    with serving(path) as client:
        page = open_page(client)
        assert page.all(".live")[0].startswith("Step 0, saved")
        assert "No step" in page.all(".curve")[0]
        before = page.all(".sample")[0]
        ran = run("train", "--steps=40", "--until-loss=1e-9", "--val-fraction=0.2", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        page.wait("document.querySelector('.live').textContent.startsWith('Step 40 of 40, saved')")
        assert page.all(".sample")[0] != before and "Trained for 40 steps" in page.all(".about")[0]
        label = page.value("document.querySelector('.curve svg').getAttribute('aria-label')")
        losses = checkpoint.load(path).history
        assert f"training {losses.losses[-1]:.3f}" in label and "to step 40:" in label
        assert f"held back {losses.validation[-1][1]:.3f}" in label
        page.generate(count=5)
        assert "step 40" in page.all(".speed")[0]
        path.unlink()
        for other in tmp_path.glob("model.*"):
            other.unlink()
        page.wait("/does not exist/.test(document.querySelector('.live.error')?.textContent)")
        page.generate(count=5)
        assert "does not exist" in page.all(".speed.error")[0]


def test_stopping_and_refusals(tmp_path, open_page, monkeypatch):
    checkpoint.save(split_model(), tmp_path / "m.safetensors")
    with serving(tmp_path / "m.safetensors") as client:
        page = open_page(client)
        page.value("document.getElementById('count').value = 10000,"
                   "document.getElementById('prompt').focus()")
        page.browser.call("Input.insertText", text="ab")
        page.browser.press("Enter", 13, modifiers=2)
        page.wait("document.querySelectorAll('.token').length > 20")
        assert page.value("document.getElementById('button').textContent") == "Stop"
        page.browser.press("Escape", 27)
        page.wait("document.getElementById('message').textContent === 'Stopped.'")
        assert "stopped" in page.all(".speed")[0] and page.all(".text")[0].startswith("ab")
        end = time.monotonic() + 60
        while client.playground.busy:  # the server stops too
            assert time.monotonic() < end
        page.generate(prompt="ab" * 40, count=5)
        assert "shorten it" in page.all(".speed.error")[0]
        page.generate(prompt="zz")
        assert page.all(".speed.error")
        page.generate(prompt="", stop="\\n", count=2000, temperature="1", seed="1")
        assert "\n" not in page.all(".text")[0]
        assert "ended at the stop text" in page.all(".speed")[0]
        monkeypatch.setattr(server, "AT_ONCE", 0)
        page.generate()
        assert "being written already" in page.all(".speed.error")[0]
        # A phone: nothing is wider than the screen.
        page.browser.call("Emulation.setDeviceMetricsOverride", width=360, height=700,
                          deviceScaleFactor=1, mobile=True)
        assert page.value("document.documentElement.scrollWidth") == 360
        page.value("history.replaceState(null, '', '/')")
    page.wait("/was `femtogpt playground` ended/.test(document.querySelector('.live').textContent)")
