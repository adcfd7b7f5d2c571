"""Tokenizer files: what other programs make of ours, and we of theirs.

FEMTOGPT_FUZZ=1000000 compares ids on that many texts, instead of some thousands.
"""

import base64
import json
import os
import random
import unicodedata

import pytest
from click.testing import CliRunner
from test_damaged_tokenizers import message

from femtogpt.cli import main
from femtogpt.tokenizer import (
    TRAINED_SPLITS,
    BPETokenizer,
    ByteTokenizer,
    LowercaseTokenizer,
    PiecesTokenizer,
    ReservedTokenizer,
    load_tokenizer,
    save_tokenizer,
    train_bpe,
)
from femtogpt.tokenizer.formats import BPEData
from femtogpt.tokenizer.split import PATTERNS

FUZZ = int(os.environ.get("FEMTOGPT_FUZZ", 3000))
TEXT = (
    "It's the end; they'll LOWER the lowest newer WIDEST\n\n  width of 1234 rows,\r\n"
    "\twe'Ve said: 'the' été, naïve 日本語日本 🙂🙂 ΣΑΣΑΣ  \u00a0 end's the the aaaa aaa bbbb\n"
).encode() * 3


def trained(split="gpt2", **options):
    return train_bpe([TEXT], 400, split=split, **options)


def fuzzed_texts(count, seed):
    """Texts of up to some 60 characters: words of TEXT, AWKWARD's letters, any character."""
    rng = random.Random(seed)
    words = sorted(set(TEXT.decode().split(" ")))
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(12)):
            kind = rng.random()
            if kind < 0.4:
                parts.append(rng.choice(words) + " " * rng.randrange(3))
            elif kind < 0.8:
                parts.append("".join(rng.choices(AWKWARD, k=rng.randrange(1, 6))))
            else:
                point = rng.randrange(0x110000) if kind < 0.9 else rng.randrange(0x3000)
                parts.append(chr(point) if not 0xD800 <= point < 0xE000 else "a")
        yield "".join(parts)


# Where patterns and lower-casing are easy to get wrong.
AWKWARD = (
    "aabtThHeE'sSlLdDvVrRmM ſ\u212aΣσςİıẞß1²Ⅷ١½"
    "\n\r\t\x0b\x1c\x85\u00a0\u2028\u3000\u0301\u200d_-.,“日🙂\x00"
)


def assert_same_ids(ours, theirs, seed, fit=lambda text: True):
    """theirs(texts) -> their ids of each. fit(text): whether the two are to agree on it."""
    texts = []

    def compare():
        for text, ids in zip(texts, theirs(texts), strict=True):
            assert ours.encode(text).tolist() == ids, repr(text)
        texts.clear()

    for text in filter(fit, fuzzed_texts(FUZZ, seed)):
        texts.append(text)
        if len(texts) == 10_000:
            compare()
    compare()


# ---- Hugging Face's library


