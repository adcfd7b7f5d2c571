"""femtogpt generate (femtoGPT: infer)"""

import sys
import time

import click

from .interactive import Conversation, lines
from .options import load_model, model_option, say, say_if_compiling
from .streaming import drawn, make_printer, say_legend


@click.command()
@click.argument("positional", metavar="[PROMPT]", required=False)
@click.option("--prompt", help="The text to continue; - for standard input.")
@model_option
@click.option("--count", type=click.IntRange(1), default=100, show_default=True,
              help="Tokens to generate.")
@click.option("--temperature", type=click.FloatRange(0), default=0.5, show_default=True,
              help="0: always the likeliest.")
@click.option("--top-k", type=click.IntRange(1), help="Only of the k likeliest tokens.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True),
              help="Only of the likeliest that together reach p.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="[default: another each time]")
@click.option("--stop", help="End before this text appears.")
@click.option("--echo/--no-echo", default=True, help="Print the prompt first.")
@click.option("--num-samples", type=click.IntRange(1), default=1, show_default=True)
@click.option("--show-probabilities", "probabilities", is_flag=True,
              help="Colour each token by how likely the model found it (at temperature 1); "
              "without colours, a line a token.")
@click.option("--interactive", "-i", is_flag=True, help="Prompt after prompt; /help tells more.")
def command(positional, prompt, model, echo, num_samples, probabilities, interactive, **settings):
    """Generate text.

    \b
    Without a prompt, and before one, stands the start of a line.
    Example:
      femtogpt generate --prompt "13 + 29 = " --temperature 0
      femtogpt generate --interactive --show-probabilities
    """
    if positional is not None and prompt is not None:
        raise click.UsageError("give the prompt once")
    prompt = positional if prompt is None else prompt
    if interactive and (prompt == "-" or num_samples > 1):
        raise click.UsageError("--interactive reads prompts from standard input, and answers "
                               "each once: leave --num-samples and --prompt - away")
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    if prompt == "":
        raise click.UsageError("the prompt is empty: leave --prompt away to begin with a line")
    if settings["stop"] == "":
        raise click.UsageError("--stop is empty")

    loaded = load_model(model)
    say_if_compiling(loaded.tokenizer)
    if interactive:
        Conversation(loaded, settings, echo, probabilities).hold(lines(prompt))
    else:
        _print_samples(loaded, prompt, echo, num_samples, probabilities, **settings)


def _print_samples(model, prompt, echo, num_samples, probabilities, count, seed, stop, **settings):
    """Prints num_samples texts that continue the prompt; tells the speed on standard error."""
    from ..sampler import TOGETHER, prompt_ids, random_seed

    ids = prompt_ids(model.tokenizer, model.config.num_tokens, prompt)
    seed = random_seed() if seed is None else seed
    say_if_compiling(what="text")
    if probabilities:
        say_legend()
    made, seconds = 0, 0.0
    for first in range(0, num_samples, TOGETHER):
        seeds = range(seed + first, seed + min(first + TOGETHER, num_samples))
        printers = [make_printer(stop, probabilities, streams=num_samples == 1) for _ in seeds]
        if num_samples == 1:
            printers[0].begin(prompt if echo else None)
        began, ended = None, set()
        for sample, token, *probability in drawn(model, probabilities, ids, count, seeds, ended,
                                                 **settings):
            began = began or time.perf_counter()
            made += 1
            if not printers[sample].show(model.tokenizer.piece(token), *probability):
                ended.add(sample)
        seconds += time.perf_counter() - began
        made -= len(seeds)  # the first tokens came with the prompt
        for sample, printer in enumerate(printers, first):
            if num_samples > 1:
                click.echo(f"--- {sample + 1} (seed {seed + sample})")
                printer.begin(prompt if echo else None)
            printer.end()
    if made > 0 and seconds > 0:
        say(f"{made + num_samples} tokens, {made / seconds:,.0f} tokens/s, seed {seed}")
