"""BPE tokenizers: any bytes come back, special tokens, and Hugging Face's library as judge."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_bpe import LOWERED, TEXT, TRAINED, merges_of, message, naive_apply, texts

from femtogpt.tokenizer import SPLITS, load_tokenizer, save_tokenizer, train_bpe
from femtogpt.tokenizer.cutting import split_chunks
from femtogpt.tokenizer.split import lower


@pytest.mark.parametrize("split", SPLITS)
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | texts.map(str.encode) | st.just(TEXT))
def test_any_bytes_come_back(split, data):
    tokenizer = TRAINED[split]
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids) == data
    assert b"".join(split_chunks(data, split)) == data
    merges = {pair: (n, 256 + n) for n, pair in enumerate(merges_of(tokenizer))}
    expected = []
    for chunk in split_chunks(data, split):
        expected += naive_apply(chunk, merges)
    assert ids.tolist() == expected
    assert tokenizer.encode(data).tolist() == expected  # now of chunks that are known


def test_text_gets_shorter():
    for tokenizer in TRAINED.values():
        assert len(tokenizer.encode(TEXT)) < len(TEXT) / 2


def test_case_insensitive_lower_cases_first():
    tokenizer = train_bpe([b"THE the The"], 258, split="none", case_sensitive=False)
    assert merges_of(tokenizer) == [tuple(b"he"), (ord("t"), 256)]
    assert tokenizer.decode(tokenizer.encode(b"The END \xff")) == b"the end \xff"
    # Character by character: no final sigma.
    assert lower("ΑΣ ς İ") == "ασ ς i\u0307"


# ---- special tokens


def test_reserved_tokens_come_last():
    tokenizer = train_bpe([b"abab"], 257, reserve_tokens=2, special_tokens=["<|end|>"])
    assert tokenizer.vocab_size == 260 and tokenizer.num_learnt == 257
    names = ["<|end|>", "<|reserved_0|>", "<|reserved_1|>"]
    assert tokenizer.special_tokens == dict(zip(names, (257, 258, 259), strict=True))
    assert tokenizer.decode([256, 259, 257]) == b"ab<|reserved_1|><|end|>"


special_texts = st.lists(
    st.sampled_from(["<|end|>", "<|end", "|>", "<|", "end", "<|reserved_0|>", "<|end|>!", "A "])
).map("".join)
SPECIAL = {
    case: train_bpe(
        [b"<|end|> <|reserved_0|>" * 9], 275, split="gpt4", case_sensitive=case,
        special_tokens=["<|end|>", "<|end|>!"], reserve_tokens=1,
    )
    for case in (True, False)
}  # fmt: skip


@settings(deadline=None)
@given(special_texts)
def test_letters_of_a_special_token_are_letters(text):
    tokenizer = SPECIAL[True]
    ids = tokenizer.encode(text)
    assert not set(ids.tolist()) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(ids) == text.encode()
    assert tokenizer.decode(tokenizer.encode(text, allow_special=True)) == text.encode()


def test_special_tokens_when_asked():
    tokenizer = SPECIAL[True]
    end, longer, reserved = tokenizer.special_tokens.values()
    assert tokenizer.encode("<|end|>", allow_special=True).tolist() == [end]
    # The longest name wins; what is around is encoded by itself.
    ids = tokenizer.encode("x<|end|>!<|end|><|reserved_0|>", allow_special=True).tolist()
    assert ids == [ord("x"), longer, end, reserved]
    plain = TRAINED["gpt2"]
    assert (plain.encode(TEXT, allow_special=True) == plain.encode(TEXT)).all()


def test_special_tokens_that_cannot_be():
    assert "'a'" in message(train_bpe, [b"abab"], 257, special_tokens=["a"])
    assert "'ab'" in message(train_bpe, [b"abab"], 257, special_tokens=["ab"])
    assert "twice" in message(train_bpe, [b"a"], 256, special_tokens=["<x>", "<x>"])
    assert "empty" in message(train_bpe, [b"a"], 256, special_tokens=[""])
    assert "UTF-8" in message(train_bpe, [b"a"], 256, special_tokens=["<\ud800>"])


# ---- Hugging Face's library as judge


def in_huggingface(tokenizer, folder):
    tokenizers = pytest.importorskip("tokenizers")
    path = folder / "tokenizer.json"
    save_tokenizer(tokenizer, path)
    assert load_tokenizer(path).to_json() == tokenizer.to_json()
    return tokenizers.Tokenizer.from_file(str(path))


@pytest.mark.parametrize("case_sensitive", [True, False])
@pytest.mark.parametrize("split", SPLITS)
def test_huggingface_gives_the_same_ids(split, case_sensitive, tmp_path):
    ours = (TRAINED if case_sensitive else LOWERED)[split]
    theirs = in_huggingface(ours, tmp_path)
    assert theirs.get_vocab_size() == ours.vocab_size

    @settings(max_examples=150, deadline=None)
    @given(texts | st.just(TEXT.decode()))
    def same(text):
        ids = ours.encode(text).tolist()
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids).encode() == ours.decode(ids)

    same()


@pytest.mark.parametrize("case_sensitive", [True, False])
def test_huggingface_knows_the_special_tokens(case_sensitive, tmp_path):
    ours = SPECIAL[case_sensitive]
    theirs = in_huggingface(ours, tmp_path)
    for name, id in ours.special_tokens.items():
        assert theirs.token_to_id(name) == id

    @settings(deadline=None)
    @given(special_texts)
    def same(text):
        assert theirs.encode(text).ids == ours.encode(text, allow_special=True).tolist()

    same()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("aabc!1", max_size=30), min_size=1, max_size=4), st.integers(0, 15))
def test_huggingface_learns_the_same_merges(parts, num_merges):
    # Its ids follow another order of the bytes, but among these letters it is ours, so
    # that ties agree.
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=True
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + num_merges,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    theirs.train_from_iterator(parts, trainer)
    names = {id: name for name, id in theirs.get_vocab().items()}
    learnt = [names[id] for id in range(256, len(names))]
    if not any(parts):
        assert learnt == []
        return
    ours = train_bpe([part.encode() for part in parts], 256 + num_merges)
    assert [ours.piece(id).decode() for id in range(256, ours.vocab_size)] == learnt
