"""femtogpt reset-optimizer"""

import os

import click

from .options import load_model, model_option


@click.command(short_help="Drop the optimizer's state; the file shrinks to a third.")
@model_option
def command(model):
    """Drop the optimizer's state: the file shrinks, the model stays.

    \b
    Example:
      femtogpt reset-optimizer --model model.safetensors
    """
    from .. import checkpoint
    from ..durable import lock

    with lock(model):
        loaded = load_model(model)
        before = os.path.getsize(model) if os.path.exists(model) else 0
        loaded.optimizer = None
        loaded.lineage.append({"reset_optimizer": {"step": loaded.step}})
        checkpoint.save(loaded, model)
    click.echo(f"{model}: {before:,} -> {os.path.getsize(model):,} bytes")
