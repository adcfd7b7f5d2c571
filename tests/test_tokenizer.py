"""Every tokenizer but the learning of BPE: round trips, files, messages."""

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from femtogpt.errors import FemtoError
from femtogpt.tokenizer import (
    AsciiTokenizer,
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    PiecesTokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
    train_bpe,
    train_char,
)
from femtogpt.tokenizer.formats import byte_alphabet

ASCII = "\t\n\x0b\x0c\r" + "".join(map(chr, range(0x20, 0x7F)))


def one_of_each():
    return [
        ByteTokenizer(),
        AsciiTokenizer(),
        train_char("héllo\n🙂"),
        train_bpe([b"low lower lowest " * 9], 262, special_tokens=["<|endoftext|>"]),
        train_bpe([b"Low LOWER 123"], 270, split="gpt4", case_sensitive=False, reserve_tokens=2),
        train_bpe([b"abab" * 9], 259, split="none"),
        PiecesTokenizer([b"a", b"ab", b"\xff\x00", b"<unk>"]),
    ]


def message(call, *args, **kwargs):
    with pytest.raises(FemtoError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- byte, ascii, char


@settings(deadline=None)
@given(st.binary())
def test_byte_round_trip(data):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(data)
    assert ids.tolist() == list(data) and ids.dtype == np.uint16
    assert tokenizer.decode(ids) == data


def test_byte_takes_str_as_utf8():
    assert ByteTokenizer().encode("é").tolist() == [0xC3, 0xA9]


@settings(deadline=None)
@given(st.text(ASCII))
def test_ascii_round_trip(text):
    tokenizer = AsciiTokenizer()
    ids = tokenizer.encode(text)
    assert len(ids) == len(text) and 100 not in ids
    assert tokenizer.decode(ids) == text.encode()


def test_ascii_has_101_ids_and_refuses_what_is_beyond():
    tokenizer = AsciiTokenizer()
    assert tokenizer.vocab_size == 101
    assert [tokenizer.piece(i).decode() for i in range(100)] == list(ASCII)
    assert tokenizer.piece(100) == b"<unk>"
    assert tokenizer.decode([100]) == b"<unk>" and 100 not in tokenizer.encode("<unk>")
    for text, told in (("a\nnaïve", "character 'ï' (U+00EF) at line 2, column 3 is not among"),
                       (b"ab\xff", "byte 0xFF at line 1, column 3"), ("\x00", "U+0000"),
                       ("\x7f", "U+007F")):
        with pytest.raises(FemtoError, match=re.escape(told)):
            tokenizer.encode(text)


@settings(deadline=None)
@given(st.text(min_size=1))
def test_char_round_trip(text):
    tokenizer = train_char(text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text) and tokenizer.vocab_size == len(set(text))
    assert tokenizer.decode(ids) == text.encode()
    assert (tokenizer.encode(text.encode()) == ids).all()


def test_char_ids_follow_code_points():
    tokenizer = train_char("b🙂aé")
    assert tokenizer.characters == "abé🙂"
    assert tokenizer.encode("🙂ab").tolist() == [3, 0, 1]
    assert tokenizer.piece(2) == "é".encode()


def test_char_unknown_character_is_shown_with_its_place():
    text = message(train_char("ab\n").encode, "ab\naéb")
    assert "'é' (U+00E9) at line 2, column 2" in text and "byte or bpe" in text
    # Beyond the last and before the first known character too.
    assert "'\\x00' (U+0000) at line 1, column 1" in message(train_char("ab").encode, "\0")
    assert "U+1F642" in message(train_char("ab").encode, "a🙂")


def test_char_needs_utf8_and_text():
    for call in (train_char, train_char("ab").encode):
        text = message(call, b"ab\xffab")
        assert "UTF-8 at line 1, column 3 " in text and "byte or bpe" in text
    assert "UTF-8 at line 1, column 2 " in message(train_char, "a\ud800")
    assert "empty" in message(train_char, b"")


# ---- pieces


def naive_greedy(data, pieces):
    out = []
    while data:
        fits = [p for p in pieces if p != b"<unk>" and data.startswith(p)]
        best = max(fits, key=len, default=b"<unk>")
        out.append(pieces.index(best))
        data = data[1 if best == b"<unk>" else len(best) :]
    return out


@settings(deadline=None)
@given(
    st.lists(st.text("abc", min_size=1, max_size=4).map(str.encode), unique=True),
    st.text("abcd<unk>").map(str.encode),
)
def test_pieces_take_the_longest_match(pieces, data):
    pieces = [*pieces[:2], b"<unk>", *pieces[2:]]
    assert PiecesTokenizer(pieces).encode(data).tolist() == naive_greedy(data, pieces)


@settings(deadline=None)
@given(st.lists(st.text("abc", max_size=4).map(str.encode)), st.text("abc").map(str.encode))
def test_pieces_round_trip(more, data):
    pieces = list(dict.fromkeys([b"a", b"b", b"c", *filter(None, more)]))
    tokenizer = PiecesTokenizer(pieces)
    assert tokenizer.decode(tokenizer.encode(data)) == data


def test_pieces_never_take_letters_for_unk():
    tokenizer = PiecesTokenizer([b"<unk>", b"<", b"unk"])
    assert tokenizer.encode("<unk>").tolist() == [1, 2, 0]


def test_pieces_without_unk_show_the_unknown_character():
    tokenizer = PiecesTokenizer([b"a", b"\n", b"\xe2"])
    assert "'é' (U+00E9) at line 2, column 3" in message(tokenizer.encode, "a\naaéa")
    # The piece 0xE2 is the first byte of the euro sign; what it leaves is unknown.
    assert "'€' (U+20AC) at line 1, column 2" in message(tokenizer.encode, "a€")
    assert "byte 0xFF at line 1, column 1" in message(tokenizer.encode, b"\xff")
    assert "byte 0x80 at line 1, column 2" in message(tokenizer.encode, b"a\x80a")


def test_pieces_refuse_a_vocabulary_that_cannot_be():
    assert "empty" in message(PiecesTokenizer, [])
    assert "id 1 is empty" in message(PiecesTokenizer, [b"a", b""])
    assert "ids 0 and 2" in message(PiecesTokenizer, [b"a", b"b", b"a"])


# ---- what all have in common


@pytest.mark.parametrize("tokenizer", one_of_each(), ids=lambda t: t.name)
def test_json_and_files_bring_a_tokenizer_back(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("an older file")
    save_tokenizer(tokenizer, path)
    assert os.listdir(tmp_path) == ["tokenizer.json"]  # nothing left beside
    stored = json.loads(json.dumps(tokenizer.to_json()))
    assert stored["kind"] == tokenizer.name
    size = tokenizer.vocab_size
    for other in (load_tokenizer(path), tokenizer_from_json(stored)):
        assert type(other) is type(tokenizer)
        assert other.vocab_size == size and other.to_json() == tokenizer.to_json()
        assert [other.piece(i) for i in range(size)] == [tokenizer.piece(i) for i in range(size)]
        everything = tokenizer.decode(np.arange(size))
        if tokenizer.name not in ("char", "pieces"):
            assert (other.encode(everything) == tokenizer.encode(everything)).all()


@pytest.mark.parametrize("tokenizer", one_of_each(), ids=lambda t: t.name)
def test_nothing_encodes_to_nothing_and_ids_are_checked(tokenizer):
    empty = tokenizer.encode("")
    assert empty.shape == (0,) and empty.dtype == np.uint16
    assert tokenizer.decode(empty) == tokenizer.decode([]) == b""
    size = tokenizer.vocab_size
    assert tokenizer.decode(np.arange(size)) == b"".join(map(tokenizer.piece, range(size)))
    for bad in (-1, size, 1 << 40):
        assert f"token id {bad}" in message(tokenizer.decode, [0, bad])
        assert f"token id {bad}" in message(tokenizer.piece, bad)
    assert "integers" in message(tokenizer.decode, [0.5])


def test_ids_widen_when_16_bits_are_too_few():
    # 65536 ids fit 16 bits, 65537 do not.
    characters = [c for c in map(chr, range(32, 70000)) if not "\ud800" <= c <= "\udfff"]
    for size, dtype in ((65536, np.uint16), (65537, np.uint32)):
        tokenizer = CharTokenizer("".join(characters[:size]))
        ids = tokenizer.encode(characters[size - 1])
        assert ids.tolist() == [size - 1] and ids.dtype == dtype


def test_half_a_character_is_refused():
    text = message(ByteTokenizer().encode, "a\nb\ud800")
    assert "U+D800" in text and "line 2, column 2" in text
    assert ByteTokenizer().encode("\udcff").tolist() == [0xFF]


def test_a_number_is_no_text():
    with pytest.raises(TypeError):
        ByteTokenizer().encode(5)
    with pytest.raises(TypeError):
        train_bpe(b"not a list of texts", 256)


def test_import_is_light():
    code = "import sys, femtogpt.tokenizer; print({'numba'} & {*sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


# ---- files of others, and damaged ones


def load_text(tmp_path, content):
    path = tmp_path / "data.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return load_tokenizer(path)


def test_json_array_of_strings(tmp_path):
    tokenizer = load_text(tmp_path, ["a", "b", "ab", "é", "<unk>"])
    assert isinstance(tokenizer, PiecesTokenizer)
    assert tokenizer.encode("aabéz").tolist() == [0, 2, 3, 4]
    assert tokenizer.decode([3, 4]) == "é<unk>".encode()


def test_femtogpt_json(tmp_path):
    tokenizer = load_text(tmp_path, {"1": [98], "0": [97], "2": [97, 98, 255]})
    assert isinstance(tokenizer, PiecesTokenizer)
    assert tokenizer.encode(b"aab\xffb").tolist() == [0, 2, 1]
    assert tokenizer.decode([2]) == b"ab\xff"


DAMAGED = [
    (b"{", "not a JSON file"),
    (b"\xff\xfe\xff", "not a JSON file"),
    (b"[" * 100_000, "not a JSON file"),
    (b"", "not a JSON file"),
    (b'"text"', "not a tokenizer"),
    (b"{}", "not a tokenizer"),
    (b'{"a": [1]}', "not a tokenizer"),
    (b'{"0": [1], "0": [2]}', "'0' occurs twice"),
    ([], "empty"),
    (["a", 5], "item 1 is not a string"),
    (["a", "a"], "ids 0 and 1"),
    (b'["a", "\\ud800"]', "U+D800"),
    ({"0": [1], "2": [2]}, "id 1 is missing"),
    ({"0": [1], "00": [2]}, "id 1 is missing"),
    ({"0": [256]}, "list of bytes"),
    ({"0": [True]}, "list of bytes"),
    ({"0": "a"}, "list of bytes"),
    ({"kind": "morse"}, "unknown kind of tokenizer 'morse'"),
    ({"kind": ["byte"]}, "unknown kind"),
    ({"kind": "q" * 10_000}, "...; known are"),
    ({"q" * 10_000: 1}, "not a tokenizer"),
    ({"kind": "char"}, "characters"),
    ({"kind": "char", "characters": "ba"}, "sorted"),
    ({"kind": "char", "characters": "aa"}, "distinct"),
    ({"kind": "char", "characters": ""}, "empty"),
    ({"kind": "pieces", "pieces": "ab"}, "list"),
    ({"kind": "pieces", "pieces": [[97], 5]}, "id 1 must be a list of bytes"),
    ({"kind": "bpe"}, "model"),
]


@pytest.mark.parametrize(("content", "problem"), DAMAGED)
def test_damaged_files_are_named(tmp_path, content, problem):
    text = message(load_text, tmp_path, content)
    assert str(tmp_path / "data.json") in text and problem in text


def test_files_that_cannot_be_read_or_written(tmp_path):
    assert "nowhere.json" in message(load_tokenizer, tmp_path / "nowhere.json")
    assert str(tmp_path) in message(load_tokenizer, tmp_path)
    for path in (tmp_path / "no" / "folder.json", tmp_path):
        assert str(path) in message(save_tokenizer, ByteTokenizer(), path)
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    path.write_text("an older file")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in message(save_tokenizer, ByteTokenizer(), path)
    assert path.read_text() == "an older file" and os.listdir(tmp_path) == ["tokenizer.json"]


def huggingface(**changes):
    """A good tokenizer.json, with parts replaced: model__vocab=..., normalizer=..."""
    obj = train_bpe([b"abcabc"], 258, special_tokens=["<|end|>"]).to_huggingface()
    for where, value in changes.items():
        *parents, key = where.split("__")
        part = obj
        for parent in parents:
            part = part[parent]
        part[key] = value
    return obj


VOCAB = huggingface()["model"]["vocab"]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
REFUSED = [
    ({"model": []}, "model"),
    ({"model__type": "WordPiece"}, "'WordPiece'"),
    ({"model__byte_fallback": True}, "byte_fallback"),
    ({"model__ignore_merges": True}, "ignore_merges"),
    ({"model__continuing_subword_prefix": "##"}, "continuing_subword_prefix"),
    ({"model__vocab": []}, "vocab"),
    ({"model__vocab": {**VOCAB, "ab": "256"}}, "vocab"),
    ({"model__vocab": {**VOCAB, "ab": True}}, "vocab"),
    ({"model__vocab": {**VOCAB, "ab": 300}}, "id 256 is missing"),
    ({"model__vocab": {**VOCAB, "ab": 97}}, "'a' and 'ab' have the same id 97"),
    ({"model__vocab": {**VOCAB, "ab": -1}}, "missing"),
    ({"model__vocab": {**VOCAB, "<|end|>": 97}}, "two ids"),
    ({"model__vocab": {**VOCAB, "▁a": 259}}, "'▁a'"),
    ({"model__vocab": {**VOCAB, "": 259}}, "259 is empty"),
    ({"model__vocab": {"ab": 0}, "model__merges": [], "added_tokens": []}, "no single byte"),
    ({"model__vocab": {"a": 0}, "model__merges": [], "added_tokens": [],
      "model__unk_token": "a"}, '"unk_token" for the 255 bytes'),
    ({"model__merges": {}}, "merges"),
    ({"model__merges": ["a b", "ab"]}, "merge 1 is not a pair"),
    ({"model__merges": [["a", 5]]}, "merge 0 is not a pair"),
    ({"model__merges": ["a b", "ab z"]}, "merge 1 needs the token 'abz'"),
    ({"model__merges": ["a zz"]}, "merge 0 needs the token 'zz'"),
    ({"model__merges": ["a b", "a b"]}, "merge 1 is listed twice"),
    ({"added_tokens": "x"}, "added_tokens"),
    ({"added_tokens": [5]}, "added_tokens"),
    ({"added_tokens": [{"id": "1", "content": "x"}]}, "added_tokens"),
    ({"added_tokens": [{"id": 258, "content": "<|end|>"}] * 2}, "listed twice"),
    ({"added_tokens": [{"id": 258, "content": "<|end|>"}, {"id": 97, "content": "q"}]}, "'q'"),
    ({"added_tokens": [{"id": 258, "content": "<|end|>", "special": False}]}, "not special"),
    ({"added_tokens": [{"id": 258, "content": "<|end|>", "lstrip": True}]}, '"lstrip"'),
    ({"added_tokens": [{"id": 258, "content": "<|end|>", "normalized": True}],
      "normalizer": {"type": "Lowercase"}}, '"normalized"'),
    ({"normalizer": {"type": "NFC"}}, "normalizer"),
    ({"truncation": {"max_length": 5}}, "truncation"),
    ({"post_processor": {"type": "TemplateProcessing"}}, "post_processor"),
    ({"pre_tokenizer": None}, "ByteLevel"),
    ({"pre_tokenizer": "ByteLevel"}, "ByteLevel"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": ["ByteLevel"]}}, "ByteLevel"),
    ({"pre_tokenizer": {"type": "Sequence"}}, "ByteLevel"),
    ({"pre_tokenizer": {"type": "Metaspace"}}, "ByteLevel"),
    ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "adds a space"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTE_LEVEL]}},
     "pattern"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "problem"), REFUSED)
