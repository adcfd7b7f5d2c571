"""Options that several commands share, and what they share in using them."""

import json
import sys
import time
from contextlib import contextmanager, suppress

import click

from ..errors import FemtoError

COMPLETE = "_FEMTOGPT_COMPLETE"  # set, by a shell: femtogpt completes a line, and does nothing else
COMPILED_TOKENIZERS = ("bpe", "pathpiece")
# What commands compute: what is compiled for it, and about how many seconds that takes.
COMPILED = {"a loss": ("femtogpt_*/model.forward_and_head-*", 8),
            "training": ("femtogpt_*/model.model_backward-*", 10),
            "text": ("femtogpt_*/decoder.*", 6)}
PLAIN_LINE_SECONDS = 10  # between lines where standard error is not a terminal

# Paths, for shells to complete; whether a file can be read is found out on reading it.
FILE = click.Path(readable=False)
FOLDER = click.Path(readable=False, file_okay=False)
FOLDER.name = "folder"

model_option = click.option(
    "--model", type=FILE, default="model.safetensors", show_default=True, help="The model file."
)
dataset_option = click.option(
    "--dataset", "datasets", type=FILE, multiple=True, default=("dataset.txt",),
    show_default="dataset.txt",
    help="A text file, or a folder of them; may be given several times.",
)
format_option = click.option(
    "--format", "file_format", type=click.Choice(["femto", "hf"]), required=True,
    help="The other program.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
tokenizer_data_option = click.option(
    "--tokenizer-data", type=FILE, help="A tokenizer's file, instead of a model's."
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), help="[default: all processors]"
)
reserve_option = click.option(
    "--reserve-tokens", type=click.IntRange(0, 2**20), default=0, show_default=True,
    help="Ids without a meaning yet, added after the vocabulary.",
)
case_option = click.option(
    "--case-sensitive/--case-insensitive", default=True, show_default="sensitive",
    help="Insensitive: all text is lower-cased first.",
)
SHAPE_OPTIONS = (
    click.option("--tokenizer", "kind", type=click.Choice(["byte", "ascii", "char", "bpe"]),
                 default="byte", show_default=True),
    click.option("--tokenizer-data", type=FILE,
                 help="char: a text [default: dataset.txt]; bpe: what train-bpe wrote, or a "
                 "JSON array of strings [default: tokenizer.json]."),
    reserve_option,
    case_option,
    click.option("--num-tokens", type=click.IntRange(1), default=80, show_default=True,
                 help="The context: tokens the model sees at once."),
    click.option("--embedding-degree", type=click.IntRange(1), default=80, show_default=True,
                 help="The width."),
    click.option("--num-layers", type=click.IntRange(1), default=4, show_default=True),
    click.option("--num-heads", type=click.IntRange(1), default=4, show_default=True),
    click.option("--recipe", type=click.Choice(["standard", "femto"]), default="standard",
                 show_default=True, help="femto: the original's design, to reproduce its runs."),
    click.option("--positional-encoding",
                 type=click.Choice(["rope", "absolute", "learned", "none"]),
                 help="[default: rope; recipe femto: absolute]"),
)


def shape_options(command):
    """Gives a command all that make_shape asks for."""
    for option in reversed(SHAPE_OPTIONS):
        command = option(command)
    return command


silent = False  # in all ranks of a training but the first


def silence():
    """Has say() say nothing from now on."""
    global silent
    silent = True


def say(message):
    """A line for the person at the terminal; results go to standard output instead.

    That nobody reads it any more (a closed terminal, a pipe to `head`) must not end a run. Of
    several ranks, one speaks.
    """
    if silent:
        return
    with suppress(OSError):
        click.echo(message, err=True)


def print_json(values):
    """A result as one line of JSON."""
    click.echo(json.dumps(values))


def load_model(path):
    """The model at path; says so where a damaged file made way for the previous one."""
    from .. import checkpoint

    model = checkpoint.load(path)
    if model.recovered:
        say(f"warning: {model.recovered}")
    return model


def tokenizer_of(model, tokenizer_data):
    """The tokenizer of --tokenizer-data if that is given, else the model's."""
    from ..tokenizer import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_data) if tokenizer_data else load_model(model).tokenizer
    say_if_compiling(tokenizer)
    return tokenizer


