"""femtogpt train"""

import math
import os
import re
import shutil
import signal
import sys
from contextlib import nullcontext

import click

from ..errors import FemtoError
from .logs import logs, require_tensorboardx
from .options import (
    FILE,
    FOLDER,
    dataset_option,
    load_model,
    long_reading,
    model_option,
    say,
    say_if_compiling,
    silence,
    threads_option,
)
from .progress import Progress
from .ranks import let_be_heard, require_alike, together
from .signals import stop_signals


class Duration(click.ParamType):
    """20m, 90s, 1h30m -> seconds."""

    name = "duration"

    def convert(self, value, parameter, context):
        parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", value.strip())
        seconds = parts and sum(int(n or 0) * s for n, s in zip(parts.groups(), (3600, 60, 1),
                                                                strict=True))
        if not seconds:
            self.fail(f"{value!r} is not a time such as 20m, 90s or 1h30m", parameter, context)
        return seconds


@click.command()
@model_option
@dataset_option
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), help="[default: 0]")
@click.option("--steps", type=click.IntRange(1), help="[default: 100000, or what is left of a run]")
@click.option("--until-step", type=click.IntRange(1), help="The model's step to train to.")
@click.option("--batch-size", type=click.IntRange(1, 65536), help="[default: 32]")
@click.option("--accumulate", type=click.IntRange(1, 65536),
              help="Batches a step, their gradients summed: work for more processes. [default: 1]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True),
              help="AdamW's peak; Muon's keeps its proportion. [default: 0.0045; femto 0.001]")
@click.option("--min-lr", type=click.FloatRange(0), help="[default: 0; femto 0.00001]")
@click.option("--warmup-steps", type=click.IntRange(0), help="[default: 20; femto 100]")
@click.option("--decay-steps", type=click.IntRange(1),
              help="[default: the run's last two fifths; femto 50000]")
@click.option("--optimizer", type=click.Choice(["muon", "adamw"]),
              help="[default: muon; femto adamw]")
@click.option("--precision", type=click.Choice(["float32", "bf16"]),
              help="Of products; bf16: numbers of 8 binary digits, faster where the processor has "
              "them. [default: float32]")
