"""femtogpt export"""

from pathlib import Path

import click

from .options import (
    FILE,
    format_option,
    load_model,
    long_reading,
    model_option,
    require_absent,
    say,
    say_if_compiling,
)


@click.command()
@format_option
@click.argument("output", type=FILE)
@model_option
@click.option("--dataset", "datasets", type=FILE, multiple=True,
              help="hf: a text, or a folder of them, to check and measure it on; may be given "
              "several times. [default: dataset.txt, if it is there]")
@click.option("--force", is_flag=True, help="Replace a file, or an earlier export's folder.")
def command(file_format, output, model, datasets, force):
    """Write a model as a file, or a folder, of another program.

    femto: the Rust femtoGPT's file; for models of recipe femto.

    hf: a folder for transformers (AutoModelForCausalLM, AutoTokenizer) with a model card. Where
    transformers and torch are installed it is checked first: ids, logits, greedy text.

    \b
    Example:
      femtogpt export --format femto model.dat --model model.safetensors
      femtogpt export --format hf folder --dataset book.txt
    """
    if file_format == "hf":
        _to_transformers(output, model, datasets, force)
        return
    if datasets:
        raise click.UsageError("--dataset is for --format hf; a file of femto's is not checked")
    require_absent(output, force, "file")

    from ..exchange import femto

    loaded = load_model(model)
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
