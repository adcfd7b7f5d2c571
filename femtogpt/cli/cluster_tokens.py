"""femtogpt cluster-tokens"""

import click

from .options import encoded, json_option, load_model, model_option, print_json, printable

NEIGHBOURS = 4


@click.command(short_help="Tell which tokens are alike to a model.")
@model_option
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True,
              help="How many tokens to list.")
@click.option("--dataset", "datasets", multiple=True,
              help="Only tokens that occur in this text; of others a model knows nothing.")
@json_option
def command(model, limit, datasets, as_json):
    """Tell which tokens are alike to a model: those with the nearest neighbours.

    Alike as they are read, by the cosine of their embeddings; and as they are written, by that of
    the head's columns, less the mean of all, which softmax does not see.

    \b
    Example:
      femtogpt cluster-tokens --limit 50 --dataset dataset.txt
    """
    import numpy as np

    from ..data import count_tokens
    from ..surgery.compare import nearest_tokens
    from ..tensors import views

    loaded = load_model(model)
    p = views(loaded.parameters, loaded.config)
    ids = np.arange(loaded.config.vocab_size)
    if datasets:
        tokens = encoded(loaded.tokenizer, datasets)
        ids = np.flatnonzero(count_tokens(tokens, ids.size))

    def token(place):
        id = int(ids[place])
        return {"id": id, "piece": printable(loaded.tokenizer.piece(id))}

    columns = p.head_weight.T[ids]
    columns = columns - columns.mean(0)
    found = {
        what: [token(id) | {"nearest": [token(n) | {"cosine": c} for n, c in nearest]}
               for id, nearest in nearest_tokens(table, NEIGHBOURS, limit)]
        for what, table in (("embedding", p.token_embedding[ids]), ("head", columns))
    }
    if as_json:
        print_json(found)
        return
    for what, rows in found.items():
        click.echo(f"by {what}:")
        for row in rows:
            nearest = "  ".join(f"|{n['piece']}| {n['cosine']:.3f}" for n in row["nearest"])
            click.echo(f"  |{row['piece']}|  {nearest}")
