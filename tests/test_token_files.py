"""Files of tokens: the same training as from their texts, and no more of them read than drawn."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file
from small import LETTERS, TOKENIZER, fresh_model, text

import femtogpt
from femtogpt import checkpoint, token_files
from femtogpt.batches import draw_batch, windows
from femtogpt.cli import main
from femtogpt.data import count_tokens, find_texts, fingerprint, split
from femtogpt.ranks import cut
from femtogpt.session import prepare
from femtogpt.token_files import Joined, read_header, write
from femtogpt.tokenizer import ByteTokenizer, train_bpe, train_char
from femtogpt.tokenizer.protocol import newline_id

NEWLINE = newline_id(TOKENIZER)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """a.txt, b.txt, c.txt, their .tokens, and a model, in the current folder."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save(fresh_model(), "model")
    for name, length in (("a", 701), ("b", 30), ("c", 1204)):
        Path(f"{name}.txt").write_text(text(length, seed=length))
        asked("tokenize", "--model=model", f"--dataset={name}.txt", "--binary",
              f"--output={name}.tokens")
    return [f"{name}.tokens" for name in "abc"]


def asked(*arguments, exit_code=0):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == exit_code, result.output
    return result


def joined(paths, tokenizer=TOKENIZER):
    return token_files.joined(tokenizer, [read_header(path) for path in paths])


def test_any_reader_of_safetensors_reads_one(files):
    for path in files:
        tokens = TOKENIZER.encode(Path(path).with_suffix(".txt").read_bytes())
        held = load_file(path)
        np.testing.assert_array_equal(held["tokens"], tokens)
        np.testing.assert_array_equal(held["counts"], count_tokens(tokens, TOKENIZER.vocab_size))


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), train_bpe([text(3000).encode()], 300)])
def test_wider_tokens_and_several_documents(tmp_path, tokenizer):
    documents = [tokenizer.encode(text(501, seed).encode()) for seed in (1, 2)]
    write(tmp_path / "file", tokenizer, documents)
    tokens = joined([tmp_path / "file"], tokenizer)
    whole = np.concatenate(documents)
    assert tokens.parts[0].dtype == np.min_scalar_type(tokenizer.vocab_size - 1)
    np.testing.assert_array_equal(tokens[np.arange(len(whole))], whole)
    assert load_file(tmp_path / "file")["tokens"].tolist() == whole.tolist()


def test_several_files_are_one_text(files):
    tokens = joined(files)
    whole = np.concatenate([TOKENIZER.encode(Path(f"{name}.txt").read_bytes()) for name in "abc"])
    assert len(tokens) == len(whole)
    np.testing.assert_array_equal(windows(tokens, range(len(whole) - 60), 59),
                                  windows(whole, range(len(whole) - 60), 59))
    for a, b in ((0, 700), (690, 735), (701, 701), (731, 5000), (3, 1900)):
        part = tokens[a:b]
        assert len(part) == len(whole[a:b])
        np.testing.assert_array_equal(part[np.arange(len(part))], whole[a:b])
    for begin, end in ((600, 800), (1700, 1935)):
        ours, theirs = (split(each, begin, end, 8) for each in (tokens, whole))
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine[np.arange(len(mine))], other[np.arange(len(other))])
        for step in range(30):
            for mine, other in zip(draw_batch(ours[0], 8, 13, 5, step, NEWLINE),
                                   draw_batch(theirs[0], 8, 13, 5, step, NEWLINE), strict=True):
                np.testing.assert_array_equal(mine, other)
    assert (count_tokens(tokens, 13) == count_tokens(whole, 13)).all()
    tokens.counts = None  # what is counted, where the files do not tell
    assert (count_tokens(tokens, 13) == count_tokens(whole, 13)).all()


def test_training_on_them_is_training_on_their_texts(files):
    made = []
    for kind in ("txt", "tokens"):
        checkpoint.save(fresh_model(), kind)
        told = asked("train", f"--model={kind}", "--steps=12", "--batch-size=4", "--threads=1",
                     "--val-fraction=0.2", "--dropout=0.1",
                     *(f"--dataset={name}.{kind}" for name in "abc"))
        model = checkpoint.load(kind)
        made.append((model.parameters.tobytes(), model.optimizer.m.tobytes(),
                     model.history.losses, model.history.validation,
                     model.run | {"data": ""}))
        assert "perplexity" in told.stderr
    assert made[0] == made[1]
    os.mkdir("folder")
    for path in files:
        os.replace(path, f"folder/{path}")
    again = find_texts(["folder"])
    assert [text.path.name for text in again] == files
    assert fingerprint(again) == model.run["data"]


def test_a_run_that_was_cut_off_goes_on_where_it_was(files):
    whole, parts = femtogpt.load("model"), femtogpt.load("model")
    options = {"batch_size": 4, "accumulate": 3, "threads": 1}
    for _ in femtogpt.train(whole, files, 9, **options):
        pass
    for record in femtogpt.train(parts, files, 9, **options):
        if record.step == 4:
            break
    for _ in femtogpt.train(parts, files, threads=2):
        pass
    assert parts.state.parameters.tobytes() == whole.state.parameters.tobytes()
    assert parts.state.history.losses == whole.state.history.losses


