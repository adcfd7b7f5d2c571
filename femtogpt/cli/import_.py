"""femtogpt import"""

import click

from .options import FILE, format_option, model_option, require_absent, say


@click.command("import")
@format_option
@click.argument("file", type=FILE)
@model_option
@click.option("--force", is_flag=True, help="Replace a model that is there.")
def command(file_format, file, model, force):
    """Make a model of another program's file, or folder.

    femto: the Rust femtoGPT's, with its tokenizer, losses, log and optimizer.

    hf: a folder that `femtogpt export --format hf` wrote; nothing in it is run.

    \b
    Example:
      femtogpt import --format femto model.dat --model model.safetensors
      femtogpt import --format hf folder --model model.safetensors
    """
    require_absent(model, force, "model")

    from .. import checkpoint
    from ..durable import lock
    from ..exchange import femto, hf

    loaded, notes = (hf if file_format == "hf" else femto).read(file)
    with lock(model):
        require_absent(model, force, "model")  # again, for two that start together
        checkpoint.save(loaded, model)
    click.echo(f"{model}: {loaded.parameters.size:,} parameters, step {loaded.step}")
    for note in notes:
        say(f"note: {note}")
