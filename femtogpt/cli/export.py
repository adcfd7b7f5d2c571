"""femtogpt export"""

import click

from .options import FILE, load_model, model_option, require_absent, say, say_if_compiling


@click.command()
@click.option("--format", "file_format", type=click.Choice(["femto", "html"]), required=True,
              help="What is to read it.")
@click.argument("positional", metavar="[OUTPUT]", type=FILE, required=False)
@click.option("--output", type=FILE, help="The file to write.")
@model_option
@click.option("--dtype", type=click.Choice(["float16", "float32"]),
              help="html: the weights' [default: float16, if greedy text is the same with it]")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def command(file_format, positional, output, model, dtype, force):
    """Write a model as a file of another program.

    \b
    femto: the Rust femtoGPT's; for models of recipe femto.
    html: a page that holds the model and runs it in a browser, alone and offline.

    \b
    Example:
      femtogpt export --format femto model.dat --model model.safetensors
      femtogpt export --format html --output model.html
    """
    if (positional is None) == (output is None):
        raise click.UsageError("name the file to write, once: --output FILE")
    if dtype and file_format != "html":
        raise click.UsageError("--dtype is for --format html alone")
    output = output or positional
    require_absent(output, force, "file")

    from ..exchange import femto, html

    loaded = load_model(model)
    if file_format == "html":
        say_if_compiling()
        notes = html.write(loaded, output, dtype)
    else:
        notes = femto.write(loaded, output)
    click.echo(f"{output}: {loaded.parameters.size:,} parameters, step {loaded.step}")
    for note in notes:
        say(f"note: {note}")
