"""femtogpt diagnose"""

import click

from .options import (
    dataset_option,
    json_option,
    load_model,
    long_reading,
    long_work,
    model_option,
    print_json,
    say,
    say_if_compiling,
    threads_option,
)


@click.command()
@model_option
@dataset_option
@threads_option
@json_option
def command(model, datasets, threads, as_json):
    """Look for what keeps a model from learning its text.

    Trains copies of it for a few steps at other rates; the file stays as it is.

    \b
    Example:
      femtogpt diagnose --dataset book.txt
      femtogpt diagnose --json
    """
    from ..data import encode_texts, find_texts
    from ..diagnosis import diagnose

    loaded = load_model(model)
    texts = find_texts(datasets)
    say_if_compiling(loaded.tokenizer)
    with long_reading("tokenizing") as progress:
        tokens = encode_texts(loaded.tokenizer, texts, progress=progress, warn=say)
    say_if_compiling(what="training")
    with long_work("trying rates", "steps") as progress:
        numbers, findings = diagnose(loaded, tokens, threads, progress)
    if as_json:
        print_json(numbers | {"findings": [finding._asdict() for finding in findings]})
        return
    _show(numbers)
    click.echo()
    for finding in findings:
        click.echo(f"{finding.name}: {finding.says}\n  what helps: {finding.helps}")
    if not findings:
        click.echo("nothing wrong found")
    if not numbers["trained"]:
        click.echo(f"(step {numbers['step']}: not trained yet, so nothing is said of what it "
                   "has learnt)")


def _show(numbers):
    text, context, learning = numbers["text"], numbers["context"], numbers["learning"]
    click.echo(f"text: {text['tokens']:,} tokens, {text['bytes'] / text['tokens']:.2f} bytes each, "
               f"{text['repeated']:.1%} repeated; {text['parameters']:,} parameters")
    click.echo(f"guessing gives {text['unigram']:.3f} nats a token by frequency, "
               f"{text['bigram']:.3f} by the last token, {text['trigram']:.3f} by the last two")
    click.echo(f"the model's loss is {context['loss']:.3f}, with the context shuffled up to "
               f"{context['loss'] + context['shuffled']:.3f}")
    click.echo("layer  stream rms  attention adds  mlp adds  gradient rms  attention entropy")
    for l, layer in enumerate(numbers["blocks"]["layers"]):
        least, most = min(layer["entropy"]), max(layer["entropy"])
        click.echo(f"{l:5}  {layer['stream']:10.3g}  {layer['attention']:14.3f}  "
                   f"{layer['mlp']:8.3f}  {layer['gradient']:12.2g}  {least:.2f} to {most:.2f}")
    tried = ", ".join(f"{entry['rate']:.1g}: " + ("not finite" if entry["loss"] is None else
                                                  f"{entry['loss']:.3f}")
                      for entry in learning["rates"])
    click.echo(f"some steps more at a rate of {tried}")
    update, noise = learning["update_to_weight"], learning["noise_scale"]
    click.echo(f"at the run's own, {learning['learning_rate']:.3g}, a step changes the weights by "
               f"{'?' if update is None else f'{update:.2%}'}; "
               f"gradient noise scale {'?' if noise is None else f'{noise:,.1f}'} windows, batch "
               f"{learning['batch_size']}")
