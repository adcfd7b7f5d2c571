"""The model file: what goes in comes out, nothing damaged gets by, nothing good gets lost."""

import contextlib
import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small import LETTERS, environment, fresh_model, some_run

from femtogpt import checkpoint, durable
from femtogpt.config import GPTConfig
from femtogpt.errors import FemtoError
from femtogpt.looks import MOST, Look, looks_from_json, with_look
from femtogpt.model import initial_parameters
from femtogpt.optimizer import fresh_state
from femtogpt.tensors import count_parameters, views
from femtogpt.tokenizer import (
    AsciiTokenizer,
    ByteTokenizer,
    LowercaseTokenizer,
    PiecesTokenizer,
    ReservedTokenizer,
    train_bpe,
    train_char,
)

TOKENIZERS = {
    "byte": ByteTokenizer(),
    "ascii": AsciiTokenizer(),
    "char": train_char("héllo\n🙂"),
    "bpe": train_bpe([b"low lower lowest " * 9], 262),
    "pieces": PiecesTokenizer([b"a", b"ab", b"\xff\x00", b"<unk>"]),
    "adapted": ReservedTokenizer(LowercaseTokenizer(train_char("abc")), 3),
}


def full_model(optimizer="muon", tokenizer=None, **changes):
    """A Model in which every part of the file has something to hold."""
    model = fresh_model(**changes)
    if tokenizer is not None:
        model.tokenizer = tokenizer
        sizes = {name: getattr(model.config, name) for name in
                 ("num_tokens", "embedding_degree", "num_layers", "num_heads")}
        model.config = GPTConfig(tokenizer.vocab_size, **sizes)
        model.parameters = initial_parameters(model.config, 1)
    rng = np.random.default_rng(3)
    if optimizer is not None:
        state = model.optimizer = fresh_state(model.config, optimizer)
        state.m[:], state.v[:] = rng.normal(size=state.m.size), rng.random(state.v.size)
        state.t = 7
    model.step = 3
    model.history.losses = [2.5, 1.5, float(np.float32(0.1))]
    model.history.validation = [(1, 3.5), (3, float(np.float32(1.1)))]
    parts = [0.25] * (model.config.num_layers + 2)
    model.history.looks = [Look(2, parts, parts, "\n<é>")]
    model.run = some_run(decay_steps=4).to_json()
    model.lineage.append({"anything": [1, "é\"\n"]})
    return model


def assert_same(found, model):
    assert found.config == model.config
    assert found.tokenizer.to_json() == model.tokenizer.to_json()
    np.testing.assert_array_equal(found.parameters, model.parameters)
    assert (found.optimizer is None) == (model.optimizer is None)
    if model.optimizer is not None:
        assert (found.optimizer.kind, found.optimizer.t) == (model.optimizer.kind,
                                                             model.optimizer.t)
        np.testing.assert_array_equal(found.optimizer.m, model.optimizer.m)
        np.testing.assert_array_equal(found.optimizer.v, model.optimizer.v)
    for name in ("step", "history", "run", "lineage"):
        assert getattr(found, name) == getattr(model, name)


