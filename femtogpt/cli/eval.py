"""femtogpt eval"""

import click

from .options import (
    dataset_option,
    json_option,
    load_model,
    long_reading,
    model_option,
    print_json,
    say,
    say_if_compiling,
    threads_option,
)


@click.command()
@model_option
@dataset_option
@click.option("--task", type=click.Choice(["simple", "addition", "actions", "text"]),
              default="text", show_default=True,
              help="Score by the rules of the bundled data too; the dataset is then what the "
              "model was trained on.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True)
@threads_option
@json_option
def command(model, datasets, task, seed, threads, as_json):
    """Measure a model on a text.

    \b
    Example:
      femtogpt eval --dataset held-out.txt
      femtogpt eval --task actions --json
    """
    from ..data import encode_texts, find_texts, read_texts
    from ..scoring import evaluate, score

    loaded = load_model(model)
    texts = find_texts(datasets)
    say_if_compiling(loaded.tokenizer)
    with long_reading("tokenizing") as progress:
        tokens = encode_texts(loaded.tokenizer, texts, progress=progress, warn=say)
    say_if_compiling()
    result = evaluate(loaded, tokens, threads)
    # A task's own rules need its whole text, which is small.
    texts = [] if task == "text" else read_texts(datasets)
    dataset = b"\n".join(texts).decode("utf-8", "replace")
    result |= score(loaded, task, dataset, seed)
    if as_json:
        print_json(result)
        return
    click.echo(f"loss {result['loss']:.4f} nats a token, perplexity {result['perplexity']:.2f}, "
               f"{result['bits_per_byte']:.3f} bits per byte, over {result['tokens']:,} tokens")
    if task == "simple":
        click.echo(f"lines that keep all rules: {result['score']:.1%} of {result['lines']}")
    elif task == "addition":
        click.echo(f"lines with the form of a sum: {result['form']:.1%}, of these true: "
                   f"{result['true']:.1%}")
        click.echo(f"held-out sums answered right: {result['score']:.1%} of {result['pairs']}")
    elif task == "actions":
        for action, share in result["actions"].items():
            click.echo(f"action {action}: {share:.1%} of {result['prompts']}")
        click.echo(f"worst action: {result['score']:.1%}")
