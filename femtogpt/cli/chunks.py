"""femtogpt chunks"""

import click

from ..errors import FemtoError
from .options import (
    FILE,
    dataset_option,
    encoded,
    json_option,
    load_model,
    model_option,
    print_json,
    printable,
    require_absent,
    say_if_compiling,
    threads_option,
)

SHOWN = 60  # bytes of a chunk


@click.command()
@model_option
@dataset_option
@click.option("--chunk-size", type=click.IntRange(1), default=1000, show_default=True,
              help="Tokens of a chunk, rounded up to whole windows of num_tokens.")
@click.option("--count", type=click.IntRange(1), default=5, show_default=True,
              help="How many to list, of the hardest and of the easiest.")
@click.option("--output", type=FILE,
              help="A text file to write: the hardest chunks, in the text's order.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@threads_option
@json_option
def command(model, datasets, chunk_size, count, output, force, threads, as_json):
    """Tell which parts of a text a model finds easy and hard.

    \b
    Example:
      femtogpt chunks --count 3
      femtogpt chunks --count 100 --output hard.txt
    """
    from ..scoring import chunks

    loaded = load_model(model)
    if output:
        require_absent(output, force, "file")
    tokens = encoded(loaded.tokenizer, datasets)
    say_if_compiling()
    found = chunks(loaded, tokens, chunk_size, threads)
    for chunk in found:
        begin, end = chunk["begin"], chunk["end"]
        start = loaded.tokenizer.decode(tokens[begin : min(end, begin + SHOWN)])
        chunk["text"] = printable(start[:SHOWN])
    order = sorted(found, key=lambda chunk: -chunk["loss"])
    hardest, easiest = order[:count], order[::-1][:count]
    if output:
        _write(output, loaded.tokenizer, tokens, sorted(hardest, key=lambda chunk: chunk["begin"]))
    if as_json:
        print_json(found)
        return
    for what, listed in (("hardest", hardest), ("easiest", easiest)):
        click.echo(f"{what} of {len(found)} chunks: nats a token, bits per byte, at byte")
        for chunk in listed:
            click.echo(f"  {chunk['loss']:7.4f}  {chunk['bits_per_byte']:6.3f}  "
                       f"{chunk['byte']:>9}  |{chunk['text']}|")
    if output:
        click.echo(f"{output}: the {len(hardest)} hardest")


def _write(path, tokenizer, tokens, listed):
    """The chunks' text, a newline behind each that has none."""
    try:
        with open(path, "wb") as file:
            for chunk in listed:
                text = tokenizer.decode(tokens[chunk["begin"] : chunk["end"]])
                file.write(text if text.endswith(b"\n") else text + b"\n")
    except OSError as error:
        raise FemtoError(f"--output {path} cannot be written: {error.strerror}") from None