def message(call, *arguments):
    with pytest.raises(FemtoError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def refused(path):
    """What load says of path, in one line that names it."""
    text = message(checkpoint.load, path)
    assert str(path) in text
    return text


def write_unchecked(model, path):
    path.write_bytes(b"".join(checkpoint._parts(model)))


# ---- what goes in comes out


@pytest.mark.parametrize("optimizer", [None, "muon", "adamw"])
@pytest.mark.parametrize("shape", [
    {}, {"positional_encoding": "learned"}, {"recipe": "femto"}, {"num_layers": 1, "num_heads": 1},
])
def test_round_trip(tmp_path, optimizer, shape):
    model = full_model(optimizer, **shape)
    checkpoint.save(model, tmp_path / "model")
    found = checkpoint.load(tmp_path / "model")
    assert_same(found, model)
    assert found.recovered is None
    assert sorted(os.listdir(tmp_path)) == ["model"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_round_trip_of_each_tokenizer(tmp_path, kind):
    model = full_model(tokenizer=TOKENIZERS[kind])
    checkpoint.save(model, tmp_path / "model")
    found = checkpoint.load(tmp_path / "model")
    assert_same(found, model)
    text = {"char": "héllo\n🙂", "pieces": "abaab", "adapted": "aBc"}.get(kind, "low a AB\n")
    np.testing.assert_array_equal(found.tokenizer.encode(text), model.tokenizer.encode(text))


def test_a_fresh_model_without_a_history_round_trips(tmp_path):
    model = fresh_model()
    checkpoint.save(model, tmp_path / "model")
    assert_same(checkpoint.load(tmp_path / "model"), model)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_bare_reader_sees_every_parameter_by_its_name(tmp_path, optimizer, learned):
    model = full_model(optimizer, positional_encoding="learned" if learned else "rope")
    checkpoint.save(model, tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    V, T, C = model.config.vocab_size, model.config.num_tokens, model.config.embedding_degree
    shapes = {"token_embedding": (V, C), "final_norm.gain": (C,), "final_norm.bias": (C,),
              "head.weight": (C, V), "head.bias": (V,)}
    if learned:
        shapes["position_embedding"] = (T, C)
    matrices = {"attention.query_key_value.weight": (C, 3 * C),
                "attention.projection.weight": (C, C), "mlp.up.weight": (C, 4 * C),
                "mlp.down.weight": (4 * C, C)}
    vectors = {"attention_norm.gain": (C,), "attention_norm.bias": (C,),
               "attention.projection.bias": (C,), "mlp_norm.gain": (C,), "mlp_norm.bias": (C,),
               "mlp.up.bias": (4 * C,), "mlp.down.bias": (C,)}
    for l in range(2):
        for name, shape in (matrices | vectors).items():
            shapes[f"layers.{l}.{name}"] = shape
    of_muon = {f"layers.{l}.{name}" for l in range(2) for name in matrices}
    expected = dict(shapes)
    for name, shape in shapes.items():
        if optimizer == "muon" and name in of_muon:
            expected[f"optimizer.muon.m.{name}"] = shape
        else:
            expected |= {f"optimizer.adamw.{moment}.{name}": shape for moment in "mv"}
    history = {"history.loss": (3,), "history.validation_step": (2,),
               "history.validation_loss": (2,)}
    assert {name: tensor.shape for name, tensor in found.items()} == expected | history
    assert sum(found[name].size for name in shapes) == count_parameters(model.config)
    assert all(found[name].dtype == np.float32 for name in expected)

    p = views(model.parameters, model.config)
    m = views(model.optimizer.m, model.config)
    values = {"token_embedding": p.token_embedding, "head.weight": p.head_weight,
              "head.bias": p.head_bias, "final_norm.gain": p.final_norm_gain,
              "optimizer.adamw.m.head.weight": m.head_weight}
    for l in range(2):
        values |= {
            f"layers.{l}.attention.query_key_value.weight": p.query_key_value_weight[l],
            f"layers.{l}.attention.projection.weight": p.projection_weight[l],
            f"layers.{l}.attention.projection.bias": p.projection_bias[l],
            f"layers.{l}.attention_norm.bias": p.attention_norm_bias[l],
            f"layers.{l}.mlp_norm.gain": p.mlp_norm_gain[l],
            f"layers.{l}.mlp.up.weight": p.up_weight[l],
            f"layers.{l}.mlp.up.bias": p.up_bias[l],
            f"layers.{l}.mlp.down.weight": p.down_weight[l],
            f"optimizer.{optimizer}.m.layers.{l}.mlp.down.weight": m.down_weight[l],
        }
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    np.testing.assert_array_equal(found["history.loss"], np.float32(model.history.losses))


def test_all_metadata_is_one_json_string(tmp_path):
    checkpoint.save(full_model(), tmp_path / "model")
    data = (tmp_path / "model").read_bytes()
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    assert list(metadata) == ["femtogpt"]
    assert (8 + length) % 8 == 0  # the format wants tensors aligned
    values = json.loads(metadata["femtogpt"])
    assert values["format_version"] == 1 and values["step"] == 3
    assert checkpoint.read_metadata(tmp_path / "model") == values


def test_equal_models_are_equal_bytes_in_every_process(tmp_path):
    script = ("import sys; from test_checkpoint import *;"
              "checkpoint.save(full_model(tokenizer=TOKENIZERS['bpe']), sys.argv[1])")
    here = os.path.dirname(os.path.abspath(__file__))
    files = [tmp_path / "here"]
    checkpoint.save(full_model(tokenizer=TOKENIZERS["bpe"]), files[0])
    for seed in ("1", "2"):
        files.append(tmp_path / seed)
        subprocess.run([sys.executable, "-c", script, files[-1]], cwd=here, check=True,
                       env=environment(PYTHONHASHSEED=seed))
    assert len({file.read_bytes() for file in files}) == 1


def test_a_loaded_model_is_saved_as_the_same_bytes(tmp_path):
    checkpoint.save(full_model(), tmp_path / "a")
    checkpoint.save(checkpoint.load(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_history_of_100_000_steps_is_under_a_megabyte(tmp_path):
    model = fresh_model()
    checkpoint.save(model, tmp_path / "without")
    model.step = 100_000
    model.history.losses = [1 / 3] * model.step
    model.history.validation = [(step, 1 / 3) for step in range(20, model.step, 20)]
    checkpoint.save(model, tmp_path / "with")
    sizes = [(tmp_path / name).stat().st_size for name in ("with", "without")]
    assert 400_000 < sizes[0] - sizes[1] < 1_000_000


# ---- nothing damaged gets by


def test_every_flipped_bit_is_found(tmp_path):
    path = tmp_path / "model"
    model = fresh_model(num_tokens=2, embedding_degree=2, num_layers=1, num_heads=1)
    model.step, model.history.losses = 1, [1.0]
    checkpoint.save(model, path)
    data = path.read_bytes()
    assert len(data) < 4000  # or this takes long
    with open(path, "r+b", buffering=0) as file:
        for place, byte in enumerate(data):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                try:
                    checkpoint.load(path)
                except FemtoError as error:
                    assert str(path) in str(error)
                    continue
                raise AssertionError(f"bit {bit} of byte {place} of {len(data)} was not missed")
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert_same(checkpoint.load(path), model)


def test_cut_and_extended_files_are_found(tmp_path):
    path = tmp_path / "model"
    checkpoint.save(full_model(num_layers=1), path)
    data = path.read_bytes()
    for length in [*range(0, 40), *range(40, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path)
    for more in (b"\0", b" ", b"x" * 1000):
        path.write_bytes(data + more)
        refused(path)


def header(text):
    return len(text).to_bytes(8, "little") + text


FOREIGN = {
    "empty": b"",
    "text": b"This is a story of a model that was a text.\n" * 99,
    "short": b"\x01\x02",
    "header longer than the file": (2**62).to_bytes(8, "little") + b"{}",
    "header of the largest length": (2**64 - 1).to_bytes(8, "little") + b"{}" * 99,
    "no header": bytes(99),
    "no JSON": header(b"\xff\xfe not json"),
    "deep JSON": header(b"[" * 200_000),
    "deep metadata": header(json.dumps({"__metadata__": {"femtogpt": "[" * 200_000}}).encode()),
    "a list": header(b"[1, 2]"),
    "no metadata": header(b'{"a": 1}'),
    "metadata without ours": header(b'{"__metadata__": {"format": "pt"}}'),
    "metadata that is a number": header(b'{"__metadata__": {"femtogpt": 5}}'),
    "metadata that holds a list": header(b'{"__metadata__": {"femtogpt": "[]"}}'),
    "metadata without a hash": header(json.dumps(
        {"__metadata__": {"femtogpt": '{"format_version": 1}'}}).encode()),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_refused(tmp_path, kind):
    path = tmp_path / "model"
    path.write_bytes(FOREIGN[kind])
    refused(path)
    assert path.read_bytes() == FOREIGN[kind]


def test_another_programs_safetensors_file_is_refused(tmp_path):
    save_file({"wte": np.zeros((3, 3), np.float32)}, tmp_path / "model")
    assert "not a femtogpt model" in refused(tmp_path / "model")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "femtogpt init" in refused(tmp_path / "model")
    refused(tmp_path)
    refused(tmp_path / "model" / "below")


def test_another_format_version_is_refused_and_never_replaced_by_the_previous(
        tmp_path, monkeypatch):
    path = tmp_path / "model"
    checkpoint.save(full_model(), path)
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 2)
    checkpoint.save(full_model(), path)
    assert checkpoint.load(path).step == 3
    monkeypatch.undo()
    assert checkpoint.previous_path(path).exists()
    assert "version 2" in refused(path)


def planted(name):
    """(a Model, its tensors) that a file with a right hash may hold, and must not."""
    model = full_model()
    tensors = checkpoint._tensors(model)
    if name == "config":
        model.config = GPTConfig(len(LETTERS), 8, 16, 1, 2)
    elif name == "larger config":
        model.config = GPTConfig(len(LETTERS), 8, 65536, 4096, 2)
    elif name == "vocabulary":
        model.tokenizer = ByteTokenizer()
    elif name == "missing":
        del tensors["layers.1.mlp.up.bias"]
    elif name == "missing moment":
        del tensors["optimizer.adamw.v.head.bias"]
    elif name == "missing history":
        del tensors["history.loss"]
    elif name == "extra":
        tensors["extra"] = np.zeros(3, np.float32)
    elif name == "shape":
        tensors["head.bias"] = np.zeros((len(LETTERS), 1), np.float32)
    elif name == "dtype":
        tensors["head.bias"] = np.zeros(len(LETTERS), np.int32)
    elif name in ("NaN", "infinity"):
        tensors["head.weight"] = np.full((16, len(LETTERS)), float(name), np.float32)
    elif name == "NaN moment":
        tensors["optimizer.adamw.v.head.bias"] = np.full(len(LETTERS), np.nan, np.float32)
    elif name == "history":
        tensors["history.validation_step"] = np.zeros(7, np.int32)
    elif name == "step":
        model.step = "three"
    elif name == "lineage":
        model.lineage = None
    elif name == "optimizer":
        model.optimizer.kind = "sgd"
    elif name == "t":
        model.optimizer.t = 0.5
    elif name == "looks":
        model.history.looks = [[2, [0.1], [0.1], ""]]  # of fewer layers
    return model, tensors


@pytest.mark.parametrize("name", [
    "config", "larger config", "vocabulary", "missing", "missing moment", "missing history",
    "extra", "shape", "dtype", "NaN", "infinity", "NaN moment", "history", "step", "lineage",
    "optimizer", "t", "looks",
])
def test_a_wrong_content_under_a_right_hash_is_refused(tmp_path, monkeypatch, name):
    path = tmp_path / "model"
    model, tensors = planted(name)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_tensors", lambda _: tensors)
        write_unchecked(model, path)
    checkpoint.read_metadata(path)  # the hash is right
    refused(path)


def test_what_is_planted_nowhere_loads(tmp_path):
    write_unchecked(planted("nothing")[0], tmp_path / "model")
    assert_same(checkpoint.load(tmp_path / "model"), full_model())


def test_looks_of_a_long_run_are_few_and_spread(tmp_path):
    model, looks = full_model(), []
    parts = [0.0123456789] * (model.config.num_layers + 2)
    for step in range(250, 100_001, 250):
        looks = with_look(looks, Look(step, parts, parts, "é" * 60))
        if step == 50_000:  # saved here, it goes on the same
            looks = looks_from_json(json.loads(json.dumps(looks)), model.config, step)
    steps = [look.step for look in looks]
    assert len(looks) == MOST and (steps[0], steps[-1]) == (250, 100_000)
    roots = np.diff(np.sqrt(steps))
    assert roots.max() < 3 * np.sqrt(100_000) / MOST and looks[3].gradient[0] == 0.0123
    model.step, model.history.looks = 100_000, []
    checkpoint.save(model, tmp_path / "without")
    model.history.looks = looks
    checkpoint.save(model, tmp_path / "with")
    assert checkpoint.load(tmp_path / "with").history.looks == looks
    assert 0 < (tmp_path / "with").stat().st_size - (tmp_path / "without").stat().st_size < 16_000


def test_files_from_before_looks_load(tmp_path):
    model = full_model()
    tensors = checkpoint._tensors(model)
    checkpoint.save(model, tmp_path / "new")
    written = checkpoint.read_metadata(tmp_path / "new")
    del written["looks"], written["sha256"]
    (tmp_path / "old").write_bytes(b"".join(checkpoint.file_parts(tensors, written)))
    old = checkpoint.load(tmp_path / "old")
    assert old.history.looks == [] and old.history.losses == model.history.losses


@pytest.mark.parametrize("where", ["parameters", "m", "v"])
def test_nan_and_infinity_are_never_saved_over_a_good_file(tmp_path, where):
    path = tmp_path / "model"
    model = full_model()
    checkpoint.save(model, path)
    before = path.read_bytes()
    flat = model.parameters if where == "parameters" else getattr(model.optimizer, where)
    flat[-1] = np.inf if where == "m" else np.nan
    assert str(path) in message(checkpoint.save, model, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model"]


# ---- nothing good gets lost


def two_saves(path):
    """Saves at steps 3 and 4; returns the second model."""
    model = full_model()
    checkpoint.save(model, path)
    model.step = 4
    checkpoint.save(model, path)
    return model


def damage(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.unlink()  # a hard link to it must not be damaged too
    path.write_bytes(data)


def test_the_previous_file_stands_in_for_a_damaged_one_and_says_so(tmp_path):
    path = tmp_path / "model"
    two_saves(path)
    damage(path)
    found = checkpoint.load(path)
    assert found.step == 3
    assert "\n" not in found.recovered
    assert f"{path} is damaged" in found.recovered
    assert str(checkpoint.previous_path(path)) in found.recovered and "step 3" in found.recovered


def test_the_previous_file_stands_in_for_a_missing_one(tmp_path):
    path = tmp_path / "model"
    two_saves(path)
    path.unlink()
    assert checkpoint.load(path).step == 3


def test_two_damaged_files_are_refused(tmp_path):
    path = tmp_path / "model"
    two_saves(path)
    damage(path)
    damage(checkpoint.previous_path(path))
    refused(checkpoint.previous_path(path))
    assert str(path) in message(checkpoint.load, path)


def test_a_damaged_file_never_takes_the_place_of_the_good_previous_one(tmp_path):
    path = tmp_path / "model"
    two_saves(path)
    damage(path)
    model = checkpoint.load(path)
    model.step = 9
    checkpoint.save(model, path)
    assert checkpoint.load(path).step == 9 and checkpoint.load(path).recovered is None
    assert checkpoint.load(checkpoint.previous_path(path)).step == 3
    model.step = 10
    checkpoint.save(model, path)
    assert checkpoint.load(checkpoint.previous_path(path)).step == 9


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "write", "open"])
@pytest.mark.parametrize("saves", [0, 1, 2])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(
        tmp_path, monkeypatch, call, saves):
    path = tmp_path / "model"
    model = full_model()
    for model.step in range(saves):
        checkpoint.save(model, path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr(checkpoint, "_bytes_of", full_disk)  # after the header
        elif call == "open":
            patch.setattr("builtins.open", full_disk)
        else:
            patch.setattr(os, call, full_disk)
        text = message(checkpoint.save, model, path)
    assert str(path) in text and os.strerror(errno.ENOSPC) in text and "another place" in text
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("text")
    path = tmp_path / "file" / "model"
    assert str(path) in message(checkpoint.save, full_model(), path)
    assert (tmp_path / "file").read_text() == "text"


def test_a_link_that_someone_put_in_the_way_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("text")
    (tmp_path / "model.writing").symlink_to(tmp_path / "victim")
    (tmp_path / "model.linking").symlink_to(tmp_path / "victim")
    two_saves(tmp_path / "model")
    assert (tmp_path / "victim").read_text() == "text"
    assert sorted(os.listdir(tmp_path)) == ["model", "model.previous", "victim"]


class Killed(BaseException):
    """Stands for a power cut: nothing is cleaned up after it."""


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("links", [True, False])
def test_at_every_moment_of_a_save_a_good_file_stands(tmp_path, monkeypatch, links, damaged):
    calls = ("fsync", "replace", "link", "unlink", "open")
    steps_seen = set()
    for moment in range(1, 20):
        folder = tmp_path / str(moment)
        folder.mkdir()
        path = folder / "model"
        two_saves(path)
        if damaged:
            damage(path)
        model = checkpoint.load(path)
        assert model.step == 4 - damaged
        model.step = 5
        count = 0

        def until(function, name, moment=moment):
            def call(*arguments, **options):
                nonlocal count
                if name == "link" and not links:
                    raise OSError(errno.EPERM, "no hard links here")
                count += 1
                if count == moment:
                    raise Killed
                return function(*arguments, **options)
            return call

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, until(getattr(os, name), name))
            with contextlib.suppress(Killed):
                checkpoint.save(model, path)
        steps_seen.add(checkpoint.load(path).step)
        if count < moment:
            break
    assert moment > 4
    assert steps_seen == {4 - damaged, 5}


def test_a_link_to_a_model_stays_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    model = full_model()
    checkpoint.save(model, target)
    link.symlink_to(target)
    model.step = 4
    checkpoint.save(model, link)
    assert link.is_symlink() and not target.is_symlink()
    assert checkpoint.load(target).step == checkpoint.load(link).step == 4
    assert sorted(os.listdir(tmp_path)) == ["far", "link"]
    damage(target)
    assert checkpoint.load(link).step == checkpoint.load(target).step == 3


# ---- one writer at a time


def test_a_second_writer_is_refused_until_the_first_has_died(tmp_path):
    path = tmp_path / "model"
    checkpoint.save(full_model(), path)
    script = ("import sys, time; from femtogpt.durable import lock\n"
              "with lock(sys.argv[1]): print('held', flush=True); time.sleep(600)")
    with subprocess.Popen([sys.executable, "-c", script, path], env=environment(), text=True,
                          stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            for _ in range(2):  # a refusal must not wipe the holder's name out
                text = message(durable.lock(path).__enter__)
                assert str(path) in text and f"process {holder.pid} on {platform.node()}:" in text
        finally:
            holder.send_signal(signal.SIGKILL)
    for _ in range(2):
        with durable.lock(path):
            pass
    shutil.copy(path, tmp_path / "other")
    with durable.lock(path), durable.lock(tmp_path / "other"):
        pass


def test_a_link_and_its_target_are_one_model_to_the_lock(tmp_path):
    checkpoint.save(full_model(), tmp_path / "target")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with durable.lock(tmp_path / "link"):
        assert str(tmp_path / "target") in message(durable.lock(tmp_path / "target").__enter__)


def test_a_lock_makes_no_folders_and_leaves_nothing_where_there_is_no_model(tmp_path):
    path = tmp_path / "nowhere" / "model"
    assert str(path) in message(durable.lock(path).__enter__)
    with durable.lock(tmp_path / "model"):
        pass
    assert os.listdir(tmp_path) == []
