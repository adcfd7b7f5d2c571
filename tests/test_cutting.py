"""Where chunks end, against the patterns run by the regex module."""

import random
import unicodedata

import numpy as np
import pytest
import regex
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from naive_bpe import AWKWARD, texts

from femtogpt.tokenizer.characters import LETTER, NUMBER, OTHER, SPACE, classes
from femtogpt.tokenizer.cutting import BLOCK, split_chunks
from femtogpt.tokenizer.split import PATTERNS


def test_split_patterns():
    text = b"It's  WE'LLBE 12345!\n\n ok"
    assert [c.decode() for c in split_chunks(text, "gpt2")] == [
        "It", "'s", " ", " WE", "'", "LLBE", " 12345", "!", "\n\n", " ok",
    ]  # fmt: skip
    assert [c.decode() for c in split_chunks(text, "gpt4")] == [
        "It", "'s", " ", " WE", "'LL", "BE", " ", "123", "45", "!\n\n", " ok",
    ]  # fmt: skip
    for split in PATTERNS:  # letters right after a contraction, at the end too
        assert split_chunks(b"x'sab 'llcd'veef", split) == [
            b"x", b"'s", b"ab", b" '", b"llcd", b"'ve", b"ef"]
    assert split_chunks(text, "none") == [text]
    assert split_chunks(b"", "none") == split_chunks(b"", "gpt2") == []


@pytest.mark.parametrize("split", PATTERNS)
@settings(max_examples=600, deadline=None)
@given(st.binary(max_size=30) | texts.map(str.encode)
       | st.tuples(texts.map(str.encode), st.integers(0, 9)).map(lambda pair: pair[0][pair[1]:]))
def test_chunks_are_what_the_pattern_says(split, data):
    text = data.decode("utf-8", "surrogateescape")
    # The regex module's Unicode may be younger, and give a class to what has none for us.
    assume(all(unicodedata.category(c) != "Cn" for c in text))
    found = regex.findall(PATTERNS[split], text)
    assert split_chunks(data, split) == [c.encode("utf-8", "surrogateescape") for c in found]


@pytest.mark.parametrize("split", PATTERNS)
def test_chunks_of_a_text_longer_than_what_is_looked_at_at_once(split):
    rng = random.Random(1)
    text = "".join(rng.choices([*AWKWARD, "'ll", "'s", "  ", "\u3000\u3000", " a"], k=4 * BLOCK))
    text = "".join(c for c in text if unicodedata.category(c) != "Cn")
    assert split_chunks(text.encode(), split) == [
        c.encode() for c in regex.findall(PATTERNS[split], text)]


def test_the_classes_of_characters():
    ours = classes()
    for point in range(0x110000):
        category = unicodedata.category(chr(point))
        if category == "Cn":  # Python's Unicode may be older
            continue
        space = regex.match(r"\s", chr(point)) is not None
        expected = SPACE if space else {"L": LETTER, "N": NUMBER}.get(category[0], OTHER)
        assert ours[point] == expected, hex(point)


def test_huggingface_has_the_same_classes():
    tokenizers = pytest.importorskip("tokenizers")
    cut = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    ours = classes().astype(int)
    edges = np.flatnonzero(np.diff(ours)).tolist()  # the last of each range
    for point in sorted({*range(0x3000), *edges, *(edge + 1 for edge in edges)}):
        for kind, lead in ((LETTER, "a"), (NUMBER, "1"), (OTHER, "!")):
            assert (len(cut(lead + chr(point))) == 1) == (ours[point] == kind), hex(point)
