"""Why the log's runs failed: its failed entries again with the original's design, and what frees
them.

    python benchmarks/why.py --texts texts --texts rust      writes docs/why/, prints two tables
    python benchmarks/why.py 15 22

For each entry: the original (recipe femto, AdamW) and the same with three changes, as many
steps each; beside them the entropy of its text's tokens, which is the loss of a model that
guesses by how often each occurs. For LADDER's entries: what each change does alone.
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from femtogpt import parallel
from femtogpt.data import count_tokens, unigram_entropy
from femtogpt.drawing import line_chart
from femtogpt.experiment.attempt import Attempt
from femtogpt.experiment.entries import entries
from femtogpt.tensors import views

FAILED = [n for n, entry in entries().items() if entry.log and entry.log["verdict"] == "fail"]
LADDER = (11, 15, 22)
STEPS = 250
FREED = ("gains", "residual", "rotary")
CHANGES = {
    (): "the original",
    ("gains",): "norm gains 1 at the start",
    ("residual",): "residual not normalised",
    ("positions",): "sinusoids of amplitude 0.02",
    ("rotary",): "rotary positions",
    ("muon",): "Muon",
    ("gains", "residual"): "gains 1, residual not normalised",
    ("gains", "residual", "positions"): "these, and sinusoids of amplitude 0.02",
    FREED: "gains 1, residual not normalised, rotary positions",
    (*FREED, "muon"): "these, and Muon",
}


@contextmanager
def changed_constants(changes):
    """In here, engines run the original's pass with some of the changes."""
    original = parallel.constants

    def constants(config):
        k = original(config)
        if "residual" in changes:
            k = k._replace(normalised_residual=False)
        if "positions" in changes:
            k = k._replace(positions=k.positions * k.positions.dtype.type(0.02))
        return k

    parallel.constants = constants
    try:
        yield
    finally:
        parallel.constants = original


def train(entry, changes, steps, texts):
    """(losses by step, unigram entropy in nats a token) of an entry with the original's recipe
    and some changes."""
    shape = entry.shape | {"recipe": "femto"}
    if "rotary" in changes:
        shape["positional_encoding"] = "rope"
    run = {"steps": steps, "dropout": entry.train.get("dropout", 0.0)}
    if "muon" in changes:
        run["optimizer"] = "muon"
    with tempfile.TemporaryDirectory() as folder, changed_constants(changes):
        attempt = Attempt(replace(entry, shape=shape, train=run), 1, folder, texts=texts)
        trainer = attempt.begin()
        if "gains" in changes:
            for name, tensor in views(trainer.model.parameters, trainer.model.config
                                      )._asdict().items():
                if name.endswith("_gain"):
                    tensor[...] = 1
        losses = [record.loss for record in trainer]
        counts = count_tokens(trainer.training, trainer.model.config.vocab_size)
        return losses, unigram_entropy(counts)


def last(losses):
    """The mean of the last twentieth."""
    part = losses[-max(1, len(losses) // 20):]
    return sum(part) / len(part)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("numbers", nargs="*", type=int, help="entries; all that failed")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--texts", action="append")
    parser.add_argument("--output", default="docs/why", help="the folder for charts and why.json")
    options = parser.parse_args()
    output, texts = Path(options.output), options.texts or ["texts"]
    output.mkdir(parents=True, exist_ok=True)
    numbers = options.numbers or FAILED
    kept = output / "why.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for number in numbers:
        entry = entries()[number]
        runs = found.setdefault(str(number), {})
        for changes, name in CHANGES.items():
            if name in runs or not (number in LADDER or changes in ((), FREED)):
                continue
            losses, entropy = train(entry, changes, options.steps, texts)
            runs[name], runs["unigram"] = [round(loss, 4) for loss in losses], entropy
            print(f"{entry.name}: {name}: {last(losses):.3f} (unigram {entropy:.3f})",
                  file=sys.stderr)
            writing = kept.with_suffix(".writing")
            writing.write_text(json.dumps(found))
            os.replace(writing, kept)
        entropy = runs["unigram"]
        wanted = list(CHANGES.values()) if number in LADDER else [CHANGES[()], CHANGES[FREED]]
        lines = [(name, list(enumerate(runs[name], 1))[::2]) for name in wanted]
        (output / f"{number}.svg").write_text(line_chart(
            lines, 640, 380, levels=[(f"unigram entropy {entropy:.2f}", entropy)]))
    print_tables(found)


def print_tables(found):
    print("| experiment | the log's loss, steps | unigram entropy | the original | freed |")
    print("| --- | --- | ---: | ---: | ---: |")
    for number, runs in sorted(found.items(), key=lambda item: int(item[0])):
        entry = entries()[int(number)]
        loss = entry.log["loss"]
        print(f"| {entry.name} | {'not told' if loss is None else f'{loss:.2f}'}, "
              f"{entry.log['steps']} | "
              f"{runs['unigram']:.2f} | {last(runs[CHANGES[()]]):.2f} | "
              f"{last(runs[CHANGES[FREED]]):.2f} |")
    ladder = [str(number) for number in LADDER if str(number) in found]
    print("\n| change | " + " | ".join(entries()[int(n)].name for n in ladder) + " |")
    print("| --- |" + " ---: |" * len(ladder))
    for name in CHANGES.values():
        print(f"| {name} | " + " | ".join(f"{last(found[n][name]):.2f}" for n in ladder) + " |")


if __name__ == "__main__":
    main()
