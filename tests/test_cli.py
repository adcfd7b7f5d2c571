"""Every command end to end, and the real processes that a user starts."""

import contextlib
import csv
import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file
from small import LETTERS, MAIN, ROOT, SIZES, environment, run, start, text

from dummy_data import simple_dummy
from femtogpt import checkpoint
from femtogpt.cli import COMMANDS, HIDDEN, logs, main, train
from femtogpt.cli.streaming import Printer
from femtogpt.shards import memory_to_train
from femtogpt.tokenizer import load_tokenizer

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and terminals")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: empty but for dataset.txt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text())
    return tmp_path


def invoke(*arguments, input=None):
    """A command in this process. It must succeed; returns its standard output."""
    return invoke_both(*arguments, input=input).stdout


def invoke_both(*arguments, input=None, exit_code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments], input=input)
    assert result.exit_code == exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def init(*more):
    return invoke("init", "--tokenizer=char", *SIZES, *more)


def trained(*more):
    """A model of some steps in the current folder."""
    init()
    return invoke_both("train", "--steps=30", "--batch-size=8", *more)


# ---- help


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_commands_help_answers_with_an_example(name, flag):
    out = invoke(name, flag)
    assert out.startswith("Usage: ") and f" {name} [OPTIONS]" in out
    own = "generate" if name == "infer" else name
    assert re.search(rf"  Example:\n    femtogpt {own}", out)
    assert all(len(line) <= 80 for line in out.splitlines())


def test_the_groups_help_lists_every_command():
    out = invoke("--help")
    for name in COMMANDS:
        assert (f"\n  {name} " in out) == (name not in HIDDEN)
    assert invoke() == out
    assert "0.1.0" in invoke("--version") or re.search(r"\d+\.\d+", invoke("--version"))


def test_every_option_says_what_it_is_for_or_is_plain():
    for name in COMMANDS:
        for parameter in main.get_command(None, name).params:
            named = parameter.opts[0].startswith("--")
            assert named or parameter.name in ("positional", "model_a", "model_b", "file", "output",
                                               "shell", "texts")


def test_help_imports_neither_numba_nor_numpy():
    script = """if True:
        import sys
        from femtogpt.cli import COMMANDS, main
        for arguments in [[], *([name] for name in COMMANDS)]:
            try:
                main([*arguments, "--help"])
            except SystemExit as exit:
                assert not exit.code
        loaded = {"numba", "numpy", "scipy", "safetensors"} & set(sys.modules)
        sys.exit(f"imported {loaded}" if loaded else 0)
    """
    done = subprocess.run([sys.executable, "-c", script], env=environment(), text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["train", "--steps=1"], ["train", "--optimizer=adamw"],
                                       ["generate", "--count=3"], ["eval"], ["tokenize"]], ids=str)
def test_what_is_compiled_is_loaded_without_what_compiles(folder, arguments):
    """What numba imports of itself when it is to compile is none of a second run's modules."""
    invoke("train-bpe", "--vocab-size=260")
    init()
    script = f"""if True:
        import atexit, sys
        from femtogpt.cli import main
        atexit.register(lambda: print("numba.cpython.charseq" in sys.modules))
        main({arguments})
    """
    runs = [subprocess.run([sys.executable, "-c", script], env=environment(), text=True,
                           capture_output=True) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    assert runs[1].stdout.endswith("False\n"), runs[1].stdout


def test_a_command_does_not_look_for_garbage_as_it_ends():
    script = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); " \
             "import femtogpt.cli"
    done = subprocess.run([sys.executable, "-c", script], env=environment(), text=True,
                          capture_output=True)
    assert done.stdout == "True\n", done.stderr


# ---- init


def test_init_makes_a_model_and_says_its_size(folder):
    out = invoke("init", *SIZES)
    count = 12 * 16**2 + 10 * 16 + 2 * 16 * 256 + 256 + 2 * 16
    assert out.startswith(f"model.safetensors: {count:,} parameters (byte, vocabulary 256")
    assert checkpoint.load("model.safetensors").parameters.size == count


def test_init_follows_its_options(folder):
    invoke("init", "--model=m", "--tokenizer=ascii", "--recipe=femto", "--seed=3",
           "--positional-encoding=learned", "--reserve-tokens=5", "--case-insensitive", *SIZES)
    model = checkpoint.load("m")
    config = model.config
    assert (config.recipe, config.positional_encoding, config.vocab_size) == (
        "femto", "learned", 106)
    assert (config.num_tokens, config.embedding_degree, config.num_layers, config.num_heads) == (
        8, 16, 1, 2)
    assert model.tokenizer.decode(model.tokenizer.encode("AbC")) == b"abc"
    assert model.tokenizer.piece(105) == b"<|reserved_4|>"


def test_the_same_seed_is_the_same_file_and_another_is_not(folder):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        init("--model", name, f"--seed={seed}")
    a, b, c = ((folder / name).read_bytes() for name in "abc")
    assert a == b != c


def test_init_never_overwrites_without_force(folder):
    init()
    before = (folder / "model.safetensors").read_bytes()
    result = invoke_both("init", *SIZES, exit_code=1)
    assert "model.safetensors" in result.stderr and "--force" in result.stderr
    assert (folder / "model.safetensors").read_bytes() == before
    init("--force", "--seed=2")
    assert (folder / "model.safetensors").read_bytes() != before


