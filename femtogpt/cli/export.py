"""femtogpt export"""

import click

from .options import FILE, format_option, load_model, model_option, require_absent, say


@click.command()
@format_option
@click.argument("output", type=FILE)
@model_option
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def command(file_format, output, model, force):
    """Write a model as a file of another program.

    femto: the Rust femtoGPT's; for models of recipe femto.

    \b
    Example:
      femtogpt export --format femto model.dat --model model.safetensors
    """
    require_absent(output, force, "file")

    from ..exchange import femto

    loaded = load_model(model)
    notes = femto.write(loaded, output)
    click.echo(f"{output}: {loaded.parameters.size:,} parameters, step {loaded.step}")
    for note in notes:
        say(f"note: {note}")
