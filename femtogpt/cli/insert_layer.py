"""femtogpt insert-layer"""

import click

from .options import FILE, encoded, load_model, require_absent, say_if_compiling


@click.command(short_help="Make a model deeper; at first it computes the same.")
@click.option("--input", "source", type=FILE, default="model.safetensors", show_default=True,
              help="The model file to read.")
@click.option("--output", type=FILE, help="The model file to write.")
@click.option("--insert-at", "places", type=click.IntRange(0), multiple=True,
              help="Before which layer of the input, counted from 0; its number of layers: behind "
              "the last. May be given several times.")
@click.option("--dataset", "datasets", multiple=True,
              help="Tell the loss on this text, before and after. [recipe femto without it: on "
              "random tokens]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True)
@click.option("--force", is_flag=True, help="Replace a model that is there.")
def command(source, output, places, datasets, seed, force):
    """Make a model deeper, by layers that at first change nothing it computes.

    \b
    Example:
      femtogpt insert-layer --output deeper.safetensors --insert-at 2
      femtogpt train --model deeper.safetensors --steps 500
    """
    if not output:
        raise click.UsageError("--output is missing: name the model file to write")
    if not places:
        raise click.UsageError("--insert-at is missing: say before which layer, from 0")

    from .. import checkpoint
    from ..durable import lock
    from ..surgery.depth import insert_layers, random_windows

    model = load_model(source)
    require_absent(output, force, "model")
    windows = _windows(model, datasets) if datasets else None
    exact = model.config.recipe == "standard"
    if windows is None and not exact:
        windows = random_windows(model.config, seed)
    if windows is not None:
        say_if_compiling()
    deeper = insert_layers(model, places, seed, windows)
    with lock(output):
        require_absent(output, force, "model")
        checkpoint.save(deeper, output)
    click.echo(f"{output}: {deeper.parameters.size:,} parameters, {deeper.config.num_layers} "
               f"layers, {len(places)} of them new"
               + ("; it computes what it computed before" if exact else ""))
    if windows is not None:
        before, after = (_loss(m, windows) for m in (model, deeper))
        click.echo(f"loss on {'the dataset' if datasets else 'random tokens'}: {before:.6f} "
                   f"before, {after:.6f} after ({after - before:+.1e})")


def _windows(model, datasets):
    """Up to 64 windows, evenly from the whole text."""
    from ..batches import spread_windows
    from ..scoring import check_length

    tokens = encoded(model.tokenizer, datasets)
    check_length(tokens, model.config.num_tokens)
    return spread_windows(tokens, model.config.num_tokens, 64)


def _loss(model, windows):
    from ..parallel import Engine

    with Engine(model.config, len(windows), None) as engine:
        return engine.mean_loss(model.parameters, windows)
