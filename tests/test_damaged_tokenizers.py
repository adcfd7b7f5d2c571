"""Tokenizer files that are damaged or meant to harm: one line each, in bounded memory and time.

FEMTOGPT_MUTATIONS=50000 tries that many damaged files, instead of some thousands.
"""

import json
import os
import random
from copy import deepcopy

import numpy as np
import pytest

from femtogpt import checkpoint
from femtogpt.config import GPTConfig
from femtogpt.errors import FemtoError, short
from femtogpt.tensors import count_parameters
from femtogpt.tokenizer import (
    MOST_CHANGES,
    ByteTokenizer,
    CharTokenizer,
    LowercaseTokenizer,
    PiecesTokenizer,
    ReservedTokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
    train_bpe,
)
from femtogpt.tokenizer.formats import byte_alphabet


def message(call, *args):
    with pytest.raises(FemtoError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    return text


def test_a_large_file_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.truncate(10 << 30)  # sparse: 10 GB claimed
    assert "above 64 MiB" in message(load_tokenizer, path)
    if os.path.exists("/dev/zero"):
        assert "above 64 MiB" in message(load_tokenizer, "/dev/zero")


def test_nothing_is_written_that_is_too_large_to_be_read(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    tokenizer = train_bpe([b"abcabc"], 258, reserve_tokens=99)
    save_tokenizer(tokenizer, path)
    monkeypatch.setattr("femtogpt.tokenizer.LARGEST_FILE", path.stat().st_size)
    save_tokenizer(load_tokenizer(path), path)
    more = train_bpe([b"abcabc"], 258, reserve_tokens=100)
    assert "--reserve-tokens" in message(save_tokenizer, more, path)
    assert load_tokenizer(path).vocab_size == tokenizer.vocab_size


def test_a_file_of_many_small_things_is_not_parsed(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"merges": [' + "[]," * 3_000_000 + "[]]}}")
    monkeypatch.setattr(json, "loads", None)  # what it holds would take a GB
    assert "quotes, commas" in message(load_tokenizer, path)
    monkeypatch.undo()
    monkeypatch.setattr("femtogpt.tokenizer.MOST_MARKS", 200)
    assert "is not read again" in message(save_tokenizer, train_bpe([b"ab"], 256), path)


def test_messages_stay_short():
    for value in ("n" * 10**6, b"n" * 10**6, 10**4000, ["n" * 100] * 100, "\x00" * 10**6):
        assert len(short(value)) <= 80
    assert short("é\n") == r"'é\n'"
    name = byte_alphabet()[0] * 10**5
    obj = train_bpe([b"abcabc"], 258).to_huggingface()
    obj["model"]["merges"] += [[name, name]]
    assert "merge 2" in message(tokenizer_from_json, {"kind": "bpe", "huggingface": obj})


def test_changes_of_changes_end():
    obj = {"kind": "byte"}
    for _ in range(MOST_CHANGES):
        obj = {"kind": "lowercase", "inner": obj}
    tokenizer_from_json(obj).encode("a")
    for _ in range(100_000):
        obj = {"kind": "reserved", "count": 1, "inner": obj}
    assert "16 times" in message(tokenizer_from_json, obj)


HOSTILE = [
    None, True, False, 0, 1, -1, 255, 256, 10**30, -(10**30), 2**31, 2**63, 0.5, float("nan"),
    float("inf"), "", "a", "ab", "\ud800", "\udcff", "Ġ", "a b", "<|end|>", "\x00", "🙂", [], {},
    [[]], ["a", "a"], ["a", ""], {"": 0}, {"type": "ByteLevel"}, {"type": None}, "BPE", "reserved",
]  # fmt: skip


def originals():
    bpe = train_bpe([b"abcabc ab"], 262, special_tokens=["<|end|>"])
    seen = train_bpe([b"abcabc ab"], 7, base="seen", split="gpt4", case_sensitive=False)
    return [
        bpe.to_huggingface(), seen.to_huggingface(), bpe.to_json(), CharTokenizer("abé").to_json(),
        ReservedTokenizer(LowercaseTokenizer(seen), 2).to_json(), ByteTokenizer().to_json(),
        PiecesTokenizer([b"a", b"ab", b"<unk>"]).to_json(), ["a", "ab", "é", "<unk>"],
        {"0": [97], "1": [97, 98], "2": [255]},
    ]  # fmt: skip


def places(obj, found):
    """Every (container, key) in a parsed file."""
    for key in list(obj) if isinstance(obj, dict) else range(len(obj)):
        found.append((obj, key))
        if isinstance(obj[key], dict | list):
            places(obj[key], found)
    return found


def mutate(obj, rng):
    """One to three changes somewhere in a parsed file."""
    for _ in range(rng.randrange(1, 4)):
        # The upper levels are few and their places many: take them as often as the rest.
        found = places(obj, [])
        if rng.random() < 0.5:
            found = [place for place in found if len(place[0]) < 20] or found
        if not found:
            return obj
        container, key = rng.choice(found)
        what = rng.randrange(6)
        if what == 0:
            del container[key]
        elif what == 1:
            container[key] = deepcopy(rng.choice(HOSTILE))
        elif what == 2:
            other, other_key = rng.choice(found)
            container[key] = deepcopy(other[other_key])
        elif what == 3 and isinstance(container, dict):
            container[str(rng.choice(HOSTILE))] = container.pop(key)
        elif what == 4 and isinstance(container, list):
            container.insert(key, deepcopy(rng.choice([container[key], *HOSTILE])))
        else:
            for _ in range(rng.choice([1, 3, 30])):
                inner = container[key]
                container[key] = [inner] if rng.random() < 0.5 else {"inner": inner}
    return obj


def damaged(content, rng):
    """Some bytes of a file replaced, doubled or cut off."""
    content = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.choice([0, 1, 1, 5, len(content)]))
        new = rng.choice([b"", b'"', b"[", b"]", b"{", b"0", b"9" * 30, b"NaN", b"\xff", b"\\ud800",
                          bytes(content[at:end]) * 2, bytes([rng.randrange(256)])])  # fmt: skip
        content[at:end] = new
    return bytes(content)


def use(tokenizer):
    """Everything a command does with a tokenizer, which must work or be refused as one."""
    assert 0 < tokenizer.vocab_size < 2**22
    everything = tokenizer.decode(np.arange(min(tokenizer.vocab_size, 300)))
    for text in ("abc abé <|end|>\n", everything, b"\xff\xfe"):
        try:
            ids = tokenizer.encode(text)
        except FemtoError:
            continue
        assert ids.max(initial=0) < tokenizer.vocab_size
        tokenizer.decode(ids)
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again.vocab_size == tokenizer.vocab_size


def test_damage_ends_in_one_line_or_in_a_tokenizer(tmp_path):
    rng, path, fine = random.Random(8), tmp_path / "damaged.json", 0
    sources = [json.dumps(obj) for obj in originals()]
    count = int(os.environ.get("FEMTOGPT_MUTATIONS", 3000))
    for number in range(count):
        source = rng.choice(sources)
        if number % 3:
            obj = mutate(json.loads(source), rng)
            content = json.dumps(obj).encode()
        else:
            obj, content = None, damaged(source.encode(), rng)
        path.write_bytes(content)
        for call, arg in ((load_tokenizer, path), (tokenizer_from_json, obj)):
            try:
                tokenizer = call(arg)
            except FemtoError as error:
                assert "\n" not in str(error) and len(str(error)) < 600, content
                continue
            fine += 1
            use(tokenizer)
    assert count / 20 < fine < count  # neither all refused nor all let through


def test_damage_inside_a_model_file_is_told_the_same_way(tmp_path):
    class Damaged(ByteTokenizer):
        def to_json(self):
            return content

    rng, path, fine = random.Random(9), tmp_path / "model.safetensors", 0
    config = GPTConfig(vocab_size=256, num_tokens=2, embedding_degree=2, num_layers=1, num_heads=1)
    model = checkpoint.Model(config, Damaged(), np.zeros(count_parameters(config), np.float32))
    for _ in range(150):
        content = mutate(rng.choice(originals()), rng)
        checkpoint.save(model, path)
        checkpoint.previous_path(path).unlink(missing_ok=True)
        try:
            checkpoint.load(path)
            fine += 1
        except FemtoError as error:
            text = str(error)
            assert str(path) in text and "\n" not in text and len(text) < 600, content
    assert fine < 75
