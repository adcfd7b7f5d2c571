"""Learning merges against counting anew in plain loops, and worked examples."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_bpe import (
    TEXT,
    few_letters,
    joined,
    laid_out,
    learnt,
    lowered,
    merges_of,
    message,
    naive_apply,
    naive_learn,
    ones,
)

from femtogpt.tokenizer import (
    SPLITS,
    TRAINED_SPLITS,
    choose_split,
    learning,
    tokens,
    train_bpe,
)
from femtogpt.tokenizer.cutting import split_chunks
from femtogpt.tokenizer.learning import learn_merges


@settings(max_examples=150, deadline=None)
@given(few_letters, st.integers(0, 12))
def test_learning_agrees_with_counting_anew(chunks, num_merges):
    assert learnt(Counter(chunks), num_merges) == naive_learn(chunks, num_merges)


def test_learning_with_no_room_to_spare(monkeypatch):
    # Places and pairs are full again and again, gaps are closed, and each merge is told of.
    monkeypatch.setattr(learning, "ROOM", 1)
    monkeypatch.setattr(learning, "PLENTY", 1)
    monkeypatch.setattr(learning, "WORK", 0)
    chunks = [*random_words(400), bytes([0, 0, 0, 1] * 40)]
    told = []
    token, weights = laid_out(Counter(chunks))
    merges = learn_merges(token, weights, ones(8), 150, lambda *call: told.append(call))
    assert list(map(tuple, merges.tolist())) == naive_learn(chunks, 150, 8)
    assert len(told) >= 150 and told[-1] == (150, 150) and sorted(told) == told


def test_a_pair_that_needs_much_room_gets_it(monkeypatch):
    # Without chunks one pair may stand at half of all places.
    monkeypatch.setattr(learning, "ROOM", 1)
    monkeypatch.setattr(learning, "PLENTY", 1)
    close_gaps, calls = learning.close_gaps, []

    def counted(*arguments):
        calls.append(arguments)
        assert len(calls) < 50, "places are full again and again"
        return close_gaps(*arguments)

    monkeypatch.setattr(learning, "close_gaps", counted)
    tokenizer = train_bpe([b"ab" * 3000], 300, split="none")
    assert calls and b"ab" * 1024 in tokenizer.data.pieces


@pytest.mark.parametrize("split", ["none", "super"])
def test_tokens_too_long_for_two_bytes(split, monkeypatch):
    text = b"a" * (1 << 18) + b" b cd cd" * 2
    tokenizer = train_bpe([text], 290, split=split)
    assert b"a" * (1 << 17) in tokenizer.data.pieces
    assert tokenizer.decode(tokenizer.encode(text)) == text
    monkeypatch.setattr(tokens, "id_type", lambda *_: np.int32)
    assert train_bpe([text], 290, split=split).to_json() == tokenizer.to_json()


def random_words(count):
    rng = random.Random(5)
    return [bytes(rng.choices(range(8), k=rng.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("case_sensitive", [True, False])
@pytest.mark.parametrize("split", SPLITS)
def test_training_agrees_with_counting_anew(split, case_sensitive):
    parts = [TEXT, b"the\xff\xfe lowest", b""]
    tokenizer = train_bpe(parts, 330, split=split, case_sensitive=case_sensitive)
    chunks = [
        chunk
        for part in parts
        for chunk in split_chunks(part if case_sensitive else lowered(part), split)
    ]
    merges = naive_learn(chunks, 74)
    assert merges_of(tokenizer) == merges
    assert tokenizer.vocab_size == tokenizer.num_learnt == 256 + len(merges)
    for id, (left, right, new) in enumerate(tokenizer.data.merges, 256):
        assert new == id
        assert tokenizer.piece(id) == tokenizer.piece(left) + tokenizer.piece(right)


def test_wikipedias_example():
    tokenizer = train_bpe([b"aaabdaaabac"], 259, split="none")
    a, b, c, d, z, y, x = (*b"abcd", 256, 257, 258)
    # aa (4 places), then of the pairs that occur twice the smallest ids: ab before Za.
    assert merges_of(tokenizer) == [(a, a), (a, b), (z, y)]
    assert tokenizer.encode("aaabdaaabac").tolist() == [x, d, x, a, c]
    assert tokenizer.decode([x, d, x, a, c]) == b"aaabdaaabac"


def test_ties_go_to_the_smallest_left_then_right_id():
    assert merges_of(train_bpe([b"zazb" * 2 + b"|" + b"yc" * 2], 257, split="none")) == [(97, 122)]
    # xb, xa, wz: twice each; w is the smallest left, then xa before xb.
    tokenizer = train_bpe([b"xb1xa2wz3", b"xb4xa5wz6"], 259, split="none")
    assert merges_of(tokenizer) == [tuple(b"wz"), tuple(b"xa"), tuple(b"xb")]


def test_a_run_counts_every_neighbourhood():
    # aaa holds aa twice, so aa (4) goes before bc (3).
    assert merges_of(train_bpe([b"aaa bc bc bc aaa"], 257, split="none"))[0] == (97, 97)
    assert learnt({b"aaa": 2, b"bc": 5}, 1) == [tuple(b"bc")]


def test_learning_stops_when_no_pair_occurs_twice():
    tokenizer = train_bpe([b"abab"], 500)
    assert merges_of(tokenizer) == [(97, 98)]
    assert tokenizer.vocab_size == tokenizer.num_learnt == 257
    assert train_bpe([b"abcd"], 500).vocab_size == 256
    # aaaa -> XX: (X, X) occurs but once.
    assert train_bpe([b"aaaa"], 500).vocab_size == 257


def test_merges_never_cross_chunks_or_texts():
    assert merges_of(train_bpe([b"a a a a"], 300)) == [tuple(b" a")]
    assert merges_of(train_bpe([b"a", b"b"] * 9, 300, split="none")) == []


def test_sizes_that_cannot_be():
    assert "--vocab-size must be at least 256 (the bytes)" in message(train_bpe, [b"a"], 255)
    assert "--reserve-tokens" in message(train_bpe, [b"a"], 256, reserve_tokens=-1)
    assert "no text" in message(train_bpe, [b"", b""], 300)
    assert "no text" in message(train_bpe, [], 300)
    assert "'gpt5'" in message(train_bpe, [b"a"], 300, split="gpt5")


def test_progress_is_told():
    calls = []
    train_bpe([b"abab"], 300, progress=lambda *call: calls.append(call))
    assert calls == [(1, 44)]


@pytest.mark.parametrize("split", SPLITS)
def test_texts_in_blocks_are_learnt_from_as_if_whole(split):
    whole = train_bpe([TEXT, b"abab"], 330, split=split)
    blocks = [(TEXT[i : i + 7] for i in range(0, len(TEXT), 7)), iter([b"a", b"ba", b"b"])]
    assert train_bpe(blocks, 330, split=split).to_json() == whole.to_json()


def test_super_learns_within_words_first_then_across():
    parts = [TEXT, TEXT[:200], b"of the " * 50]
    tokenizer = train_bpe(parts, 356, split="super")
    within = naive_learn([c for part in parts for c in split_chunks(part, "gpt2")], 50)
    assert merges_of(tokenizer)[:50] == within
    ranks = {pair: (n, 256 + n) for n, pair in enumerate(within)}
    words, merges = [naive_apply(part, ranks) for part in parts], list(within)
    while len(merges) < 100:
        counts = Counter(pair for word in words for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        words = [joined(word, best, 256 + len(merges)) for word in words]
        merges.append(best)
    assert merges_of(tokenizer) == merges
    assert tokenizer.data.split == "none"
    assert any(b"f t" in piece for piece in tokenizer.data.pieces)  # across words
    # Encoding is the merges in order, as every reader of the file does it.
    assert [tokenizer.encode(part).tolist() for part in parts] == words


def test_the_split_is_chosen_by_the_tokens_it_makes():
    words = b" ".join(random.Random(1).choices([b"one", b"two", b"three"], k=500))
    split, found = choose_split([words], 290)
    assert set(found) == set(TRAINED_SPLITS)
    for name, value in found.items():
        tokenizer = train_bpe([words], 290, split=name)
        assert value == pytest.approx(len(words) / len(tokenizer.encode(words)))
    assert split in ("super", "none") and found[split] >= 0.99 * max(found.values())
    assert choose_split([b"a a a a"], 256)[0] == "gpt2"  # all the same


def test_the_base_may_be_the_bytes_that_occur():
    tokenizer = train_bpe([b"cab cab"], 6, base="seen")
    # bytes " abc", then "ab" (the smallest left id of those that occur twice) and "cab"
    assert [tokenizer.piece(id) for id in range(6)] == [b" ", b"a", b"b", b"c", b"ab", b"cab"]
    assert tokenizer.num_learnt == tokenizer.vocab_size == 6
    assert tokenizer.encode("cab b").tolist() == [5, 0, 2]
    error = message(tokenizer.encode, "cab abé")
    assert "'é' (U+00E9) at line 1, column 7" in error and "--base all" in error
    blocks = [b"cab cab cab ", "ab é".encode()]
    assert "column 16" in message(lambda: list(tokenizer.encode_blocks(blocks)))
    assert "at least 4 (the bytes in the text)" in message(train_bpe, [b"abca c"], 3, base="seen")
    assert "'few'" in message(train_bpe, [b"abca"], 300, base="few")