class Seen(Joined):
    """Notes the places that are looked at."""

    def __getitem__(self, index):
        self.__dict__.setdefault("seen", []).append(np.unique(index))
        return super().__getitem__(index)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_order_knows_nothing_of_ranks_and_each_reads_its_own_alone(size):
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 13, length).astype(np.uint8) for length in (5000, 70, 20_000)]
    for step in (0, 40):
        whole, keys = draw_batch(Joined(parts, 13), 8, 24, 5, step, NEWLINE)
        for start, stop in cut(24, size):
            tokens = Seen(parts, 13)
            mine, own_keys = draw_batch(tokens, 8, 24, 5, step, NEWLINE, (start, stop))
            np.testing.assert_array_equal(mine, whole[start:stop])
            np.testing.assert_array_equal(own_keys, keys[start:stop])
            # A window's own places, and up to a context before for where its line begins.
            assert len(np.unique(np.concatenate(tokens.seen))) <= (stop - start) * (8 + 9)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is in memory")
def test_of_a_large_file_hardly_anything_is_read(tmp_path):
    """64 MB: what this process has of them in memory once some batches were drawn."""
    path = tmp_path / "large"
    write(path, TOKENIZER, [np.ones(2**16, np.uint8)] * 1024)
    texts = find_texts([path])
    run, tokens, training, validation = prepare(fresh_model(), texts, steps=5, val_fraction=0.1)
    assert len(tokens) == 2**26 and run.val_begin == 2**26 - 2**26 // 10
    for step in range(3):
        draw_batch(training, 256, 8, 1, step, NEWLINE)
    windows(validation, [0, 1000], 256)
    assert count_tokens(training, 13)[1] == 2**26
    found = re.search(rf"{path}\n.*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text(), re.S)
    assert int(found[1]) < 8 * 1024


# ---- what cannot be


def refused(*paths):
    return asked("train", "--model=model", "--steps=2",
                 *(f"--dataset={path}" for path in paths), exit_code=1).stderr


def test_another_tokenizers(files):
    of_the_size = train_char(LETTERS.replace("k", "z"))
    assert of_the_size.vocab_size == TOKENIZER.vocab_size
    for other in (ByteTokenizer(), of_the_size):
        write("other", other, [np.zeros(100, np.uint8)])
        assert "other was not made with the model's tokenizer" in refused("a.tokens", "other")


def test_text_and_tokens_together(files):
    assert "b.txt is text, and a.tokens a file of tokens" in refused("a.tokens", "b.txt")


@pytest.mark.parametrize("command", [
    "eval --model=model", "tokenize --model=model", "count-tokens --model=model",
    "chunks --model=model", "diagnose --model=model", "train-bpe --tokenizer-data=new",
    "init --tokenizer=char --model=new --tokenizer-data=a.tokens",
    "quickstart a.tokens"])
def test_other_commands_want_the_text(files, command):
    options = [] if "a.tokens" in command else ["--dataset=a.tokens"]
    said = asked(*command.split(), *options, exit_code=1).stderr
    assert "a.tokens is a file of tokens, which `train` alone reads" in said
    assert not Path("new").exists()


@pytest.mark.parametrize("damage", [
    lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:200], lambda b: b[:50],
    lambda b: b.replace(b"[701]", b"[702]"), lambda b: b.replace(b"[701]", b"[-1]"),
    lambda b: b.replace(b"[701]", b"[[]]"), lambda b: b.replace(b'"U8"', b'"F8"'),
    lambda b: b.replace(b'"U8"', b'"U16"'), lambda b: b.replace(b'"tokens"', b'"tokenz"'),
    lambda b: b.replace(b"sha256", b"\xff" * 6), lambda b: b"\xff" * 8 + b[8:],
    lambda b: b[:-8] + b"\xff" * 8, lambda b: b[:-8] + b"\x01" * 8])
def test_a_damaged_file(files, damage):
    before = Path("a.tokens").read_bytes()
    Path("a.tokens").write_bytes(damage(before))
    assert Path("a.tokens").read_bytes() != before
    said = refused("b.tokens", "a.tokens")
    assert "a.tokens" in said and "Traceback" not in said
    assert checkpoint.load("model").step == 0


def test_another_version(files):
    whole = Path("a.tokens").read_bytes()
    Path("a.tokens").write_bytes(whole.replace(b'version\\": 1', b'version\\": 2'))
    assert "format version 2" in refused("a.tokens")


def test_tokens_that_there_are_none_of(files):
    """The layers would read beyond their arrays."""
    whole = Path("a.tokens").read_bytes()
    at = 8 + int.from_bytes(whole[:8], "little")
    Path("a.tokens").write_bytes(whole[:at] + b"\xc8" * 701 + whole[at + 701 :])
    assert "a.tokens is damaged" in refused("a.tokens")
    assert len(LETTERS) < 0xC8


def test_the_same_files_are_told_from_others(files):
    before = fingerprint(find_texts(files))
    assert fingerprint(find_texts(files[::-1])) != before
    asked("tokenize", "--model=model", "--dataset=c.txt", "--binary", "--output=c.tokens")
    assert fingerprint(find_texts(files)) == before
    Path("c.txt").write_text(text(1204, seed=9))  # as long, and other tokens
    asked("tokenize", "--model=model", "--dataset=c.txt", "--binary", "--output=c.tokens")
    assert fingerprint(find_texts(files)) != before


def test_binary_goes_with_an_output_alone(files):
    for more in ([], ["--output=x", "--json"], ["--output=x", "--pieces"]):
        said = asked("tokenize", "--model=model", "--dataset=a.txt", "--binary", *more, exit_code=2)
        assert "--binary" in said.stderr and not Path("x").exists()
    said = asked("tokenize", "--model=model", "--dataset=a.txt", "--binary",
                 "--output=nowhere/x", exit_code=1)
    assert "nowhere" in said.stderr
    assert json.loads(asked("tokenize", "--model=model", "--dataset=b.txt", "--json").stdout)
