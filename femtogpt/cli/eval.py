"""femtogpt eval"""

import click

from .options import (
    dataset_option,
    encoded,
    json_option,
    load_model,
    model_option,
    print_json,
    say_if_compiling,
    threads_option,
)

MEANING = {"valid": "lines that keep all rules", "right": "held-out sums answered right",
           "form": "lines with the form of a sum", "true": "of these, true",
           "worst": "worst action", "continued": "characters continued correctly"}


@click.command()
@model_option
@dataset_option
@click.option("--task", type=click.Choice(["simple", "addition", "actions", "sequence",
                                              "sequence2", "text"]),
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
    from ..data import read_texts
    from ..scoring import evaluate, score

    loaded = load_model(model)
    tokens = encoded(loaded.tokenizer, datasets)
    say_if_compiling()
    result = evaluate(loaded, tokens, threads)
    # A task's own rules need its whole text, which is small.
    texts = [] if task == "text" else read_texts(datasets)
    dataset = b"\n".join(texts).decode("utf-8", "replace")
    shares = score(loaded, task, dataset, seed)
    if as_json:
        print_json(result | {name: share.to_json() for name, share in shares.items()})
        return
    low, high = result["interval"]
    click.echo(f"loss {result['loss']:.4f} nats a token ({low:.4f} to {high:.4f}), perplexity "
               f"{result['perplexity']:.2f}, {result['bits_per_byte']:.3f} bits per byte, over "
               f"{result['tokens']:,} tokens")
    for name, share in shares.items():
        low, high = share.interval
        click.echo(f"{MEANING.get(name, name)}: {share.share:.1%} of {share.of} "
                   f"({low:.1%} to {high:.1%})")
    if shares:
        click.echo("In brackets: where the true value lies with a confidence of 95%.")
