"""Short forms of benchmarks/kills.py, mutants.py and soak.py, and what they can't show."""

import ast
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from small import MAIN, ROOT, environment, fresh_model, run, some_run, start, text

from femtogpt import checkpoint, durable, parallel, update
from femtogpt.cli import main, say_error
from femtogpt.data import find_texts
from femtogpt.trainer import Trainer

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and limits")
BENCHMARKS = ROOT / "benchmarks"


def harness(name, *arguments):
    """A harness's JSON; it exits 0 only if it found nothing lost."""
    done = subprocess.run([sys.executable, BENCHMARKS / name, "--json", *arguments],
                          env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a model and dataset.txt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.txt").write_text(text())
    checkpoint.save(fresh_model(), "model.safetensors")
    return tmp_path


# ---- kills, damage, soak


@posix
def test_nothing_is_lost_to_kills():
    found = harness("kills.py", "--kills=3")
    assert found["kills"] == 3 and found["runs"] > 0 and found["loads"] > 30
    assert found["save"] >= 1


def test_mutated_files_are_met_with_one_line():
    found = harness("mutants.py", "--files=300")
    assert found["refused"] > 150 and found["loaded"] > 10 and found["wrong"] == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_a_long_run_opens_no_files_and_its_history_stays_small():
    found = harness("soak.py", "--steps=150", "--batch-size=4")
    first, last, _ = found["open_files_first_last_most"]
    assert first == last
    assert found["history_bytes_of_100000_steps"] < 1_000_000
    assert found["files"] == ["model.best.safetensors", "model.best.safetensors.previous",
                              "model.safetensors", "model.safetensors.previous"]


def test_a_reader_sees_one_whole_file_while_it_is_replaced(tmp_path):
    """Two models of different shapes take turns: a mixture of their halves would not fit."""
    path = tmp_path / "model"
    models = [fresh_model(num_layers=layers) for layers in (1, 2)]
    for model in models:
        model.parameters[:] = model.config.num_layers
        model.step = model.config.num_layers
    checkpoint.save(models[0], path)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for model in models:
                checkpoint.save(model, path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            model = checkpoint.load(path)
            assert model.recovered is None
            assert (model.parameters == model.config.num_layers).all()
            assert model.step == model.config.num_layers
    finally:
        stop.set()
        writer.join()


def test_what_was_opened_is_what_is_read_though_it_be_replaced_in_between(tmp_path, monkeypatch):
    path = tmp_path / "model"
    checkpoint.save(fresh_model(), path)
    read_tensors = checkpoint._read_tensors

    def replaced_meanwhile(*arguments):
        checkpoint.save(fresh_model(seed=2, num_layers=1), path)
        return read_tensors(*arguments)

    monkeypatch.setattr(checkpoint, "_read_tensors", replaced_meanwhile)
    np.testing.assert_array_equal(checkpoint.load(path).parameters, fresh_model().parameters)


# ---- disks


@posix
def test_a_limit_on_the_size_of_files_in_the_middle_of_a_save(folder):
    done = run("train", "--steps=5", cwd=folder, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"femtogpt: cannot write {folder}/model.safetensors: {os.strerror(errno.EFBIG)}.")
    assert sorted(os.listdir(folder)) == [".model.safetensors.lock", "dataset.txt",
                                          "model.safetensors"]
    assert checkpoint.load("model.safetensors").step == 0
    assert run("train", "--steps=5", cwd=folder).returncode == 0


def test_too_little_room_is_told_before_the_first_step(folder, monkeypatch):
    from femtogpt.cli import train

    monkeypatch.setattr(train.shutil, "disk_usage", lambda _: SimpleNamespace(free=50_000))
    lines = CliRunner().invoke(main, ["train", "--steps=1"]).stderr.splitlines()
    assert lines[0].startswith("warning: 0 MB are free where model.safetensors lies")


@posix
def test_a_folder_that_is_moved_away_is_named_and_nothing_is_lost(folder, monkeypatch):
    (folder / "inner").mkdir()
    checkpoint.save(fresh_model(), folder / "inner" / "model")
    session = Trainer(fresh_model(), some_run(last_step=4), find_tokens(), [],
                      "inner/model", save_every=2)
    with pytest.raises(ValueError, match=f"cannot write {folder}/inner/model: No such"):
        for record in session:
            if record.step == 3:
                (folder / "inner").rename(folder / "away")
    assert checkpoint.load(folder / "away" / "model").step == 2
    (folder / "away").rename(folder / "inner")
    monkeypatch.chdir("/")  # a path is of the folder in which it was given
    session.save()
    assert checkpoint.load(folder / "inner" / "model").step == 4


def find_tokens():
    model = fresh_model()
    return model.tokenizer.encode(b"".join(find_texts(["dataset.txt"])[0].blocks()))


@pytest.mark.skipif(not hasattr(os, "fchmod"), reason="modes are POSIX's")
def test_a_models_mode_is_kept(folder):
    os.chmod("model.safetensors", 0o600)
    checkpoint.save(fresh_model(), "model.safetensors")
    assert os.stat("model.safetensors").st_mode & 0o777 == 0o600


def test_a_file_system_without_fsync_or_locks_still_holds_a_model(folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    checkpoint.save(fresh_model(seed=2), "model.safetensors")
    np.testing.assert_array_equal(checkpoint.load("model.safetensors").parameters,
                                  fresh_model(seed=2).parameters)

    class NoLock:
        def acquire(self):
            raise NotImplementedError

        def release(self):
            pass

    monkeypatch.setattr(durable.filelock, "FileLock", lambda *_, **__: NoLock())
    with durable.lock("model.safetensors"):
        pass


# ---- memory


def test_a_state_that_is_half_updated_is_not_saved(folder, monkeypatch):
    session = Trainer(fresh_model(), some_run(), find_tokens(), [], "model.safetensors")
    on_thread = update.Update.on_thread

    def runs_out(self, *sums):
        if session.model.step < 3:
            return on_thread(self, *sums)
        self.taken[0] += 1
        session.model.parameters[:7] += 1  # as far as it came
        raise MemoryError

    monkeypatch.setattr(update.Update, "on_thread", runs_out)
    with pytest.raises(MemoryError):
        for record in session:
            if record.step == 2:
                session.save()
    session.save()
    assert checkpoint.load("model.safetensors").step == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_a_state_whose_next_gradient_fails_is_saved(folder, monkeypatch, threads):
    """One thread fails, and the others, which wait for it to go on to the update, make none."""
    session = Trainer(fresh_model(), some_run(), find_tokens(), [], "model.safetensors", threads)
    space, fails = parallel.Engine._space, iter([True])

    def runs_out(self, *given):
        if session.model.step == 3 and next(fails, False):
            raise MemoryError
        return space(self, *given)

    monkeypatch.setattr(parallel.Engine, "_space", runs_out)
    with pytest.raises(MemoryError):
        for record in session:
            after = record.step, session.model.parameters.copy()
    session.save()
    saved = checkpoint.load("model.safetensors")
    assert after[0] == saved.step == 3
    np.testing.assert_array_equal(saved.parameters, after[1])


# ---- signals and what closes early


@posix
@pytest.mark.parametrize("when", ["compiling", "saving", "validating"])
def test_a_second_signal_ends_the_process_whatever_it_does(folder, when):
    """Python code of ours that stays in one call for an hour, as a compiler or a slow disk do."""
    place = {"compiling": "parallel.Engine.loss_and_gradient", "saving": "durable.os.fsync",
             "validating": "parallel.Engine.mean_loss"}[when]
    module, *rest = place.split(".")
    script = f"""if True:
        import ctypes, time
        from femtogpt import {module}, checkpoint
        from femtogpt.cli import main, say_error
        def stuck(*_):
            open("stuck", "w").close()
            for _ in range(9):  # each signal ends one
                ctypes.CDLL(None).sleep(3600)
        {'.'.join([module, *rest])} = stuck
        main(["train", "--steps=9", "--save-every=2", "--val-fraction=0.1", "--eval-every=1"])
    """
    before = (folder / "model.safetensors").read_bytes()
    process = subprocess.Popen([sys.executable, "-c", script], env=environment(), cwd=folder,
                               stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (folder / "stuck").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None  # the first only asks
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    process.stderr.close()
    assert (folder / "model.safetensors").read_bytes() == before
    assert run("train", "--steps=2", cwd=folder).returncode == 0


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_it_loads_and_compiles_loses_nothing(folder, name):
    number = getattr(signal, name)
    process = start("train", "--save-every=1000000", cwd=folder)
    until = time.monotonic() + 60
    while not (folder / ".model.safetensors.lock").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.001)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (128 + number, -number), said
    assert "Traceback" not in said
    assert checkpoint.load("model.safetensors").recovered is None
    assert run("train", "--steps=2", cwd=folder).returncode == 0


@posix
def test_standard_error_that_is_closed_early_ends_no_run(folder):
    read, write = os.pipe()
    process = subprocess.Popen([*MAIN, "train", "--steps=30"], env=environment(), cwd=folder,
                               stderr=write)
    os.close(write)
    os.read(read, 10)
    os.close(read)  # as `2>&1 | head -1` does
    assert process.wait(60) == 0
    assert checkpoint.load("model.safetensors").step == 30


@posix
def test_a_terminal_that_is_closed_saves_and_exits_129(folder):
    master, slave = os.openpty()
    process = subprocess.Popen(
        [*MAIN, "train", "--save-every=1000000", "--log=log"], cwd=folder, stdin=slave,
        env=environment(), stderr=slave, stdout=slave, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0))
    os.close(slave)
    until = time.monotonic() + 60
    while not (folder / "log").exists() or not (folder / "log").stat().st_size:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    os.close(master)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert checkpoint.load("model.safetensors").step > 0


# ---- odd data and places


@pytest.mark.parametrize("content", [
    b"a b\r\nc d\r\n" * 90, b"\xef\xbb\xbfabc\n" * 90, bytes(range(256)) * 9, b"a" * 3000,
], ids=["CRLF", "BOM", "no UTF-8", "one endless line"])
def test_bytes_take_any_text(folder, content):
    (folder / "odd").write_bytes(content)
    assert CliRunner().invoke(main, ["init", "--model=m", "--num-tokens=8", "--num-layers=1",
                                     "--embedding-degree=8"]).exit_code == 0
    for line in ("train --steps=2 --val-fraction=0.1", "eval", "tokenize"):
        done = CliRunner().invoke(main, [*line.split(), "--model=m", "--dataset=odd"])
        assert done.exit_code == 0, done.output
    assert checkpoint.load("m").tokenizer.decode(
        checkpoint.load("m").tokenizer.encode(content)) == content


@pytest.mark.parametrize("content", [b"", b"a"])
def test_a_text_of_nothing_or_one_byte_is_one_line(folder, content):
    (folder / "odd").write_bytes(content)
    done = CliRunner().invoke(main, ["train", "--dataset=odd", "--steps=1"])
    assert done.exit_code == 1 and done.stderr.count("\n") == 1


@posix
def test_a_path_of_any_bytes_in_the_plainest_locale(folder):
    env = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    name = os.fsdecode(b"caf\xe9" + "é\n\x1b[31m".encode())
    os.rename("model.safetensors", name)
    os.rename("dataset.txt", f"{name}.txt")
    for line, code in ((["train", "--steps=2"], 0), (["info"], 0), (["eval"], 0),
                       (["train", "--until-step=1"], 1)):
        more = [] if line[0] == "info" else [f"--dataset={name}.txt"]
        done = subprocess.run([*MAIN, *line, f"--model={name}", *more], cwd=folder, env=env,
                              capture_output=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr and b"\x1b" not in done.stderr + done.stdout


def test_an_error_is_one_line_whatever_a_file_put_into_it(capsys):
    say_error("a\nb\x1b[31m\ud800 é")
    assert capsys.readouterr().err == "femtogpt: a\\nb\\x1b[31m\\ud800 é\n"


@posix
def test_a_pipe_is_no_model_but_may_be_a_dataset(folder):
    os.mkfifo("fifo")
    for command in ("info", "train", "generate"):
        done = CliRunner().invoke(main, [command, "--model=fifo"])
        assert done.exit_code == 1 and "fifo is not a file" in done.stderr
    writer = threading.Thread(target=lambda: open("fifo", "w").write(text()))  # noqa: SIM115
    writer.start()
    done = CliRunner().invoke(main, ["train", "--dataset=fifo", "--steps=2"])
    writer.join()
    assert done.exit_code == 0, done.output


def test_a_clock_that_jumps_back_is_not_looked_at(folder, monkeypatch):
    clock = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    done = CliRunner().invoke(main, ["train", "--steps=30", "--for=1h", "--save-every=10"])
    assert done.exit_code == 0 and checkpoint.load("model.safetensors").step == 30


# ---- changed under it


def test_a_changed_dataset_is_asked_for_by_a_flag_and_what_was_held_back_stays_so(folder):
    # A run is cut off in the middle.
    done = CliRunner().invoke(main, ["train", "--steps=50", "--val-fraction=0.1",
                                     "--until-loss=99"])
    assert done.exit_code == 0 and checkpoint.load("model.safetensors").step == 1
    (folder / "dataset.txt").write_text(text() + text(500, seed=3))
    done = CliRunner().invoke(main, ["train"])
    assert done.exit_code == 1 and "--changed-dataset" in done.stderr
    done = CliRunner().invoke(main, ["train", "--changed-dataset"])
    assert done.exit_code == 0
    assert "300 held back (what was held back before, 9%)" in done.stderr
    model = checkpoint.load("model.safetensors")
    assert (model.step, model.run["val_begin"], model.run["val_end"]) == (50, 2700, 3000)


def test_info_tells_what_can_be_told_of_a_damaged_file(folder):
    data = (folder / "model.safetensors").read_bytes()
    for damaged, told in (
            (data[:-1000], f"{len(data) - 1000:,} bytes are there, of {len(data):,}"),
            (data[:-9] + b"#" + data[-8:], f"all {len(data):,} bytes are there"),
            (b"nonsense" * 99, "nothing can be read of its header")):
        (folder / "model.safetensors").write_bytes(damaged)
        done = CliRunner().invoke(main, ["info"])
        assert done.exit_code == 1 and done.stderr.count("\n") == 1
        assert told in done.stderr
        assert ("step 0; vocab_size 13" in done.stderr) == (damaged[8:9] == b"{")


# ---- what is executed


@posix
def test_a_kernel_folder_that_others_can_write_to_is_not_used(tmp_path):
    def folder():
        script = "from femtogpt.layers.numeric import CACHE_FOLDER; print(CACHE_FOLDER)"
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                              env=environment(XDG_CACHE_HOME=str(tmp_path)), check=True).stdout

    found = folder().strip()
    assert found.startswith(str(tmp_path)) and os.stat(found).st_mode & 0o777 == 0o700
    for mode, used in ((0o770, "None"), (0o707, "None"), (0o755, found)):
        os.chmod(found, mode)
        assert folder().strip() == used


def test_reading_a_model_file_unpickles_runs_and_fetches_nothing(folder):
    """By Python's own audit of what happens."""
    script = """if True:
        import sys
        from femtogpt.checkpoint import load
        load("model.safetensors")  # what Python imports late is imported now
        seen = []
        sys.addaudithook(lambda name, _: seen.append(name))
        load("model.safetensors")
        print(sorted(set(seen)))
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment(), text=True,
                          capture_output=True)
    allowed = {"open", "object.__getattr__", "builtins.id"}
    assert done.returncode == 0 and "open" in done.stdout
    assert set(ast.literal_eval(done.stdout)) <= allowed
