"""femtogpt loss"""

import click

from .options import json_option, load_model, model_option, print_json


@click.command()
@model_option
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True,
              help="How many of the last steps.")
@json_option
def command(model, limit, as_json):
    """Print the last losses of a model's training.

    \b
    Example:
      femtogpt loss --limit 100
    """
    loaded = load_model(model)
    losses = loaded.history.losses
    first = loaded.step - len(losses) + 1  # of the history's first loss
    last = [{"step": first + i, "loss": losses[i]} for i in range(len(losses))][-limit:]
    if as_json:
        print_json(last)
    elif not last:
        click.echo("no step was trained yet")
    for row in [] if as_json else last:
        click.echo(f"step {row['step']}: loss {row['loss']:.4f}")
