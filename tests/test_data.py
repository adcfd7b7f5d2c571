"""Texts, their tokens in memory and on disk, and what is held back: all without a copy."""

import hashlib
import os
import stat
import tracemalloc

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small import TOKENIZER, fresh_model, text

from femtogpt import batches, cache, checkpoint, data
from femtogpt.batches import windows
from femtogpt.cli import main
from femtogpt.data import (
    count_tokens,
    encode_texts,
    find_texts,
    fingerprint,
    split,
    unigram_entropy,
)
from femtogpt.errors import FemtoError
from femtogpt.tokenizer import AsciiTokenizer, ByteTokenizer, train_bpe, train_char


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """The cache's folder, empty; every text is long enough for it, and blocks are small."""
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "cache" / "tokens")
    monkeypatch.setattr(data, "IN_MEMORY", 0)
    monkeypatch.setattr(data, "BLOCK", 100)
    return cache.FOLDER


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "a.txt").write_text(text(1000))
    (tmp_path / "b.txt").write_text("abc")
    (tmp_path / "c.txt").write_text(text(700, seed=1) + "\n")
    return [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]


def kept(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- texts


def test_the_fingerprint_hashes_each_texts_length_and_bytes(paths, monkeypatch):
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.stat().st_size.to_bytes(8, "little") + path.read_bytes())
    monkeypatch.setattr(data, "BLOCK", 100)
    told = []
    assert fingerprint(find_texts(paths), lambda *at: told.append(at)) == digest.hexdigest()
    total = sum(path.stat().st_size for path in paths)
    assert told[-1] == (total, total) and told == sorted(told) and len(told) >= total / 100


def test_a_text_that_changes_while_it_is_read_is_refused(paths, on_disk):
    texts = find_texts(paths)
    before = fingerprint(texts)
    paths[1].write_text("acb")  # of the same length
    with pytest.raises(FemtoError, match="was changed"):
        encode_texts(TOKENIZER, texts, before)
    assert kept(on_disk) == []
    paths[1].write_text("abcd")
    with pytest.raises(FemtoError, match=r"b\.txt was changed"):
        fingerprint(texts)


@pytest.mark.skipif(os.name == "nt", reason="named pipes")
def test_a_pipe_is_read_once(tmp_path):
    import threading

    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("abcabc",))
    writer.start()
    (found,) = find_texts([tmp_path / "pipe"])
    writer.join()
    tokens = encode_texts(TOKENIZER, [found], fingerprint([found]))
    assert TOKENIZER.decode(tokens) == b"abcabc"


# ---- tokens on disk


@pytest.mark.parametrize("tokenizer", [
    TOKENIZER, ByteTokenizer(), AsciiTokenizer(), train_bpe([text(3000).encode()], 300),
    train_char("".join(map(chr, range(97, 97 + 300))) + "\n "),
], ids=["char", "byte", "ascii", "bpe", "char 16 bits"])
def test_tokens_on_disk_are_those_in_memory(tokenizer, paths, on_disk):
    expected = np.concatenate([tokenizer.encode(path.read_bytes()) for path in paths])
    for _ in range(2):  # as they are made, and as they are found
        tokens = encode_texts(tokenizer, find_texts(paths))
        np.testing.assert_array_equal(tokens, expected)
        assert tokens.dtype == (np.uint8 if tokenizer.vocab_size <= 256 else np.uint16)
        assert not tokens.flags.writeable
    (name,) = kept(on_disk)
    if os.name != "nt":
        assert stat.S_IMODE(on_disk.stat().st_mode) == 0o700
        assert stat.S_IMODE((on_disk / name).stat().st_mode) == 0o600


class Counted:
    """TOKENIZER, which notes each text that it is given."""

    vocab_size, to_json, times = TOKENIZER.vocab_size, TOKENIZER.to_json, 0

    def encode_blocks(self, blocks):
        self.times += 1
        return TOKENIZER.encode_blocks(blocks)


