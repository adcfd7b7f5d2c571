"""femtogpt count-tokens"""

import click

from .options import (
    dataset_option,
    encoded,
    json_option,
    model_option,
    print_json,
    printable,
    tokenizer_data_option,
    tokenizer_of,
)


@click.command()
@model_option
@tokenizer_data_option
@dataset_option
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True,
              help="How many tokens to list.")
@click.option("--reverse", is_flag=True, help="The rarest first.")
@json_option
def command(model, tokenizer_data, datasets, limit, reverse, as_json):
    """Tell how often each token occurs in a text.

    \b
    Example:
      femtogpt count-tokens --tokenizer-data tokenizer.json --reverse
    """
    import numpy as np

    from ..data import count_bytes, count_tokens

    tokenizer = tokenizer_of(model, tokenizer_data)
    tokens = encoded(tokenizer, datasets)
    counts = count_tokens(tokens, tokenizer.vocab_size)
    total, num_bytes = int(counts.sum()), count_bytes(tokenizer, counts)
    order = np.argsort(counts if reverse else -counts, kind="stable")[:limit].tolist()
    listed = [{"id": id, "piece": printable(tokenizer.piece(id)), "count": int(counts[id])}
              for id in order]
    if as_json:
        print_json({"tokens": total, "bytes": num_bytes, "vocab_size": tokenizer.vocab_size,
                    "unused": int((counts == 0).sum()), "counts": listed})
        return
    width = len(f"{counts.max():,}")
    for entry in listed:
        click.echo(f"{entry['count']:>{width},} {entry['count'] / total:7.3%}  {entry['id']:>6}  "
                   f"|{entry['piece']}|")
    click.echo(f"{total:,} tokens, {num_bytes / total:.2f} bytes a token; "
               f"{int((counts == 0).sum())} of {tokenizer.vocab_size} tokens do not occur")
