"""Damages model files in every way and counts what is not met with one clear line.

    python benchmarks/mutants.py                     10,000 files
    python benchmarks/mutants.py --files 500 --json

Half of them are damaged as disks and networks do it: flipped and overwritten bytes, cuts, more
at the end, a part of another file, zeros, swapped and repeated parts. None of these may load.
Half are damaged as an attacker would: header, metadata or numbers are changed and the hash made
right again. These may load, if what was changed may be anything; then `info`, `loss`,
`tokenize` and a step of `train` may complain, but in one line. Hostile files that are known
(terabytes, depth, overlaps ...) come first, and what they cost to refuse is measured, in seconds
of the processor and in memory.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests")]

MEGABYTES = 100  # that a hostile file may cost
VALUES = [None, True, 0, -1, 1, 2**31, 2**53, 1 << 60, 10**30, 0.5, -1e308, 1e308, float("nan"),
          float("inf"), "", "x", "\n\x1b[31m", "é\ud800", [], {}, [[]], [1 << 60], [-1], "F64",
          [0, 1 << 60], [1 << 40, 1 << 40], {"kind": "bpe"}, {"kind": "lowercase"}, "9" * 5000]


def parts_of(data):
    """(header, metadata, the tensors' bytes) of a good file."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header.pop("__metadata__")["femtogpt"]), data[8 + length :]


def sealed(header, metadata, tensors, hash_key=True):
    """A file of these with a right hash."""
    metadata = dict(metadata, sha256="0" * 64) if hash_key else metadata
    header = {"__metadata__": {"femtogpt": json.dumps(metadata)}, **header}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + tensors
    if not hash_key:
        return data
    digest = hashlib.sha256(data).hexdigest().encode()
    place = data.rindex(rb"\"sha256\": \"") + 14
    return data[:place] + digest + data[place + 64 :]


def broken(data, other, rng):
    """data, damaged as accidents do it, and a word for how."""
    how = rng.choice(["flip", "flips", "cut", "more", "half", "zeros", "swap", "repeat", "lost"])
    a, b = sorted(rng.sample(range(len(data) + 1), 2))
    noise = rng.randbytes(rng.randint(1, 100))
    changed = bytearray(data)
    if how == "flip":
        changed[a] ^= 1 << rng.randrange(8)
    elif how == "flips":
        changed[a : a + len(noise)] = noise[: len(data) - a]
    elif how == "cut":
        del changed[a:]
    elif how == "more":
        changed += noise
    elif how == "half":
        changed = bytearray(data[: len(data) // 2] + other[len(other) // 2 :])
    elif how == "zeros":
        changed[a:b] = bytes(b - a)
    elif how == "swap":
        changed = bytearray(data[b:] + data[a:b] + data[:a])
    elif how == "repeat":
        changed[b:b] = data[a:b]
    else:
        del changed[a:b]
    return bytes(changed), how


def places(tree, path=()):
    """Every place of a tree of dicts and lists, as a tuple of keys."""
    found = [path] if path else []
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            found += places(tree[key], (*path, key))
    return found


def hostile(data, rng):
    """data with something in it replaced, its hash made right, and a word for what."""
    header, metadata, tensors = parts_of(data)
    for _ in range(rng.choice((1, 1, 2))):
        what = rng.choice(("header", "metadata", "numbers"))
        if what == "numbers":
            at = rng.randrange(len(tensors) // 4) * 4
            odd = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
            tensors = tensors[:at] + odd + tensors[at + 4 :]
            continue
        tree = header if what == "header" else metadata
        *way, last = rng.choice(places(tree))
        for key in way:
            tree = tree[key]
        if rng.random() < 0.25 and not isinstance(tree, list):
            del tree[last]
        else:
            tree[last] = rng.choice(VALUES)
    return sealed(header, metadata, tensors), what


def known(data):
    """Hostile files by name."""
    header, metadata, tensors = parts_of(data)
    deep = "[" * 10**6
    first = next(iter(header))

    def with_entry(**entry):
        return sealed(header | {first: header[first] | entry}, metadata, tensors)

    def with_config(**config):
        return sealed(header, metadata | {"config": metadata["config"] | config}, tensors)

    nested = {"kind": "byte"}
    for _ in range(300):
        nested = {"kind": "lowercase", "inner": nested}
    text = b'{"a":' + b"[" * 10**6
    return {
        "header of 1 << 60 bytes": (1 << 60).to_bytes(8, "little") + data[8:],
        **{f"the largest header, of {what}": largest(what) for what in
           ("[],", "{},", '"ab",', "1.5,", "999,", '{"a":0},', "1")},
        "a header of too many marks": largest("[],", marks=1 << 60),
        "deep header": len(text).to_bytes(8, "little") + text,
        "deep metadata": sealed({"a": 0}, {"format_version": 1, "x": 0}, b"").replace(
            b'\\"x\\": 0', b'\\"x\\": ' + deep.encode()),
        "a tensor of terabytes": with_entry(shape=[1 << 40], data_offsets=[0, 1 << 42]),
        "a history of terabytes": sealed(
            header | {"history.loss": {"dtype": "F32", "shape": [1 << 40],
                                       "data_offsets": [0, 1 << 42]}}, metadata, tensors),
        "a config of terabytes": with_config(embedding_degree=65536, num_layers=4096),
        "a config beyond all limits": with_config(vocab_size=1 << 60),
        "a config of another shape": with_config(embedding_degree=32),
        "overlapping tensors": sealed(
            {name: entry | {"data_offsets": [0, entry["data_offsets"][1]
                                             - entry["data_offsets"][0]]}
             for name, entry in header.items()}, metadata, tensors),
        "negative offsets": with_entry(data_offsets=[-4, 0]),
        "wrong dtype": with_entry(dtype="F64"),
        "missing tensor": sealed({k: v for k, v in header.items() if k != first}, metadata,
                                 tensors),
        "extra tensor": sealed(header | {"x\n\x1b": header[first]}, metadata, tensors),
        "NaN parameters": sealed(header, metadata, b"\0\0\xc0\x7f" * (len(tensors) // 4)),
        "more than its tensors": sealed(header, metadata, tensors + bytes(64)),
        "a deep tokenizer": sealed(header, metadata | {"tokenizer": nested}, tensors),
        "reserved by 1 << 60": sealed(header, metadata | {
            "tokenizer": {"kind": "reserved", "count": 1 << 60,
                          "inner": metadata["tokenizer"]}}, tensors),
    }


def largest(part, marks=None):
    """A file of the largest header, full of one part as far as that may be. marks: at most."""
    from femtogpt import checkpoint

    each = max(1, sum(map(part.count, '[{",:')))
    count = min((marks or checkpoint.MOST_MARKS) // each - 4,
                (checkpoint.LARGEST_HEADER - 100) // len(part))
    metadata = json.dumps('{"format_version": 1, "x": [' + (part * count).rstrip(",") + "]}")
    text = ('{"__metadata__": {"femtogpt": ' + metadata + "}}").encode()
    text = text[: checkpoint.LARGEST_HEADER]
    return len(text).to_bytes(8, "little") + text


class Judge:
    """Loads files and keeps what was not met as it should be."""

    def __init__(self, path):
        from click.testing import CliRunner

        from femtogpt import checkpoint, errors
        from femtogpt.cli import main

        self.checkpoint, self.error, self.main = checkpoint, errors.FemtoError, main
        self.path, self.runner = path, CliRunner()
        self.refused = self.loaded = self.commands = 0
        self.wrong = []

    def judge(self, data, what, may_load):
        for file in self.path.parent.glob("model*"):
            file.unlink()
        self.path.write_bytes(data)
        try:
            self.checkpoint.load(self.path)
        except self.error as error:
            self.refused += 1
            if str(self.path) not in str(error) or len(str(error)) > 1000:
                self.wrong.append((what, f"unclear: {error}"))
            self.tell("info", what)
        except BaseException as error:
            self.wrong.append((what, repr(error)))
        else:
            self.loaded += 1
            if not may_load:
                self.wrong.append((what, "loaded"))
            for line in ("info", "info --json", "loss", "tokenize", "train --steps 1",
                         "train --until-step 4"):
                self.tell(line, what)

    def tell(self, line, what):
        """A command: one line of error or none, and no traceback."""
        self.commands += 1
        done = self.runner.invoke(self.main, [*line.split(), "--model", str(self.path)])
        error = done.stderr.splitlines()
        if (not isinstance(done.exception, SystemExit | None) or done.exit_code not in (0, 1)
                or (done.exit_code == 1 and not error[-1].startswith("femtogpt: "))
                or "Traceback" in done.stderr or "\x1b" in done.output):
            self.wrong.append((f"{line} of {what}", repr(done.exception) + done.output[-300:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from small import fresh_model, some_run, text

    from femtogpt import checkpoint
    from femtogpt.optimizer import fresh_state

    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        os.chdir(folder)
        (folder / "dataset.txt").write_text(text(200))
        models = []
        for recipe, optimizer in (("standard", "muon"), ("femto", "adamw")):
            model = fresh_model(recipe=recipe, num_layers=1, embedding_degree=8)
            model.optimizer = fresh_state(model.config, optimizer)
            model.step, model.history.losses = 3, [2.5, 1.5, 0.5]
            model.history.validation = [(1, 3.5), (3, 1.5)]
            model.run = some_run(last_step=4).to_json()
            model.lineage.append({"run": some_run().to_json()})
            checkpoint.save(model, folder / "model")
            models.append((folder / "model").read_bytes())
            (folder / "model").unlink()
        judge = Judge(folder / "model")
        judge.judge(models[0], "a good file", may_load=True)  # compiles
        judge.refused = judge.loaded = judge.commands = 0
        costs = {}
        for what, data in known(models[0]).items():
            judge.judge(data, what, may_load=False)
            began = time.process_time()
            with contextlib.suppress(judge.error):
                checkpoint.load(judge.path)
            seconds = time.process_time() - began
            tracemalloc.start()
            with contextlib.suppress(judge.error):
                checkpoint.load(judge.path)
            costs[what] = (seconds, tracemalloc.get_traced_memory()[1] / 1e6)
            tracemalloc.stop()
        worst = max(seconds for seconds, _ in costs.values())
        most = max(megabytes for _, megabytes in costs.values())
        judge.wrong += [(what, f"{megabytes:.0f} MB") for what, (_, megabytes) in costs.items()
                        if megabytes > MEGABYTES]
        for i in range(options.files):
            data, other = models[i // 2 % 2], models[1 - i // 2 % 2]
            if i % 2:
                changed, what = hostile(data, rng)
                judge.judge(changed, what, may_load=True)
            else:
                changed, what = broken(data, other, rng)
                if changed not in models:
                    judge.judge(changed, what, may_load=False)
    result = {"files": options.files, "known": len(costs), "refused": judge.refused,
              "loaded": judge.loaded, "commands": judge.commands,
              "known_most_seconds": round(worst, 2), "known_most_megabytes": round(most, 1),
              "wrong": len(judge.wrong)}
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name.replace('_', ' ')}: {value}")
    for what, how in judge.wrong[:20]:
        print(what, how, file=sys.stderr)
    sys.exit(bool(judge.wrong))


if __name__ == "__main__":
    main()
