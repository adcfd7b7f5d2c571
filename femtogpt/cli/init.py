"""femtogpt init"""

import click

from ..errors import FemtoError
from .options import FILE, case_option, make_tokenizer, model_option, require_absent, reserve_option

SIZES = ("num_tokens", "embedding_degree", "num_layers", "num_heads")


@click.command()
@model_option
@click.option("--tokenizer", "kind", type=click.Choice(["byte", "ascii", "char", "bpe"]),
              default="byte", show_default=True)
@click.option("--tokenizer-data", type=FILE,
              help="char: a text [default: dataset.txt]; bpe: what train-bpe wrote, or a "
              "JSON array of strings [default: tokenizer.json].")
@reserve_option
@case_option
@click.option("--num-tokens", type=click.IntRange(1), default=80, show_default=True,
              help="The context: tokens the model sees at once.")
@click.option("--embedding-degree", type=click.IntRange(1), default=80, show_default=True,
              help="The width.")
@click.option("--num-layers", type=click.IntRange(1), default=4, show_default=True)
@click.option("--num-heads", type=click.IntRange(1), default=4, show_default=True)
@click.option("--recipe", type=click.Choice(["standard", "femto"]), default="standard",
              show_default=True, help="femto: the original's design, to reproduce its runs.")
@click.option("--positional-encoding", type=click.Choice(["rope", "absolute", "learned", "none"]),
              help="[default: rope; recipe femto: absolute]")
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
    from ..config import GPTConfig
    from ..durable import lock
    from ..model import initial_parameters
    from ..tensors import count_parameters

    tokenizer = make_tokenizer(kind, options["tokenizer_data"], options["reserve_tokens"],
                           options["case_sensitive"])
    try:
        config = GPTConfig(tokenizer.vocab_size, *(options[name] for name in SIZES),
                           recipe=options["recipe"],
                           positional_encoding=options["positional_encoding"])
    except FemtoError as error:  # options that do not go together
        raise click.UsageError(str(error)) from None
    count = count_parameters(config)
    parameters = initial_parameters(config, options["seed"])
    with lock(model):
        # Again, for two that start together.
        require_absent(model, force, "model")
        checkpoint.save(checkpoint.Model(
            config, tokenizer, parameters, lineage=[{"init": {"seed": options["seed"]}}]), model)
    click.echo(f"{model}: {count:,} parameters ({tokenizer.name}, vocabulary {config.vocab_size}, "
               f"recipe {config.recipe}, {config.positional_encoding})")


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
