"""femtogpt loss"""

import click

from ..errors import FemtoError
from .options import FILE, json_option, load_model, model_option, print_json, require_absent


@click.command(short_help="Print a model's last losses, or draw the curve.")
@model_option
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True,
              help="How many of the last steps.")
@click.option("--plot", type=FILE,
              help="Draw the whole curve instead: an SVG file to write, or - for the terminal.")
@click.option("--force", is_flag=True, help="Replace a drawing that is there.")
@json_option
def command(model, limit, plot, force, as_json):
    """Print the last losses of a model's training, or draw them all.

    \b
    Example:
      femtogpt loss --limit 100
      femtogpt loss --plot curve.svg
    """
    if plot and as_json:
        raise click.UsageError("--plot draws, --json prints: give one of them")
    if plot and plot != "-" and not plot.lower().endswith(".svg"):
        raise click.UsageError(f"--plot {plot}: what it writes is SVG, so name a file that ends "
                               "with .svg, or - to draw in the terminal")
    loaded = load_model(model)
    losses = loaded.history.losses
    first = loaded.step - len(losses) + 1  # of the history's first loss
    if plot:
        _draw(loaded, first, plot, force)
        return
    last = [{"step": first + i, "loss": losses[i]} for i in range(len(losses))][-limit:]
    if as_json:
        print_json(last)
    elif not last:
        click.echo("no step was trained yet")
    for row in [] if as_json else last:
        click.echo(f"step {row['step']}: loss {row['loss']:.4f}")


def _draw(model, first, path, force):
    from ..drawing import letter_chart, line_chart, thinned

    history = model.history
    lines = [("training", thinned(list(enumerate(history.losses, first)))),
             ("held back", history.validation)]
    lines = [line for line in lines if line[1]]
    if not lines:
        raise FemtoError("there is no curve yet, for no step was trained: run `femtogpt train`")
    if path == "-":
        click.echo(letter_chart(lines))
        return
    require_absent(path, force, "drawing")
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(line_chart(lines, width=640, height=360) + "\n")
    except OSError as error:
        raise FemtoError(f"--plot {path} cannot be written: {error.strerror}") from None
    click.echo(f"{path}: {len(history.losses)} steps")