def test_interactive_init_asks_for_each_option(folder):
    answers = ["mine", "char", "dataset.txt", "2", "n", "8", "16", "1", "2", "femto", "", "4"]
    result = invoke_both("init", "--interactive", input="\n".join(answers) + "\n")
    config = checkpoint.load("mine").config
    assert (config.num_tokens, config.embedding_degree, config.num_layers, config.num_heads) == (
        8, 16, 1, 2)
    assert (config.recipe, config.positional_encoding) == ("femto", "absolute")
    assert config.vocab_size == len(LETTERS) + 2
    assert "embedding degree [80]" in result.stderr
    assert result.stdout.startswith("mine:")  # questions are no result


def test_interactive_init_takes_enter_for_the_default_and_a_wrong_answer_again(folder):
    init("--model=plain", "--num-tokens=9")
    answers = ["asked", "byte", "char", "", "", "", "0", "", "", "", "", "", "", ""]
    invoke("init", "-i", "--num-tokens=9", *SIZES[1:], input="\n".join(answers) + "\n")
    assert (folder / "asked").read_bytes() != (folder / "plain").read_bytes()
    assert checkpoint.load("asked").config.num_tokens == 9
    result = invoke_both("init", "-i", "--force", input="", exit_code=130)
    assert result.stderr.endswith("femtogpt: stopped\n")


def test_a_json_array_of_strings_is_a_tokenizer(folder):
    (folder / "mine.json").write_text(json.dumps(["a", "b", "ab", "\n", " ", "<unk>"]))
    assert "vocabulary 6" in invoke("init", "--tokenizer=bpe", "--tokenizer-data=mine.json", *SIZES)
    (folder / "dataset.txt").write_text("ab bc\n" * 99)
    assert "99 of the text's 495 tokens are <unk>" in invoke_both("train", "--steps=1").stderr
    (folder / "dataset.txt").write_text("ab ba\n" * 99)
    assert "<unk>" not in invoke_both("train", "--steps=3").stderr
    assert invoke("tokenize").splitlines()[0].startswith("2 4 1 0 3 2 4")
    assert invoke("generate", "--prompt=ab!", "--count=3").startswith("ab!")


# ---- train


def test_train_log_has_a_json_line_a_step(folder):
    trained("--log=log", "--val-fraction=0.1")
    records = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 31))
    required = {"step", "loss", "lr", "ms", "tokens_per_second"}
    for record in records:
        validated = record["step"] in (20, 30)
        assert set(record) == (required | {"val_loss"} if validated else required)
        assert all(math.isfinite(value) for value in record.values())
    invoke("train", "--steps=2", "--log=log")  # appends
    assert (folder / "log").read_text().count("\n") == 32


