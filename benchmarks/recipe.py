"""What a change of the recipe does to the experiments: the table of docs/recipe.md.

    python benchmarks/recipe.py "decay 0.3" --entries 2 7 11 27 --seeds 3 --texts texts

A change may be several, "rate 0.003, warm-up 50", and of the model itself (altered.py): then
another process trains, with a copy of the source. Each entry with each change, seed by seed, in
--folder (what is there is not run again).
Prints, for each change, an entry's first measure: the mean over the seeds and the worst. Sums
are asked of all pairs that the text lacks, some 4,700, not of 200 of them as an experiment does.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from altered import ALTERED, REPOSITORY, copy_altered

from femtogpt import batches, scoring
from femtogpt.experiment.attempt import Attempt
from femtogpt.experiment.entries import find
from femtogpt.experiment.measures import MEASURES

# name -> options of the run, given its steps; line_starts is a constant of batches.py, averaged the
# share of the steps at the end whose weights' mean is judged
CHANGES = {
    "as it is": lambda steps: {},
    "decay 0.2": lambda steps: {"decay_steps": steps // 5},
    "decay 0.3": lambda steps: {"decay_steps": 3 * steps // 10},
    "decay 0.4": lambda steps: {"decay_steps": 2 * steps // 5},
    "decay 0.5": lambda steps: {"decay_steps": steps // 2},
    "warm-up 5": lambda steps: {"warmup_steps": 5},
    "warm-up 50": lambda steps: {"warmup_steps": 50},
    **{f"rate {rate}": lambda steps, rate=rate: {"learning_rate": rate}
       for rate in (0.003, 0.006)},
    "batch 16, twice the steps": lambda steps: {"batch_size": 16, "steps": 2 * steps},
    "batch 64, half the steps": lambda steps: {"batch_size": 64, "steps": steps // 2},
    **{f"{share:.0%} of windows at a line": lambda steps, share=share: {"line_starts": share}
       for share in (0, 1)},
    "AdamW": lambda steps: {"optimizer": "adamw"},
    "Muon's decay 0.2": lambda steps: {"weight_decay": 0.2},
    "averaged 0.1": lambda steps: {"averaged": 0.1},
    "flat, averaged 0.2": lambda steps: {"decay_steps": 1, "averaged": 0.2},
    "bf16": lambda steps: {"precision": "bf16"},
    "dropout 0.1": lambda steps: {"dropout": 0.1},
    "nothing held back": lambda steps: {"val_fraction": 0.0},
    **{f"{n} steps": lambda steps, n=n: {"steps": n} for n in (160, 200, 250, 300)},
    **{name: lambda steps: {} for name in ALTERED},
}
LINE_STARTS = batches.LINE_STARTS
FIRST = ("right", "val_loss", "bits_per_byte")  # what to show of an entry that has one of these


def shown_measure(entry):
    return next((name for name in FIRST if name in entry.goal), next(iter(entry.goal)))


def known(change):
    """argparse's check of a change, which it returns."""
    for one in change.split(", ") if change not in CHANGES else ():
        if one not in CHANGES:
            raise argparse.ArgumentTypeError(f"{one!r} is none of: {'; '.join(CHANGES)}")
    return change


def parts(change):
    return [change] if change in CHANGES else change.split(", ")


def changed(train, change):
    """An entry's options of training, changed."""
    for one in parts(change):
        train = train | CHANGES[one](train["steps"])
    return train


def run_altered(change, options):
    """If a change is of the model itself: its results, by another process that has it."""
    names = [one for one in parts(change) if one in ALTERED]
    if not names or options.altered:
        return
    source = copy_altered(names, f"{options.folder}/{change}")
    path = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, __file__, change, "--altered", "--folder", options.folder,
               "--seeds", str(options.seeds), "--entries", *map(str, options.entries)]
    for folder in options.texts or []:
        command += ["--texts", folder]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stdout=sys.stderr, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("changes", nargs="*", type=known, metavar="CHANGE")
    parser.add_argument("--entries", type=int, nargs="+", default=[2, 7, 11, 15, 18, 20, 27])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", action="append")
    parser.add_argument("--folder", default="recipe")
    parser.add_argument("--altered", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    assert not options.altered or REPOSITORY / "femtogpt" not in Path(batches.__file__).parents
    chosen = find(options.entries)
    scoring.HELD_OUT_PAIRS = 10**6
    for name in options.changes or CHANGES:
        run_altered(name, options)
    table = {}
    for seed in range(1, options.seeds + 1):
        for entry in chosen:
            for name in options.changes or CHANGES:
                run = changed(entry.train, name)
                batches.LINE_STARTS = run.pop("line_starts", LINE_STARTS)
                averaged = run.pop("averaged", 0)
                attempt = Attempt(replace(entry, train=run), seed, f"{options.folder}/{name}",
                                  texts=options.texts or ["texts"])
                result = attempt.result or attempt_to_its_end(attempt, averaged)
                measure = shown_measure(entry)
                table.setdefault((name, entry.number), []).append(result[measure])
                print(f"{name}, {entry.name}, seed {seed}: {MEASURES[measure].label} "
                      f"{result[measure]:.4f}", flush=True)
    print("| change | " + " | ".join(f"#{entry.number}" for entry in chosen) + " |")
    print("| --- |" + " ---: |" * len(chosen))
    for name in options.changes or CHANGES:
        cells = []
        for entry in chosen:
            values, measure = table[name, entry.number], shown_measure(entry)
            worst = (min if MEASURES[measure].higher else max)(values)
            cells.append(f"{sum(values) / len(values):.4f} ({worst:.4f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


def attempt_to_its_end(attempt, averaged):
    trainer = attempt.begin()
    model, total, count = trainer.model, 0, 0
    for record in attempt.train(trainer):
        if record.step > (1 - averaged) * attempt.entry.train["steps"]:
            total, count = total + model.parameters.astype("f8"), count + 1
    if count:
        model.parameters[:] = total / count
    return attempt.conclude(trainer)


if __name__ == "__main__":
    main()
