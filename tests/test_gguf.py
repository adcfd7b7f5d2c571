"""A file for llama.cpp: it computes the same there, and takes a text for the same tokens."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from small import LETTERS, fresh_model, text

from femtogpt import checkpoint
from femtogpt.cli import main
from femtogpt.config import GPTConfig
from femtogpt.errors import FemtoError
from femtogpt.exchange import gguf
from femtogpt.exchange.gguf import format as file_format
from femtogpt.exchange.gguf import layout, vocabulary, writing
from femtogpt.inspection import activations
from femtogpt.model import initial_parameters
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
POSITIONS = ["rope", "absolute", "learned", "none"]
WIDE = {"embedding_degree": 48, "num_heads": 2}  # q8_0 makes it 64


@pytest.fixture
def unchecked(monkeypatch):
    """As where llama_cpp is not installed: what needs it is below."""
    monkeypatch.setattr(writing, "missing", lambda: ["llama_cpp"])


def model_of(positions="rope", recipe="standard", noise=0.3, **changes):
    """A Model whose every parameter matters."""
    model = fresh_model(recipe=recipe, positional_encoding=positions, **SHAPE | changes)
    rng = np.random.default_rng(3)
    model.parameters += rng.normal(0, noise, model.parameters.size).astype(np.float32)
    return model


def with_tokenizer(tokenizer, **changes):
    """A small fresh Model of another tokenizer."""
    config = GPTConfig(tokenizer.vocab_size, **SHAPE | changes)
    return checkpoint.Model(config, tokenizer, initial_parameters(config, 1))


def femtogpt(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == exit_code, result.output
    return result


# ---- the file, read by another package


@pytest.fixture
def reading():
    pytest.importorskip("gguf")
    import gguf_forward

    return gguf_forward


@pytest.mark.parametrize("shape", [{}, {"num_heads": 1}, {"embedding_degree": 6, "num_layers": 1},
                                   WIDE])
@pytest.mark.parametrize("positions", POSITIONS)
def test_the_architecture_computes_what_the_model_does(tmp_path, unchecked, reading, positions,
                                                       shape):
    model = model_of(positions, **shape)
    done = gguf.write(model, tmp_path / "a.gguf")
    assert done.architecture == ("gptneox" if positions == "rope" else "gpt2")
    ids = np.random.default_rng(0).integers(0, len(LETTERS), SHAPE["num_tokens"])
    logits, stream = reading.forward(tmp_path / "a.gguf", ids)
    found = activations(model.config, model.parameters, ids)["logits"]
    assert np.abs(found).max() > 0.3 and logits.shape[1] == len(LETTERS) + 1
    np.testing.assert_allclose(logits[:, :-1], found, atol=2e-5)
    assert (logits[:, -1] == layout.NEVER).all()
    C = model.config.embedding_degree
    means = stream[:, :C].mean(1, keepdims=True)
    np.testing.assert_allclose(stream[:, C:], means.repeat(stream.shape[1] - C, 1), atol=1e-5)


@pytest.mark.parametrize(("dtype", "shape", "kind", "off"), [
    ("float16", {}, "F16", 5e-3), ("q8_0", WIDE, "Q8_0", 0.3), ("q8_0", {}, "F16", 5e-3)])
def test_matrices_are_stored_as_asked_for(tmp_path, unchecked, reading, dtype, shape, kind, off):
    model = model_of(noise=0.1, **shape)
    notes = gguf.write(model, tmp_path / "a.gguf", dtype).notes
    values, tensors, kinds = reading.read(tmp_path / "a.gguf")
    matrices = {name for name, tensor in tensors.items() if tensor.ndim == 2}
    assert {name for name, stored in kinds.items() if stored == kind} == matrices
    assert all(kinds[name] == "F32" for name in tensors if name not in matrices)
    assert values["general.file_type"] == {"float16": 1, "q8_0": 7}[dtype]
    told = any("stay float16: q8_0 needs rows" in note for note in notes)
    assert told == (dtype == "q8_0" and kind == "F16")
    assert values["gptneox.embedding_length"] == (64 if shape else 18)
    ids = np.arange(SHAPE["num_tokens"])
    difference = np.abs(reading.forward(tmp_path / "a.gguf", ids)[0][:, :-1]
                        - activations(model.config, model.parameters, ids)["logits"]).max()
    assert 1e-5 < difference < off


def test_blocks_are_rounded_as_ggml_rounds(reading):
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    rng = np.random.default_rng(0)
    array = rng.normal(0, 1, (40, 96)).astype(np.float32) * 10.0 ** rng.integers(-9, 3, (40, 1))
    array = array.astype(np.float32)
    array[3], array[5, :32], array[6, 1] = 0, np.arange(-16, 16) / 2, -127  # halves
    array[6] = np.round(array[6] * 2) / 2
    expected = quantize(array, GGMLQuantizationType.Q8_0)
    assert file_format.encoded(array, "q8_0") == expected.tobytes()


def test_widths_of_q8_0_are_of_whole_blocks_where_that_saves():
    for C, NH, wide in ((80, 4, 96), (144, 6, 192), (192, 8, 224), (768, 12, 864), (768, 16, 800),
                        (64, 4, 72), (16, 2, 20), (96, 6, 108), (768, 32, 832)):
        config = GPTConfig(256, embedding_degree=C, num_heads=NH)
        assert C + NH * layout.added_per_head(config, "q8_0") == wide
        assert layout.added_per_head(config, "float16") == 2
    assert layout.added_per_head(GPTConfig(256, positional_encoding="learned"), "float16") == 1


def test_heads_that_turn_are_of_even_width():
    """Of one number that is not turned ggml would write two."""
    for NH in (1, 2, 3, 8, 16, 32, 64):
        for hs in (2, 6, 24, 32):
            config = GPTConfig(256, embedding_degree=NH * hs, num_heads=NH)
            assert all(layout.added_per_head(config, dtype) % 2 == 0 for dtype in gguf.DTYPES)


# ---- tokenizers


TEXT = b"low lower lowest slow slower <unk> don't 1234567 it's\n\n  a" * 9
TOKENIZERS = {
    "byte": ByteTokenizer(), "ascii": AsciiTokenizer(), "char": train_char(LETTERS),
    "char, long": train_char("\n abÄäßé€…あい😀😁\u00a0Ġ\u0100"),
    "bpe": train_bpe([TEXT], 270), "bpe, gpt4": train_bpe(
        [TEXT], 270, split="gpt4", special_tokens=["<|endoftext|>"]),
    "bpe, seen": train_bpe([TEXT], 40, base="seen"), "bpe, none": train_bpe([b"a"], 256,
                                                                           split="none"),
    "byte, reserved": ReservedTokenizer(ByteTokenizer(), 3),
    "char, reserved": ReservedTokenizer(train_char("\nabÄ<_>|revsd0"), 2),
}
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


@every_tokenizer
def test_a_vocabulary_leads_to_its_tokens(tokenizer):
    """Merges, done as llama.cpp does them, make each token of its bytes, in the order of ours."""
    names, special, merges, split = vocabulary.vocabulary(tokenizer)
    assert len(names) == len(set(names)) == tokenizer.vocab_size + 1
    assert tokenizer.vocab_size in special and split in vocabulary.PATTERNS
    ranks = {tuple(merge.split(" ")): rank for rank, merge in reversed([*enumerate(merges)])}
    for id in range(tokenizer.vocab_size):
        if id in special or tokenizer.piece(id) == b"<unk>":
            continue
        symbols = [*vocabulary.spell(tokenizer.piece(id))]
        while len(symbols) > 1:
            pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(symbols)]
            at = int(np.argmin(pairs))
            assert pairs[at] < len(ranks)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        assert symbols == [names[id]]


def test_a_text_begins_with_a_newline_and_ends_at_no_token_of_ours():
    found = vocabulary.metadata(train_char("\nab"))
    assert found["tokenizer.ggml.bos_token_id"] == 0 and found["tokenizer.ggml.add_bos_token"]
    assert found["tokenizer.ggml.eos_token_id"] == 3
    found = vocabulary.metadata(train_char("ab"))
    assert found["tokenizer.ggml.bos_token_id"] == 2
    assert not found["tokenizer.ggml.add_bos_token"]
    names = vocabulary.vocabulary(train_bpe([b"<|end|>"], 256, special_tokens=["<|end|>"])).names
    assert names[-2:] == ["<|end|>", "<<|end|>>"]


# ---- refusals, and what a failure leaves


def with_number(number):
    model = model_of()
    views(model.parameters, model.config).up_weight[0, 0, 0] = number
    return model


@pytest.mark.parametrize(("model", "dtype", "reason"), [
    (lambda: model_of(None, "femto"), "float32", "residual after the norm"),
    (lambda: with_number(np.nan), "float32", "ffn_up.* NaN"),
    (lambda: with_number(1e5), "float16", "ffn_up.* --dtype float32"),
    (lambda: with_tokenizer(train_pathpiece([TEXT], 280)), "float32", "pathpiece"),
    (lambda: with_tokenizer(PiecesTokenizer([b"a", b"\n"])), "float32", "pieces"),
    (lambda: with_tokenizer(LowercaseTokenizer(ByteTokenizer())), "float32", "lower-cases"),
    (lambda: with_tokenizer(train_bpe([TEXT], 270, case_sensitive=False)), "float32",
     "lower-cases"),
    (lambda: with_tokenizer(train_bpe([TEXT], 270, split="none")), "float32", "cross words"),
    (lambda: with_tokenizer(ReservedTokenizer(train_bpe(
        [b"a"], 256, special_tokens=["<|reserved_0|>"]), 1)), "float32", "one name"),
])
def test_what_cannot_go_is_refused_in_a_line(tmp_path, unchecked, model, dtype, reason):
    with pytest.raises(FemtoError, match=reason) as caught:
        gguf.write(model(), tmp_path / "a.gguf", dtype)
    assert str(caught.value).startswith(str(tmp_path / "a.gguf"))
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


def test_the_command_writes_a_file_and_replaces_none(tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(model_of(), "model.safetensors")
    told = femtogpt("export", "--format=gguf", "--output=a.gguf")
    assert told.stdout == "a.gguf: gptneox, 4,045 parameters, step 0, float32\n"
    assert "not checked, for llama_cpp" in told.stderr and "drops" in told.stderr
    first = Path("a.gguf").read_bytes()
    assert first[:4] == b"GGUF" and len(first) % 32 == 0
    assert "--force" in femtogpt("export", "--format=gguf", "a.gguf", exit_code=1).stderr
    assert Path("a.gguf").read_bytes() == first
    femtogpt("export", "--format=gguf", "a.gguf", "--force", "--dtype=float16")
    assert len(Path("a.gguf").read_bytes()) < len(first)
    femtogpt("export", "--format=gguf", "a.gguf", "--force")
    assert Path("a.gguf").read_bytes() == first  # the same model is the same bytes
    checkpoint.save(model_of(None, "femto"), "femto.safetensors")
    said = femtogpt("export", "--format=gguf", "b.gguf", "--model=femto.safetensors", exit_code=1)
    refusal = said.stderr.splitlines()[-1]
    assert refusal.startswith("femtogpt: b.gguf is not written") and not Path("b.gguf").exists()
    assert sorted(os.listdir()) == ["a.gguf", "femto.safetensors", "model.safetensors"]
    for wrong in (["--format=html", "--dtype=q8_0"], ["--format=hf", "--dtype=float16"],
                  ["--format=html", "--dataset=x"]):
        femtogpt("export", "out", *wrong, exit_code=2)


# ---- in llama.cpp, where it is installed


@pytest.fixture
def llama():
    return pytest.importorskip("llama_cpp").Llama


@pytest.mark.parametrize("dtype", gguf.DTYPES)
@pytest.mark.parametrize("shape", [SHAPE, WIDE])
@pytest.mark.parametrize("positions", POSITIONS)
def test_llama_cpp_computes_the_same(tmp_path, llama, positions, shape, dtype):
    model = model_of(positions, noise=0.05, **shape)
    done = gguf.write(model, tmp_path / "a.gguf", dtype, model.tokenizer.encode(text(500)))
    assert done.checked.windows == 8 and done.checked.texts == 8
    assert done.checked.difference < {"float32": 5e-3, "float16": 2e-2, "q8_0": 0.1}[dtype]
    assert dtype != "float32" or done.checked.same == 8


ODD = ["", "\n", "  ", "\r\n \r\n", "a\x1b[0m\x7f", "<unk>", "<|endoftext|> <|reserved_0|>",
       "naïve e\u0301 \u00a0\u2028\ufeff", "😀👩\u200d👩\u200d👧", "ΑΣ Σ İstanbul", "€…あい",
       "[CLS] </s> ▁ Ġ ##", "low lower  lowest , don't ' s .", " a", "a ", "Äb<|a_>",
       "\U0010ffff\ud7ff", "it's IT'S 12345 1 23\t\tx", "\u0085 \u3000a"]


@every_tokenizer
def test_llama_cpp_gives_the_same_ids(tmp_path, llama, unchecked, tokenizer):
    gguf.write(with_tokenizer(tokenizer), tmp_path / "a.gguf")
    theirs = llama(str(tmp_path / "a.gguf"), vocab_only=True, verbose=False)
    rng, fit = np.random.default_rng(0), 0
    odd = [*ODD, *("".join(rng.choice(list("".join(ODD) + LETTERS), 20)) for _ in range(60)),
           *("".join(rng.choice(list(LETTERS + "rsw"), 9)) for _ in range(20))]
    for one in odd:
        try:
            ids = tokenizer.encode(one).tolist()
        except FemtoError:
            continue
        fit += 1
        assert theirs.tokenize(one.encode(), add_bos=False) == ids, one
        assert theirs.detokenize(ids) == tokenizer.decode(ids), one
    assert fit >= 3
    theirs.close()


def test_a_prompt_is_continued_as_generate_does(tmp_path, monkeypatch, llama):
    monkeypatch.chdir(tmp_path)
    Path("dataset.txt").write_text(text(4000))
    checkpoint.save(fresh_model(num_tokens=32), "model.safetensors")
    femtogpt("train", "--steps=30", "--batch-size=8")
    said = femtogpt("export", "--format=gguf", "a.gguf").stdout
    assert "in llama.cpp: ids the same; logits at most" in said
    assert "windows of the dataset; greedy text the same in 8 of 8" in said
    theirs = llama("a.gguf", n_ctx=32, verbose=False)
    there = theirs.create_completion("abc", max_tokens=28, temperature=0)["choices"][0]["text"]
    here = femtogpt("generate", "--prompt=abc", "--count=28", "--temperature=0").stdout
    assert here.rstrip("\n") == ("abc" + there).rstrip("\n") and len(there) > 20
    theirs.close()


def test_a_difference_is_found_and_nothing_written(tmp_path, monkeypatch, llama):
    model = model_of()
    tokens = model.tokenizer.encode(text(500))

    def told(module, name, changed):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, changed)
            with pytest.raises(FemtoError) as caught:
                gguf.write(model, tmp_path / "a.gguf", tokens=tokens)
        assert os.listdir(tmp_path) == []
        return str(caught.value)

    real, values = layout.tensors_of, layout.metadata
    assert "other logits" in told(layout, "tensors_of", lambda *a: {
        name: (kind, array + np.float32(0.1) * name.endswith("attn_norm.weight"))
        for name, (kind, array) in real(*a).items()})
    assert "other logits" in told(layout, "metadata", lambda *a: values(*a) | {
        "gptneox.rope.freq_base": 10.0})
    words = vocabulary.metadata
    assert "other ids" in told(vocabulary, "metadata", lambda t: words(t) | {
        "tokenizer.ggml.tokens": words(t)["tokenizer.ggml.tokens"][::-1]})
    assert "fails on it" in told(layout, "metadata", lambda *a: values(*a) | {
        "general.architecture": "none"})
