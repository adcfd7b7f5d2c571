"""The playground's server: the same tokens as generate's, for whoever may ask, and nobody else."""

import base64
import doctest
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from click.testing import CliRunner
from playground import TOKEN, serving
from small import environment, fresh_model, start

from femtogpt import checkpoint
from femtogpt.cli import main
from femtogpt.config import GPTConfig
from femtogpt.inspection import activations
from femtogpt.model import initial_parameters
from femtogpt.playground import answers, server
from femtogpt.sampler import generate_with_logits, generate_with_probabilities
from femtogpt.scoring import sample_text
from femtogpt.tokenizer import ByteTokenizer, PiecesTokenizer, whole_text

PIECES = [b"\n", b" ", b"ab", b"c", b"\xe2", b"\x82", b"\xac", b"\xe2\x82", b"<b>", b"d"]


def split_model():
    """A Model whose tokens are parts of characters too."""
    config = GPTConfig(len(PIECES), 16, 16, 2, 2)
    start_ = initial_parameters(config, 1)
    noise = np.random.default_rng(2).normal(0, 0.1, start_.size).astype(np.float32)
    return checkpoint.Model(config, PiecesTokenizer(PIECES), start_ + noise)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """It holds split.safetensors, letters.safetensors and bytes.safetensors."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint.save(split_model(), folder / "split.safetensors")
    checkpoint.save(fresh_model(), folder / "letters.safetensors")
    config = GPTConfig(256, 16, 16, 2, 2)
    checkpoint.save(checkpoint.Model(config, ByteTokenizer(), initial_parameters(config, 1)),
                    folder / "bytes.safetensors")
    return folder


@pytest.fixture(scope="module")
def client(folder):
    with serving(*(folder / f"{name}.safetensors" for name in ("split", "letters", "bytes"))
                 ) as client:
        yield client


# ---- what is answered


SETTINGS = [{}, {"temperature": 0}, {"temperature": 1.3, "top_k": 3}, {"top_p": 0.7}, {"stop": "€"},
            {"stop": "ab", "temperature": 2}, {"prompt": "ab €", "temperature": 1}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_text_is_that_of_generate(client, folder, settings):
    settings = {"count": 80, "seed": 2**63 - 1} | settings
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    model = folder / "split.safetensors"
    printed = CliRunner().invoke(main, ["generate", "--no-echo", f"--model={model}", *options])
    assert printed.exit_code == 0, printed.output
    first, tokens, last, text = client.generate(**settings)
    assert text + "\n" == printed.stdout
    assert first["seed"] == str(2**63 - 1) and first["step"] == 0
    assert last["end"] == ("stop" if len(tokens) < 80 else "count")
    assert (len(tokens) < 80) == ("stop" in settings)
    assert "stop" not in settings or settings["stop"] not in text


@pytest.mark.parametrize("number, name", [(0, "split"), (2, "bytes")])
def test_each_token_is_told_with_what_else_could_have_come(client, folder, number, name):
    model = checkpoint.load(folder / f"{name}.safetensors")
    pieces = [model.tokenizer.piece(i) for i in range(model.config.vocab_size)]
    first, tokens, *_ = client.generate(model=number, count=60, seed="7", temperature=1)
    given = (model.config, model.parameters, [first["ids"]], 60, [7], 1)
    for token, (_, id, p), (_, _, logits) in zip(
            tokens, generate_with_probabilities(*given), generate_with_logits(*given), strict=True):
        assert token["id"] == id and token["probability"] == p
        assert token["piece"] == pieces[id].decode("utf-8", "backslashreplace")
        order = np.argsort(-logits, kind="stable")[:8]
        assert [piece for piece, _ in token["alternatives"]] == [
            pieces[i].decode("utf-8", "backslashreplace") for i in order]
        shares = [share for _, share in token["alternatives"]]
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 1 + 1e-9
        assert p in shares or p <= shares[-1]


def test_a_text_is_told_with_the_tokens_that_made_it(client):
    _, tokens, _, text = client.generate(count=60, seed=7, temperature=1)
    several = 0
    for line in tokens:
        for part, numbers in line["parts"]:
            made = b"".join(PIECES[tokens[n]["id"]] for n in numbers)
            several += len(numbers) > 1
            assert "\ufffd" in part or part.encode() in made
    assert several > 0 and "€" in text


def test_text_of_tokens_is_whole():
    assert doctest.testmod(whole_text).failed == 0
    text = whole_text.WholeText("xy")
    assert text.take(b"ax", 1) == [("a", (1,))] and text.take(b"x", 2) == [("x", (1,))]
    assert text.take(b"\xff\xe2", 3) == [("x", (2,)), ("\ufffd", (3,))]
    assert text.rest() == [("\ufffd", (3,))] and text.rest() == [] and not text.ended


def test_attention_is_that_of_the_forward(client):
    model, ids = fresh_model(), [1, 2, 5, 3, 1]
    status, found = client.ask("POST", "/api/attention", {"model": 1, "ids": ids})
    assert status == 200 and found["pieces"] == [model.tokenizer.piece(i).decode() for i in ids]
    weights = np.frombuffer(base64.b64decode(found["weights"]), np.uint8)
    ours = activations(model.config, model.parameters, ids)
    np.testing.assert_allclose(
        weights.reshape(found["layers"], found["heads"], 5, 5) / 255,
        [ours[f"layers.{l}.attention_weights"] for l in range(2)], atol=0.6 / 255)
    for ids in [[1] * 9, [13], [10**6]]:  # more than it sees; no tokens of its
        status, found = client.ask("POST", "/api/attention", {"model": 1, "ids": ids})
        assert status == 400 and "token" in found["error"]


def test_a_model_that_is_replaced_is_read_anew(tmp_path):
    path, model = tmp_path / "m.safetensors", fresh_model()
    checkpoint.save(model, path)
    with serving(path) as client:
        def status(seen=""):
            return client.ask("GET", f"/api/models/0?seen={seen}")

        _, told = status()
        assert told["step"] == 0 and told["loss"] == [] and told["recovered"] is None
        assert told["sample"] == sample_text(model, "\n", 60, seed=0) and told["age"] >= 0
        assert set(status(told["stamp"])[1]) == {"stamp", "age"}
        model.step, model.history.losses = 900, [float(i) for i in range(900)]
        model.history.validation = [(500, 2.5)]
        model.parameters *= 0.5
        checkpoint.save(model, path)
        _, fresh = status(told["stamp"])
        assert fresh["stamp"] != told["stamp"] and fresh["step"] == 900
        assert fresh["validation"] == [[500, 2.5]] and len(fresh["loss"]) <= 400
        assert fresh["loss"][0] == [2, 1] and fresh["loss"][-1][0] <= 900  # means of neighbours
        first, tokens, _, _ = client.generate(count=5, seed=1, temperature=0)
        assert first["step"] == 900
        assert tokens[0]["probability"] == next(generate_with_probabilities(
            model.config, model.parameters, [first["ids"]], 1, [1], 0))[2]
        path.write_bytes(path.read_bytes()[:-9])  # .previous, of step 0, is good
        _, told = status(fresh["stamp"])
        assert told["step"] == 0 and "damaged" in told["recovered"]
        for file in tmp_path.iterdir():
            file.unlink()
        for code, found in (status(), client.ask("POST", "/api/generate", {}),
                            client.ask("POST", "/api/attention", {"ids": [1]})):
            assert code == 503 and f"{path} does not exist" in found["error"]
        path.write_text("no model")
        assert "is not a femtogpt model" in status()[1]["error"]
        path.unlink()
        checkpoint.save(model, path)
        assert status()[1]["step"] == 900


def test_a_diverged_model_is_told(tmp_path):
    model = fresh_model(num_layers=1)
    model.parameters *= 1e19  # finite, but not its logits
    checkpoint.save(model, tmp_path / "m.safetensors")
    with serving(tmp_path / "m.safetensors") as client:
        status, lines = client.ask("POST", "/api/generate", {})
        assert status == 200 and "diverged" in lines[-1]["error"]


# ---- who may ask, and what


def test_only_our_page_on_this_machine_with_the_token_is_answered(client, capfd):
    port, body = client.port, {"count": 1}
    assert client.ask("POST", "/api/generate", body)[0] == 200
    local = f"localhost:{port}"
    assert client.ask("POST", "/api/generate", body, host=local, origin=f"http://{local}")[0] == 200
    assert client.ask("POST", "/api/generate", body, host="localhost:99",  # a forwarded port
                      origin="http://localhost:99")[0] == 200
    hosts = ["evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "",
             f"localhost.evil:{port}", "127.0.0.1:x", f"user@127.0.0.1:{port}", f"[::1]:{port}"]
    for host in hosts:
        for found in (client.ask("GET", f"/?token={TOKEN}", host=host),
                      client.ask("GET", "/api/models", host=host),
                      client.ask("POST", "/api/generate", body, host=host, origin=f"http://{host}")):
            assert found[0] == 403 and "localhost alone" in found[1]["error"], host
    origins = [None, "null", "http://evil.example", f"https://127.0.0.1:{port}", "http://127.0.0.1",
               f"http://127.0.0.1:{port + 1}", f"http://localhost:{port}", ""]
    for origin in origins:
        for path in ("/api/generate", "/api/attention"):
            status, found = client.ask("POST", path, body, origin=origin)
            assert status == 403 and "another page" in found["error"], origin
    assert client.ask("GET", "/api/models", origin="http://evil.example")[0] == 403
    for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", "\xe9"):
        for method, path, sent in [("GET", "/api/models", None), ("GET", "/api/models/0", None),
                                   ("POST", "/api/generate", body), ("GET", "/nothing", None),
                                   ("POST", "/api/attention", {"ids": [1]})]:
            status, found = client.ask(method, path, sent, x_femtogpt_token=token)
            assert status == 403 and "token" in found["error"]
    for path in ("/", "/?token=", "/?token=wrong", "/?token=%ff%00", f"/?token={TOKEN}x",
                 f"/?Token={TOKEN}"):
        assert client.ask("GET", path)[0] == 403
    assert client.ask("GET", f"/api/models?token={TOKEN}", x_femtogpt_token=None)[0] == 403
    assert client.generate(count=1)[3] and "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("field, values", {
    "temperature": [-0.1, "1", True, [], "NaN"],
    "count": [0, -1, 10_001, 10**30, 1.5, "5", True],
    "top_k": [0, -1, 1.5, 2**40], "top_p": [0, -1, 1.01, "x"],
    "seed": [-1, 2**63, "9223372036854775808", "1" * 5000, "-1", "1e3", "²", 1.0],
    "stop": ["", "x" * 201, 5, "\ud800"], "prompt": ["x" * 20_001, 5, ["a"], "\udc80"],
    "model": [-1, "0", "../split.safetensors", "/etc/passwd", 0.0, 100],
}.items())
def test_settings_that_cannot_be_are_refused(client, field, values):
    for value in values:
        status, found = client.ask("POST", "/api/generate", {field: value})
        assert status == 400 and found["error"].startswith(field.replace("_", "-")), (value, found)
    assert client.ask("POST", "/api/generate", {"count": 1, field: None})[0] == 200


@pytest.mark.parametrize("body, status", [
    (b"", 400), (b"{", 400), (b"[]", 400), (b"5", 400), (b"\xff", 400), (b"null", 400),
    (b'{"temperature": NaN}', 400), (b'{"temperature": Infinity}', 400),
    (b'{"temperature": -Infinity}', 400), (b'{"temperature": 1e999}', 400),
    (b'{"count": 1' + b"0" * 5000 + b"}", 400), (b"[" * 60_000, 400),
    (b'{"path": "/etc/passwd"}', 400), (b'{"model": 3}', 404), (b'{"prompt": "zz"}', 400),
    (b'{"prompt": "' + b"ab" * 20 + b'"}', 400), (b" " * 64_001, 413), (b"x" * 500_000, 413),
], ids=lambda value: str(value)[:30])
def test_requests_that_are_none_are_refused(client, body, status, capfd):
    answer = client.ask("POST", "/api/generate", body)
    assert answer[0] == status and answer[1]["error"] and "\n" not in answer[1]["error"]
    assert client.ask("POST", "/api/generate", {"count": 1})[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_nothing_else_is_there(client, folder):
    for path in ("/nothing", "/../letters.safetensors", "/%2e%2e/%2e%2e/etc/passwd", "/page.js",
                 "/api/models/9", "/api/models/..%2f..%2fetc%2fpasswd", "/api/models/-1", "//etc",
                 f"/api/models/{folder}/split.safetensors", "/api/models/0/", "/api/models/0%00"):
        assert client.ask("GET", path)[0] == 404, path
    for method, path in [("DELETE", "/api/models"), ("GET", "/api/generate"), ("PUT", "/"),
                         ("OPTIONS", "/api/generate")]:
        path = f"/?token={TOKEN}" if path == "/" else path
        assert client.ask(method, path, origin=f"http://127.0.0.1:{client.port}")[0] == 405
    assert client.ask("POST", "/api/generate", {}, content_type="text/plain")[0] == 415
    assert client.ask("POST", "/api/attention", {})[1] == {"error": "ids is missing"}
    for ids in ([], [True], [-1], ["1"], [1.0], 5, [1] * 257):
        status, found = client.ask("POST", "/api/attention", {"ids": ids})
        assert status == 400 and "token ids" in found["error"]


def test_no_answer_may_be_used_elsewhere(client):
    with client.open("GET", f"/?token={TOKEN}") as response:
        page, policy = response.read().decode(), response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    for method, path in [("GET", f"/?token={TOKEN}"), ("GET", "/nothing"), ("GET", "/")]:
        with client.open(method, path) as response:
            assert response.headers["content-security-policy"] == policy
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["referrer-policy"] == "no-referrer"
            assert response.headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in response.headers
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                 "style=", " src=", "href=", "$s", "https:"):
        assert word not in page, word


# ---- several at once


def counted(monkeypatch):
    """A list that gets every token drawn."""
    drawn = []

    def draw(*given):
        for found in generate_with_logits(*given):
            drawn.append(found[1])
            yield found

    monkeypatch.setattr(answers, "generate_with_logits", draw)
    return drawn


def wait_until_idle(client, seconds=60):
    end = time.monotonic() + seconds
    while client.playground.busy:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_several_clients_get_their_own_texts(client):
    seeds = range(server.AT_ONCE)
    alone = [client.generate(count=30, seed=seed, temperature=1)[3] for seed in seeds]
    with ThreadPoolExecutor(len(seeds)) as pool:
        together = list(pool.map(
            lambda seed: client.generate(count=30, seed=seed, temperature=1)[3], seeds))
    assert together == alone and len(set(alone)) == len(alone)


def test_more_at_once_are_refused_and_a_client_that_goes_away_stops_its_text(client, monkeypatch):
    drawn = counted(monkeypatch)
    monkeypatch.setattr(server, "AT_ONCE", 2)
    streams = [client.open("POST", "/api/generate", {"count": 10_000}) for _ in range(2)]
    for stream in streams:
        assert json.loads(stream.readline())["ids"] and stream.readline()  # it is being written
    for path, body in (("/api/generate", {}), ("/api/attention", {"ids": [1]})):
        status, found = client.ask("POST", path, body)
        assert status == 429 and "2 texts are being written already" in found["error"]
    assert client.ask("GET", "/api/models/0")[0] == 200
    for stream in streams:
        stream.connection.sock.shutdown(socket.SHUT_RDWR)
        stream.connection.close()
    wait_until_idle(client)
    assert 2 <= len(drawn) < 20_000
    so_far = len(drawn)
    assert client.generate(count=3) and len(drawn) == so_far + 3


def test_refusals_leave_no_place_taken(client):
    for _ in range(server.AT_ONCE + 1):
        assert client.ask("POST", "/api/generate", {"prompt": "zz"})[0] == 400
        assert client.ask("POST", "/api/attention", {"ids": [99]})[0] == 400
        assert client.ask("POST", "/api/generate", {"model": 7})[0] == 404
    assert client.playground.busy == 0


# ---- the command


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_it_at_once(folder):
    process = start("playground", "--model=letters.safetensors", "--port=0", cwd=folder)
    try:
        url = process.stdout.readline().strip()
        base, token = url.split("/?token=")
        assert base.startswith("http://127.0.0.1:") and len(token) >= 43
        request = urllib.request.Request(
            f"{base}/api/generate", b'{"count": 10000}', {
                "Origin": base, "X-Femtogpt-Token": token, "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as stream:
            assert json.loads(stream.readline())["step"] == 0
            process.send_signal(signal.SIGINT)
            *_, last = map(json.loads, stream)
            assert last["end"] == "stopped"
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and output == ""
        assert errors.split("\n") == ["open this address in a browser; Ctrl-C ends the playground",
                                      "", "femtogpt: stopped", ""]
    finally:
        process.kill()


def refused(*arguments, code=1):
    result = CliRunner().invoke(main, ["playground", *map(str, arguments)])
    assert result.exit_code == code and result.stdout == "" and result.stderr.count("\n") == 1
    return result.stderr


def test_what_cannot_be_served_is_told_in_one_line(folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in (told := refused("--port", port := taken.getsockname()[1]))
        assert f"--port {port}" in told and "--port 0" in told
    missing = tmp_path / "missing.safetensors"
    assert f"{missing} does not exist" in refused("--port=0", "--model", missing)
    model = f"--model={folder / 'letters.safetensors'}"
    assert "does not exist" in refused("--port=0", model, "--model", missing)
    assert "5 models" in refused(*[model] * 5, code=2)
    assert "--port" in refused("--port=65536", code=2)


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_without_the_server_library_it_says_what_to_install(module, tmp_path):
    source = (f"import sys; sys.modules[{module!r}] = None; from femtogpt.cli import main; "
              "main(['playground'])")
    ran = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, env=environment(),
                         capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr == ("femtogpt: the playground needs a web server: "
                          "pip install 'femtogpt[web]'\n")


def test_it_listens_on_this_machine_alone():
    with server.listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
