"""What goes wrong on one rank: the others hear of it, nothing is lost, and none waits for ever."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
from mpirun import FEMTOGPT, MPIEXEC, all_ended, begin, fill, finish, in_proc, mpi, processes
from small import environment, fresh_model, some_run

from femtogpt import checkpoint
from femtogpt.errors import FemtoError
from femtogpt.ranks import Ranks
from femtogpt.trainer import Trainer
from femtogpt.watchdog import Watchdog


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("ranks"))


def until_steps(folder, run, log, steps=3):
    """Waits until a run's log has so many."""
    while not (folder / log).exists() or (folder / log).read_text().count("\n") < steps:
        assert run.poll() is None, finish(run)
        time.sleep(0.01)


# ---- the watchdog


def test_a_watchdog_tells_of_long_waits_alone_and_ever_more_seldom():
    told = []
    with Watchdog(0.2, lambda *facts: told.append(facts)) as watchdog:
        for _ in range(30):
            with watchdog.over("what comes"):
                time.sleep(0.01)
        with watchdog.over("what does not"):
            time.sleep(1)
        time.sleep(0.5)
    assert [what for what, _ in told] == ["what does not"] * len(told)
    seconds = [waited for _, waited in told]
    assert 2 <= len(told) <= 3 and seconds[0] >= 0.2 and seconds[1] >= 2 * seconds[0]


@mpi
@in_proc
def test_a_rank_that_stands_still_is_told_of_by_the_other(folder):
    for model in ("moved", "stood"):
        shutil.copy(folder / "start", folder / model)
    finish(begin(folder, 1, "moved", "--steps=20"))
    run = begin(folder, 2, "stood", "--steps=20", code="""if True:
        import signal
        from femtogpt import trainer
        ranks.WAIT_SECONDS = 1
        def drawn(self, step, draw=trainer.Batches.draw):
            if rank == 1 and step == 7:
                os.kill(os.getpid(), signal.SIGSTOP)
            return draw(self, step)
        trainer.Batches.draw = drawn""")

    def go_on():
        for process in processes("stood"):
            os.kill(process, signal.SIGCONT)

    alarm = threading.Timer(60, go_on)  # if no line should ever come
    alarm.start()
    line = next(line for line in run.stdout if "has waited" in line)
    alarm.cancel()
    go_on()
    assert re.search(r"femtogpt: process 0 of 2, on \S+, has waited \d+ s for the others in "
                     r"\w+.*, after step 7$", line)
    finish(run)
    assert (folder / "moved").read_bytes() == (folder / "stood").read_bytes()


# ---- faults of one


@mpi
@pytest.mark.skipif(os.name == "nt", reason="limits the size of files")
def test_a_disk_that_is_full_for_the_first_ends_all(folder):
    shutil.copy(folder / "start", folder / "full")
    size = (folder / "full").stat().st_size
    code = f"""if True:
        import resource
        def limited(*given, alike=train.require_alike, **more):  # from here: MPI has its files
            alike(*given, **more)
            if rank == 0:
                resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
        train.require_alike = limited"""
    out = finish(begin(folder, 2, "full", "--steps=100000", "--save-every=5", code=code), 1)
    assert re.search("process 0 of 2, on .*cannot write .*full", out) and "Traceback" not in out
    assert checkpoint.load(folder / "full").step == 0
    assert all_ended("full")


@mpi
@pytest.mark.parametrize("where", ["gradient", "moment"])
def test_nan_on_one_alone_is_told_once_by_all(folder, where):
    """In the moment it comes to nobody's sight but in the save."""
    model = f"nan-{where}"
    shutil.copy(folder / "start", folder / model)
    code = """if True:
        from femtogpt import parallel, trainer
        if rank == 1 and WHERE == "gradient":
            def poisoned(g, *rest, compute=parallel.loss_and_some_gradients, calls=[]):
                loss = compute(g, *rest)
                calls.append(loss)
                if len(calls) == 20:
                    g.token_embedding[0, 0] = float("nan")
                return loss
            parallel.loss_and_some_gradients = poisoned
        elif rank == 1:
            def poisoned(self, finish=trainer.Update.finish):
                norm = finish(self)
                if self.state.t == 7:
                    self.state.m[self.table[0, 0]] = float("nan")
                return norm
            trainer.Update.finish = poisoned""".replace("WHERE", repr(where))
    out = finish(begin(folder, 2, model, "--steps=100000", "--save-every=1", code=code), 1)
    assert out.count("diverged at step") == 1 and "Traceback" not in out
    assert ("gradient of" if where == "gradient" else "the tensor optimizer.") in out
    found = checkpoint.load(folder / model).step
    assert found == 6 if where == "moment" else 0 < found < 20


class BesideAnother(Ranks):
    """One that is alone, but hears of another's step 99."""

    def told(self, facts):
        return [facts, {**facts, "step": 99}]


def test_no_rank_goes_back_to_another_file_than_the_others(tmp_path):
    run = some_run(optimizer="adamw", learning_rate=1e30, on_nan="rollback")
    tokens = np.arange(200) % 12
    trainer = Trainer(fresh_model(), run, tokens, [], tmp_path / "m", ranks=BesideAnother())
    with pytest.raises(FemtoError, match="not the same file for all"):
        list(trainer)


@mpi
def test_mpiexec_told_to_stop_has_all_save_once(folder):
    shutil.copy(folder / "start", folder / "stopped")
    run = begin(folder, 2, "stopped", "--steps=100000", "--log=stopped.log",
                "--save-every=1000000")
    until_steps(folder, run, "stopped.log")
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 143
    assert out.count("stopped by SIGTERM and saved at step") == 1
    assert 3 <= checkpoint.load(folder / "stopped").step < 100000
    assert not (folder / "stopped.previous").exists() or (
        checkpoint.load(folder / "stopped.previous").step == 0)


@mpi
def test_all_but_train_is_one_process(folder):
    done = subprocess.run([MPIEXEC, "-n", "2", *FEMTOGPT, "generate", "--model=start"], cwd=folder,
                          env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("`femtogpt generate` is one process") == 1