def test_damaged_and_foreign_huggingface_files(tmp_path, changes, problem):
    assert isinstance(load_text(tmp_path, huggingface()), BPETokenizer)
    text = message(load_text, tmp_path, huggingface(**changes))
    assert str(tmp_path / "data.json") in text and problem in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
PLACES = [
    *("added_tokens", "normalizer", "pre_tokenizer", "pre_tokenizer__type", "post_processor"),
    *("model", "model__type", "model__vocab", "model__merges", "model__dropout"),
    *("truncation", "kind"),
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PLACES), json_values)
def test_no_damage_escapes_as_another_exception(tmp_path_factory, place, value):
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    path.write_text(json.dumps(huggingface(**{place: value})))
    try:
        load_tokenizer(path)
    except FemtoError as error:
        assert "hostile.json" in str(error)


def test_other_orders_of_ids_and_both_spellings_of_merges_are_read(tmp_path):
    # As in files that others write: special token first, letters in their own order,
    # merges as pairs.
    names = ["<s>", *sorted(byte_alphabet()), "ab", "abc"]
    merges = [["a", "b"], ["ab", "c"]]
    tokenizer = load_text(
        tmp_path,
        huggingface(
            model__vocab={name: id for id, name in enumerate(names)},
            model__merges=merges,
            added_tokens=[{"id": 0, "content": "<s>"}],
        ),
    )
    assert tokenizer.special_tokens == {"<s>": 0} and tokenizer.vocab_size == 259
    assert tokenizer.encode("abcab!").tolist() == [258, 257, names.index("!")]
    data = bytes(range(256)) + b"<s>abc"
    assert tokenizer.decode(tokenizer.encode(data)) == data
    save_tokenizer(tokenizer, tmp_path / "again.json")
    again = load_tokenizer(tmp_path / "again.json")
    assert (again.encode(data) == tokenizer.encode(data)).all()
