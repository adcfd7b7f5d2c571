"""femtogpt init-with"""

import click

from ..errors import FemtoError
from .options import FILE, load_model, make_tokenizer, require_absent, say_if_compiling


@click.command(short_help="Make a model of another size or tokenizer of its parent.")
@click.option("--parent", type=FILE, default="model.safetensors", show_default=True,
              help="The model file to read.")
@click.option("--child", "output", type=FILE, default="child.safetensors", show_default=True,
              help="The model file to write.")
@click.option("--tokenizer", "kind", type=click.Choice(["byte", "ascii", "char", "bpe"]),
              help="[default: the parent's, or bpe with --tokenizer-data]")
@click.option("--tokenizer-data", type=FILE, help="As init's.")
@click.option("--num-tokens", type=click.IntRange(1), help="The context. [default: the parent's]")
@click.option("--embedding-degree", type=click.IntRange(1),
              help="The width. [default: the parent's]")
@click.option("--num-layers", type=click.IntRange(1), help="[default: the parent's]")
@click.option("--num-heads", type=click.IntRange(1),
              help="[default: as many as are no narrower than the parent's]")
@click.option("--positional-encoding", type=click.Choice(["learned"]),
              help="To keep a parent's absolute positions in a wider child.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True)
@click.option("--force", is_flag=True, help="Replace a model that is there.")
def command(parent, output, kind, tokenizer_data, seed, force, **shape):
    """Make a model of another tokenizer, context or size on its parent's weights.

    With the same tokenizer it computes what its parent does. Tokens that both spell are carried
    over; a new one starts as the mean of the pieces that the parent splits it into. The child
    begins at step 0.

    \b
    Example:
      femtogpt init-with --child wider.safetensors --embedding-degree=160
      femtogpt init-with --child child.safetensors --tokenizer-data tokenizer.json
    """
    from .. import checkpoint
    from ..durable import lock
    from ..surgery.child import init_with

    model = load_model(parent)
    require_absent(output, force, "model")
    tokenizer = None
    if kind or tokenizer_data:
        tokenizer = make_tokenizer(kind or "bpe", tokenizer_data)
    say_if_compiling(tokenizer or model.tokenizer)
    if model.config.recipe == "femto" and shape["num_layers"]:
        say_if_compiling()
    try:
        child, carried = init_with(model, tokenizer, seed=seed, **shape)
    except FemtoError as error:
        raise FemtoError(f"{parent}: {error}") from None
    with lock(output):
        require_absent(output, force, "model")
        checkpoint.save(child, output)
    click.echo(f"{output}: {child.parameters.size:,} parameters, its parent has "
               f"{model.parameters.size:,}")
    for name, (before, after) in child.lineage[-1]["init_with"]["changes"].items():
        click.echo(f"  {name.replace('_', ' ')}: {before} -> {after}")
    if child.tokenizer is not model.tokenizer:
        click.echo(f"  tokens carried over: {carried}, new: {child.config.vocab_size - carried}")
    elif model.config.recipe == "standard" or not shape["num_layers"]:
        click.echo("  it computes what its parent does, but for rounding")
