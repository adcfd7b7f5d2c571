"""femtogpt compare"""

import click

from .options import FILE, json_option, load_model, print_json, printable


@click.command(short_help="Tell what two models share, and how far apart they are.")
@click.argument("model_a", type=FILE, metavar="A")
@click.argument("model_b", type=FILE, metavar="B")
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True,
              help="How many tokens to list, of the farthest and of the nearest.")
@click.option("--reverse", is_flag=True, help="The nearest first.")
@json_option
def command(model_a, model_b, limit, reverse, as_json):
    """Tell what two models share: lineage, and the cosine of every tensor and token.

    \b
    Example:
      femtogpt compare model.safetensors.previous model.safetensors
    """
    from ..run import chronicle
    from ..surgery.compare import compare

    a, b = load_model(model_a), load_model(model_b)
    found = compare(a, b)
    tokens = found["tokens"]
    if tokens is not None:
        tokens.sort(key=lambda token: token["cosine"], reverse=reverse)
        for token in tokens:
            token["piece"] = printable(a.tokenizer.piece(token["id_a"]))
    if as_json:
        print_json(found)
        return
    for path, model in ((model_a, a), (model_b, b)):
        click.echo(f"{path}: {model.parameters.size:,} parameters, step {model.step}, "
                   f"{len(chronicle(model))} entries of lineage, {found['shared']} of them shared")
    width = max(len(row["name"] or row["name_b"]) for row in found["tensors"])
    click.echo(f"{'':{width}}  cosine  norm of A  norm of B  |B - A| / |A|")
    for row in found["tensors"]:
        name, there = row["name"], row["name_b"]
        cells = [_cell(row["cosine"], 6, 4), _cell(row["norm_a"], 9, 3),
                 _cell(row["norm_b"], 9, 3), _cell(row["difference"], 13, 4)]
        note = ("only in B" if name is None else "only in A" if there is None
                else "shapes differ" if row["cosine"] is None
                else f"{'.'.join(there.split('.')[:2])} in B" if there != name else "")
        click.echo(f"{name or there:{width}}  {'  '.join(cells)}  {note}".rstrip())
    if tokens is None:
        click.echo("the widths differ: embeddings of tokens cannot be compared")
        return
    ends = [("farthest", tokens[:limit]), ("nearest", tokens[::-1][:limit])]
    if reverse:
        ends = [("nearest", tokens[:limit]), ("farthest", tokens[::-1][:limit])]
    for what, listed in ends:
        click.echo(f"{what} of {len(tokens)} tokens that both have:")
        for token in listed:
            click.echo(f"  {token['cosine']:7.4f}  |{token['piece']}|")


def _cell(value, width, digits):
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"
