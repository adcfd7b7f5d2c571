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
@click.option("--format", "file_format", type=click.Choice(["femto", "gguf", "hf", "html", "onnx"]),
              required=True, help="What is to read it.")
@click.argument("positional", metavar="[OUTPUT]", type=FILE, required=False)
@click.option("--output", type=FILE, help="The file to write; hf: the folder.")
@model_option
@click.option("--dataset", "datasets", type=FILE, multiple=True,
              help="gguf, hf, onnx: a text, or a folder of them, to check it on; hf: to measure it "
              "on too; may be given several times. [default: dataset.txt, if it is there]")
@click.option("--dtype", type=click.Choice(["float16", "float32", "q8_0"]),
              help="The weights'. html: no q8_0 [default: float16, if greedy text is the same with "
              "it]; gguf: [default: float32]")
@click.option("--force", is_flag=True, help="Replace a file, or an earlier export's folder.")
def command(file_format, positional, output, model, datasets, dtype, force):
    """Write a model as a file, or a folder, of another program.

    femto: the Rust femtoGPT's file; for models of recipe femto.

    gguf: a file for llama.cpp; for models of recipe standard. Where llama-cpp-python is installed
    it is checked first: ids, logits, greedy text.

    hf: a folder for transformers (AutoModelForCausalLM, AutoTokenizer) with a model card. Where
    transformers and torch are installed it is checked first: ids, logits, greedy text.

    html: a page that holds the model and runs it in a browser, alone and offline.

    onnx: a file for onnxruntime: input_ids (batch, sequence) to logits (batch, sequence,
    vocabulary), float32. Where onnxruntime is installed its logits are checked first.

    \b
    Example:
      femtogpt export --format femto model.dat --model model.safetensors
      femtogpt export --format gguf --output model.gguf --dtype q8_0
      femtogpt export --format hf folder --dataset book.txt
      femtogpt export --format html --output model.html
      femtogpt export --format onnx --output model.onnx
    """
    if (positional is None) == (output is None):
        raise click.UsageError("name the file to write, once: --output FILE")
    if dtype and file_format not in ("gguf", "html"):
        raise click.UsageError("--dtype is for --format gguf and html alone")
    if dtype == "q8_0" and file_format == "html":
        raise click.UsageError("--dtype q8_0 is for --format gguf alone")
    if datasets and file_format not in ("gguf", "hf", "onnx"):
        raise click.UsageError("--dataset is for --format gguf, hf and onnx alone: no other is "
                               "checked on a text")
    output = output or positional
    if file_format == "hf":
        _to_transformers(output, model, datasets, force)
        return
    require_absent(output, force, "file")

    from ..exchange import femto, html

    loaded = load_model(model)
    if file_format == "gguf":
        _to_llama_cpp(output, loaded, datasets, dtype or "float32")
        return
    if file_format == "onnx":
        _to_onnxruntime(output, loaded, datasets)
        return
    if file_format == "html":
        say_if_compiling(what="text")
        notes = html.write(loaded, output, dtype)
    else:
        notes = femto.write(loaded, output)
    click.echo(f"{output}: {loaded.parameters.size:,} parameters, step {loaded.step}")
    for note in notes:
        say(f"note: {note}")


def _read(datasets, loaded):
    """(the tokens of the datasets, their fingerprint); None where there are none."""
    if not datasets and Path("dataset.txt").exists():
        datasets = ("dataset.txt",)
    if not datasets:
        return None, None

    from ..data import encode_texts, find_texts, fingerprint

    texts = find_texts(datasets)
    say_if_compiling(loaded.tokenizer)
    data = fingerprint(texts)
    with long_reading("tokenizing") as progress:
        return encode_texts(loaded.tokenizer, texts, data, progress, say), data


def _to_llama_cpp(output, loaded, datasets, dtype):
    from ..exchange import gguf

    tokens, _ = _read(datasets, loaded)
    if not gguf.missing():
        say_if_compiling()
    done = gguf.write(loaded, output, dtype, tokens)
    click.echo(f"{output}: {done.architecture}, {loaded.parameters.size:,} parameters, step "
               f"{loaded.step}, {dtype}")
    if done.checked:
        check = done.checked
        text = "random tokens" if tokens is None else "the dataset"
        parted = (f" (where they part, the model's own logits of the two tokens are at most "
                  f"{check.apart:.2g} apart)" if check.same < check.texts else "")
        click.echo(f"in llama.cpp: ids the same; logits at most {check.difference:.2g} off, on "
                   f"{check.windows} windows of {text}; greedy text the same in {check.same} of "
                   f"{check.texts} up to the context's end{parted}")
    for note in done.notes:
        say(f"note: {note}")


def _to_transformers(folder, model, datasets, force):
    from ..exchange import hf

    hf.refuse_place(folder, force)
    loaded = load_model(model)
    tokens, data = _read(datasets, loaded)
    say_if_compiling()
    done = hf.write(loaded, folder, tokens, data, force)
    click.echo(f"{folder}: {done.architecture}, {loaded.parameters.size:,} parameters, step "
               f"{loaded.step}")
    if done.checked:
        check = done.checked
        text = "random tokens" if tokens is None else "the dataset"
        further = (", until two tokens are as likely, by rounding" if check.tie else
                   ", past the context's end too" if check.slides else "")
        click.echo(f"in transformers: ids the same; logits at most {check.difference:.2g} off, on "
                   f"{check.windows} windows of {text}; greedy text the same, {check.generated} "
                   f"tokens{further}")
    for note in done.notes:
        say(f"note: {note}")


def _to_onnxruntime(output, loaded, datasets):
    from ..exchange import onnx

    tokens, _ = _read(datasets, loaded)
    if not onnx.missing():
        say_if_compiling()
    done = onnx.write(loaded, output, tokens)
    click.echo(f"{output}: {done.size / 1e6:,.2f} MB, {loaded.parameters.size:,} parameters, step "
               f"{loaded.step}, float32")
    if done.checked:
        check = done.checked
        text = "random tokens" if tokens is None else "the dataset"
        further = f", and {check.beyond} tokens past the context's end" if check.beyond else ""
        click.echo(f"in onnxruntime: logits at most {check.difference:.2g} off, on {check.windows} "
                   f"windows of {text}{further}")
    for note in done.notes:
        say(f"note: {note}")
