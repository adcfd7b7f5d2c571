"""femtogpt search"""

import math
import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import click

from ..search.candidates import VARIED
from .options import (
    FILE,
    FOLDER,
    PLAIN_LINE_SECONDS,
    dataset_option,
    json_option,
    long_reading,
    make_shape,
    print_json,
    require_absent,
    say,
    say_if_compiling,
    shape_options,
    threads_option,
)
from .signals import stop_signals

REDRAW_SECONDS = 0.2
# The table's columns, and how wide they are.
WIDTHS = {"candidate": 9, "seed": 6, "learning-rate": 13, "dropout": 7, "num-layers": 10,
          "step": 12, "loss": 7, "held back": 9}


class Names(click.ParamType):
    """a,b -> ("a", "b"), of VARIED."""

    name = "names"

    def convert(self, value, parameter, context):
        if not isinstance(value, str):  # the default, or converted already
            return value
        found = tuple(name.strip() for name in value.split(","))
        if wrong := [name for name in found if name not in VARIED]:
            self.fail(f"{wrong[0]!r} is not one of {', '.join(VARIED)}", parameter, context)
        return found


@click.command(short_help="Try several starts, and keep and grow the best.")
@dataset_option
@click.option("--output", type=FILE, default="model.safetensors", show_default=True,
              help="The model file to write: the best.")
@click.option("--folder", type=FOLDER, default="search", show_default=True,
              help="Where candidates are kept, and how far the search is.")
@click.option("--candidates", type=click.IntRange(1, 1000), default=8, show_default=True,
              help="How many starts, of the seeds --seed, --seed + 1, ...")
@click.option("--rounds", type=click.IntRange(1, 30),
              help="[default: as many as leave one candidate for the last; 4 for 8]")
@click.option("--steps", type=click.IntRange(1, 10**9), default=100, show_default=True,
              help="Of the first round; of each other twice as many as of the one before.")
@click.option("--vary", type=Names(), default=(), metavar="NAME,...",
              help="What else differs, but in the first: learning-rate (times 0.32 to 3.2), "
              "dropout (0 to 0.3), num-layers (half to twice; steps by what they cost).")
@click.option("--compare", is_flag=True,
              help="Then train candidate 1's start alone for as long as all together: was the "
              "search worth it?")
@shape_options
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), help="[default: 0]")
@click.option("--batch-size", type=click.IntRange(1, 65536), help="[default: 32]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True),
              help="[default: 0.0045; femto 0.001]")
