"""Encoding block by block against encoding in one piece."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_bpe import AWKWARD, LOWERED, TEXT, TRAINED

from femtogpt.errors import FemtoError
from femtogpt.tokenizer import (
    AsciiTokenizer,
    ByteTokenizer,
    LowercaseTokenizer,
    PiecesTokenizer,
    ReservedTokenizer,
    train_bpe,
    train_char,
)
from femtogpt.tokenizer.cutting import split_chunks
from femtogpt.tokenizer.split import PATTERNS, lower
from femtogpt.tokenizer.stream import between_chunks, encode_unchunked, recut

CHAR = train_char(AWKWARD + TEXT.decode() + "\n")
PIECES = PiecesTokenizer([b"<unk>", b"a", b"ab", b"abc", b"ca", b" \n", b"\n\n\n", "é".encode(),
                          b"\xff\x00", "日本".encode()])
TOKENIZERS = {
    "byte": ByteTokenizer(), "pieces": PIECES,
    **{f"bpe {split}": tokenizer for split, tokenizer in TRAINED.items()},
    **{f"bpe lowered {split}": tokenizer for split, tokenizer in LOWERED.items()},
    "lowercase of pieces": LowercaseTokenizer(PIECES),
    "lowercase of bpe": LowercaseTokenizer(TRAINED["gpt4"]),
    "reserved": ReservedTokenizer(TRAINED["gpt2"], 3),
}

# Mostly what the rules of cutting turn on: white space beside marks of every class.
turns = st.text(" \n\r\t\u00a0\u3000\x1cab1!'é。日sSlL\u0301", max_size=30).map(str.encode)
data = (turns | st.text(AWKWARD, max_size=30).map(str.encode) | st.binary(max_size=30)
        | st.text("abc \n", max_size=40).map(str.encode)
        | st.lists(st.sampled_from([b"\xe3", b"\x80", b"\x81", b"\xf0\x9f", b"a", b" ", b"\n"]),
                   max_size=20).map(b"".join))


@st.composite
def in_blocks(draw, data=data):
    text = draw(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def together(tokenizer, blocks):
    return np.concatenate([np.empty(0, np.uint16), *tokenizer.encode_blocks(iter(blocks))])


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())
@settings(max_examples=150, deadline=None)
@given(in_blocks())
def test_in_blocks_or_in_one_piece_is_the_same(tokenizer, blocks):
    assert together(tokenizer, blocks).tolist() == tokenizer.encode(b"".join(blocks)).tolist()


# Tokens whose place depends on what comes long after.
CHAINS = [train_bpe([text], size, split="none") for text, size in (
    (b"aabaabbaaaaab" * 9, 280), (TEXT, 300), (b"abcab" * 99, 262), (b"aaaaaaaaaa" * 99, 259))]


@pytest.mark.parametrize("tokenizer", CHAINS)
@settings(max_examples=150, deadline=None)
@given(in_blocks(st.text("aaab", max_size=60).map(str.encode)
                 | st.lists(st.sampled_from([b"abcab", b"ab", b"c"])).map(b"".join) | data))
def test_without_chunks_what_is_given_out_is_sure(tokenizer, blocks):
    parts = list(encode_unchunked(iter(blocks), tokenizer.encode, tokenizer.data.pieces))
    assert np.concatenate(parts).tolist() == tokenizer.encode(b"".join(blocks)).tolist()


def test_without_chunks_little_is_held_back():
    tokenizer = CHAINS[1]
    lengths = np.array([len(piece) for piece in tokenizer.data.pieces])
    parts = encode_unchunked([TEXT] * 5, tokenizer.encode, tokenizer.data.pieces)
    given_out = np.cumsum([lengths[part].sum() for part in parts])
    assert all(given_out[:-1] > np.arange(1, 6) * len(TEXT) - 4 * lengths.max())


@pytest.mark.parametrize("split", PATTERNS)
@settings(max_examples=800, deadline=None)
@given(in_blocks())
def test_chunks_stay_whole_whatever_the_merges(split, blocks):
    parts = recut(blocks, between_chunks(split))
    chunks = [chunk for part in parts for chunk in split_chunks(part, split)]
    assert chunks == split_chunks(b"".join(blocks), split)


@pytest.mark.parametrize("tokenizer, characters", [
    (CHAR, CHAR.characters), (AsciiTokenizer(), "abc \n~\t"),
], ids=["char", "ascii"])
@settings(deadline=None)
@given(st.data())
def test_characters_in_blocks(tokenizer, characters, data):
    blocks = data.draw(in_blocks(st.text(characters, max_size=40).map(str.encode)))
    assert together(tokenizer, blocks).tolist() == tokenizer.encode(b"".join(blocks)).tolist()


@pytest.mark.parametrize("tokenizer", [train_char("ab\né日"), AsciiTokenizer(),
                                       PiecesTokenizer([b"a", b"ab", b"\n", "é".encode()])])
@settings(deadline=None)
@given(in_blocks(st.text("ab\né日🙂", max_size=30).map(str.encode)
                 | st.lists(st.sampled_from([b"a", b"\n", b"\xff"])).map(b"".join)))
def test_an_unknown_character_has_the_same_place_in_blocks(tokenizer, blocks):
    def outcome(encode):
        try:
            return encode().tolist()
        except FemtoError as error:
            return str(error)

    assert outcome(lambda: together(tokenizer, blocks)) == outcome(
        lambda: tokenizer.encode(b"".join(blocks)))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ordinary_text_is_cut_into_small_parts(name):
    words = "the end of it, a line:\n\n  and  'more' of 日本。\n".encode() * 300
    blocks = [words[i : i + 1000] for i in range(0, len(words), 1000)]
    parts = list(TOKENIZERS[name].encode_blocks(blocks))
    assert len(parts) >= len(blocks) - 1
    assert max(map(len, parts)) < 2000


def test_text_without_a_place_to_cut_is_whole_and_looked_at_seldom():
    tokenizer, letters = train_bpe([b"abab"], 258), b"ab" * 3000
    parts = list(tokenizer.encode_blocks([letters[i : i + 10] for i in range(0, 6000, 10)]))
    assert [part.tolist() for part in parts] == [tokenizer.encode(letters).tolist()]
    looked = []
    list(recut([b"x"] * 10_000, lambda data: looked.append(len(data))))
    assert sum(looked) < 40_000


def test_lower_case_is_lower_case_again_and_keeps_white_space_apart():
    # What cutting a lower-cased text relies on.
    for character in map(chr, (*range(0xD800), *range(0xE000, 0x110000))):
        low = lower(character)
        assert lower(low) == low and any(map(str.isspace, low)) == character.isspace()