@click.option("--weight-decay", type=click.FloatRange(0, 10),
              help="Of Muon's matrices, times its rate; 0.2 is for text that is read several "
              "times. [default: 0, and 1 once held-back text tells that it is learnt by heart]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="[default: 1]")
@threads_option
@click.option("--save-every", type=click.IntRange(1), help="Steps. [default: every 30 seconds]")
@click.option("--sample-every", type=click.IntRange(0),
              help="Steps between generated lines; 0: none. [default: a tenth of the run]")
@click.option("--val-fraction", type=click.FloatRange(0, 0.5),
              help="How much of the text, its end, to hold back and measure on. [default: 0.1 of a "
              "text of over 100 KB, else 0]")
@click.option("--eval-every", type=click.IntRange(1),
              help="Steps between measurements on it. [default: a twentieth of the run, 20 to 250]")
@click.option("--patience", type=click.IntRange(1),
              help="Stop early after so many of them without a better one.")
@click.option("--best/--no-best", "keep_best", default=None,
              help="Keep the model that told it best in model.best.safetensors. [default: yes]")
@click.option("--on-nan", type=click.Choice(["stop", "rollback"]),
              help="Rollback: to the last save, other batches, half the rate. [default: stop]")
@click.option("--for", "seconds", type=Duration(), help="Train about this long, e.g. 20m.")
@click.option("--until-loss", type=float, help="Stop once the smoothed loss is at or below.")
@click.option("--log", type=FILE, help="Append a JSON line a step.")
@click.option("--csv", type=FILE, help="Append a row a step to a table.")
@click.option("--tensorboard", type=FOLDER, help="Write a file for TensorBoard into a folder.")
@click.option("--reset-optimizer", is_flag=True, help="Begin with fresh moments.")
@click.option("--changed-dataset", is_flag=True,
              help="Finish a run though its dataset is not what it was.")
def command(model, datasets, steps, until_step, threads, save_every, sample_every, seconds,
            until_loss, log, csv, tensorboard, reset_optimizer, changed_dataset, **options):
    """Train a model; a run that was cut off is finished first.

    \b
    Ctrl-C (or kill) saves and stops; plain `femtogpt train` goes on from there.
    Example:
      femtogpt train --steps 600
      femtogpt train --dataset book.txt --dropout 0.1 --for 20m
    """
    if steps is not None and until_step is not None:
        raise click.UsageError("give --steps or --until-step, not both")
    if tensorboard:  # before the text is read
        require_tensorboardx()

    from ..data import find_texts
    from ..durable import lock
    from ..ranks import find as find_ranks
    from ..run import earlier_runs
    from ..session import prepare
    from ..trainer import Trainer

    ranks = find_ranks()
    if not ranks.first:
        silence()
    loaded = None
    with (together(ranks, lambda: loaded and loaded.step),
          lock(model) if ranks.first else nullcontext()):
        ranks.told({})  # until the first one has the lock
        loaded = load_model(model)
        texts = find_texts(datasets)
        given = {name: value for name, value in options.items() if value is not None}
        say_if_compiling(loaded.tokenizer)
        run, tokens, training, validation = prepare(
            loaded, texts, steps=steps, until_step=until_step, changed_data=changed_dataset,
            warn=say, watch=long_reading, **given)
        if any(earlier.data == run.data and (earlier.val_begin, earlier.val_end)
               != (run.val_begin, run.val_end) for earlier in earlier_runs(loaded)):
            say("warning: an earlier run held back another part of this text: the model was "
                "trained already on some of what is held back now")
        _warn_of_unknown(loaded, tokens)
        if reset_optimizer:
            loaded.optimizer = None
        require_alike(ranks, loaded, run, training, save_every=save_every, seconds=seconds,
                      until_loss=until_loss)
        began = loaded.step
        with stop_signals() as stop:  # until here there is nothing to save
            trainer = Trainer(loaded, run, training, validation, model, threads, save_every,
                              seconds, until_loss, ranks)
            _look_at_disk(model, loaded)
            say(f"{model}: step {began} -> {run.last_step}, {len(training):,} tokens to train on, "
                f"{_held_back(run, tokens, validation)}, {run.optimizer}, seed {run.seed}")
            say_if_compiling(what="training", precision=run.precision)
            ended = False
            try:
                if not ranks.highest(stop.signal or 0):
                    _train(trainer, stop, sample_every,
                           {"json_lines": log, "table": csv, "tensorboard": tensorboard})
                ended = True
            finally:
                # To save takes all of several: one that failed would wait for the others.
                if loaded.step > began and (ended or ranks.size == 1):
                    trainer.save()
    if loaded.step > began and ranks.first:
        _conclude(trainer, training)
    if stop.signal and loaded.step < trainer.run.last_step:
        say(f"stopped by {signal.Signals(stop.signal).name} and saved at step {loaded.step}; "
            "`femtogpt train` goes on")
        let_be_heard(ranks)
        sys.exit(128 + stop.signal)


def _warn_of_unknown(model, tokens):
    """femtoGPT's pieces can have a token for what they cannot spell; others refuse it."""
    from ..data import count_tokens
    from ..tokenizer.pieces import UNKNOWN

    tokenizer, V = model.tokenizer, model.config.vocab_size
    if tokenizer.name == "pieces":
        ids = [id for id in range(V) if tokenizer.piece(id) == UNKNOWN]
        unknown = int(count_tokens(tokens, V)[ids].sum())
        if unknown:
            say(f"warning: {unknown:,} of the text's {len(tokens):,} tokens are <unk>, which "
                "stands for what this vocabulary cannot spell; a model with --tokenizer byte "
                "reads all")


def _held_back(run, tokens, validation):
    if len(validation):
        where = "its end" if run.val_end == len(tokens) else "what was held back before"
        return f"{len(validation):,} held back ({where}, {len(validation) / len(tokens):.0%})"
    return "none held back" if run.val_fraction else "none held back (--val-fraction)"


def _train(trainer, stop, sample_every, places):
    """Runs the trainer, telling what happens, until its end or a signal."""
    run = trainer.run
    if sample_every is None:
        sample_every = max(50, (run.last_step - run.first_step) // 10)
    if not trainer.ranks.first:
        for _ in trainer:
            if trainer.ranks.highest(stop.signal or 0):
                break
        return
    with logs(**places) as write, Progress(trainer) as progress:
        for record in trainer:
            progress.show(record)
            for note in record.notes:
                progress.say(f"step {record.step}: {note}")
            write(record)
            if sample_every and record.step % sample_every == 0:
                trainer.writing.ask(trainer.model, lambda model: progress.say(
                    f"step {model.step}: {_sample(model, model.step)}"))
            stop.signal = trainer.ranks.highest(stop.signal or 0)
            if stop.signal:
                break


def _sample(model, step):
    from ..scoring import sample_text

    try:
        text = sample_text(model, "\n", 60, seed=step)
    except FemtoError:  # a vocabulary without a newline
        return "(this vocabulary cannot spell a newline to begin with)"
    line = next((line for line in text.splitlines() if line.strip()), text)
    return "".join(c if c.isprintable() else "·" for c in line)


def _look_at_disk(path, model):
    """A warning where the next saves may not find room: a file, its previous, one being written,
    of the model and of its best, which has no moments."""
    state = model.optimizer
    size = 2 * model.parameters.nbytes + state.m.nbytes + state.v.nbytes
    free = shutil.disk_usage(os.path.dirname(os.path.realpath(path))).free
    if free < 3 * size:
        say(f"warning: {free / 1e6:.0f} MB are free where {path} lies, and saving it takes up to "
            f"{3 * size / 1e6:.0f} MB")


def _conclude(trainer, training):
    from ..data import count_bytes, count_tokens, unigram_entropy
    from ..trainer import best_path

    model = trainer.model
    recent = model.history.losses[-20:]
    loss = sum(recent) / len(recent)
    counts = count_tokens(training, model.config.vocab_size)
    bits = loss / math.log(2) * int(counts.sum()) / count_bytes(model.tokenizer, counts)
    what = "letter" if model.tokenizer.name != "bpe" else "token"
    line = (f"step {model.step}: loss {loss:.4f} nats a token (perplexity {math.exp(loss):.2f}, "
            f"{bits:.2f} bits per byte); guessing by {what} frequency alone would give "
            f"{unigram_entropy(counts):.4f}")
    if model.history.validation:
        line += f"; on held-back text {model.history.validation[-1][1]:.4f}"
    say(line)
    step, loss = trainer.curve.best_step, trainer.curve.best_loss
    if step is not None and step < model.step and trainer.run.keep_best:
        say(f"it was told better at step {step} ({loss:.4f}): that model is "
            f"{best_path(trainer.path).name}")