@click.option("--val-fraction", type=click.FloatRange(0, 0.5, min_open=True), default=0.1,
              show_default=True, help="How much of the text, its end, to hold back: half of it to "
              "choose by, half to tell the end by.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True)
@threads_option
@click.option("--force", is_flag=True, help="Replace a model that is there.")
@json_option
def command(datasets, output, folder, compare, kind, threads, force, as_json, candidates, rounds,
            steps, vary, val_fraction, seed, dropout, batch_size, learning_rate, **shape):
    """Train several starts, the better half of them longer, round by round; keep the best.

    One at a time, each on all processors. The last one left is trained to its end. It is what
    init and train make of its seed and options.

    \b
    Ctrl-C (or kill) saves and stops; the same command goes on from there.
    Example:
      femtogpt search --dataset book.txt --candidates 8 --rounds 4 --steps 100
      femtogpt search --vary learning-rate,dropout --compare
    """
    if kind == "char" and shape["tokenizer_data"] is None:
        shape["tokenizer_data"] = datasets[0]
    tokenizer, config = make_shape(kind, shape)

    from ..data import find_texts
    from ..durable import lock
    from ..search.halving import Search
    from ..search.outcome import conclude, is_at

    texts = find_texts(datasets)
    say_if_compiling(tokenizer)
    Path(folder).mkdir(parents=True, exist_ok=True)
    given = {"dropout": dropout, "batch_size": batch_size, "learning_rate": learning_rate}
    with lock(Path(folder) / "search.json", "worked on", "--folder"):
        search = Search(
            texts, tokenizer, config, folder, candidates=candidates, rounds=rounds, steps=steps,
            vary=vary, seed=seed, val_fraction=val_fraction, threads=threads, warn=say,
            watch=long_reading, **{name: value for name, value in given.items()
                                   if value is not None})
        if not is_at(search, output):
            require_absent(output, force, "model")
        with stop_signals() as stop:
            say_if_compiling(what="training")
            _train(search, compare, vary, stop)
            if not stop.signal:
                result = conclude(search, output)
    if stop.signal:
        say(f"stopped by {signal.Signals(stop.signal).name} and saved; the same command goes on")
        sys.exit(128 + stop.signal)
    if as_json:
        print_json(result)
    else:
        _tell(search, vary, result)


def _train(search, compare, vary, stop):
    with closing(search.train(compare)) as steps, Table(search, vary, compare) as table:
        for one, record in steps:
            table.show(one, record)
            if stop.signal:
                break


class Table:
    """A line a candidate, redrawn as it goes; where standard error is no terminal a plain line
    where a round of a candidate begins and ends, and now and then."""

    def __init__(self, search, vary, compare):
        self.search, self.vary, self.compare = search, vary, compare
        self.lines = [*search.candidates, *([search.rival] if compare else [])]
        self.steps = {one.number: one.rounds[-1]["step"] if one.rounds else 0
                      for one in self.lines}
        self.drawn_at, self.on = -math.inf, None
        self.bars = []

    def __enter__(self):
        from tqdm import tqdm

        if sys.stderr.isatty():
            columns, lines = terminal_size()
            self.bars = [tqdm(total=1, initial=self.done(), leave=False, position=0,
                              ncols=columns - 1, nrows=lines,
                              bar_format="{desc} |{bar}| {remaining} left")]
            self.bars += [tqdm(leave=False, position=1 + i, ncols=columns - 1, nrows=lines,
                               bar_format="{desc}") for i in range(1 + len(self.lines))]
            self.bars[1].set_description_str(fitted(heading(self.vary, live=True)))
            self.draw()
        return self

    def __exit__(self, *_):
        for bar in reversed(self.bars):
            bar.close()

    def done(self):
        """The share of the search, and of the comparison, that is behind us."""
        parts = [self.steps[one.number] / one.ends[-1] / self.search.length for one in self.lines
                 if one.number]
        if self.compare and self.search.rival.ends:
            parts.append(self.steps[0] / self.search.rival.ends[-1])
        return sum(parts) / (2 if self.compare else 1)

    def draw(self, on=None, record=None):
        """The bar, and the line of `on`; all lines if that is None."""
        self.bars[0].update(self.done() - self.bars[0].n)
        self.bars[0].set_description_str(round_name(self.search))
        for bar, one in zip(self.bars[2:], self.lines, strict=True):
            if on in (None, one):
                bar.set_description_str(fitted(row(self.search, one, self.vary, True, record)))

    def show(self, one, record):
        """record: None at the end of a round of one."""
        if record is None:
            self.on = None
            self.steps[one.number] = one.rounds[-1]["step"]
            self.say_end(one)
            if self.bars:
                self.draw()
            return
        began, self.on = self.on is not one, one
        self.steps[one.number] = record.step
        now = time.monotonic()
        if began or now - self.drawn_at >= (REDRAW_SECONDS if self.bars else PLAIN_LINE_SECONDS):
            self.drawn_at = now
            if self.bars:
                self.draw(one, record)
            else:
                say(f"{round_name(self.search)}: {said(one, self.vary)} at step {record.step} of "
                    f"{one.ends[-1]}, loss {record.loss:.3f}; {self.done():.0%} done")

    def say_end(self, one):
        entry, name = one.rounds[-1], said(one, self.vary)
        if entry["note"]:
            line = f"{name}: {entry['note']}"
            self.bars[0].write(line, file=sys.stderr) if self.bars else say(line)
        elif not self.bars:
            say(f"{name}: held back {entry['loss']:.4f} at step {entry['step']}")


def terminal_size():
    """(columns, lines) of standard error; of a terminal that knows none, the usual."""
    columns, lines = os.get_terminal_size(sys.stderr.fileno())
    return columns or 80, lines or 24


def fitted(line):
    """What of it a line of the terminal holds."""
    return line[: terminal_size()[0] - 1]


def round_name(search):
    """What is going on."""
    return ("the comparison" if search.through
            else f"round {search.round} of {search.rounds}")


def said(one, vary):
    """A candidate for people, with what it differs in."""
    if not one.number:
        return "the rival"
    values = one.to_json()
    what = [f"{name.replace('-', ' ')} {values[name.replace('-', '_')]}"
            for name in ("seed", *VARIED) if name in ("seed", *vary)]
    return f"candidate {one.number} ({', '.join(what)})"


def columns(vary, live):
    """Name -> width. live: with the loss of the step that was just taken."""
    return {name: width for name, width in WIDTHS.items()
            if (name in vary or name not in VARIED) and (live or name != "loss")}


def heading(vary, live):
    """The table's first line."""
    return " ".join(f"{name:>{width}}" for name, width in columns(vary, live).items())


def row(search, one, vary, live, record=None):
    """The table's line of a candidate. record: its last step, while it is trained."""
    entry = one.rounds[-1] if one.rounds else {"loss": None, "step": 0}
    cells = {name.replace("_", "-"): value for name, value in one.to_json().items()} | {
        "candidate": one.number or "rival",
        "step": f"{record.step if record else entry['step']}/{one.ends[-1] if one.ends else '?'}",
        "loss": f"{record.loss:.3f}" if record else "",
        "held back": "" if entry["loss"] is None else f"{entry['loss']:.4f}"}
    line = " ".join(f"{cells[name]!s:>{width}}" for name, width in columns(vary, live).items())
    return f"{line}  {state(search, one, record)}".rstrip()


def state(search, one, record):
    """In a word or two, where a candidate stands."""
    if one.diverged:
        return "diverged"
    if record:
        return "training"
    if not one.number:
        return "as long as all together" if one.rounds else "waits"
    if search.through:
        return "the best" if one is search.winner else f"out after round {len(one.rounds)}"
    if one not in search.standing(search.round):
        return f"out after round {len(one.rounds)}"
    return "waits" if len(one.rounds) < search.round else "measured"


def _tell(search, vary, result):
    compare = result["compare"]
    click.echo(heading(vary, live=False))
    for one in [*search.candidates, *([search.rival] if compare else [])]:
        click.echo(row(search, one, vary, live=False))
    low, high = result["interval"]
    click.echo(f"{result['output']}: {said(search.winner, vary)}, step {result['steps']}, loss "
               f"{result['loss']:.4f} (95%: {low:.4f} to {high:.4f}) on held-back text that nobody "
               "was chosen by")
    for number, told in enumerate(result["rounds"], 1):
        if told["candidates"] > 1:
            click.echo(f"round {number}: {told['candidates']} candidates, {told['best']:.4f} to "
                       f"{told['worst']:.4f}, standard deviation {told['deviation']:.4f}; the best "
                       f"in the end was no. {told['winner']}")
    click.echo("part of that is what varies, part the luck of seeds: without --vary a search shows "
               "the latter" if vary else
               "they differ in their seeds alone: that is luck, of starts and of batches")
    click.echo(_worth(search, result))


def _worth(search, result):
    compare = result["compare"]
    if compare is None:
        return (f"worth it? --compare tells: seed {search.rival.seed} alone for as long, "
                f"{result['rival_steps']} steps")
    rival = (f"seed {search.rival.seed} alone, {compare['steps']} steps, about "
             f"{compare['seconds']:.0f} s (the search: {result['seconds']:.0f} s)")
    if compare["loss"] is None:
        return f"worth it: {rival}, diverged"
    mean, low, high = compare["difference"]
    told = (f"{rival}, comes to {compare['loss']:.4f}; the search's is {abs(mean):.4f} "
            f"{'lower' if mean < 0 else 'higher'} (95%: {low:+.4f} to {high:+.4f})")
    if compare["worth"] is None:
        return f"worth it? This text cannot tell: {told}"
    if compare["worth"]:
        return f"worth it: {told}"
    return f"not worth it: {told}. The better model is {search.path_of(search.rival)}"