def test_a_text_is_encoded_once_and_again_where_anything_differs(paths, on_disk, monkeypatch):
    tokenizer = Counted()
    for times in (1, 1):
        tokens = encode_texts(tokenizer, find_texts(paths[:1])).copy()
        assert tokenizer.times == times
    (name,) = kept(on_disk)
    for damage in (lambda b: b[:-1], lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b + b"\0",
                   lambda b: b""):
        (on_disk / name).write_bytes(damage((on_disk / name).read_bytes()))
        times = tokenizer.times + 1
        np.testing.assert_array_equal(encode_texts(tokenizer, find_texts(paths[:1])), tokens)
        assert tokenizer.times == times
    paths[0].write_text(text(1000, seed=3))
    assert not np.array_equal(encode_texts(tokenizer, find_texts(paths[:1])), tokens)
    monkeypatch.setattr(tokenizer, "to_json", lambda: {"kind": "another"})
    encode_texts(tokenizer, find_texts(paths[:1]))
    assert len(kept(on_disk)) == 3
    # A file under another's name is not taken for it.
    first, second, _ = kept(on_disk)
    (on_disk / first).write_bytes((on_disk / second).read_bytes())
    assert not cache._sound(on_disk / first, first.partition(".")[0])


def test_two_at_once_do_not_collide(paths, on_disk):
    texts, others = find_texts(paths), []

    class Meanwhile(Counted):
        def encode_blocks(self, blocks):
            if not others:
                others.append(None)
                others[0] = encode_texts(TOKENIZER, texts)
            return TOKENIZER.encode_blocks(blocks)

    tokens = encode_texts(Meanwhile(), texts)
    np.testing.assert_array_equal(tokens, others[0])
    assert len(kept(on_disk)) == 1


def test_a_cache_that_cannot_be_written_gives_way_to_memory_with_a_word(paths, on_disk):
    on_disk.parent.write_text("a file where the folder should be")
    said = []
    tokens = encode_texts(TOKENIZER, find_texts(paths), warn=said.append)
    assert TOKENIZER.decode(tokens) == b"".join(path.read_bytes() for path in paths)
    assert len(said) == 1 and str(on_disk) in said[0] and "memory" in said[0]
    assert cache.scratch(5, np.uint8).tolist() == [0] * 5