def test_train_csv_has_a_heading_and_a_row_a_step(folder):
    trained("--csv=table.csv", "--log=log", "--val-fraction=0.1")
    invoke("train", "--steps=2", "--csv=table.csv", "--log=log")
    with open(folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    records = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert len(rows) == 32 and list(rows[0]) == [
        "step", "loss", "lr", "norm", "ms", "tokens_per_second", "val_loss"]
    for row, record in zip(rows, records, strict=True):
        assert float(row["loss"]) == record["loss"] and int(row["step"]) == record["step"]
        assert row["val_loss"] == str(record.get("val_loss", ""))
        assert 0 < float(row["norm"]) < 100


def test_train_tensorboard_writes_what_tensorboard_reads(folder):
    events = pytest.importorskip("tensorboardX.proto.event_pb2")
    trained("--tensorboard=runs", "--log=log", "--val-fraction=0.1", "--patience=1",
            "--eval-every=2", "--learning-rate=1")
    [path] = (folder / "runs").iterdir()
    assert path.name.startswith("events.out.tfevents.")
    data, scalars, notes = path.read_bytes(), {}, []
    while data:  # a record: its length, that's checksum, it, its checksum
        size, event = int.from_bytes(data[:8], "little"), events.Event()
        event.ParseFromString(data[12 : 12 + size])
        data = data[16 + size :]
        for value in event.summary.value:
            if value.HasField("simple_value"):
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
            else:
                notes += value.tensor.string_val
    records = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert scalars["loss/train"] == pytest.approx({r["step"]: r["loss"] for r in records})
    assert scalars["loss/held_back"] == pytest.approx(
        {r["step"]: r["val_loss"] for r in records if "val_loss" in r})
    assert set(scalars) == {"loss/train", "loss/held_back", "learning_rate", "gradient_norm",
                            "tokens_per_second"}
    assert notes and [note.decode() for note in notes] == [
        note for r in records for note in r.get("notes", [])]


def test_without_tensorboardx_train_says_so_before_it_reads(folder, monkeypatch):
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    result = invoke_both("train", "--tensorboard=runs", "--dataset=no-such-file", exit_code=1)
    assert "pip install 'femtogpt[tensorboard]'" in result.stderr


def test_train_says_progress_on_standard_error_and_nothing_on_standard_output(folder):
    result = trained("--sample-every=10", "--val-fraction=0.1")
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith("model.safetensors: step 0 -> 30, ") and (
        ", 2,700 tokens to train on, 300 held back (its end, 10%), " in lines[0])
    plain = [line for line in lines if re.match(
        r"step \d+/30: loss \d+\.\d+, smoothed \d+\.\d+, [\d,]+ tokens/s", line)]
    assert all(line.endswith(" min left") for line in plain[1:])
    assert 1 < len(plain) < 10
    assert sum(line.startswith(f"step {step}: ") for line in lines for step in (10, 20)) == 2
    assert re.fullmatch(
        r"step 30: loss [\d.]+ nats a token \(perplexity [\d.]+, [\d.]+ bits per byte\); guessing "
        r"by letter frequency alone would give [\d.]+; on held-back text [\d.]+", lines[-1])
    assert "\r" not in result.stderr


def test_train_goes_on_and_begins_anew_as_asked(folder):
    trained()
    invoke("train", "--steps=5", "--batch-size=4", "--optimizer=adamw", "--learning-rate=1e-3",
           "--min-lr=1e-5", "--warmup-steps=2", "--decay-steps=2", "--seed=9", "--dropout=0.2",
           "--val-fraction=0", "--threads=1", "--save-every=2", "--sample-every=0",
           "--accumulate=3")
    model = checkpoint.load("model.safetensors")
    expected = {"first_step": 30, "last_step": 35, "batch_size": 4, "optimizer": "adamw",
                "learning_rate": 1e-3, "min_lr": 1e-5, "warmup_steps": 2, "decay_steps": 2,
                "seed": 9, "dropout": 0.2, "val_fraction": 0.0, "accumulate": 3}
    assert {name: model.run[name] for name in expected} == expected
    assert len(model.history.losses) == model.step == 35
    assert "batch 3 x 4, dropout 0.2" in invoke("info")
    told = json.loads(invoke("info", "--json"))
    assert told["memory_to_train_bytes"] == memory_to_train(model.config, 4, accumulate=3)
    invoke("train", "--until-step=40", "--reset-optimizer", "--weight-decay=0.5")
    assert "dropout 0.0, weight decay 0.5" in invoke("info")
    model = checkpoint.load("model.safetensors")
    assert (model.step, model.optimizer.kind, model.optimizer.t) == (40, "muon", 5)
    result = invoke_both("train", "--until-step=40", exit_code=1)
    assert "--until-step 40" in result.stderr
    result = invoke_both("train", "--steps=1", "--weight-decay=1", "--optimizer=adamw", exit_code=1)
    assert "--weight-decay" in result.stderr and "adamw" in result.stderr


def test_train_until_a_loss_and_until_a_time(folder):
    init()
    invoke("train", "--until-loss=99")
    assert checkpoint.load("model.safetensors").step == 1
    result = invoke_both("train", "--dropout=0.3", exit_code=1)  # the run is unfinished
    assert "dropout" in result.stderr and "--steps" in result.stderr
    invoke("train", "--steps=1000000", "--for=1s", "--val-fraction=0")
    model = checkpoint.load("model.safetensors")
    assert 1 < model.step == model.run["last_step"] < 1000000


def test_a_time_is_hours_minutes_and_seconds():
    convert = train.Duration().convert
    for given, seconds in {"20m": 1200, "90s": 90, "90": 90, "1h30m": 5400, "2h": 7200}.items():
        assert convert(given, None, None) == seconds


def test_training_on_a_folder_and_on_several_files(folder):
    (folder / "texts" / "deep").mkdir(parents=True)
    (folder / "texts" / "deep" / "a.txt").write_text(text(500))
    (folder / "texts" / "b.txt").write_text(text(500, seed=1))
    (folder / "texts" / "picture.png").write_bytes(b"\x89PNG\0\0")
    init()
    result = invoke_both("train", "--steps=1", "--dataset=texts", "--dataset=dataset.txt",
                         "--val-fraction=0")
    assert "4,00" in result.stderr  # 500 + 500 + 3000 characters and a few


def test_an_unknown_character_is_shown_with_its_place(folder):
    init()
    (folder / "dataset.txt").write_text(text(100) + "\n\nabc de€f\n" + text(100))
    line = text(100).count("\n") + 3
    result = invoke_both("train", "--steps=1", exit_code=1)
    assert result.stderr.count("\n") == 1
    assert "'€' (U+20AC)" in result.stderr and f"line {line}, column 7" in result.stderr
    result = invoke_both("generate", "--prompt=a!", exit_code=1)
    assert "'!'" in result.stderr and "column 2" in result.stderr


def test_a_damaged_model_gives_way_to_the_previous_one_with_a_word(folder):
    trained()
    invoke("train", "--steps=1")
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    for command in ("info", "loss", "tokenize", "dump-tokenizer", "generate"):
        result = invoke_both(command)
        assert "damaged" in result.stderr and "model.safetensors.previous" in result.stderr
    assert "step 30," in invoke("info").splitlines()[0] + ","
    result = invoke_both("train", "--steps=2")
    assert "damaged" in result.stderr and "step 30 -> 32" in result.stderr
    assert invoke_both("info").stderr == ""


def test_a_run_that_diverges_says_so_and_leaves_the_file(folder):
    init()
    before = (folder / "model.safetensors").read_bytes()
    result = invoke_both("train", "--steps=50", "--optimizer=adamw", "--learning-rate=1e30",
                         "--val-fraction=0", exit_code=1)
    assert re.search(r"^femtogpt: diverged at step \d+, learning rate \S+: NaN or infinity is "
                     r"first in the \S+ .*--learning-rate 5e\+29$", result.stderr, re.M)
    assert (folder / "model.safetensors").read_bytes() == before


# ---- generate


def test_generate_gives_the_text_alone_on_standard_output(folder):
    trained()
    result = invoke_both("generate", "--prompt=abc", "--count=20", "--seed=1")
    assert result.stdout.startswith("abc") and len(result.stdout) == 3 + 20 + 1
    assert re.fullmatch(r"20 tokens, [\d,]+ tokens/s, seed 1\n", result.stderr)
    assert invoke("generate", "abc", "--count=20", "--seed=1") == result.stdout
    assert invoke("infer", "--prompt=abc", "--count=20", "--seed=1") == result.stdout
    assert invoke("generate", "--prompt=-", "--count=20", "--seed=1",
                  input="abc") == result.stdout
    assert invoke("generate", "--prompt=abc", "--no-echo", "--count=20",
                  "--seed=1") == result.stdout[3:]
    assert invoke("generate", "--prompt=abc", "--count=20", "--seed=2") != result.stdout


def test_generate_options(folder):
    trained()
    greedy = invoke("generate", "--prompt=a", "--temperature=0", "--count=30")
    assert greedy == invoke("generate", "--prompt=a", "--top-k=1", "--count=30", "--seed=5")
    assert greedy == invoke("generate", "--prompt=a", "--top-p=0.0001", "--count=30", "--seed=6")
    assert len(invoke("generate", "--count=7")) == 8  # no prompt: from the start of a line
    samples = invoke("generate", "--prompt=a", "--num-samples=3", "--count=5", "--seed=4")
    parts = re.fullmatch(r"--- 1 \(seed 4\)\n(.{6})\n--- 2 \(seed 5\)\n(.{6})\n--- 3 \(seed 6\)\n"
                         r"(.{6})\n", samples, re.S)
    assert parts
    assert invoke("generate", "--prompt=a", "--count=5", "--seed=5") == parts[2] + "\n"


def test_generate_ends_before_the_stop_text(folder):
    trained()
    whole = invoke("generate", "--prompt=a", "--count=60", "--seed=1")[1:-1]
    for stop in (whole[20], whole[20:24], whole[:2]):
        found = invoke("generate", "--prompt=a", "--count=60", "--seed=1", "--stop", stop)
        assert found == "a" + whole.split(stop)[0] + "\n"
    assert invoke("generate", "--prompt=a", "--count=60", "--seed=1", "--stop=zz")[1:-1] == whole


def printed(capsysbinary, stop, *pieces):
    printer = Printer(stop)
    shown = [printer.show(piece) for piece in pieces]
    printer.end()
    return shown, capsysbinary.readouterr().out.decode()


def test_the_printer_streams_whole_characters_and_never_a_part_of_the_stop_text(capsysbinary):
    euro = "€".encode()
    assert printed(capsysbinary, None, b"a", euro[:1], euro[1:], b"b") == ([True] * 4, "a€b\n")
    assert printed(capsysbinary, None, b"a", euro[:2])[1] == "a\ufffd\n"
    assert printed(capsysbinary, None, b"\xff", b"a")[1] == "\ufffda\n"
    assert printed(capsysbinary, "END", b"xE", b"N", b"Dy") == ([True, True, False], "x\n")
    assert printed(capsysbinary, "END", b"xE", b"N", b"y") == ([True] * 3, "xENy\n")
    assert printed(capsysbinary, "aab", b"a", b"a", b"a", b"b") == ([True] * 3 + [False], "a\n")
    assert printed(capsysbinary, "€", b"x" + euro[:2], euro[2:]) == ([True, False], "x\n")
    assert printed(capsysbinary, "b", b"xb" + euro[:2]) == ([False], "x\n")


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_reader_that_goes_away_is_no_traceback(folder, arguments):
    trained()
    with start("info", *arguments, cwd=folder) as process:
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_output_and_log_on_a_full_disk_are_one_line(folder):
    trained()
    with open("/dev/full", "w") as full:
        done = subprocess.run([*MAIN, "info"], cwd=folder, env=environment(), stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "femtogpt: No space left on device\n")
    result = invoke_both("train", "--steps=9", "--log=/dev/full", exit_code=1)
    assert "--log /dev/full" in result.stderr.splitlines()[-1]
    assert checkpoint.load("model.safetensors").step == 31  # what was trained is kept
    result = invoke_both("train", "--steps=9", "--csv=/dev/full", exit_code=1)
    assert "--csv /dev/full" in result.stderr.splitlines()[-1]
    (folder / "file").write_text("")
    result = invoke_both("train", "--steps=9", "--tensorboard=file/runs", exit_code=1)
    assert "--tensorboard file/runs" in result.stderr.splitlines()[-1]


# ---- the commands that tell


def test_info_json_has_its_keys(folder):
    init()
    values = json.loads(invoke("info", "--json"))
    keys = {"parameters", "recipe", "step", "vocab_size", "num_tokens", "embedding_degree",
            "num_layers", "num_heads", "positional_encoding", "tokenizer", "dropout",
            "size_bytes", "history"}
    assert keys <= set(values)
    assert values["history"] == {"loss": [], "validation": []}
    assert (values["tokenizer"], values["step"], values["num_heads"]) == ("char", 0, 2)
    invoke("train", "--steps=25", "--dropout=0.2", "--val-fraction=0.1")
    values = json.loads(invoke("info", "--json"))
    assert keys <= set(values)
    assert values["size_bytes"] == os.path.getsize("model.safetensors")
    assert (values["step"], values["dropout"], len(values["history"]["loss"])) == (25, 0.2, 25)
    assert [step for step, _ in values["history"]["validation"]] == [20, 25]
    out = invoke("info")
    for part in ("step 25", "recipe: standard", "dropout: 0.2", "size on disk", "memory to train",
                 "finished", f"{values['parameters']:,} parameters"):
        assert part in out


def test_loss_prints_the_last_losses(folder):
    init()
    assert invoke("loss") == "no step was trained yet\n"
    assert json.loads(invoke("loss", "--json")) == []
    invoke("train", "--steps=30", "--batch-size=8")
    rows = json.loads(invoke("loss", "--json", "--limit=3"))
    losses = checkpoint.load("model.safetensors").history.losses
    assert rows == [{"step": step, "loss": losses[step - 1]} for step in (28, 29, 30)]
    assert len(invoke("loss").splitlines()) == 10
    assert invoke("loss", "--limit=1") == f"step 30: loss {losses[-1]:.4f}\n"


def test_eval_json_has_its_keys_and_is_the_mean_of_all_windows(folder):
    trained()
    values = json.loads(invoke("eval", "--json"))
    assert {"loss", "perplexity", "bits_per_byte", "tokens"} <= set(values)
    length = len(text())
    assert values["tokens"] == (length - 1) // 8 * 8
    assert values["perplexity"] == pytest.approx(math.exp(values["loss"]))
    assert values["bits_per_byte"] == pytest.approx(values["loss"] / math.log(2))  # a byte a token
    assert json.loads(invoke("eval", "--json", "--threads=1")) == values
    assert f"loss {values['loss']:.4f} nats a token" in invoke("eval")


@pytest.mark.parametrize(("task", "shares"), [
    ("simple", ["valid"]), ("addition", ["right", "form", "true"]),
    ("actions", ["worst", *(f"action {i}" for i in range(10))]), ("sequence", ["continued"]),
    ("sequence2", ["continued"]), ("text", []),
])
def test_eval_scores_each_task(folder, monkeypatch, task, shares):
    from femtogpt import scoring

    monkeypatch.setattr(scoring, "SAMPLED_TOKENS", 200)
    monkeypatch.setattr(scoring, "PROMPTS_PER_ACTION", 2)
    monkeypatch.setattr(scoring, "PHASES", 3)
    monkeypatch.setattr(scoring, "CONTINUED", 10)
    name = {"simple": "simple_dummy", "addition": "addition_dummy", "actions": "simple_dummy2",
            "sequence": "simple_sequence", "sequence2": "simple_sequence2",
            "text": "simple_dummy"}[task]
    data = subprocess.run([sys.executable, ROOT / "dummy_data" / f"{name}.py", "--seed=1"],
                          capture_output=True, check=True).stdout
    (folder / "dataset.txt").write_bytes(data[:40_000])
    invoke("init", *SIZES)
    values = json.loads(invoke("eval", f"--task={task}", "--json"))
    for share in shares:
        low, high = values[share]["interval"]
        assert 0 <= low <= values[share]["share"] <= high <= 1
    low, high = values["interval"]
    assert low < values["loss"] < high
    lines = invoke("eval", f"--task={task}").splitlines()
    assert len(lines) == 1 + len(shares) + bool(shares)


def test_eval_scores_a_perfect_answer_perfectly(folder, monkeypatch):
    from femtogpt import scoring

    (folder / "dataset.txt").write_text("1 + 2 = 3;\n" * 30)
    invoke("init", *SIZES)
    monkeypatch.setattr(scoring, "SAMPLED_TOKENS", 50)
    monkeypatch.setattr(scoring, "answers", lambda model, prompts: [the_sum(p) for p in prompts])
    right = json.loads(invoke("eval", "--task=addition", "--json"))["right"]
    assert right["share"] == 1.0 and right["interval"][0] > 0.97
    monkeypatch.setattr(scoring, "sample_text", lambda *_: "x\n1 + 1 = 2;\n2 + 2 = 5;\nzzz\n")
    values = json.loads(invoke("eval", "--task=addition", "--json"))
    assert values["true"]["share"] == 0.5 and 0.5 < values["form"]["share"] < 1


def the_sum(prompt):
    left, right = re.findall(r"\d+", prompt)[-2:]
    return f"{int(left) + int(right)};"


def test_reset_optimizer_shrinks_the_file_and_keeps_the_model(folder):
    trained()
    before = checkpoint.load("model.safetensors")
    size = os.path.getsize("model.safetensors")
    out = invoke("reset-optimizer")
    after = checkpoint.load("model.safetensors")
    assert out.startswith(f"model.safetensors: {size:,} -> ")
    assert os.path.getsize("model.safetensors") < size * 0.7
    assert after.optimizer is None and (after.parameters == before.parameters).all()
    assert after.history == before.history
    assert after.lineage[-1] == {"reset_optimizer": {"step": 30}}
    invoke("train", "--steps=2")


def test_tokenize_gives_ids_one_document_a_line(folder):
    init()
    (folder / "one").write_text("ab\nc")
    (folder / "two").write_text("ba")
    ids = {letter: id for id, letter in enumerate(sorted(LETTERS))}
    expected = [[ids[c] for c in "ab\nc"], [ids[c] for c in "ba"]]
    both = ("--dataset=one", "--dataset=two")
    assert json.loads(invoke("tokenize", "--json", *both)) == expected
    lines = invoke("tokenize", *both).splitlines()
    assert [[int(id) for id in line.split()] for line in lines] == expected
    assert invoke("tokenize", "--pieces", *both) == "a|b|\\n|c\nb|a\n"
    assert json.loads(invoke("tokenize", "--pieces", "--json", *both)) == [
        ["a", "b", "\\n", "c"], ["b", "a"]]
    assert invoke("tokenize", "--json", "--pieces", "--output=out", *both) == ""
    assert json.loads((folder / "out").read_text()) == [["a", "b", "\\n", "c"], ["b", "a"]]


def test_train_bpe_and_dump_tokenizer(folder):
    (folder / "dataset.txt").write_text("low lower lowest\n" * 50)
    result = invoke_both("train-bpe", "--vocab-size=270", "--epoch=100", "--reserve-tokens=2",
                         "--json")
    values = json.loads(result.stdout)
    assert {"vocab_size", "tokens", "bytes", "bytes_per_token"} <= set(values)
    assert values["bytes"] == 17 * 50 and "--epoch" in result.stderr
    assert load_tokenizer("tokenizer.json").vocab_size == values["vocab_size"]
    assert "tokenizer.json" in invoke("train-bpe", "--vocab-size=270", "--reserve-tokens=2")
    invoke("init", "--tokenizer=bpe", *SIZES)
    invoke("train", "--steps=2", "--val-fraction=0")
    assert "tokens" in invoke("dump-tokenizer", "--tokenizer-data=dumped.json")
    assert (folder / "dumped.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    ids = invoke("tokenize")
    assert ids == invoke("tokenize", "--tokenizer-data=dumped.json", "--model=none")
    result = invoke_both("dump-tokenizer", "--tokenizer-data=dumped.json", exit_code=1)
    assert "--force" in result.stderr
    invoke("dump-tokenizer", "--tokenizer-data=dumped.json", "--force")


def test_train_bpe_tells_what_it_learnt(folder):
    (folder / "dataset.txt").write_text("low lower lowest\n" * 50)
    # All that occurs: 10 bytes, then merges until " lowest" and " lower" are tokens.
    out = invoke("train-bpe", "--base=seen", "--vocab-size=100", "--special-token=<|end|>")
    assert "bytes a token" in out and "the last merges: |" in out and "no pair twice" in out
    values = json.loads(invoke("train-bpe", "--base=seen", "--vocab-size=100", "--json",
                               "--special-token=<|end|>", "--split=none"))
    assert values["split"] == "none" and values["pieces"][-1] == "<|end|>"
    assert values["vocab_size"] == values["learnt"] + 1 == 9 + values["merges"] + 1
    assert values["tokens"] * values["bytes_per_token"] == values["bytes"] == 17 * 50
    assert [a + b for a, b in values["pairs"]] == values["pieces"][9:-1]
    assert values["rare"] > 0 and values["rarest"]["count"] == 0


def test_train_bpe_chooses_the_split(folder):
    (folder / "dataset.txt").write_text("low lower lowest\n" * 50)
    result = invoke_both("train-bpe", "--vocab-size=290", "--split=auto", "--json")
    split = json.loads(result.stdout)["split"]
    assert "--split auto: " in result.stderr and "gpt2 " in result.stderr
    assert ("llama.cpp" in result.stderr) == (split == "none")


def test_what_ascii_cannot_spell_is_told(folder):
    invoke("init", "--tokenizer=ascii", *SIZES)
    (folder / "dataset.txt").write_text("naïve café, plain\n" * 20, encoding="utf-8")
    said = invoke_both("train", "--steps=1", exit_code=1).stderr
    assert "'ï' (U+00EF) at line 1, column 3" in said and "--tokenizer byte" in said


def test_train_bpe_finds_out_first_where_it_cannot_write(folder, monkeypatch):
    (folder / "dataset.txt").write_text("low lower lowest\n" * 50)
    monkeypatch.setattr("femtogpt.tokenizer.train_bpe", None)  # what must not be called
    result = invoke_both("train-bpe", "--tokenizer-data=none/t.json", exit_code=1)
    assert "cannot write none/t.json: No such file or directory" in result.stderr


def test_train_bpe_says_that_a_vocabulary_is_too_large(folder):
    (folder / "dataset.txt").write_text("low lower lowest\n" * 50)
    assert "too seldom" not in invoke("train-bpe", "--vocab-size=257")
    assert "too seldom to learn" in invoke("train-bpe", "--vocab-size=266")


def test_train_bpe_of_the_kind_pathpiece(folder):
    (folder / "dataset.txt").write_text("low lower lowest\n" * 50)
    options = ["train-bpe", "--kind=pathpiece", "--base=seen", "--vocab-size=14"]
    result = invoke_both(*options, "--special-token=<|end|>")
    assert "15 tokens, of them 5 pieces" in result.stdout and "the rarest piece: |" in result.stdout
    assert "Unigram" in result.stderr and "merge" not in result.stdout
    values = json.loads(invoke(*options, "--split=auto", "--json"))
    assert values["kind"] == "pathpiece" and values["merges"] == 5 and values["pairs"] == []
    assert "(pathpiece, vocabulary 14" in invoke("init", "--tokenizer=bpe", *SIZES)
    invoke("train", "--steps=2", "--val-fraction=0")
    assert "json: pathpiece, 14" in invoke("dump-tokenizer", "--tokenizer-data=dumped.json")
    assert (folder / "dumped.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_count_tokens(folder):
    (folder / "dataset.txt").write_text("aab\n" * 10)
    invoke("init", "--tokenizer=char", *SIZES)
    out = invoke("count-tokens", "--limit=2").splitlines()
    assert out[0].split() == ["20", "50.000%", "1", "|a|"] and out[1].split()[-1] == "|\\n|"
    assert out[2] == "40 tokens, 1.00 bytes a token; 0 of 3 tokens do not occur"
    values = json.loads(invoke("count-tokens", "--reverse", "--json"))
    assert [(entry["piece"], entry["count"]) for entry in values["counts"]] == [
        ("\\n", 10), ("b", 10), ("a", 20)]
    assert (values["tokens"], values["bytes"], values["unused"]) == (40, 40, 0)


def test_a_case_insensitive_bpe_lower_cases(folder):
    (folder / "dataset.txt").write_text("LOW Lower lowest\n" * 50)
    invoke("train-bpe", "--vocab-size=262", "--case-insensitive")
    tokenizer = load_tokenizer("tokenizer.json")
    assert tokenizer.decode(tokenizer.encode("LOW")) == b"low"


@pytest.mark.parametrize("kind", ["char", "bpe", "byte", "ascii"])
def test_every_kind_of_tokenizer_trains_and_generates(folder, kind):
    invoke("train-bpe", "--vocab-size=260")
    invoke("init", f"--tokenizer={kind}", *SIZES)
    invoke("train", "--steps=2")
    assert json.loads(invoke("info", "--json"))["tokenizer"] == kind
    assert invoke("generate", "--prompt=abc", "--count=3").startswith("abc")


# ---- real processes


@pytest.fixture
def shell(folder):
    """Runs lines in a shell in which femtogpt and python3 are these."""
    (folder / "bin").mkdir()
    commands = {"femtogpt": f'"{sys.executable}" -c "from femtogpt.cli import main; main()"',
                "python3": f'"{sys.executable}"'}
    for name, command in commands.items():
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    (folder / "dummy_data").symlink_to(ROOT / "dummy_data")
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def run_lines(lines, **options):
        options = {"capture_output": True} | options
        return subprocess.run(["sh", "-ec", lines], cwd=folder, env=environment(PATH=path),
                              text=True, timeout=300, **options)

    run_lines.path = path
    return run_lines


@posix
def test_the_first_commands_as_they_stand(folder, shell):
    done = shell("""
        python3 dummy_data/simple_dummy.py > dataset.txt
        femtogpt init
        femtogpt train --steps 400
        femtogpt generate --prompt "bad"
    """)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split("\n", 1)
    assert said[0].startswith("model.safetensors: 351,776 parameters")
    assert said[1].startswith("bad") and len(said[1]) == 3 + 100 + 1
    # The data are others each time, the lines some 15, of which nine in ten are valid.
    kept, total = simple_dummy.valid_lines("\n" + said[1])
    assert kept >= 0.6 * total > 5
    assert "Traceback" not in done.stderr


@posix
def test_the_addition_commands_as_they_stand_with_nohup_and_a_terminal(folder, shell):
    """nohup writes nohup.out if its output is a terminal, so it gets one. `train` is
    stopped when it has shown progress, as a user would with kill."""
    with terminal() as (_, slave):
        process = subprocess.Popen(
            ["sh", "-ec", """
                python3 dummy_data/addition_dummy.py > dataset.txt
                femtogpt init --embedding-degree=64
                nohup femtogpt train --dropout=0.1 &
                echo $! > pid
                code=0; wait $! || code=$?
                echo $code > code
            """], cwd=folder, env=environment(PATH=shell.path), stdin=slave, stdout=slave,
            stderr=slave, start_new_session=True)
        wait_for(lambda: "step 1/100000: loss" in read(folder / "nohup.out"), process)
        trainer = int(read(folder / "pid"))
        os.kill(trainer, signal.SIGHUP)  # ignored under nohup
        time.sleep(0.3)
        assert process.poll() is None
        os.kill(trainer, signal.SIGTERM)
        assert process.wait(60) == 0
    assert read(folder / "code") == "143\n"
    log = read(folder / "nohup.out")
    assert "stopped by SIGTERM and saved at step" in log and "Traceback" not in log
    assert "\r" not in log and "\x1b" not in log  # lines, no bar
    step = checkpoint.load("model.safetensors").step
    assert f"saved at step {step};" in log and step > 1
    assert checkpoint.load("model.safetensors").run["last_step"] == 100_000
    done = shell('femtogpt generate --prompt "13 + 29 = "')
    assert done.returncode == 0 and done.stdout.startswith("13 + 29 = ")


@posix
def test_the_bpe_commands_as_they_stand(folder, shell):
    done = shell("""
        python3 dummy_data/simple_dummy.py > dataset.txt
        femtogpt train-bpe --epoch=100 --vocab-size=1024
        femtogpt init --tokenizer=bpe --num-tokens=80 --embedding-degree=768 --num-layers=8 """
                 "--num-heads=16")
    size = (folder / "model.safetensors").stat().st_size
    (folder / "model.safetensors").unlink()  # it is large
    assert done.returncode == 0, done.stderr
    vocabulary = load_tokenizer(folder / "tokenizer.json").vocab_size
    count = 8 * (12 * 768**2 + 10 * 768) + 2 * 768 * vocabulary + vocabulary + 2 * 768
    assert f"model.safetensors: {count:,} parameters (bpe" in done.stdout
    assert size > 4 * count


def read(path):
    return path.read_text() if path.exists() else ""


def wait_for(condition, process):
    """Waits until the condition holds; fails if the process ends before."""
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)


@contextlib.contextmanager
def terminal():
    """A pseudo terminal of 90 columns: (ours, the process's)."""
    import fcntl
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    try:
        yield master, slave
    finally:
        os.close(master)
        with contextlib.suppress(OSError):
            os.close(slave)


@posix
def test_on_a_terminal_train_shows_one_line_that_is_overwritten(folder):
    init()
    with terminal() as (master, slave):
        process = start("train", "--steps=60", cwd=folder, stderr=slave)
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # on Linux the end is an error
            while part := os.read(master, 4096):
                shown += part
        assert process.wait(60) == 0 and process.stdout.read() == ""
    shown = shown.decode().replace("\r\n", "\n")
    states = re.findall(r"\rstep (\d+)/60 \|.*?\| (\S+) left, loss (\d\.\d+), smoothed (\d\.\d+), "
                        r"([\d,]+) tokens/s", shown)
    assert states and int(states[-1][0]) == 60
    assert len([line for line in shown.split("\n") if "\rstep" in line]) <= 3
    assert re.search(r"\nstep 60: loss .* guessing by letter frequency", shown)


STOPS = [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)]


@posix
@pytest.mark.parametrize(("name", "code"), STOPS)
def test_the_first_signal_saves_and_exits_with_its_number(folder, name, code):
    init()
    process = start("train", "--log=log", "--save-every=1000000", cwd=folder)
    wait_for(lambda: read(folder / "log").count("\n") > 3, process)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == "" and "Traceback" not in err
    model = checkpoint.load("model.safetensors")
    assert err.splitlines()[-1] == (f"stopped by {name} and saved at step {model.step}; "
                                    "`femtogpt train` goes on")
    assert model.step == read(folder / "log").count("\n")
    again = invoke_both("train", "--steps=1")
    assert f"step {model.step} -> {model.step + 1}" in again.stderr  # the lock is free again


@posix
def test_the_second_signal_ends_at_once_and_leaves_the_last_good_file(folder):
    init()
    before = (folder / "model.safetensors").read_bytes()
    # A step of these takes a second or so, and both signals come within it.
    process = start("train", "--log=log", "--batch-size=40000", "--save-every=1000000",
                    "--val-fraction=0", cwd=folder)
    wait_for(lambda: read(folder / "log"), process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (143, 130)  # the order in which they came
    assert "saved" not in err
    assert (folder / "model.safetensors").read_bytes() == before
    assert checkpoint.load("model.safetensors").step == 0


@posix
def test_two_trainers_on_one_model(folder):
    init()
    process = start("train", "--log=log", cwd=folder)
    wait_for(lambda: read(folder / "log"), process)
    for arguments in (["train", "--steps=1"], ["reset-optimizer"], ["init", "--force"]):
        second = invoke_both(*arguments, exit_code=1)
        assert f"process {process.pid} on " in second.stderr and second.stderr.count("\n") == 1
    assert process.poll() is None
    process.kill()
    process.communicate()
    invoke("train", "--steps=1")


def test_results_go_to_a_pipe_alone(folder):
    init()
    done = run("train", "--steps=3", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert "\r" not in done.stderr and "step 3/3: loss" in done.stderr
    done = run("generate", "--prompt=-", "--count=4", "--seed=1", cwd=folder, input="abc")
    assert done.stdout.startswith("abc") and "tokens/s" in done.stderr
    assert "tokens/s" not in done.stdout
    assert load_file(folder / "model.safetensors")["history.loss"].shape == (3,)
