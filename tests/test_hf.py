"""A folder for transformers: it computes the same there, and comes back the same to the bit."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hf_forward import forward
from small import LETTERS, fresh_model, some_run, text

from femtogpt import checkpoint
from femtogpt.cli import main
from femtogpt.config import GPTConfig
from femtogpt.errors import FemtoError
from femtogpt.exchange import hf
from femtogpt.exchange.hf import card, layout, vocabulary, widening, writing
from femtogpt.inspection import activations
from femtogpt.looks import Look
from femtogpt.model import initial_parameters
from femtogpt.optimizer import fresh_state
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

# Every size another, so that no two can be taken for each other.
SHAPE = {"num_tokens": 9, "embedding_degree": 12, "num_layers": 2, "num_heads": 3}
KINDS = [("standard", "rope"), ("standard", "absolute"), ("standard", "learned"),
         ("standard", "none"), ("femto", "absolute"), ("femto", "learned"), ("femto", "none")]
every_kind = pytest.mark.parametrize(("recipe", "positions"), KINDS)


@pytest.fixture
def unchecked(monkeypatch):
    """As where transformers is not installed: what needs it is below."""
    monkeypatch.setattr(writing, "missing", lambda: ["transformers"])


def model_of(recipe="standard", positions="rope", **changes):
    """A Model whose every parameter matters."""
    model = fresh_model(recipe=recipe, positional_encoding=positions, **SHAPE | changes)
    rng = np.random.default_rng(3)
    model.parameters += rng.normal(0, 0.3, model.parameters.size).astype(np.float32)
    return model


def written(model, folder, **options):
    hf.write(model, folder, **options)
    return folder


def with_tokenizer(tokenizer):
    """A small fresh Model of another tokenizer."""
    config = GPTConfig(tokenizer.vocab_size, **SHAPE)
    return checkpoint.Model(config, tokenizer, initial_parameters(config, 1))


# ---- the construction, in numpy


@pytest.mark.parametrize("shape", [{}, {"num_heads": 1}, {"embedding_degree": 6, "num_layers": 1}])
@every_kind
def test_the_architecture_computes_what_the_model_does(tmp_path, unchecked, recipe, positions,
                                                       shape):
    model = model_of(recipe, positions, **shape)
    folder = written(model, tmp_path / "out")
    ids = np.random.default_rng(0).integers(0, len(LETTERS), SHAPE["num_tokens"])
    logits, stream = forward(folder, ids)
    found = activations(model.config, model.parameters, ids)["logits"]
    assert np.abs(found).max() > 0.3
    np.testing.assert_allclose(logits, found, atol=2e-5)
    C = model.config.embedding_degree
    if recipe == "standard":  # the new channels hold the stream's mean
        means = stream[:, :C].mean(1, keepdims=True)
        np.testing.assert_allclose(stream[:, C:], np.repeat(means, model.config.num_heads, 1),
                                   atol=1e-5)


def test_every_tensor_of_the_file_matters_but_those_that_are_zero(tmp_path, unchecked):
    model = model_of()
    folder = written(model, tmp_path / "out")
    ids = np.arange(SHAPE["num_tokens"])
    tensors = writing.tensors_of(model)
    expected, _ = forward(folder, ids)
    for name, tensor in tensors.items():
        changed = tensors | {name: np.roll(tensor, 1)}
        (folder / "model.safetensors").write_bytes(b"".join(
            checkpoint.file_parts(changed, {"format_version": 1})))
        differs = np.abs(forward(folder, ids)[0] - expected).max() > 1e-4
        assert differs == (not name.endswith("query_key_value.bias")), name


@pytest.mark.parametrize("scale", [(65 / 64) ** 0.5, 1.5**0.5, (2 / 3) ** 0.5, (64 / 68) ** 0.5])
def test_scaled_numbers_come_back_to_the_bit(scale):
    rng = np.random.default_rng(1)
    ones = np.arange(-3000, 3000, dtype=np.int32) + np.float32(1).view(np.int32)
    any_bits = rng.integers(0, 2**32, 200_000).astype(np.uint32).view(np.float32)
    x = np.concatenate([rng.normal(size=200_000).astype(np.float32), ones.view(np.float32),
                        any_bits[np.abs(any_bits) < 1e38], np.array([0, -0.0], np.float32),
                        np.arange(2000, dtype=np.uint32).view(np.float32)])
    y, bits = widening.scaled(x, scale), widening.upper(x, scale)
    assert len(np.unique(y)) < len(np.unique(x)) and 0 < bits.mean() < 0.5
    assert widening.unscaled(y, scale, bits).tobytes() == x.tobytes()
    assert widening.unscaled(y, scale, 0 * bits).tobytes() != x.tobytes()


# ---- there and back


def trained_model(recipe="standard", positions="rope", **changes):
    """A Model with all that a model can have."""
    model = model_of(recipe, positions, **changes)
    model.optimizer = fresh_state(model.config, "adamw")
    model.step, model.run = 7, some_run(first_step=3, last_step=7).to_json()
    model.history.losses = np.float32([2.5, 2.1, 1.7, 1.3]).tolist()
    model.history.validation = [(5, 2.25), (7, 1.5)]
    parts = [0.5] * (model.config.num_layers + 2)
    model.history.looks = [Look(4, parts, parts, "\ufffd é")]
    model.lineage.append({"run": some_run(last_step=3).to_json()})
    return model


@every_kind
def test_it_comes_back_to_the_bit(tmp_path, unchecked, recipe, positions):
    model = trained_model(recipe, positions)
    found, notes = hf.read(written(model, tmp_path / "out"))
    assert found.parameters.tobytes() == model.parameters.tobytes()
    for name in ("config", "step", "run", "history"):
        assert getattr(found, name) == getattr(model, name)
    assert found.lineage == [*model.lineage, {"import": {"format": "hf", "step": 7}}]
    assert found.tokenizer.to_json() == model.tokenizer.to_json() and notes == []
    assert found.optimizer is None
    checkpoint.save(found, tmp_path / "model.safetensors")


def test_the_same_model_is_the_same_bytes(tmp_path, unchecked):
    for name in ("a/x", "b/x"):
        (tmp_path / name).parent.mkdir()
        written(trained_model(), tmp_path / name)
    names = sorted(os.listdir(tmp_path / "a" / "x"))
    assert names == sorted(hf.FILES)
    for name in names:
        assert (tmp_path / "a/x" / name).read_bytes() == (tmp_path / "b/x" / name).read_bytes()


TEXT = b"low lower lowest slow slower <unk> " * 9
TOKENIZERS = {
    "byte": ByteTokenizer(), "ascii": AsciiTokenizer(), "char": train_char(LETTERS),
    "bpe": train_bpe([TEXT], 270), "bpe, gpt4": train_bpe(
        [TEXT], 270, split="gpt4", special_tokens=["<|endoftext|>"]),
    "bpe, none": train_bpe([TEXT], 270, split="none"),
    "bpe, seen": train_bpe([TEXT], 30, base="seen"),
    "bpe, lower": train_bpe([TEXT], 270, case_sensitive=False),
    "pathpiece": train_pathpiece([TEXT], 280), "byte, lower": LowercaseTokenizer(ByteTokenizer()),
    "byte, reserved": ReservedTokenizer(ByteTokenizer(), 3),
    "char, reserved": ReservedTokenizer(train_char("\nabÄ<_>|revsd0"), 2),
    "pathpiece, reserved": ReservedTokenizer(train_pathpiece([TEXT], 280), 2),
    "pieces": PiecesTokenizer([*(bytes([b]) for b in range(256)), b"low", b"lower", b"owe", b"er ",
                               b"\xf0\x9f", b"\r\n", b"The.", b"a|b"]),
    "pieces, unk": PiecesTokenizer([b"<unk>", b"a", b"b", b"ab", b"lower", b" ", b"\n"]),
}
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


@every_tokenizer
def test_tokenizers_come_back(tmp_path, unchecked, tokenizer):
    found, _ = hf.read(written(with_tokenizer(tokenizer), tmp_path / "out"))
    assert found.tokenizer.to_json() == tokenizer.to_json()


def test_a_name_for_two_ids_is_refused(tmp_path, unchecked):
    bpe = train_bpe([b"ab"], 258, special_tokens=["<|reserved_0|>"])
    with pytest.raises(FemtoError, match="reserved_0"):
        hf.write(with_tokenizer(ReservedTokenizer(bpe, 1)), tmp_path / "out")
    assert os.listdir(tmp_path) == []


def femtogpt(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == exit_code, result.output
    return result


def test_an_imported_model_trains_on(tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    Path("dataset.txt").write_text(text(4000))
    checkpoint.save(fresh_model(), "model.safetensors")
    femtogpt("train", "--steps=30", "--batch-size=8")
    result = femtogpt("export", "--format=hf", "out")
    assert result.stdout == "out: GPTNeoXForCausalLM, 6,925 parameters, step 30\n"
    assert "not checked, for transformers" in result.stderr and "moments" in result.stderr
    femtogpt("import", "--format=hf", "out", "--model=back.safetensors")
    model, back = checkpoint.load("model.safetensors"), checkpoint.load("back.safetensors")
    assert back.parameters.tobytes() == model.parameters.tobytes()
    assert "import" in femtogpt("info", "--model=back.safetensors").stdout
    femtogpt("train", "--steps=10", "--batch-size=8", "--model=back.safetensors")
    losses = checkpoint.load("back.safetensors").history.losses
    assert len(losses) == 40 and max(losses[30:]) < losses[0] - 0.2


def test_the_card_tells_what_it_is(tmp_path, monkeypatch, unchecked):
    model = trained_model()
    tokens = model.tokenizer.encode(text(3000))
    model.run = some_run(first_step=3, last_step=7, data="d", val_fraction=0.1, val_begin=2700,
                         val_end=3000).to_json()
    told = (written(model, tmp_path / "small-one", tokens=tokens, data="d") / "README.md")
    told = told.read_text()
    assert told.startswith("---\nlibrary_name: transformers\n") and "# small-one" in told
    for word in ("| width | 12 |", "| heads | 3 |", "GPTNeoXForCausalLM", "4 to 7", "(loss.svg)",
                 "2.5000 nats a token at first and 1.3000 at last", "best 1.5000 at step 7",
                 "297 tokens of the part held back", "AutoModelForCausalLM", r'"\n" + '):
        assert word in told, word
    curve = (tmp_path / "small-one" / "loss.svg").read_text()
    assert curve.startswith("<svg") and "held back" in curve
    fresh = (written(model_of(), tmp_path / "fresh") / "README.md").read_text()
    assert "Nothing was measured" in fresh and "loss.svg" not in fresh
    assert "torch.tensor" in "\n".join(card._use(with_tokenizer(TOKENIZERS["bpe"])))


@every_kind
def test_nothing_ends_a_text_and_only_a_newline_begins_it(tmp_path, unchecked, recipe, positions):
    folder = written(model_of(recipe, positions), tmp_path / "out")
    for name in ("config.json", "generation_config.json"):
        found = json.loads((folder / name).read_text())
        assert [found[f"{what}_token_id"] for what in ("bos", "eos", "pad")] == [0, None, None]
    assert found["max_length"] == SHAPE["num_tokens"]


# ---- refusals, and what a failure leaves


@pytest.mark.parametrize(("model", "reason"), [
    (lambda: model_of("femto", "rope"), "recipe femto.*rope"),
    (lambda: overflowing(), "embed|layernorm|query_key_value"),
])
def test_what_cannot_go_is_refused_in_a_line(tmp_path, unchecked, model, reason):
    with pytest.raises(FemtoError, match=reason) as caught:
        hf.write(model(), tmp_path / "out")
    assert str(caught.value).startswith(str(tmp_path / "out")) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def overflowing():
    model = model_of()
    views(model.parameters, model.config).query_key_value_weight[...] = 3.3e38
    return model


def test_only_an_earlier_export_is_replaced_and_only_with_force(tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(trained_model(), "trained.safetensors")
    checkpoint.save(model_of(), "model.safetensors")
    femtogpt("export", "--format=hf", "out", "--model=trained.safetensors")
    said = femtogpt("export", "--format=hf", "out", exit_code=1).stderr
    assert said == ("femtogpt: out exists already: give --force to replace that export, or another "
                    "name\n")
    femtogpt("export", "--format=hf", "out", "--force")
    assert hf.read("out")[0].step == 0 and not Path("out/loss.svg").exists()
    assert not Path("out.writing").exists()
    Path("out/notes.txt").write_text("mine")
    said = femtogpt("export", "--format=hf", "out", "--force", exit_code=1).stderr
    assert said.startswith("femtogpt: out holds 'notes.txt'") and said.count("\n") == 1
    assert Path("out/notes.txt").read_text() == "mine"
    femtogpt("export", "--format=hf", "model.safetensors", "--force", exit_code=1)
    checkpoint.load("model.safetensors")
    assert "no folder" in femtogpt("export", "--format=hf", "not/there", exit_code=1).stderr
    os.mkdir("b.writing")
    Path("b.writing/mine").touch()
    assert "in the way" in femtogpt("export", "--format=hf", "b", exit_code=1).stderr
    assert Path("b.writing/mine").exists() and not Path("b").exists()
    femtogpt("export", "--format=femto", "x.dat", "--dataset=y", exit_code=2)


@pytest.mark.parametrize("before", [False, True])
def test_what_fails_half_way_leaves_what_was_there(tmp_path, monkeypatch, unchecked, before):
    folder = tmp_path / "out"
    if before:
        written(trained_model(), folder)
    for fails in range(len(hf.FILES) - 1):
        count = 0

        def replace(path, parts, keep_previous, fails=fails):
            nonlocal count
            count += 1
            if count > fails:
                raise FemtoError("disk full")
            Path(path).write_bytes(b"".join(parts))
            assert (Path(path).name == "config.json") == (count == len(hf.FILES) - 1)

        monkeypatch.setattr(writing, "replace", replace)
        with pytest.raises(FemtoError, match="disk full"):
            hf.write(model_of(), folder, force=True)
        assert [p for p in os.listdir(tmp_path) if p[0] != "."] == (["out"] if before else [])
        assert not before or hf.read(folder)[0].step == 7


@pytest.mark.parametrize("fails", range(2, 6))
def test_a_folder_does_not_load_until_all_of_it_is_new(tmp_path, monkeypatch, unchecked, fails):
    folder = written(trained_model(), tmp_path / "out")
    moved = []

    def replace(source, target, real=os.replace):
        if Path(source).parent.name == "out.writing" and Path(target).parent.name == "out":
            moved.append(target)
            if len(moved) == fails:
                raise OSError(5, "input/output error")
        real(source, target)

    monkeypatch.setattr(writing.os, "replace", replace)
    with pytest.raises(FemtoError, match="input/output error"):
        hf.write(model_of(), folder, force=True)
    with pytest.raises(FemtoError, match=r"config\.json is missing"):
        hf.read(folder)


# ---- damage


def refused(folder):
    """What is said of a folder: one line that names it."""
    with pytest.raises(FemtoError) as caught:
        hf.read(folder)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(folder)) and len(message) < 600
    return message


def test_a_file_that_is_missing_cut_or_changed_is_told(tmp_path, unchecked):
    folder = written(trained_model(num_layers=1), tmp_path / "out")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        assert name in refused(folder)
        for length in (0, 7, 100, len(whole) // 2, len(whole) - 2):
            (folder / name).write_bytes(whole[:length])
            refused(folder)
        (folder / name).write_bytes(whole)
    hf.read(folder)
    rng, path = np.random.default_rng(0), folder / "model.safetensors"
    for place in rng.choice(len(whole), 150, replace=False):
        data = bytearray(whole)
        data[place] ^= rng.integers(1, 256)
        path.write_bytes(data)
        refused(folder)
    assert "is missing" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["hidden_size", "rotary_emb_base", "eos_token_id", "hidden_act",
                                  "use_parallel_residual", "sliding_window"])
def test_a_changed_config_is_told(tmp_path, unchecked, name):
    folder = written(model_of(), tmp_path / "out")
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"transformers_version": "5.0"}))
    hf.read(folder)
    path.write_text(json.dumps(values | {name: 7}))
    assert f"config.json has {name} 7" in refused(folder)


def test_another_vocabulary_is_told(tmp_path, unchecked):
    folder = written(model_of(), tmp_path / "out")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"Fuse"', '"ByteFallback"'))
    assert "tokenizer.json is not the tokenizer" in refused(folder)
    path.write_text("[" * 10**6)
    assert "tokenizer.json is damaged" in refused(folder)
    path.write_text("[1]")
    assert "tokenizer.json is damaged" in refused(folder)


def test_another_programs_gpt_neox_is_told(tmp_path, unchecked):
    from safetensors.numpy import load_file, save_file

    folder = written(model_of(), tmp_path / "out")
    path = folder / "model.safetensors"
    save_file(load_file(path), path, {"format": "pt"})
    said = refused(folder)
    assert "'gpt_neox'" in said and "saved again" in said
    path.unlink()
    os.mkdir(path)
    refused(folder)


def forged(folder, tensors=None, **changes):
    """A folder with other content, and a hash that is right."""
    path = folder / "model.safetensors"
    with checkpoint.opened(path) as file:
        _, metadata = checkpoint.read_header(path, file)
    for name, value in changes.items():
        metadata[name] = value
    from safetensors.numpy import load_file

    found = {name: load_file(path)[name] for name in writing.tensors_of(hf.read(folder)[0])}
    path.write_bytes(b"".join(checkpoint.file_parts(found | (tensors or {}), metadata)))
    return folder


@pytest.mark.parametrize("changes", [
    {"rounding": ""}, {"rounding": "AAAA" * 500}, {"rounding": "é"}, {"rounding": 7},
    {"losses": "AAA"}, {"losses": "AACAfw=="}, {"validation": [[1]]}, {"validation": [[1.5, 2]]},
    {"validation": [[1, float("nan")]]}, {"step": -1}, {"step": 3}, {"lineage": {}}, {"run": 7},
    {"tokenizer": {"kind": "byte"}}, {"tokenizer": 7}, {"config": {}}, {"format_version": 99},
    {"looks": 7}, {"looks": [[1, [0.1], [0.1], ""]]},
])
def test_what_a_header_claims_is_not_believed(tmp_path, unchecked, changes):
    refused(forged(written(trained_model(), tmp_path / "out"), **changes))


@pytest.mark.parametrize(("recipe", "refuses"), [
    ("standard", lambda name: not name.endswith("dense_h_to_4h.bias")),
    ("femto", lambda name: "position" in name or (
        "bias" in name and ("lm_head" in name or "self" in name))),
])
def test_changed_numbers_are_told_where_no_model_of_ours_has_them(tmp_path, unchecked, recipe,
                                                                  refuses):
    model = model_of(recipe, None)
    folder = written(model, tmp_path / "out")
    whole = (folder / "model.safetensors").read_bytes()
    for name, tensor in writing.tensors_of(model).items():
        changed = tensor.copy()
        changed.flat[-1] += 0.01  # the last is in what was widened, wherever that is anything
        (folder / "model.safetensors").write_bytes(whole)
        forged(folder, {name: changed})
        if refuses(name):
            assert "changed since" in refused(folder), name
        else:
            found = hf.read(folder)[0].parameters
            assert np.count_nonzero(found != model.parameters) == 1, name


@pytest.mark.parametrize("claims", [
    {"num_tokens": 2**20, "embedding_degree": 3 * 2**12, "positional_encoding": "learned"},
    {"num_layers": 2**12},
    {"embedding_degree": 2**16, "num_heads": 2**12, "num_layers": 2**12},
])
def test_no_claim_makes_it_allocate(tmp_path, unchecked, claims):
    folder = written(model_of(), tmp_path / "out")
    forged(folder, config=hf.read(folder)[0].config.to_json() | claims)
    tracemalloc.start()
    assert "claims more parameters" in refused(folder)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()


def test_what_is_no_folder_of_ours_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    checkpoint.save(fresh_model(), "model.safetensors")
    for place in ("folder", "missing", "model.safetensors"):
        said = femtogpt("import", "--format=hf", place, "--model=new", exit_code=1).stderr
        assert said.startswith(f"femtogpt: {place} cannot be read: config.json is missing")
        assert said.count("\n") == 1 and not os.path.exists("new")


# ---- in transformers, where it is installed


@pytest.fixture(scope="session")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


@pytest.fixture
def offline(monkeypatch):
    """Nothing is asked of a network."""
    import socket

    def connect(*arguments):
        raise AssertionError(f"a connection to {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", connect)


@every_kind
def test_transformers_computes_the_same(tmp_path, transformers, offline, recipe, positions):
    model = model_of(recipe, positions, num_tokens=12)
    done = hf.write(model, tmp_path / "out", model.tokenizer.encode(text(500)))
    assert done.architecture == layout.architecture(model.config)
    assert done.checked.windows == 8 and 0 <= done.checked.difference < 1e-5
    assert done.checked.slides == (positions == "rope") and not done.checked.tie
    assert done.checked.generated == (45 if positions == "rope" else 21)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(loaded).__name__ == done.architecture


ODD = ["", "\n", "  ", "\r\n \r\n", "a\x00b\x1b[0m\x7f", "<unk>", "<|endoftext|> <|reserved_0|>",
       "naïve e\u0301 \u00a0\u2028\ufeff", "😀👩\u200d👩\u200d👧", "ΑΣ Σ İstanbul",
       "[CLS] </s> ▁ Ġ ##", "low lower  lowest , don't ' s .", " a", "a ", "Äb<|a_>",
       "\U0010ffff\ud7ff"]


@every_tokenizer
def test_autotokenizer_gives_the_same_ids(tmp_path, transformers, unchecked, offline, tokenizer):
    folder = written(with_tokenizer(tokenizer), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == tokenizer.vocab_size and theirs.all_special_tokens == []
    rng, fit = np.random.default_rng(0), 0
    odd = [*ODD, *("".join(rng.choice(list("".join(ODD) + LETTERS), 20)) for _ in range(60)),
           *("".join(rng.choice(list(LETTERS + "rsw"), 9)) for _ in range(20))]
    for one in odd:
        try:
            ids = tokenizer.encode(one).tolist()
        except FemtoError:
            continue
        fit += 1
        assert theirs(one)["input_ids"] == ids, one
        assert theirs.decode(ids) == tokenizer.decode(ids).decode("utf-8", "replace")
    assert fit >= 3
    ids = rng.integers(0, tokenizer.vocab_size, 80).tolist()
    assert theirs.decode(ids) == tokenizer.decode(ids).decode("utf-8", "replace")


def test_what_the_card_says_generates_what_femtogpt_does(tmp_path, monkeypatch, transformers,
                                                         capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text(4000))
    train = train_bpe([text(4000).encode()], 290, split="none")
    for name, model in (("char", fresh_model()), ("bpe", with_tokenizer(train))):
        checkpoint.save(model, f"{name}.safetensors")
        femtogpt("train", "--steps=20", "--batch-size=8", f"--model={name}.safetensors")
        said = femtogpt("export", "--format=hf", name, f"--model={name}.safetensors").stdout
        assert "in transformers: ids the same; logits at most" in said
        assert "windows of the dataset" in said and "past the context's end too" in said
        code = Path(name, "README.md").read_text().split("```")[1].removeprefix("python")
        code = code.replace('"."', repr(name)).replace("your prompt", "abc")
        code = code.replace("do_sample=True, temperature=0.5, top_k=0",
                            "max_new_tokens=30, do_sample=False")
        capsys.readouterr()
        exec(code, {})
        there = capsys.readouterr().out
        here = femtogpt("generate", "--prompt=abc", "--count=30", "--temperature=0",
                        f"--model={name}.safetensors").stdout
        assert there.strip("\n") == here.strip("\n") and len(here) > 30


def test_a_difference_is_found_and_nothing_written(tmp_path, monkeypatch, transformers):
    model = model_of()
    tokens = model.tokenizer.encode(text(500))

    def told(name, changed):
        with monkeypatch.context() as patch:
            patch.setattr(writing, name, changed)
            with pytest.raises(FemtoError) as caught:
                hf.write(model, tmp_path / "out", tokens)
        assert os.listdir(tmp_path) == []
        return str(caught.value)

    real = writing.tensors_of
    assert "other logits" in told("tensors_of", lambda model: {
        name: tensor + np.float32(1e-3) * name.endswith("input_layernorm.weight")
        for name, tensor in real(model).items()})
    assert "other logits" in told("config_json", lambda *a: layout.config_json(*a) | {
        "rotary_emb_base": 51.0})
    assert "other ids" in told("tokenizer_json", lambda t: vocabulary.tokenizer_json(t) | {
        "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}})
    content = writing._content
    assert "ends its greedy text" in told("_content", lambda *a: content(*a) | {
        "generation_config.json": writing._json({"eos_token_id": list(range(len(LETTERS)))})})
    assert "fails on it" in told("config_json", lambda *a: {"model_type": "none"})
