"""Ranks: the same bytes with any number of them, and one that fails ends all.

More faults are in test_rank_faults.py. The tests of whole trainings need mpiexec and mpi4py:
pip install 'femtogpt[mpi]'.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from mpirun import all_ended, begin, fill, finish, in_proc, mpi, processes
from small import environment, fresh_model, some_run, text

from femtogpt import checkpoint, muon, parallel
from femtogpt.activations import allocate_activations, constants
from femtogpt.batches import draw_batch
from femtogpt.config import GPTConfig
from femtogpt.errors import FemtoError
from femtogpt.launch import SIZES as SIZE_VARIABLES
from femtogpt.model import initial_parameters
from femtogpt.optimizer import BLOCK, OPTIMIZERS, fresh_state, ownership, sum_tree
from femtogpt.parallel import Engine
from femtogpt.passes import loss_and_gradients, loss_and_some_gradients
from femtogpt.ranks import Ranks, cut, find
from femtogpt.reduction import Branches, spans_by_layer
from femtogpt.shards import count_shards
from femtogpt.tensors import MUON_FIELDS, count_parameters, ranges, views
from femtogpt.trainer import Trainer
from femtogpt.update import update

# ---- one process: who does what


class OneOf(Ranks):
    def __init__(self, rank, size):
        self.rank, self.size = rank, size


class Thread(Ranks):
    """A rank that is a thread. board: a list that all have, of size values."""

    def __init__(self, rank, board, barrier):
        self.rank, self.size, self._board, self._barrier = rank, len(board), board, barrier

    def _told(self, value):
        self._barrier.wait()  # all have done with what was told before
        self._board[self.rank] = value
        self._barrier.wait()
        return list(self._board)

    def gather(self, values, count):
        return np.concatenate(self._told(values))

    def exchange(self, sent, received, hurry):
        for arrays, told in zip(received, self._told(sent), strict=True):
            for array, theirs in zip(arrays, told[self.rank], strict=True):
                array[:] = theirs
        self._barrier.wait()

    def share_squares(self, squares, owners):
        for told, (start, stop) in zip(self._told(squares.copy()), owners, strict=True):
            squares[start:stop] = told[start:stop]


@pytest.mark.parametrize("at_once", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("size", [*range(1, 9), 24, 40])
@pytest.mark.parametrize("shards", [1, 2, 4, 6, 8, 24, 40])
def test_the_tree_is_the_same_however_it_is_cut(shards, size, at_once):
    if size > shards:
        return
    values = np.random.default_rng(shards).normal(0, 1, shards).astype(np.float32)
    whole = values.copy()
    for to, source in sum_tree(shards):
        whole[to] += whole[source]
    branches = [Branches(shards, OneOf(rank, size), at_once) for rank in range(size)]
    roots = np.full(len(branches[0].roots), np.nan, np.float32)
    for rank, (start, stop) in enumerate(cut(shards, size)):
        computed = 0
        own = np.full(branches[rank].rows, np.nan, np.float32)
        for (first, last), rows, pairs in branches[rank].passes:
            assert first == computed and 0 < last - first <= at_once
            own[rows] = values[start + first : start + last]
            for to, source in pairs:
                own[to] += own[source]
            computed = last
        assert computed == stop - start
        assert branches[rank].own_roots[0] == 0
        roots[branches[0].places[rank]] = own[branches[rank].own_roots]
    for to, source in branches[0].pairs:
        roots[to] += roots[source]
    assert roots[0] == whole[0]  # the same bits
    sent = sum(len(b.own_roots) for b in branches)
    assert sent == len(roots) <= 2 * size * max(1, np.log2(shards / size))
    if shards % size == 0 and (shards // size) & (shards // size - 1) == 0:
        assert sent == size  # whole branches


@pytest.mark.parametrize("each", [1, 4, 8])
def test_of_many_passes_few_sums_wait(each):
    for accumulate in range(1, 300):
        rows = Branches(accumulate * each, OneOf(0, 1), each).rows
        assert rows <= each + np.log2(accumulate)
    for rank in range(7):  # whose shards do not begin where a branch does
        rows = Branches(1000 * each, OneOf(rank, 7), each).rows
        assert rows <= each + 2 * np.log2(1000 * each / 7)


@pytest.mark.parametrize("batch_size, accumulate", [(36, 1), (5, 3), (2, 7)])
def test_ranks_and_threads_get_the_gradient_of_one(batch_size, accumulate):
    """Ranks are threads here, each with an Engine of some threads."""
    config = GPTConfig(17, 80, 24, 2, 2)
    parameters = initial_parameters(config, 1)
    windows, keys = draw_batch(np.arange(5000) * 7 % 17, 80, accumulate * batch_size, 3, 4)

    def computed(ranks, threads, owners):
        with Engine(config, batch_size, threads, ranks, owners, accumulate=accumulate) as engine:
            part = slice(*engine.part)
            for _ in range(2):  # the second call finds the first one's memory
                loss, gradient, squares = engine.loss_and_gradient(
                    parameters, windows[part], 0.1, keys[part])
            start, stop = owners[ranks.rank]
            return loss, gradient[start:stop].copy(), squares.copy(), len(engine.shards)

    loss, gradient, squares, shards = computed(OneOf(0, 1), 2, [(0, parameters.size)])
    assert shards == accumulate * count_shards(config, batch_size)
    for size, threads in ((2, 1), (3, 2), (5, 1), (7, 3)):
        if size > shards:
            continue
        owners = ownership(config, "muon", size)
        board, barrier = [None] * size, threading.Barrier(size, timeout=60)
        with ThreadPoolExecutor(size) as pool:
            found = list(pool.map(
                lambda rank: computed(Thread(rank, board, barrier), threads, owners),  # noqa: B023
                range(size)))
        np.testing.assert_array_equal(np.concatenate([part for _, part, _, _ in found]), gradient)
        for one in found:
            assert one[0] == loss
            np.testing.assert_array_equal(one[2], squares)


@pytest.mark.parametrize("config", [GPTConfig(5, 8, 8, 1, 1), GPTConfig(300, 16, 64, 3, 4),
                                    GPTConfig(50, 8, 16, 2, 2, recipe="femto")])
def test_layers_have_every_gradient_once(config):
    """And what is sent first is not touched by the layers that are computed after it."""
    spans = spans_by_layer(config)
    assert len(spans) == config.num_layers
    times = np.zeros(count_parameters(config), np.int64)
    for start, stop in (span for layer in spans for span in layer):
        times[start:stop] += 1
    assert (times == 1).all()
    parameters = initial_parameters(config, 1) + np.float32(0.01)
    windows, keys = draw_batch(np.arange(500) % 5, config.num_tokens, 2, 3, 4)
    gradient = np.zeros_like(parameters)
    arguments = (views(gradient, config), allocate_activations(config, 2),
                 views(parameters, config), windows[:, :-1].ravel(),
                 windows[:, 1:].ravel(), constants(config), 0.1, 0.0, keys)
    done = []
    for i, layer in enumerate(reversed(range(config.num_layers))):
        loss_and_some_gradients(*arguments, layer + 1, layer, False, 0)
        done.append([gradient[a:b].copy() for a, b in spans[i]])
    for parts, layer in zip(done, spans, strict=True):
        for part, (start, stop) in zip(parts, layer, strict=True):
            np.testing.assert_array_equal(part, gradient[start:stop])
    whole = np.zeros_like(parameters)
    loss_and_gradients(views(whole, config), *arguments[1:])
    np.testing.assert_array_equal(gradient, whole)


def test_what_is_summed_goes_while_lower_layers_are_computed(monkeypatch):
    config = GPTConfig(5, 8, 8, 3, 1)
    sent = [threading.Event() for _ in range(3)]

    class First(OneOf):
        def exchange(self, *_):
            next(event for event in sent if not event.is_set()).set()

        def share_squares(self, *_):
            pass

        def gather(self, values, count):
            return np.zeros(count)

    def compute(*arguments, compute=parallel.loss_and_some_gradients):
        top = arguments[9]
        assert all(event.wait(30) for event in sent[: 3 - top])  # those above this one
        return compute(*arguments)

    monkeypatch.setattr(parallel, "loss_and_some_gradients", compute)
    owners = ownership(config, "muon", 2)
    with Engine(config, 4, 2, First(0, 2), owners, shards=4) as engine:
        start, stop = engine.part
        engine.loss_and_gradient(
            initial_parameters(config, 1), np.zeros((stop - start, 9), np.int64), 0.0,
            np.zeros(stop - start, np.uint64))
    assert sent[-1].is_set()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_every_parameter_has_one_owner_and_matrices_are_whole(kind, size):
    config = GPTConfig(300, 16, 64, 3, 4)
    owners = ownership(config, kind, size)
    assert owners[0][0] == 0 and owners[-1][1] == count_parameters(config)
    assert all(a[1] == b[0] for a, b in pairwise(owners))
    assert len(owners) == size and all(start < stop for start, stop in owners)
    assert all(start <= stop for start, stop in ownership(GPTConfig(5, 8, 8, 1, 1), kind, size))
    edges = [start for start, _ in owners[1:]]
    if kind == "muon":
        for field, (start, stop) in ranges(config)._asdict().items():
            each = (stop - start) // 3
            for edge in edges:
                if start < edge < stop:
                    assert (field in MUON_FIELDS and (edge - start) % each == 0) or (
                        field not in MUON_FIELDS and edge % BLOCK == 0)


def test_ranks_turn_as_much_each():
    """Counted by Python's own run of orthogonalise: a matrix four times as long is not four times
    the work, and q, k and v are three."""
    counted = []

    def product(out, x, y, half=1.0):
        counted.append(half * x.shape[0] * x.shape[1] * y.shape[1])
        out[...] = 0

    turn = types.FunctionType(muon.orthogonalise.py_func.__code__, vars(muon) | {
        "matmul": product, "symmetric_matmul": partial(product, half=0.5),
        # The rest is small beside them, and only compiled code may call it.
        **dict.fromkeys(("dot_row", "scale_row", "polynomial_row"), lambda *_: 0.0)})

    def work(rows, columns):
        counted.clear()
        turn(np.ones((rows, columns), np.float32), np.ones((rows, columns), np.float32),
             np.ones(4 * rows**2, np.float32))
        return sum(counted)

    config, C = GPTConfig(50, 16, 64, 8, 4), 64
    square, long = work(C, C), work(C, 4 * C)
    costs = {"query_key_value_weight": 3 * square, "projection_weight": square,
             "up_weight": long, "down_weight": long}
    assert square < long < 2 * square
    for size in (2, 3, 4):
        shares = []
        for start, stop in ownership(config, "muon", size):
            share = 0
            for field, cost in costs.items():
                first, last = getattr(ranges(config), field)
                share += cost * (min(last, stop) - max(first, start)) / (last - first) * (
                    min(last, stop) > max(first, start))
            shares.append(share / sum(costs.values()))
        assert max(shares) < 1.2 / size


def test_more_processes_than_shards():
    tiny = GPTConfig(5, 8, 8, 1, 1)
    with pytest.raises(FemtoError, match="--batch-size"):
        Engine(tiny, 2, 1, OneOf(0, 3), ownership(tiny, "muon", 3))
    with pytest.raises(FemtoError, match=r"3 processes.* --accumulate 3$"):
        Engine(tiny, 2, 1, OneOf(0, 3), ownership(tiny, "muon", 3), accumulate=2)
    with Engine(tiny, 2, 1, OneOf(0, 3), ownership(tiny, "muon", 3), accumulate=3) as engine:
        assert engine.part == (0, 2)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_updates_of_parts_are_the_update_of_all(kind):
    config = GPTConfig(300, 16, 32, 2, 2)
    rng = np.random.default_rng(0)
    start, gradient = rng.standard_normal((2, count_parameters(config)), np.float32)
    whole, state = start.copy(), fresh_state(config, kind)
    update(lambda f, items: [f(i) for i in items], config, whole, gradient, np.ones(1), state, 0.1)
    for size in (2, 3):
        parts, state = start.copy(), fresh_state(config, kind)
        for own in ownership(config, kind, size):
            before = parts.copy()
            state.t = 0
            update(lambda f, items: [f(i) for i in items], config, parts, gradient, np.ones(1),
                   state, 0.1, own=own)
            changed = np.flatnonzero(parts != before)
            assert changed.size and own[0] <= changed.min() and changed.max() < own[1]
        np.testing.assert_array_equal(parts, whole)


def test_each_keeps_its_own_moments_and_lets_go_of_the_rest(tmp_path):
    model = fresh_model()
    for rank in (0, 1):
        for kind in OPTIMIZERS:
            model.optimizer = fresh_state(model.config, kind)
            model.optimizer.m[:] = 1
            model.optimizer.v[:] = 1
            Trainer(model, some_run(optimizer=kind), np.zeros(99), [], ranks=OneOf(rank, 2))
            start, stop = ownership(model.config, kind, 2)[rank]
            for moment in (model.optimizer.m, model.optimizer.v):
                owned = np.zeros(moment.size)
                owned[start:stop] = 1
                np.testing.assert_array_equal(moment, owned)


def test_mpi_is_not_imported_unless_started_as_one_of_several():
    code = ("import sys; from femtogpt.cli import main; from femtogpt.ranks import find; "
            "assert find().size == 1; assert 'mpi4py' not in sys.modules")
    alone = {name: value for name, value in environment().items() if name not in SIZE_VARIABLES}
    for more in ({}, dict.fromkeys(SIZE_VARIABLES, "1")):
        subprocess.run([sys.executable, "-c", code], check=True, env=alone | more)


def test_several_without_mpi4py_say_so(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(FemtoError, match=r"femtogpt\[mpi\]"):
        find()


# ---- whole trainings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("ranks"))


def digest(folder, model):
    return (folder / model).read_bytes()


@mpi
@pytest.mark.parametrize("optimizer, accumulate, several", [
    ("muon", ["--batch-size=8"], ((1, 2), (2, 1), (4, 1))),
    # One shard each, in passes of one or of two.
    ("adamw", ["--batch-size=2", "--accumulate=5"], ((1, 1), (3, 2), (4, 1)))])
def test_any_number_of_ranks_gives_the_same_bytes(folder, optimizer, accumulate, several):
    results = {}
    for ranks, threads in several:
        model = f"{optimizer}{ranks}"
        shutil.copy(folder / "start", folder / model)
        out = finish(begin(folder, ranks, model, "--steps=25", f"--optimizer={optimizer}",
                           f"--threads={threads}", "--save-every=9", *accumulate))
        assert out.count("-> 25") == 1  # one rank speaks
        results[ranks] = digest(folder, model)
    assert checkpoint.load(folder / model).step == 25
    assert len(set(results.values())) == 1


@mpi
def test_a_run_goes_on_with_another_number_of_ranks(folder):
    for model in ("once", "parts"):
        shutil.copy(folder / "start", folder / model)
    """On files of tokens, each process its own windows of them."""
    files = []
    for part in ("a", "b", "c"):
        (folder / part).write_text(text(1500 + ord(part), seed=ord(part)))
        files.append(f"--dataset={part}.tokens")
        subprocess.run([sys.executable, "-m", "femtogpt", "tokenize", "--model=start", "--binary",
                        f"--dataset={part}", f"--output={part}.tokens"], cwd=folder, check=True,
                       env=environment(), stderr=subprocess.DEVNULL)
    finish(begin(folder, 1, "once", "--steps=500", "--accumulate=3", *files))
    first = begin(folder, 2, "parts", "--steps=500", "--accumulate=3", "--log=log",
                  "--save-every=1000000", *files)
    while not (folder / "log").exists() or (folder / "log").read_text().count("\n") < 3:
        assert first.poll() is None, finish(first)
        time.sleep(0.01)
    for process in processes("parts")[1:2]:  # to one of them, not the first
        os.kill(process, signal.SIGTERM)
    stopped = finish(first, 143)
    assert stopped.count("saved at step") == 1
    assert 3 <= checkpoint.load(folder / "parts").step < 500
    finish(begin(folder, 3, "parts", *files))
    assert digest(folder, "once") == digest(folder, "parts")


@mpi
@in_proc
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_and_loses_nothing(folder, rank):
    model = f"killed{rank}"
    shutil.copy(folder / "start", folder / model)
    run = begin(folder, 2, model, "--steps=100000", "--save-every=5", f"--log={model}.log")
    while not (folder / f"{model}.log").exists() or (
            (folder / f"{model}.log").read_text().count("\n") < 12):
        assert run.poll() is None, finish(run)
        time.sleep(0.01)
    victim = processes(model)[rank]
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    out, _ = run.communicate(timeout=60)
    assert run.returncode != 0 and time.monotonic() - began < 30
    assert "KILLED" in out.upper()  # mpiexec's, which ends soon: the witness may come too late
    assert all(f"process {rank} of 2" in line for line in out.splitlines() if "a word" in line)
    step = checkpoint.load(folder / model).step
    assert step >= 10 and step % 5 == 0
    assert all_ended(model)


@mpi
def test_what_one_rank_cannot_do_ends_all_with_its_name(folder):
    shutil.copy(folder / "start", folder / "alone")
    out = finish(begin(folder, 2, "alone", "--steps=5", "--dataset=nowhere"), 1)
    assert re.search("process [01] of 2, on .*nowhere", out)
    assert "Traceback" not in out
    out = finish(begin(folder, 2, "alone", "--steps=5", "--batch-size=1"), 1)
    assert "--batch-size" in out and "Traceback" not in out


@mpi
def test_ranks_that_differ_are_refused_with_what_differs(folder):
    """The second is of another version and gets another seed, text, model and time to save."""
    shutil.copy(folder / "start", folder / "unlike0")
    trained = checkpoint.load(folder / "start")
    trained.step, trained.history.losses = 7, [1.0] * 7
    trained.parameters[0] += 1
    checkpoint.save(trained, folder / "unlike1")
    for rank in (0, 1):
        (folder / f"text{rank}").write_text(text(6000, seed=rank))
    code = """if True:
        import femtogpt, sys
        if rank == 1:
            femtogpt.__version__ = "99"
        sys.argv += [f"--model=unlike{rank}", f"--seed={5 + rank}", f"--dataset=text{rank}",
                     f"--save-every={10 + rank}"]"""
    out = finish(begin(folder, 2, "unlike", "--until-step=20", code=code), 1)
    assert out.count("process 1 of 2 differs from the first: femtogpt 99 is not 0.") == 1
    for what in ("step 7 is not 0", "seed 6 is not 5", "save_every 11 is not 10"):
        assert f"; {what}" in out
    assert re.search("; model [0-9a-f]{16} is not ", out)
    assert re.search("; data [0-9a-f]+ is not ", out)
    assert "Traceback" not in out
    assert checkpoint.load(folder / "unlike0").step == 0


@mpi
def test_divergence_is_told_once_and_ends_all(folder):
    shutil.copy(folder / "start", folder / "diverged")
    out = finish(begin(folder, 3, "diverged", "--steps=20", "--optimizer=adamw",
                       "--learning-rate=1e30"), 1)
    assert out.count("diverged at step") == 1 and "Traceback" not in out
    assert checkpoint.load(folder / "diverged").step == 0


@mpi
def test_rollback_makes_the_same_bytes(folder):
    made = []
    for ranks in (1, 2):
        model = f"rolled{ranks}"
        shutil.copy(folder / "start", folder / model)
        out = finish(begin(folder, ranks, model, "--steps=8", "--optimizer=adamw",
                           "--learning-rate=3e37", "--on-nan=rollback", "--threads=1"), 1)
        assert "Went back to step 0" in out
        made.append(json.dumps(checkpoint.load(folder / model).lineage))
    assert made[0] == made[1]