def in_huggingface(ours, folder):
    tokenizers = pytest.importorskip("tokenizers")
    save_tokenizer(ours, folder / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda texts: [each.ids for each in theirs.encode_batch_fast(texts)]


@pytest.mark.parametrize("split", TRAINED_SPLITS)
def test_huggingface_has_the_same_ids(split, tmp_path):
    ours = trained(split, special_tokens=["<|endoftext|>"])
    assert_same_ids(ours, in_huggingface(ours, tmp_path), TRAINED_SPLITS.index(split))


def test_huggingface_has_the_same_ids_in_lower_case(tmp_path):
    def fit(text):
        """Whether Python knows every letter: theirs may be of a later Unicode, and lower more."""
        return all(unicodedata.category(character) != "Cn" for character in text)

    ours = trained("gpt4", case_sensitive=False)
    assert_same_ids(ours, in_huggingface(ours, tmp_path), 3, fit)


def test_huggingface_drops_what_has_no_token_and_we_refuse_it(tmp_path):
    ours = trained(base="seen")
    theirs = in_huggingface(ours, tmp_path)
    (note,) = save_tokenizer(ours, tmp_path / "tokenizer.json")
    missing = 256 - len(set(TEXT))
    assert f"{missing} bytes have no token" in note and "drop" in note
    assert theirs(["theQ the"]) == [ours.encode("the the").tolist()]
    assert "character 'Q' (U+0051) at line 1, column 4" in message(ours.encode, "theQ the")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert again.to_json() == ours.to_json() and again.vocab_size == ours.vocab_size
    text = TEXT.decode()
    assert again.encode(text).tolist() == theirs([text])[0]


def foreign(split="gpt2", **changes):
    """A file as Hugging Face's library writes one that it trained: GPT-2's layout, or cl100k's."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False,
                                                     use_regex=split == "gpt2")
    if split == "gpt2":
        theirs.pre_tokenizer = byte_level
    else:
        pattern = tokenizers.pre_tokenizers.Split(
            tokenizers.Regex(PATTERNS.get(split, split)), "isolated")
        theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([pattern, byte_level])
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    theirs.train_from_iterator([TEXT.decode()], tokenizers.trainers.BpeTrainer(
        vocab_size=400, show_progress=False, special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    obj = json.loads(theirs.to_str())
    # As GPT-2's file has it: the special token in the vocabulary too, and normalized.
    obj["model"]["vocab"]["<|endoftext|>"] = 0
    obj["added_tokens"][0]["normalized"] = True
    for name, value in changes.items():
        (obj["model"] if name in obj["model"] else obj)[name] = value
    return obj, theirs


@pytest.mark.parametrize("split", ["gpt2", "gpt4"])
@pytest.mark.parametrize("pairs", [True, False])
def test_files_of_hugging_face_are_read(split, pairs, tmp_path):
    obj, theirs = foreign(split)
    merges = [m.split(" ") if isinstance(m, str) else m for m in obj["model"]["merges"]]
    obj["model"]["merges"] = merges if pairs else [" ".join(merge) for merge in merges]
    # What older files leave out, or leave empty.
    del obj["model"]["type"], obj["model"]["ignore_merges"]
    obj["model"]["continuing_subword_prefix"] = obj["model"]["end_of_word_suffix"] = ""
    (tmp_path / "tokenizer.json").write_text(json.dumps(obj))
    ours = load_tokenizer(tmp_path / "tokenizer.json")
    assert ours.special_tokens == {"<|endoftext|>": 0} and ours.data.split == split
    assert_same_ids(ours, lambda texts: [e.ids for e in theirs.encode_batch_fast(texts)], 4)
    end = "the<|endoftext|>the"
    assert ours.encode(end, allow_special=True).tolist() == theirs.encode(end).ids


QWEN2 = PATTERNS["gpt4"].replace(r"\p{N}{1,3}", r"\p{N}")
TEMPLATE = {"type": "Sequence", "processors": [{"type": "TemplateProcessing"}]}
LSTRIP = {"id": 0, "content": "<|endoftext|>", "special": True, "lstrip": True}


@pytest.mark.parametrize(("split", "changes", "problem"), [
    (QWEN2, {}, "by a pattern {'Regex': "),
    (r"\w+|\W+", {}, r"by a pattern {'Regex': '\\w+|\\W+'}"),
    ("gpt4", {"ignore_merges": True}, '"ignore_merges"'),  # as Llama 3 has it
    ("gpt4", {"post_processor": TEMPLATE}, "adds tokens"),  # and that too
    ("gpt2", {"normalizer": {"type": "NFC"}}, "normalizer"),
    ("gpt2", {"byte_fallback": True}, '"byte_fallback"'),
    ("gpt2", {"dropout": 0.1}, '"dropout"'),
    ("gpt2", {"added_tokens": [LSTRIP]}, '"lstrip"'),
    ("gpt2", {"added_tokens": [{**LSTRIP, "lstrip": False, "special": False}]}, "not special"),
])  # fmt: skip
def test_what_cannot_be_read_of_hugging_face_is_said(split, changes, problem, tmp_path):
    obj, _ = foreign(split, **changes)
    (tmp_path / "tokenizer.json").write_text(json.dumps(obj))
    assert problem in message(load_tokenizer, tmp_path / "tokenizer.json")


# ---- .tiktoken


@pytest.mark.parametrize("split", TRAINED_SPLITS)
def test_tiktoken_has_the_same_ids(split, tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    load = pytest.importorskip("tiktoken.load")
    ours = trained(split, special_tokens=["<|endoftext|>", "<|end|>"])
    path = tmp_path / "mine.tiktoken"
    pattern, special = save_tokenizer(ours, path)
    # The notes are Python, to be pasted.
    pattern = eval(pattern[pattern.index("r\"") :])
    special = eval(special[special.index("{") :])
    assert special == ours.special_tokens
    theirs = tiktoken.Encoding("mine", pat_str=pattern, special_tokens=special,
                               mergeable_ranks=load.load_tiktoken_bpe(str(path)))
    assert theirs.n_vocab == ours.vocab_size
    assert_same_ids(ours, lambda texts: theirs.encode_ordinary_batch(texts, num_threads=1), 5)
    ids = theirs.encode("the<|end|>", allowed_special="all")
    assert ids == ours.encode("the<|end|>", allow_special=True).tolist()


def test_a_tiktoken_file_is_a_line_a_token(tmp_path):
    ours = train_bpe([b"abcabc"], 258)
    (note,) = save_tokenizer(ours, tmp_path / "x.tiktoken")
    assert PATTERNS["gpt2"] in note
    lines = (tmp_path / "x.tiktoken").read_bytes().splitlines()
    pieces = [(base64.b64decode(piece), int(id)) for piece, id in map(bytes.split, lines)]
    assert pieces == [(ours.piece(id), id) for id in range(258)]
    reserved = train_bpe([b"abcabc"], 258, reserve_tokens=6)
    _, note = save_tokenizer(reserved, tmp_path / "x.tiktoken")
    assert "'<|reserved_3|>': 261} and 2 more" in note
    assert (tmp_path / "x.tiktoken").read_bytes().splitlines() == lines  # and no special ones
    text = message(load_tokenizer, tmp_path / "x.tiktoken")
    assert "not a JSON file" in text and ".tiktoken" in text


def with_merges(merges):
    """A tokenizer of the bytes and the pairs of ids, one token each, in the order given."""
    pieces = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        pieces.append(pieces[left] + pieces[right])
    data = [(left, right, 256 + i) for i, (left, right) in enumerate(merges)]
    return BPETokenizer(BPEData(pieces, data, {}, "none", True))


A, B, C = b"abc"
UNORDERED = with_merges([(A, B), (B, C)])
UNORDERED.data.merges.reverse()


@pytest.mark.parametrize(("tokenizer", "problem"), [
    (trained(case_sensitive=False), "lower-cased"),
    (trained(base="seen"), "have none"),
    (UNORDERED, "order of ids"),
    # bc goes first and leaves a, bc; tiktoken joins these too.
    (with_merges([(B, C), (A, B), (257, C)]), "order of ids"),
    (ByteTokenizer(), "BPE alone"),
    (PiecesTokenizer([b"a"]), "BPE alone"),
    (ReservedTokenizer(trained(), 2), "reserved"),
    (LowercaseTokenizer(trained()), "lower-cased"),
])  # fmt: skip
def test_what_a_tiktoken_file_cannot_express_is_said(tokenizer, problem, tmp_path):
    path = tmp_path / "x.tiktoken"
    text = message(save_tokenizer, tokenizer, path)
    assert problem in text and str(path) in text and ".json" in text and not path.exists()


def test_dump_tokenizer_chooses_by_the_ending_and_says_what_is_lost(tmp_path):
    def run(*args):
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 0, result.output
        return result

    save_tokenizer(trained(special_tokens=["<|end|>"]), tmp_path / "tokenizer.json")
    model = str(tmp_path / "model.safetensors")
    run("init", "--model", model, "--tokenizer", "bpe", "--tokenizer-data",
        str(tmp_path / "tokenizer.json"), "--embedding-degree", "16", "--num-layers", "1")
    out = str(tmp_path / "out.tiktoken")
    result = run("dump-tokenizer", "--model", model, "--tokenizer-data", out)
    assert "pat_str" in result.stderr and "special_tokens={'<|end|>': " in result.stderr
    assert b" 0\n" in (tmp_path / "out.tiktoken").read_bytes()
    result = run("dump-tokenizer", "--model", model, "--tokenizer-data", str(tmp_path / "o.json"))
    assert "note" not in result.stderr
    assert (tmp_path / "o.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
