"""PathPiece against the definition, block by block against whole, and against Hugging Face."""

import json
import random
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from femtogpt.errors import FemtoError
from femtogpt.tokenizer import (
    PathPieceTokenizer,
    load_tokenizer,
    pathpiece,
    pruning,
    save_tokenizer,
    tokenizer_from_json,
    train_pathpiece,
)
from femtogpt.tokenizer.formats import BPEData
from femtogpt.tokenizer.shortest import FIRST, ID, NONE, OWNER, build_trie


def random_words(seed):
    """A text without a period, as of a language of 60 words."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("etaoinshr", k=draw.randint(1, 7))) for _ in range(60)]
    marks = [" "] * 9 + [", ", ".\n", "\n\n    ", " 'é日本' "]
    return "".join(draw.choice(words) + draw.choice(marks) for _ in range(700)).encode()


TEXT = random_words(1)


def of(*longer, base=None, special=(), case_sensitive=True):
    """A tokenizer of bytes, all or those of base, then these pieces, then special tokens."""
    pieces = [bytes([byte]) for byte in (range(256) if base is None else base)]
    pieces += [piece.encode() if isinstance(piece, str) else piece for piece in longer]
    ids = {name: len(pieces) + i for i, name in enumerate(special)}
    pieces += [name.encode() for name in special]
    return PathPieceTokenizer(BPEData(pieces, [], ids, "none", case_sensitive))


def naive(pieces, text):
    """The definition: fewest pieces; in a tie the longest last one, and so on back."""
    id_of = {piece: id for id, piece in enumerate(pieces)}

    @cache
    def best(end):
        found = None if end else ()
        for begin in range(end):  # the longest last piece first
            if text[begin:end] in id_of:
                path = (*best(begin), id_of[text[begin:end]])
                if found is None or len(path) < len(found):
                    found = path
        return found

    return list(best(len(text)))


few = st.text("ab", min_size=2, max_size=6) | st.text("aab\n ", min_size=2, max_size=9)
vocabularies = st.lists(few | st.text("é日a", min_size=1, max_size=3).filter(
    lambda piece: len(piece.encode()) > 1), max_size=8, unique=True)
texts = (st.text("ab", max_size=40) | st.text("aab\n é日", max_size=40)).map(str.encode)
texts |= st.tuples(st.sampled_from([b"ab", b"a", b"aab"]), st.integers(0, 30), texts).map(
    lambda drawn: drawn[0] * drawn[1] + drawn[2])
texts |= st.lists(st.sampled_from([b"a", b"ab", b"\xa9", b"\xc3", b"\xe6\x97"])).map(b"".join)


@settings(max_examples=600, deadline=None)
@given(vocabularies, texts)
def test_encoding_is_the_definition(longer, text):
    tokenizer = of(*longer)
    ids = tokenizer.encode(text)
    assert ids.tolist() == naive(tokenizer.data.pieces, text)
    assert tokenizer.decode(ids) == text


def test_a_tie_is_the_longest_last_piece():
    tokenizer = of("aa", "aaa", "bc", "ab")
    assert [tokenizer.piece(id) for id in tokenizer.encode("aaaa")] == [b"a", b"aaa"]
    assert [tokenizer.piece(id) for id in tokenizer.encode("abc")] == [b"a", b"bc"]


def outcome(parts):
    try:
        return np.concatenate([np.empty(0, np.uint16), *parts()]).tolist()
    except FemtoError as error:
        return str(error)


@pytest.mark.parametrize("stretch", [1, 3, 1 << 16])
@settings(max_examples=500, deadline=None)
@given(vocabularies, texts, st.lists(st.integers(0, 60), max_size=12), st.booleans())
def test_in_blocks_or_in_one_piece_is_the_same(stretch, longer, text, cuts, all_bytes):
    tokenizer = of(*longer, base=None if all_bytes else set("ab\n".join(longer).encode()) | {97})
    cuts = sorted(min(cut, len(text)) for cut in cuts)
    blocks = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = outcome(lambda: [tokenizer._fewest(text, True)[0]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathpiece, "STRETCH", stretch)
        assert outcome(lambda: list(tokenizer.encode_blocks(iter(blocks)))) == whole


def test_a_place_is_open_though_what_follows_it_is_no_piece_yet():
    tokenizer = of("aab", "aa", "xa", "abcc")
    parts = tokenizer.encode_blocks([b"xaabc", b"c, "])
    assert [tokenizer.piece(id) for part in parts for id in part] == [
        b"xa", b"abcc", b",", b" "]


def test_little_is_held_back():
    tokenizer = train_pathpiece([TEXT], 300)
    parts = tokenizer.encode_blocks([TEXT] * 5)
    lengths = np.array([len(piece) for piece in tokenizer.data.pieces])
    given_out = np.cumsum([lengths[part].sum() for part in parts])
    assert len(given_out) == 6 and given_out[-1] == 5 * len(TEXT)
    assert all(given_out[:-1] > np.arange(1, 6) * len(TEXT) - 4 * lengths.max())


def test_a_run_of_which_nothing_is_sure_is_looked_at_seldom(monkeypatch):
    tokenizer, text = of("aa", "aaa", "aaaaaaa"), b"a" * 20_000
    looked, fewest = [], tokenizer._fewest

    def watched(data, whole):
        looked.append(len(data))
        return fewest(data, whole)

    monkeypatch.setattr(tokenizer, "_fewest", watched)
    parts = list(tokenizer.encode_blocks([text[:10]] * 2000))
    assert np.concatenate(parts).tolist() == fewest(text, True)[0].tolist()
    assert sum(looked) < 100_000


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_come_back(data):
    tokenizer = of("ab", b"\xff\xfe", b"\x00\x00\x00")
    assert tokenizer.decode(tokenizer.encode(data)) == data


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=5), unique=True, min_size=1)
       | st.integers(0, 9).map(lambda seed: random.Random(seed).sample(
           [bytes([i, j, k]) for i in range(40) for j in range(0, 256, 5) for k in (0, 7)], 3000)))
def test_a_trie_holds_its_pieces_and_no_others(pieces):
    starts = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    trie, nodes = build_trie(np.frombuffer(b"".join(pieces), np.uint8), starts,
                             np.array(sorted(range(len(pieces)), key=pieces.__getitem__)))
    for id, piece in enumerate(pieces):
        node = 0
        for byte in piece:
            child = trie[node, FIRST] + byte
            assert trie[child, OWNER] == node
            node = child
        assert trie[node, ID] == id and nodes[id] == node
    prefixes = {piece[:n] for piece in pieces for n in range(1, len(piece) + 1)}
    assert (trie[:, OWNER] != NONE).sum() == len(prefixes)
    assert (trie[:, ID] != NONE).sum() == len(pieces)


# ---- training


def naive_prune(pieces, vocab_size, text):
    while len(pieces) > vocab_size:
        ids = naive(pieces, text)
        grows = []
        for id, piece in enumerate(pieces):
            others = [other for other in pieces if other != piece]
            if len(piece) > 1:
                grows.append((ids.count(id) * (len(naive(others, piece)) - 1), -id))
        number = min(len(pieces) - vocab_size, max(1, int(pruning.SHARE * len(pieces))))
        gone = {-id for _, id in sorted(grows)[:number]}
        pieces = [piece for id, piece in enumerate(pieces) if id not in gone]
    return pieces


@settings(max_examples=60, deadline=None)
@given(st.text("aab ", min_size=10, max_size=120).map(str.encode), st.integers(4, 14))
def test_pruning_agrees_with_counting_anew(text, vocab_size):
    learnt = pruning.train_bpe([text], 4 * vocab_size, split="none", base="seen").data.pieces
    tokenizer = train_pathpiece([text], vocab_size, base="seen")
    assert tokenizer.data.pieces == naive_prune(list(dict.fromkeys(learnt)), vocab_size, text)


def test_it_is_fewer_tokens_than_merges_make():
    bpe = pruning.train_bpe([TEXT], 300, split="none")
    assert len(train_pathpiece([TEXT], 300).encode(TEXT)) < 0.97 * len(bpe.encode(TEXT))


@pytest.mark.parametrize("split", ["none", "super", "gpt2"])
def test_training_texts_in_blocks_is_as_if_whole(split):
    blocks = [TEXT[i : i + 7] for i in range(0, len(TEXT), 7)]
    one, other = (train_pathpiece([text], 320, split=split) for text in (TEXT, blocks))
    assert one.data == other.data and one.vocab_size == 320


def test_what_is_learnt_from_is_bounded_and_even_but_all_bytes_are_seen(monkeypatch):
    monkeypatch.setattr(pruning, "STRETCH", 10)
    monkeypatch.setattr(pruning, "SAMPLE", 80)
    text = b"".join(b"%09d " % i for i in range(100))
    stretches, seen = [], np.zeros(256, bool)
    pruning._sample([text, b"x", b"y" * 25], True, stretches, seen)
    numbers = [int(stretch) for stretch in stretches if stretch[:1] == b"0"]
    assert sum(map(len, stretches)) <= 80 and len(numbers) >= 4 and numbers[0] == 0
    assert len(set(np.diff(numbers))) == 1
    assert set(np.flatnonzero(seen)) == set(text + b"xy")
    tokenizer = train_pathpiece([b"z", text, b"x"], 40, base="seen")
    assert tokenizer.decode(tokenizer.encode(b"xyz"[::2] + text)) == b"xz" + text


def test_special_tokens_come_last_and_letters_are_letters():
    tokenizer = train_pathpiece([TEXT], 270, special_tokens=["<|end|>"], reserve_tokens=2)
    assert tokenizer.special_tokens == {"<|end|>": 270, "<|reserved_0|>": 271,
                                        "<|reserved_1|>": 272}
    assert tokenizer.num_learnt == 270
    assert tokenizer.encode("<|end|>").max() < 270
    assert tokenizer.encode("eat<|end|>", allow_special=True)[-1] == 270
    assert tokenizer.decode([270]) == b"<|end|>"


def test_case_insensitive_lower_cases_first():
    tokenizer = train_pathpiece([TEXT + b"A"], 60, base="seen", case_sensitive=False)
    assert tokenizer.encode("EAT, é").tolist() == tokenizer.encode("eat, é").tolist()
    assert b"A" not in tokenizer.data.pieces


def test_progress_is_told():
    told = []
    train_pathpiece([TEXT], 300, progress=lambda *done: told.append(done))
    done, wanted = zip(*told, strict=True)
    assert list(done) == sorted(done) and len(set(done)) > 3 and len(set(wanted)) == 1
    assert done[-1] <= wanted[0]


def message(call, *args, **kwargs):
    with pytest.raises(FemtoError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sizes_and_texts_that_cannot_be():
    assert "at least 256" in message(train_pathpiece, iter([]), 255)
    assert "at least 3 (the bytes in the text), not 2" in message(
        train_pathpiece, [b"abc"], 2, base="seen")
    assert "no text" in message(train_pathpiece, [], 300)
    assert "--base" in message(train_pathpiece, [TEXT], 300, base="some")
    assert "reserve" in message(train_pathpiece, [TEXT], 300, reserve_tokens=-1)
    assert "'x y'" in message(train_pathpiece, [TEXT], 300, special_tokens=["x y"] * 2)


def test_an_unknown_byte_is_named():
    tokenizer = of("ab", "b\n", base=b"ab\n")
    assert "'é' (U+00E9) at line 2, column 3" in message(tokenizer.encode, "ab\naaéb")


# ---- files


def in_file(tokenizer, folder):
    path = folder / "tokenizer.json"
    save_tokenizer(tokenizer, path)
    return path


def test_it_comes_back_from_its_file_and_from_a_models(tmp_path):
    tokenizer = train_pathpiece([TEXT], 300, special_tokens=["<|end|>"], case_sensitive=False)
    path = in_file(tokenizer, tmp_path)
    for again in (load_tokenizer(path), tokenizer_from_json(json.loads(json.dumps(
            tokenizer.to_json())))):
        assert isinstance(again, PathPieceTokenizer) and again.data == tokenizer.data
        assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert ".tiktoken file holds byte-level BPE alone" in message(
        save_tokenizer, tokenizer, tmp_path / "x.tiktoken")


DAMAGED = [
    (lambda vocab: vocab.__setitem__(256, ["ab", -2.0]), "different scores"),
    (lambda vocab: [entry.__setitem__(1, 0.0) for entry in vocab], "none below 0"),
    (lambda vocab: vocab.__setitem__(256, ["ab", float("nan")]), "different scores"),
    (lambda vocab: vocab.__setitem__(256, ["ab", True]), "list of [token, score]"),
    (lambda vocab: vocab.__setitem__(256, ["ab"]), "list of [token, score]"),
    (lambda vocab: vocab.__setitem__(256, ["a", -1.0]), "ids 97 and 256"),
    (lambda vocab: vocab.__setitem__(256, ["", -1.0]), "empty"),
    (lambda vocab: vocab.__setitem__(256, ["▁a", -1.0]), "byte-level"),
    (lambda vocab: vocab.__setitem__(97, ["ac", -1.0]), "0x61 is in a piece but has no token"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGED)
def test_damaged_vocabularies(tmp_path, damage, problem):
    path = in_file(of("ab", "abc"), tmp_path)
    obj = json.loads(path.read_text("utf-8"))
    damage(obj["model"]["vocab"])
    path.write_text(json.dumps(obj), "utf-8")
    text = message(load_tokenizer, path)
    assert str(path) in text and problem in text


@pytest.mark.parametrize(("key", "value", "problem"), [
    ("unk_id", 0, "unk_id"), ("byte_fallback", True, "byte_fallback"), ("vocab", {}, "list"),
    ("vocab", None, "list"), ("vocab", [], "no single byte")])
def test_models_that_femtogpt_cannot_do(tmp_path, key, value, problem):
    path = in_file(of("ab"), tmp_path)
    obj = json.loads(path.read_text("utf-8"))
    obj["model"][key] = value
    path.write_text(json.dumps(obj), "utf-8")
    assert problem in message(load_tokenizer, path)
    obj["pre_tokenizer"], obj["model"] = None, of("ab").to_huggingface()["model"]
    path.write_text(json.dumps(obj), "utf-8")
    assert "ByteLevel" in message(load_tokenizer, path)


@pytest.mark.parametrize("seed", range(20))
def test_huggingface_gives_the_same_ids(seed, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    draw = random.Random(seed)
    letters = draw.choice(["ab", "aab ", "abc\n", "aé日🙂", " .xyz"])

    def word(most):
        return "".join(draw.choices(letters, k=draw.randint(2, most)))

    tokenizer = of(*dict.fromkeys(word(8) for _ in range(draw.randint(1, 30))),
                   special=["<|end|>", "a|b"])
    other = tokenizers.Tokenizer.from_file(str(in_file(tokenizer, tmp_path)))
    for number in range(100):
        text = word(draw.choice([9, 40, 300])) + chr(draw.randrange(32, 0x2FF)) * (number % 3)
        ids = other.encode(text).ids
        assert ids == tokenizer.encode(text).tolist()
        assert other.decode(ids) == text
    assert other.encode("<|end|>").ids == tokenizer.encode("<|end|>", allow_special=True).tolist()
    # And without a special meaning, letters are letters there too.
    other.encode_special_tokens = True
    assert other.encode("ab<|end|>a|b").ids == tokenizer.encode("ab<|end|>a|b").tolist()


def test_huggingface_on_a_long_text_and_an_unknown_byte(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = train_pathpiece([TEXT], 200, base="seen")
    other = tokenizers.Tokenizer.from_file(str(in_file(tokenizer, tmp_path)))
    text = TEXT.decode() * 20 + " " * 3001 + TEXT.decode()
    assert other.encode(text).ids == tokenizer.encode(text).tolist()
    with pytest.raises(Exception, match="unk_id"):
        other.encode("Z")
