"""femtogpt tokenize"""

import contextlib

import click

from ..errors import FemtoError
from .options import dataset_option, json_option, model_option, print_json, tokenizer_of


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
    try:
        out = open(output, "w", encoding="utf-8") if output else contextlib.nullcontext()
    except OSError as error:
        raise FemtoError(f"--output {output} cannot be written: {error.strerror}") from None
    with out as file:
        if as_json:
            print_json(documents) if file is None else click.echo(str(documents), file=file)
            return
        for ids in documents:
            click.echo(("|" if pieces else " ").join(map(str, ids)), file=file)