def test_a_full_disk_leaves_nothing_behind(paths, on_disk, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = []
    tokens = encode_texts(TOKENIZER, find_texts(paths), warn=said.append)
    assert len(tokens) and "No space left" in said[0] and kept(on_disk) == []


def test_the_oldest_files_make_room(on_disk, monkeypatch):
    monkeypatch.setattr(cache, "LIMIT", 3 * (100 + cache.DIGEST) + 2)

    def make(name, seconds_ago):
        cache.cached(name, np.uint8, lambda: [np.zeros(100, np.uint8)])
        now = (on_disk / f"{name}.tokens").stat().st_mtime - seconds_ago
        os.utime(on_disk / f"{name}.tokens", (now, now))

    for name, age in (("a", 30), ("b", 20), ("c", 10)):
        make(name, age)
    cache.cached("a", np.uint8, None)  # used: it is the newest now
    (on_disk / "left.tmp").write_bytes(b"1")
    os.utime(on_disk / "left.tmp", (1, 1))
    (on_disk / "being-made.tmp").write_bytes(b"1")
    make("d", 0)
    assert kept(on_disk) == ["a.tokens", "being-made.tmp", "c.tokens", "d.tokens"]


def test_an_unknown_character_is_told_with_file_line_and_column(paths, on_disk):
    paths[2].write_text(text(300) + "\nab€")
    line = text(300).count("\n") + 2
    with pytest.raises(FemtoError, match=rf"c\.txt.*'€'.* line {line}, column 3 "):
        encode_texts(TOKENIZER, find_texts(paths))
    assert kept(on_disk) == []


# ---- what is held back


@settings(deadline=None, max_examples=300)
@given(st.integers(9, 5000), st.floats(0, 1), st.floats(0, 0.5), st.integers(1, 8), st.data())
def test_windows_go_across_the_joint(length, begin, share, num_tokens, more):
    tokens = np.arange(length)
    begin = int(begin * length)
    end = begin + int(share * length)
    assume(length - (min(end, length) - begin) > num_tokens)
    for part in split(tokens, begin, end, num_tokens):
        views = getattr(part, "parts", [part])
        joined = np.concatenate(views)
        assert len(part) == len(joined)
        assert all(np.shares_memory(view, tokens) for view in views if len(view))
        if len(part) > num_tokens:
            starts = more.draw(st.lists(st.integers(0, len(part) - num_tokens - 1), min_size=1))
            starts += [0, len(part) - num_tokens - 1]
            np.testing.assert_array_equal(windows(part, starts, num_tokens),
                                          windows(joined, starts, num_tokens))


@pytest.mark.parametrize("stretches", [1, 2, 255, 256, 257, 70_000])
def test_an_epochs_order_is_the_generators_permutation(stretches, on_disk):
    batches._epoch_order.cache_clear()
    order = batches._epoch_order(5, 3, stretches)
    rng = np.random.Generator(np.random.Philox(key=[5, 2**63 + 3]))
    np.testing.assert_array_equal(order, rng.permutation(stretches))
    batches._epoch_order.cache_clear()
    if stretches > data.BLOCK:
        assert kept(on_disk) == []  # its file has no name


def test_tokens_are_counted_block_by_block(monkeypatch):
    monkeypatch.setattr(data, "BLOCK", 7)
    tokens = TOKENIZER.encode(text())
    for part in (tokens, split(tokens, 900, 1900, 8)[0]):
        joined = np.concatenate(part.parts) if part is not tokens else tokens
        counts = count_tokens(part, TOKENIZER.vocab_size)
        np.testing.assert_array_equal(counts, np.bincount(joined, minlength=len(counts)))
        share = np.bincount(joined) / len(joined)
        expected = -(share[share > 0] * np.log(share[share > 0])).sum()
        assert unigram_entropy(counts) == expected


# ---- memory and the whole


def test_a_long_text_takes_no_more_memory_than_a_short_one(tmp_path, on_disk, monkeypatch):
    monkeypatch.setattr(data, "BLOCK", 1 << 16)
    (tmp_path / "long").write_bytes(text(1 << 16).encode() * 200)
    tracemalloc.start()
    try:
        texts = find_texts([tmp_path / "long"])
        tokens = encode_texts(TOKENIZER, texts, fingerprint(texts))
        training, validation = split(tokens, 12_000_000, 13_000_000, 8)
        for step in range(3):
            batches.draw_batch(training, 8, 16, 1, step)
        windows(validation, [0, 5], 8)
        count_tokens(training, TOKENIZER.vocab_size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        batches._epoch_order.cache_clear()
    assert len(tokens) >= 200 << 16 and peak < 40 << 16


def test_train_eval_and_tokenize_are_the_same_from_disk(tmp_path, on_disk, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text())
    outputs = []
    for limit in (10**9, 0):
        monkeypatch.setattr(data, "IN_MEMORY", limit)
        checkpoint.save(fresh_model(), "model")
        lines = []
        for line in ("train --steps 5 --model model", "eval --json --model model",
                     "tokenize --model model", "tokenize --json --pieces --model model"):
            result = CliRunner().invoke(main, line.split())
            assert result.exit_code == 0, result.output
            lines.append(result.stdout)
        outputs.append((lines, (tmp_path / "model").read_bytes()))
        assert any(on_disk.glob("*.tokens")) == (limit == 0)
    assert outputs[0] == outputs[1]
