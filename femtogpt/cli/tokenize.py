"""femtogpt tokenize"""

import json
from functools import cache

import click

from ..errors import FemtoError
from .options import (
    FILE,
    dataset_option,
    json_option,
    long_reading,
    model_option,
    printable,
    say,
    tokenizer_data_option,
    tokenizer_of,
)

# What stands before all, between words, before, between and behind documents, behind all.
IDS = ("", " ", "", "\n", "", "\n")
PIECES = ("", "|", "", "\n", "", "\n")
JSON = ("[", ", ", "[", ", ", "]", "]\n")


@click.command()
@model_option
@tokenizer_data_option
@dataset_option
@click.option("--pieces", is_flag=True, help="The pieces instead of their ids.")
@click.option("--binary", is_flag=True,
              help="With --output: a file that train reads in the text's place, mapped.")
@click.option("--output", type=FILE, help="The file to write. [default: standard output]")
@json_option
def command(model, tokenizer_data, datasets, pieces, binary, output, as_json):
    """Print a text's token ids, one document a line.

    \b
    Example:
      femtogpt tokenize --tokenizer-data tokenizer.json --pieces
      femtogpt tokenize --dataset a.txt --binary --output a.tokens
    """
    if binary and (output is None or pieces or as_json):
        raise click.UsageError("--binary needs an --output, and goes without --pieces and --json")

    from ..data import encode_texts, find_texts

    tokenizer = tokenizer_of(model, tokenizer_data)
    # All of them before a line is printed: what cannot be spelled leaves no half a result.
    with long_reading("tokenizing") as progress:
        documents = [encode_texts(tokenizer, [text], progress=progress, warn=say)
                     for text in find_texts(datasets)]

    if binary:
        from ..token_files import write

        write(output, tokenizer, documents)
        say(f"{output}: {sum(map(len, documents)):,} tokens")
        return

    @cache
    def word(id):
        if not pieces:
            return str(id)
        piece = printable(tokenizer.piece(id))  # a newline, too, would end the line
        return json.dumps(piece) if as_json else piece

    layout = JSON if as_json else PIECES if pieces else IDS
    if output is None:
        for part in _laid_out(documents, word, layout):
            click.echo(part, nl=False)
        return
    try:
        with open(output, "w", encoding="utf-8") as file:
            file.writelines(_laid_out(documents, word, layout))
    except OSError as error:
        raise FemtoError(f"--output {output} cannot be written: {error.strerror}") from None


def _laid_out(documents, word, layout):
    """The documents as text, a block of tokens at a time."""
    from ..data import blocks

    first, between, begin, then, end, last = layout
    yield first
    for number, tokens in enumerate(documents):
        yield (then if number else "") + begin
        for i, block in enumerate(blocks(tokens)):
            yield (between if i else "") + between.join(map(word, block.tolist()))
        yield end
    yield last
