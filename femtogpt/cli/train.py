"""femtogpt train"""

import json
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, nullcontext

import click

from ..errors import FemtoError
from .options import (
    PLAIN_LINE_SECONDS,
    dataset_option,
    load_model,
    long_reading,
    model_option,
    say,
    say_if_compiling,
    threads_option,
)

SIGNALS = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True),
              help="AdamW's peak; Muon's keeps its proportion. [default: 0.003; femto 0.001]")
@click.option("--min-lr", type=click.FloatRange(0), help="[default: 0; femto 0.00001]")
@click.option("--warmup-steps", type=click.IntRange(0), help="[default: 20; femto 100]")
@click.option("--decay-steps", type=click.IntRange(1),
              help="[default: the run's last fifth; femto 50000]")
@click.option("--optimizer", type=click.Choice(["muon", "adamw"]),
              help="[default: muon; femto adamw]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="[default: 1]")
@threads_option
@click.option("--save-every", type=click.IntRange(1), help="Steps. [default: every 30 seconds]")
@click.option("--sample-every", type=click.IntRange(0),
              help="Steps between generated lines; 0: none. [default: a tenth of the run]")
@click.option("--val-fraction", type=click.FloatRange(0, 0.5),
              help="How much of the text to hold back and measure on. [default: 0.05]")
@click.option("--for", "seconds", type=Duration(), help="Train about this long, e.g. 20m.")
@click.option("--until-loss", type=float, help="Stop once the smoothed loss is at or below.")
@click.option("--log", type=click.Path(), help="Append a JSON line a step.")
@click.option("--reset-optimizer", is_flag=True, help="Begin with fresh moments.")
def command(model, datasets, steps, until_step, threads, save_every, sample_every, seconds,
            until_loss, log, reset_optimizer, **options):
    """Train a model; a run that was cut off is finished first.

    \b
    Ctrl-C (or kill) saves and stops; plain `femtogpt train` goes on from there.
    Example:
      femtogpt train --steps 600
      femtogpt train --dataset book.txt --dropout 0.1 --for 20m
    """
    if steps is not None and until_step is not None:
        raise click.UsageError("give --steps or --until-step, not both")

    from ..data import encode_texts, find_texts, fingerprint, split
    from ..durable import lock
    from ..trainer import Trainer, plan

    with lock(model), ExitStack() as stack:
        loaded = load_model(model)
        texts = find_texts(datasets)
        with long_reading("reading") as progress:
            data = fingerprint(texts, progress)
        given = {name: value for name, value in options.items() if value is not None}
        run = plan(loaded, data, steps, until_step, **given)
        with long_reading("tokenizing") as progress:
            tokens = encode_texts(loaded.tokenizer, texts, data, progress, say)
        stop = stack.enter_context(_stop_signals())  # until here there is nothing to save
        training, validation = split(tokens, run.val_fraction, loaded.config.num_tokens)
        if reset_optimizer:
            loaded.optimizer = None
        trainer = Trainer(loaded, run, training, validation, model, threads, save_every, seconds,
                          until_loss)
        _look_at_disk(model, loaded)
        began = loaded.step
        say(f"{model}: step {loaded.step} -> {run.last_step}, {len(training):,} tokens to train "
            f"on, {len(validation):,} held back, {run.optimizer}, seed {run.seed}")
        say_if_compiling()
        if sample_every is None:
            sample_every = max(50, (run.last_step - run.first_step) // 10)
        try:
            with _log_file(log) as log_file, _Progress(trainer) as progress:
                told = trainer.memorising
                for record in trainer:
                    progress.show(record)
                    if trainer.memorising and not told:
                        told = True
                        progress.say(f"step {record.step}: held-back text is told worse now: the "
                                     "text is being memorised; weight decay is on")
                    if log_file:
                        _append(log_file, log, record)
                    if sample_every and record.step % sample_every == 0:
                        progress.say(f"step {record.step}: {_sample(loaded, record.step)}")
                    if stop.signal:
                        break
        finally:
            best = trainer.save() if loaded.step > began else None
    _conclude(loaded, training, best)
    if stop.signal and loaded.step < trainer.run.last_step:
        say(f"stopped by {signal.Signals(stop.signal).name} and saved at step {loaded.step}; "
            "`femtogpt train` goes on")
        sys.exit(128 + stop.signal)


def _log_file(path):
    if path is None:
        return nullcontext()
    try:
        return open(path, "ab", buffering=0)
    except OSError as error:
        raise FemtoError(f"--log {path} cannot be written: {error.strerror}") from None


def _append(file, path, record):
    values = {"step": record.step, "loss": record.loss, "lr": record.lr, "ms": record.ms,
              "tokens_per_second": record.tokens_per_second}
    if record.val_loss is not None:
        values["val_loss"] = record.val_loss
    try:
        file.write(json.dumps(values).encode() + b"\n")
    except OSError as error:
        raise FemtoError(f"--log {path} cannot be written: {error.strerror}. The model was saved "
                         f"at step {record.step}") from None


def _sample(model, step):
    from ..scoring import sample_text

    try:
        text = sample_text(model, "\n", 60, seed=step)
    except FemtoError:  # a vocabulary without a newline
        return "(this vocabulary cannot spell a newline to begin with)"
    line = next((line for line in text.splitlines() if line.strip()), text)
    return "".join(c if c.isprintable() else "·" for c in line)


def _look_at_disk(path, model):
    """A warning where the next saves may not find room: the file, its like, one being written."""
    state = model.optimizer
    size = model.parameters.nbytes + state.m.nbytes + state.v.nbytes
    free = shutil.disk_usage(os.path.dirname(os.path.realpath(path))).free
    if free < 3 * size:
        say(f"warning: {free / 1e6:.0f} MB are free where {path} lies, and saving it takes up to "
            f"{3 * size / 1e6:.0f} MB")


def _conclude(model, training, best):
    from ..data import count_bytes, count_tokens, unigram_entropy

    recent = model.history.losses[-20:]
    loss = sum(recent) / len(recent)
    counts = count_tokens(training, model.config.vocab_size)
    bits = loss / math.log(2) * len(training) / count_bytes(model.tokenizer, counts)
    what = "letter" if model.tokenizer.name != "bpe" else "token"
    line = (f"step {model.step}: loss {loss:.4f} nats a token (perplexity {math.exp(loss):.2f}, "
            f"{bits:.2f} bits per byte); guessing by {what} frequency alone would give "
            f"{unigram_entropy(counts):.4f}")
    if model.history.validation:
        line += f"; on held-back text {model.history.validation[-1][1]:.4f}"
    say(line)
    if best:
        say(f"the held-back text was told better before (training memorises by now): the model "
            f"of that step is {best}")


class _Progress:
    """One tqdm line on a terminal; elsewhere a plain line now and then."""

    def __init__(self, trainer):
        from tqdm import tqdm

        self.trainer, self.began, self.first = trainer, None, None
        self.bar = tqdm(
            total=trainer.run.last_step, initial=trainer.model.step,
            disable=not sys.stderr.isatty(),
            bar_format="step {n_fmt}/{total_fmt} |{bar}| {remaining} left, {desc}",
        )
        self.last_line = -math.inf

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def show(self, record):
        smoothed, last = self.trainer.smoothed, self.trainer.run.last_step
        numbers = (f"loss {record.loss:.3f}, smoothed {smoothed:.3f}, "
                   f"{record.tokens_per_second:,.0f} tokens/s")
        if record.val_loss is not None:
            self.validation = f", held back {record.val_loss:.3f}"
        numbers += getattr(self, "validation", "")
        if not self.bar.disable:
            self.bar.total = last
            self.bar.set_description_str(numbers, refresh=False)
            self.bar.update()
            return
        now = time.monotonic()
        if self.began is None:
            self.began, self.first = now, record.step
        if now - self.last_line >= PLAIN_LINE_SECONDS or record.step == last:
            self.last_line = now
            done = record.step - self.first
            if not done:  # the first step, which may have compiled: nothing to judge by
                say(f"step {record.step}/{last}: {numbers}")
                return
            left = (now - self.began) / done * (last - record.step)
            say(f"step {record.step}/{last}: {numbers}, {left / 60:.1f} min left")

    def say(self, line):
        if self.bar.disable:
            say(line)
        else:
            self.bar.write(line, file=sys.stderr)


class _Stop:
    signal = None


@contextmanager
def _stop_signals():
    """Yields an object whose .signal becomes the number of the first signal to stop.

    The second ends the process at once: a save writes beside the model and renames, so
    the last good file stays. What is ignored (SIGHUP under nohup) stays ignored.
    """
    stop = _Stop()

    def handle(number, frame):
        if stop.signal:
            os._exit(128 + number)
        stop.signal = number

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in SIGNALS:
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
