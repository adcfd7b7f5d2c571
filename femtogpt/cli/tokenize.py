"""femtogpt tokenize"""

import json
from pathlib import Path

import click

from ..errors import FemtoError
from .options import dataset_option, json_option, model_option, tokenizer_of


@click.command()
@model_option
@click.option("--tokenizer-data", help="A tokenizer's file, instead of a model's.")
@dataset_option
@click.option("--pieces", is_flag=True, help="The pieces instead of their ids.")
@click.option("--output", help="The file to write. [default: standard output]")
@json_option
def command(model, tokenizer_data, datasets, pieces, output, as_json):
    """Print a text's token ids, one document a line.

    \b
    Example:
      femtogpt tokenize --tokenizer-data tokenizer.json --pieces
    """
    from ..data import read_texts

    tokenizer = tokenizer_of(model, tokenizer_data)
    documents = [tokenizer.encode(text).tolist() for text in read_texts(datasets)]
    if pieces:
        # As bytes may be no text, and a newline would end the line, escapes as in Python.
        documents = [[ascii(tokenizer.piece(id).decode("utf-8", "backslashreplace"))[1:-1]
                      for id in ids] for ids in documents]
    lines = [("|" if pieces else " ").join(map(str, ids)) for ids in documents]
    text = json.dumps(documents) if as_json else "\n".join(lines)
    if output is None:
        click.echo(text)
        return
    try:
        Path(output).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise FemtoError(f"--output {output} cannot be written: {error.strerror}") from None
