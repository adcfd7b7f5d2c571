"""Applying merges, by every way there is, against one merge at a time."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_bpe import (
    TEXT,
    few_letters,
    learnt,
    naive_apply,
)

from femtogpt.tokenizer import (
    applying,
    train_bpe,
)
from femtogpt.tokenizer.applying import tabulate
from femtogpt.tokenizer.bpe import BPETokenizer
from femtogpt.tokenizer.formats import BPEData
from femtogpt.tokenizer.matching import make_matcher, match_longest, stay_apart
from femtogpt.tokenizer.merging import SHORT, merge_long, merge_parts, merge_short


def applied(data, merges, as_learnt=False):
    """`data`, bytes as their own ids, after merges {pair: (rank, new)}; by every way there is.
    as_learnt: they are such that matching must be one of these."""
    rows = [(*pair, new) for pair, (_, new) in sorted(merges.items(), key=lambda item: item[1])]
    # In order of what they need, which need not be that of their ranks.
    pieces, wanting = {byte: bytes([byte]) for byte in range(256)}, rows[:]
    while wanting:
        left, right, new = row = next(w for w in wanting if {*w[:2]} <= pieces.keys())
        pieces[new] = pieces[left] + pieces[right]
        wanting.remove(row)
    pieces = [pieces.get(id, b"") for id in range(max(pieces) + 1)]
    bpe = BPEData(pieces, rows, {}, "none", True)
    tables = tabulate(bpe, np.arange(256))
    data, ids = np.frombuffer(data, np.uint8), np.empty(len(data), np.int32)
    scratch = (np.empty(SHORT + 1, np.uint32), *np.empty((2, SHORT + 1), np.int8))
    found = ids[: merge_parts(data, ids, tables, ids.copy(), *scratch)].tolist()
    assert ids[: merge_long(data, ids, tables)].tolist() == found
    if 0 < len(data) <= SHORT:
        assert ids[: merge_short(data, ids, tables, *scratch)].tolist() == found
    matcher = make_matcher(bpe, tables)
    assert len(matcher.nodes) > 0 or not as_learnt
    if len(matcher.nodes) > 0:
        space = np.empty(len(data) + 1, bool)
        assert ids[: match_longest(data, ids, tables, matcher, space)].tolist() == found
    return found


@settings(max_examples=150, deadline=None)
@given(few_letters, st.text("aabc", max_size=30).map(str.encode))
def test_applying_agrees_with_one_merge_at_a_time(chunks, data):
    merges = {pair: (n, 256 + n) for n, pair in enumerate(learnt(dict.fromkeys(chunks, 2), 9))}
    assert applied(data, merges, as_learnt=True) == naive_apply(data, merges)


def test_matching_takes_tokens_back():
    # The longest token first is abc, behind which only d is left; but bcd is merged before abc.
    a, b, c, d = b"abcd"
    merges = {(b, c): (0, 256), (256, d): (1, 257), (a, 256): (2, 258)}
    assert applied(b"abcd", merges, as_learnt=True) == [a, 257]
    assert applied(b"abcabcdabc", merges, as_learnt=True) == [258, a, 257, 258]


def test_of_a_run_the_left_pair_is_merged():
    a = b"a"[0]
    bpe = BPEData([bytes([byte]) for byte in range(256)] + [b"aa"], [(a, a, 256)], {}, "none", True)
    tables = tabulate(bpe, np.arange(256))
    made = make_matcher(bpe, tables).made
    assert stay_apart(256, a, tables.table, tables.marks, made)
    assert not stay_apart(a, 256, tables.table, tables.marks, made)


@pytest.mark.parametrize("pieces", ["same", "not what their bytes become"])
def test_pieces_that_cannot_be_matched(pieces):
    a, b, c = b"abc"
    rows, more = [(a, b, 256), (256, c, 257), (b, c, 258), (a, 258, 259)], [b"ab", b"abc", b"bc",
                                                                            b"abc"]
    if pieces != "same":  # of abcd its bytes make ab and cd
        rows, more = [(a, b, 256), (c, c + 1, 257), (b, c, 258), (a, 258, 259)], [
            b"ab", b"cd", b"bc", b"abc"]
    bpe = BPEData([bytes([byte]) for byte in range(256)] + more, rows, {}, "none", True)
    assert len(make_matcher(bpe, tabulate(bpe, np.arange(256))).nodes) == 0


def test_long_chunks_are_matched_to_the_ids_that_merging_gives(monkeypatch):
    rng = random.Random(5)
    words = ["".join(rng.choices("aabcdeé漢字", k=rng.randrange(1, 90))) for _ in range(400)]
    text = " ".join(words)
    data = train_bpe([text], 700).data
    monkeypatch.setattr(applying, "MATCHED_BYTES", 1 << 60)
    merged = BPETokenizer(data).encode(text)
    monkeypatch.setattr(applying, "MATCHED_BYTES", 1 << 10)
    matching = BPETokenizer(data)
    np.testing.assert_array_equal(matching.encode(text), merged)
    assert len(matching._tables.matcher.nodes) > 0


@pytest.mark.parametrize("change", ["two merges make it", "its parts are younger", "unmade"])
def test_of_merges_unlike_those_learnt_nothing_is_matched(change):
    a, b, c = b"abc"
    pieces = [bytes([byte]) for byte in range(256)] + [b"ab", b"bc", b"abc"]
    rows = [(a, b, 256), (b, c, 257), (256, c, 258)]
    if change == "two merges make it":
        rows.append((a, 257, 258))
    elif change == "its parts are younger":
        rows = [rows[2], *rows[:2]]
    else:
        rows.pop()
    bpe = BPEData(pieces, rows, {}, "none", True)
    assert len(make_matcher(bpe, tabulate(bpe, np.arange(256))).nodes) == 0


@settings(max_examples=150, deadline=None)
@given(st.permutations(range(6)), st.text("abc", max_size=20).map(str.encode))
def test_applying_merges_whose_parts_come_later(ranks, data):
    # Files of others may list a merge before the merge that makes its left side.
    a, b, c = b"abc"
    pairs = [(a, b), (256, c), (256, 256), (b, c), (c, a), (258, 257)]
    merges = {pair: (ranks[n], 256 + n) for n, pair in enumerate(pairs)}
    assert applied(data, merges) == naive_apply(data, merges)


@settings(max_examples=150, deadline=None)
@given(st.permutations(range(9)), st.integers(1, 4), st.integers(SHORT, 300), st.randoms())
def test_merging_in_parts_agrees_with_one_merge_at_a_time(ranks, letters, size, rng):
    # Runs, and merges of merges, whose places turn on what stands far to the left.
    a, b, c = b"abc"
    pairs = [(a, a), (256, 256), (257, 257), (a, b), (b, 256), (259, 257), (b, b), (c, a), (262, b)]
    merges = {pair: (ranks[n], 256 + n) for n, pair in enumerate(pairs)}
    data = bytes(rng.choices(b"aabc"[:letters], k=size))
    assert applied(data, merges) == naive_apply(data, merges)


@pytest.mark.parametrize("text", [b"a" * 20_000, b"aab" * 7000, TEXT * 40,
                                  bytes(random.Random(1).choices(b"aaab", k=20_000))])
def test_parts_as_long_as_their_tokens_need(text):
    merges = learnt({text: 1}, 60)
    applied(text, {pair: (n, 256 + n) for n, pair in enumerate(merges)})


def test_a_merge_that_lost_its_pair_does_not_lend_its_rank():
    a, b, c, d = b"abcd"
    # bc first; then ab is gone, and (a, bc) must wait for (bc, d).
    merges = {(b, c): (0, 256), (a, b): (1, 257), (256, d): (2, 258), (a, 256): (3, 259)}
    assert applied(b"abcd", merges) == [a, 258]
    assert naive_apply(b"abcd", merges) == [a, 258]