def make_tokenizer(kind, data, reserve_tokens=0, case_sensitive=True):
    """What --tokenizer and --tokenizer-data ask for. Raises FemtoError, which names the file."""
    from pathlib import Path

    from ..data import read_texts
    from ..tokenizer import (
        AsciiTokenizer,
        ByteTokenizer,
        LowercaseTokenizer,
        ReservedTokenizer,
        load_tokenizer,
        train_char,
    )
    from ..tokenizer.split import lower

    if kind == "char":
        text = b"\n".join(read_texts([data or "dataset.txt"], "--tokenizer-data"))
        if not case_sensitive:
            text = lower(text.decode("utf-8", "surrogateescape"))
        tokenizer = train_char(text)
    elif kind == "bpe":
        path = data or "tokenizer.json"
        if not Path(path).exists():
            raise FemtoError(f"{path} does not exist: make it with `femtogpt train-bpe`, or name "
                             "a tokenizer with --tokenizer-data")
        tokenizer = load_tokenizer(path)
    else:
        tokenizer = ByteTokenizer() if kind == "byte" else AsciiTokenizer()
    if not case_sensitive:
        tokenizer = LowercaseTokenizer(tokenizer)
    return ReservedTokenizer(tokenizer, reserve_tokens) if reserve_tokens else tokenizer


def make_shape(kind, options):
    """(tokenizer, GPTConfig) of the shape_options. kind: --tokenizer; options: the others."""
    from ..config import GPTConfig

    tokenizer = make_tokenizer(kind, options["tokenizer_data"], options["reserve_tokens"],
                               options["case_sensitive"])
    names = ("num_tokens", "embedding_degree", "num_layers", "num_heads", "recipe",
             "positional_encoding")
    try:
        return tokenizer, GPTConfig(tokenizer.vocab_size, **{name: options[name] for name in names})
    except FemtoError as error:  # options that do not go together
        raise click.UsageError(str(error)) from None


@contextmanager
def long_work(what, unit, scale=1):
    """Yields a callback(done, total) that shows, on standard error, what takes long.

    unit: the word for what is counted, scale: how many make one of it.
    """
    from tqdm import tqdm

    terminal, last = sys.stderr.isatty(), time.monotonic()
    with tqdm(desc=what, unit="B" if scale > 1 else unit, unit_scale=scale > 1, delay=1,
              leave=False, disable=not terminal) as bar:
        def progress(done, total):
            nonlocal last
            if terminal:
                bar.total = total
                bar.update(done - bar.n)
            elif time.monotonic() - last >= PLAIN_LINE_SECONDS:
                last = time.monotonic()
                say(f"{what}: {done / scale:,.0f} of {total / scale:,.0f} {unit}")

        yield progress


def long_reading(what):
    """long_work that counts bytes."""
    return long_work(what, "MB", 1_000_000)


def encoded(tokenizer, datasets):
    """The tokens of --dataset, with word of what takes long."""
    from ..data import encode_texts, find_texts

    texts = find_texts(datasets)
    say_if_compiling(tokenizer)
    with long_reading("tokenizing") as progress:
        return encode_texts(tokenizer, texts, progress=progress, warn=say)


def require_absent(path, force, what):
    """Refuses to replace a file, unless with --force. what: the word for it."""
    from pathlib import Path

    if Path(path).exists() and not force:
        raise FemtoError(f"{path} exists already: give --force to replace that {what}, or "
                         "another name")


def say_if_compiling(tokenizer=None, what="a loss", precision="float32"):
    """Numba compiles on first use, which takes a while: says so, once.

    tokenizer: what is about to encode a text; or None, and what: of COMPILED, what is about to be
    computed. precision: a run's.
    """
    from ..layers import numeric
    from ..layers.precision import is_compiled

    if tokenizer is not None and tokenizer.name not in COMPILED_TOKENIZERS:
        return
    kernels, seconds = COMPILED[what] if tokenizer is None else ("tokenizer_*/*", 10)
    if numeric.CACHE_FOLDER is None:
        say("compiling (each time: the cache folder cannot be written, or others can too) ...")
    elif not (is_compiled(kernels, precision) if "model." in kernels
              else numeric.is_compiled(kernels)):
        say(f"compiling for this machine, once: some {seconds} seconds ...")


def printable(piece):
    """A token's bytes for a reader: text, and escapes as in Python where it is none."""
    return ascii(piece.decode("utf-8", "backslashreplace"))[1:-1]
