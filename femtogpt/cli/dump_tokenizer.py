"""femtogpt dump-tokenizer"""

import click

from .options import FILE, load_model, model_option, require_absent, say


@click.command()
@model_option
@click.option("--tokenizer-data", type=FILE, default="tokenizer.json", show_default=True,
              help="The file to write; the format .tiktoken if its name ends so.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def command(model, tokenizer_data, force):
    """Write a model's tokenizer to a file.

    \b
    Example:
      femtogpt dump-tokenizer --tokenizer-data tokenizer.json
      femtogpt dump-tokenizer --tokenizer-data mine.tiktoken
    """
    from ..tokenizer import save_tokenizer

    tokenizer = load_model(model).tokenizer
    require_absent(tokenizer_data, force, "tokenizer")
    notes = save_tokenizer(tokenizer, tokenizer_data)
    click.echo(f"{tokenizer_data}: {tokenizer.name}, {tokenizer.vocab_size} tokens")
    for note in notes:
        say(f"note: {note}")
