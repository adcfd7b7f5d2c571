"""femtogpt init"""

import click

from .options import make_shape, model_option, require_absent, say, shape_options


@click.command()
@model_option
@shape_options
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True)
@click.option("--interactive", "-i", is_flag=True, help="Ask for each of these.")
@click.option("--force", is_flag=True, help="Replace a model that is there.")
@click.pass_context
def command(context, model, kind, interactive, force, **options):
    """Make a fresh model.

    \b
    Example:
      femtogpt init
      femtogpt init --tokenizer=bpe --embedding-degree=192 --num-heads=8
    """
    if interactive:
        model, kind, options = _ask(context, model, kind, options)
    require_absent(model, force, "model")

    from .. import checkpoint
    from ..durable import lock
    from ..estimate import file_bytes
    from ..model import initial_parameters
    from ..optimizer import OPTIMIZER
    from ..shards import memory_to_train
    from ..tensors import count_parameters

    tokenizer, config = make_shape(kind, options)
    count = count_parameters(config)
    parameters = initial_parameters(config, options["seed"])
    with lock(model):
        # Again, for two that start together.
        require_absent(model, force, "model")
        checkpoint.save(checkpoint.Model(
            config, tokenizer, parameters, lineage=[{"init": {"seed": options["seed"]}}]), model)
    click.echo(f"{model}: {count:,} parameters ({tokenizer.name}, vocabulary {config.vocab_size}, "
               f"recipe {config.recipe}, {config.positional_encoding})")
    memory, size = memory_to_train(config, 32), file_bytes(config, OPTIMIZER[config.recipe])
    say(f"training takes about {memory / 1e6:,.0f} MB of memory and a file of "
        f"{size / 1e6:,.1f} MB (`femtogpt estimate`: how long)")


def _ask(context, model, kind, options):
    """All options again, asked for one by one, with what was given as the answer to Enter."""
    answers = {}
    for parameter in context.command.params:
        name = parameter.name
        given = {"model": model, "kind": kind, **options}.get(name)
        if name in ("interactive", "force", "tokenizer_data"):
            continue
        if name == "positional_encoding" and given is None:
            given = "absolute" if answers["recipe"] == "femto" else "rope"
        question = parameter.opts[0].lstrip("-").replace("-", " ")
        if parameter.is_flag:
            answers[name] = click.confirm(question, default=given, err=True)
        else:
            answers[name] = click.prompt(question, default=given, type=parameter.type, err=True)
        if name == "kind" and answers[name] in ("char", "bpe"):
            default = "dataset.txt" if answers[name] == "char" else "tokenizer.json"
            answers["tokenizer_data"] = click.prompt(
                "tokenizer data", default=options["tokenizer_data"] or default, err=True)
    answers.setdefault("tokenizer_data", None)
    return answers.pop("model"), answers.pop("kind"), answers
