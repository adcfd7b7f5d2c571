"""femtogpt export"""

from pathlib import Path

import click

from .options import (
    FILE,
    load_model,
    long_reading,
    model_option,
    require_absent,
    say,
    say_if_compiling,
)


@click.command()
@click.option("--format", "file_format", type=click.Choice(["femto", "hf", "html"]), required=True,
              help="What is to read it.")
@click.argument("positional", metavar="[OUTPUT]", type=FILE, required=False)
@click.option("--output", type=FILE, help="The file to write; hf: the folder.")
@model_option
@click.option("--dataset", "datasets", type=FILE, multiple=True,
              help="hf: a text, or a folder of them, to check and measure it on; may be given "
              "several times. [default: dataset.txt, if it is there]")
@click.option("--dtype", type=click.Choice(["float16", "float32"]),
              help="html: the weights' [default: float16, if greedy text is the same with it]")
@click.option("--force", is_flag=True, help="Replace a file, or an earlier export's folder.")
def command(file_format, positional, output, model, datasets, dtype, force):
    """Write a model as a file, or a folder, of another program.

    femto: the Rust femtoGPT's file; for models of recipe femto.

    hf: a folder for transformers (AutoModelForCausalLM, AutoTokenizer) with a model card. Where
    transformers and torch are installed it is checked first: ids, logits, greedy text.

    html: a page that holds the model and runs it in a browser, alone and offline.

    \b
    Example:
      femtogpt export --format femto model.dat --model model.safetensors
      femtogpt export --format hf folder --dataset book.txt
      femtogpt export --format html --output model.html
    """
    if (positional is None) == (output is None):
        raise click.UsageError("name the file to write, once: --output FILE")
    if dtype and file_format != "html":
        raise click.UsageError("--dtype is for --format html alone")
    if datasets and file_format != "hf":
        raise click.UsageError("--dataset is for --format hf alone: no other is checked on a text")
    output = output or positional
    if file_format == "hf":
        _to_transformers(output, model, datasets, force)
        return
    require_absent(output, force, "file")

    from ..exchange import femto, html

    loaded = load_model(model)
    if file_format == "html":
        say_if_compiling()
        notes = html.write(loaded, output, dtype)
    else:
        notes = femto.write(loaded, output)
    click.echo(f"{output}: {loaded.parameters.size:,} parameters, step {loaded.step}")
    for note in notes:
        say(f"note: {note}")


def _to_transformers(folder, model, datasets, force):
    from ..data import encode_texts, find_texts, fingerprint
    from ..exchange import hf

    hf.refuse_place(folder, force)
    loaded = load_model(model)
    if not datasets and Path("dataset.txt").exists():
        datasets = ("dataset.txt",)
    tokens = data = None
    if datasets:
        texts = find_texts(datasets)
        say_if_compiling(loaded.tokenizer)
        data = fingerprint(texts)
        with long_reading("tokenizing") as progress:
            tokens = encode_texts(loaded.tokenizer, texts, data, progress, say)
    say_if_compiling()
    done = hf.write(loaded, folder, tokens, data, force)
    click.echo(f"{folder}: {done.architecture}, {loaded.parameters.size:,} parameters, step "
               f"{loaded.step}")
    if done.checked:
        check = done.checked
        text = "the dataset" if datasets else "random tokens"
        further = (", until two tokens are as likely, by rounding" if check.tie else
                   ", past the context's end too" if check.slides else "")
        click.echo(f"in transformers: ids the same; logits at most {check.difference:.2g} off, on "
                   f"{check.windows} windows of {text}; greedy text the same, {check.generated} "
                   f"tokens{further}")
    for note in done.notes:
        say(f"note: {note}")
