"""femtogpt experiment"""

import signal
import sys
from pathlib import Path

import click

from .options import FOLDER, print_json, say, say_if_compiling, threads_option
from .progress import Progress
from .signals import stop_signals

RUNS = "experiments"
folder_option = click.option("--folder", type=FOLDER, default=RUNS, show_default=True,
                             help="Where runs are kept; what they came to is in FOLDER.json, "
                             ".md and .html.")


@click.group(short_help="Run again the experiments of the log that started this.")
def command():
    """Run again the experiments of the log that started this, and more.

    \b
    Example:
      femtogpt experiment list
      femtogpt experiment run 7 --seeds 3
    """


@command.command("list")
@folder_option
def list_(folder):
    """All experiments: what they are, what the log says, what came out here.

    \b
    Example:
      femtogpt experiment list
    """
    from ..experiment.entries import entries
    from ..experiment.pages import load_results, verdict

    results = load_results(folder)
    for number, entry in entries().items():
        runs = [run for key, run in results.items() if key[0] == number]
        rows = [all(ok for *_, ok in verdict(entry, run, results)) for run in runs]
        state = f"goal reached by {sum(rows)} of {len(rows)} seeds" if rows else "not run here yet"
        log = entry.log["verdict"] if entry.log else "not in it"
        click.echo(f"{entry.name:32} {entry.parameters:>6}  log: {log:9} {state}")


@command.command("show")
@click.argument("number", type=int)
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(number, folder, as_json):
    """One experiment: its options, its goal, the log's figures, and its results here.

    \b
    Example:
      femtogpt experiment show 7
    """
    from dataclasses import asdict

    from ..experiment.entries import find
    from ..experiment.pages import load_results, one_line

    [entry] = find([number])
    results = load_results(folder)
    runs = [run for key, run in results.items() if key[0] == number]
    if as_json:
        print_json({"entry": asdict(entry), "results": runs})
        return
    click.echo(f"{entry.name}, {entry.parameters} parameters")
    for name in ("shape", "tokenizer", "data", "train", "goal", "log"):
        click.echo(f"  {name}: {getattr(entry, name)}")
    for run in runs:
        click.echo(f"{one_line(entry, run, results)}. {run['steps']} steps in "
                   f"{run['minutes']:.1f} minutes, {run['memory_mb'] or 0:.0f} MB")
        click.echo(f"  {entry.prompt}{run['sample']}".rstrip().replace("\n", "\n  "))
    if not runs:
        click.echo(f"`femtogpt experiment run {number}` runs it")


@command.command("run")
@click.argument("numbers", nargs=-1, type=int)
@click.option("--all", "everything", is_flag=True, help="Every experiment.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True,
              help="How many: data, start and batches follow from 1, 2, ...")
@folder_option
@click.option("--texts", type=FOLDER, multiple=True, default=("texts",), show_default="texts",
              help="A folder with shakespeare.txt or Rust crates; may be given several times.")
@click.option("--rust", type=FOLDER, help="Use all .rs files of this folder instead of the crates.")
@threads_option
def run(numbers, everything, seeds, folder, texts, rust, threads):
    """Run experiments, seed by seed; what is there already is not run again.

    \b
    Ctrl-C (or kill) saves and stops; the same command goes on from there.
    Example:
      femtogpt experiment run 2 7 20 --seeds 3
      femtogpt experiment run --all --texts texts --texts rust
    """
    if bool(numbers) == everything:
        raise click.UsageError("give the numbers of experiments, or --all")

    from ..durable import lock
    from ..experiment.attempt import Attempt
    from ..experiment.entries import entries, find
    from ..experiment.pages import load_results, one_line

    chosen = list(entries().values()) if everything else find(numbers)
    which = "--all" if everything else " ".join(map(str, numbers))
    for seed in range(1, seeds + 1):
        for entry in chosen:
            attempt = Attempt(entry, seed, folder, texts=texts, rust=rust, threads=threads)
            _finish(attempt, entry.name, lock)
            rival = attempt.rival()
            if rival:
                _finish(rival, f"{entry.name}'s rival, {rival.entry.name}", lock)
            results = load_results(folder)
            click.echo(one_line(entry, attempt.result, results))
            _write_pages(folder, results, f"{which} --seeds {seeds}")


def _finish(attempt, name, lock):
    """Brings an attempt to its result, from wherever it is; exits where a signal asks for it."""
    if attempt.result:
        return
    attempt.folder.mkdir(parents=True, exist_ok=True)
    with lock(attempt.model_path), stop_signals() as stop:
        trainer = attempt.begin()
        last = trainer.run.last_step
        say(f"{name}, seed {attempt.seed}: {trainer.model.parameters.size:,} parameters, step "
            f"{trainer.model.step} of {last}")
        say_if_compiling(what="training")
        with Progress(trainer) as progress:
            for record in attempt.train(trainer):
                progress.show(record)
                for note in record.notes:
                    progress.say(f"step {record.step}: {note}")
                if stop.signal:
                    break
        if not stop.signal:
            attempt.conclude(trainer)
    if stop.signal:
        say(f"stopped by {signal.Signals(stop.signal).name} and saved at step "
            f"{trainer.model.step}; the same command goes on")
        sys.exit(128 + stop.signal)


def _write_pages(folder, results, what):
    from ..durable import replace
    from ..experiment.pages import as_json, html, markdown

    made_by = f"femtogpt experiment run {what}"
    for ending, text in (("json", as_json(results)),
                         ("md", "# Experiments\n\n" + markdown(results, made_by)),
                         ("html", html(results, made_by))):
        replace(f"{Path(folder)}.{ending}", [text.encode()], keep_previous=False)
