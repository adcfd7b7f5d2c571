"""femtogpt report"""

import os

import click
from click.core import ParameterSource

from .options import (
    FILE,
    dataset_option,
    encoded,
    load_model,
    long_work,
    require_absent,
    say,
    say_if_compiling,
    threads_option,
)


@click.command(short_help="Write a page on what a model learnt, and how.")
@click.option("--model", "models", type=FILE, multiple=True, default=("model.safetensors",),
              show_default="model.safetensors",
              help="The model file; of several, given one by one, the page compares.")
@dataset_option
@click.option("--output", type=FILE, default="report.html", show_default=True,
              help="The page to write.")
@click.option("--force", is_flag=True, help="Replace a page that is there.")
@threads_option
@click.pass_context
def command(context, models, datasets, output, force, threads):
    """Write a page on a model: how it learnt, what it knows, what is wrong with it.

    Curves of losses beside what guessing gives, samples, gradients and updates by layer, what
    diagnose finds, the hardest parts of the text, attention, a map of the tokens, the lineage. One
    file, for any browser, without a network.

    \b
    Example:
      femtogpt report --dataset book.txt
      femtogpt report --model a.safetensors --model b.safetensors
    """
    from .. import report

    require_absent(output, force, "page")
    loaded = [load_model(path) for path in models]
    given = context.get_parameter_source("datasets") != ParameterSource.DEFAULT
    text = given or os.path.exists(datasets[0])
    if not text:
        say(f"note: {datasets[0]} does not exist, so what needs a text is left out: name one with "
            "--dataset")
    measured = []
    for path, name, model in zip(models, _names(models), loaded, strict=True):
        tokens = encoded(model.tokenizer, datasets) if text else None
        if not measured:
            say_if_compiling(what="training")
        say(f"looking at {path} ...")
        with long_work("trying rates", "steps") as progress:
            size = os.path.getsize(path) if os.path.exists(path) else None
            measured.append(report.measure(name, model, size, tokens, threads, progress))
    size = report.write(measured, output)
    click.echo(f"{output}: a page of {size / 1e3:,.0f} KB on {', '.join(m.name for m in measured)}")


def _names(paths):
    """Of each path a name of its own: the file's, or all of it where two files' are the same."""
    short = [os.path.basename(path) for path in paths]
    names = [path if short.count(name) > 1 else name
             for path, name in zip(paths, short, strict=True)]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]
