"""femtogpt info"""

import os

import click

from ..errors import FemtoError
from .options import json_option, load_model, model_option, print_json, say


@click.command()
@model_option
@json_option
def command(model, as_json):
    """Tell what a model is and what was done to it.

    \b
    Example:
      femtogpt info --model model.safetensors --json
    """
    from ..about import lineage_tree
    from ..damage import what_can_be_told
    from ..run import newest_run
    from ..shards import memory_to_train

    try:
        loaded = load_model(model)
    except FemtoError as error:
        if not os.path.isfile(model):
            raise
        raise FemtoError(f"{error}; {what_can_be_told(model)}") from None
    if loaded.recovered and os.path.isfile(model):
        say(f"of {model}: {what_can_be_told(model)}")
    config, run, history = loaded.config, newest_run(loaded), loaded.history
    values = {
        "model": model,
        "parameters": loaded.parameters.size,
        "step": loaded.step,
        "vocab_size": config.vocab_size,
        **{name: value for name, value in config.to_json().items() if name != "vocab_size"},
        "tokenizer": loaded.tokenizer.name,
        "dropout": run.dropout if run else 0.0,
        "optimizer": loaded.optimizer.kind if loaded.optimizer else None,
        "size_bytes": os.path.getsize(model) if os.path.exists(model) else None,
        "memory_to_train_bytes": memory_to_train(
            config, run.batch_size if run else 32, accumulate=run.accumulate if run else 1),
        "run": loaded.run,
        "lineage": loaded.lineage,
        "history": {"loss": history.losses, "validation": history.validation},
    }
    if as_json:
        print_json(values)
        return
    click.echo(f"{model}: {values['parameters']:,} parameters, step {loaded.step}")
    for name in ("recipe", "vocab_size", "tokenizer", "num_tokens", "embedding_degree",
                 "num_layers", "num_heads", "positional_encoding", "rotary_base", "dropout",
                 "optimizer"):
        if name == "rotary_base" and config.positional_encoding != "rope":
            continue
        click.echo(f"  {name.replace('_', ' ')}: {values[name]}")
    click.echo(f"  size on disk: {(values['size_bytes'] or 0) / 1e6:.2f} MB")
    click.echo(f"  memory to train: about {values['memory_to_train_bytes'] / 1e6:.0f} MB")
    if run:
        left = run.last_step - loaded.step
        state = f"{left} steps left, `femtogpt train` goes on" if left > 0 else "finished"
        click.echo(f"  newest run: step {run.first_step} to {run.last_step}, {state}")
    if history.losses:
        click.echo(f"  loss: {history.losses[0]:.4f} at first, {history.losses[-1]:.4f} at last")
    if history.validation:
        step, loss = min(history.validation, key=lambda at: at[1])
        click.echo(f"  held-back text: {history.validation[-1][1]:.4f} at last, best {loss:.4f} at "
                   f"step {step}")
    hidden, lines = lineage_tree(loaded)
    click.echo("  lineage:" + (f" ({hidden} earlier entries, see --json)" if hidden else ""))
    for line in lines:
        click.echo(f"    {line}")
