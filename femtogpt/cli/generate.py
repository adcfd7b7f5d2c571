"""femtogpt generate (femtoGPT: infer)"""

import codecs
import sys
import time

import click

from .options import load_model, model_option, say, say_if_compiling


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
def command(positional, prompt, model, count, temperature, top_k, top_p, seed, stop, echo,
            num_samples):
    """Generate text.

    \b
    Without a prompt, and before one, stands the start of a line.
    Example:
      femtogpt generate --prompt "13 + 29 = " --temperature 0
    """
    if positional is not None and prompt is not None:
        raise click.UsageError("give the prompt once")
    prompt = positional if prompt is None else prompt
    if prompt == "-":
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    if prompt == "":
        raise click.UsageError("the prompt is empty: leave --prompt away to begin with a line")
    if stop == "":
        raise click.UsageError("--stop is empty")

    import numpy as np

    from ..sampler import TOGETHER, generate_together, prompt_ids

    loaded = load_model(model)
    say_if_compiling(loaded.tokenizer)
    ids = prompt_ids(loaded.tokenizer, loaded.config.num_tokens, prompt)
    if seed is None:
        seed = int(np.random.SeedSequence().entropy % 2**63)
    say_if_compiling()
    beginning = prompt.encode("utf-8", "surrogateescape") if echo and prompt else b""
    if num_samples == 1:
        click.echo(beginning, nl=False)
    made, seconds = 0, 0.0
    for first in range(0, num_samples, TOGETHER):
        seeds = range(seed + first, seed + min(first + TOGETHER, num_samples))
        printers = [_Printer(stop, streams=num_samples == 1) for _ in seeds]
        began, ended = None, set()
        for sample, token in generate_together(loaded.config, loaded.parameters,
                                               [ids] * len(seeds), count, seeds, temperature,
                                               top_k, top_p, ended):
            began = began or time.perf_counter()
            made += 1
            if not printers[sample].show(loaded.tokenizer.piece(token)):
                ended.add(sample)
        seconds += time.perf_counter() - began
        made -= len(seeds)  # the first tokens came with the prompt
        for sample, printer in enumerate(printers, first):
            if num_samples > 1:
                click.echo(f"--- {sample + 1} (seed {seed + sample})")
                click.echo(beginning, nl=False)
            printer.end()
    if made > 0 and seconds > 0:
        say(f"{made + num_samples} tokens, {made / seconds:,.0f} tokens/s, seed {seed}")


class _Printer:
    """Streams bytes as text: whole characters only, and never a part of the stop text."""

    def __init__(self, stop, streams=True):
        """streams: else all is kept for end()."""
        self.stop, self.streams = stop, streams
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.ready, self.waiting = "", ""

    def show(self, piece):
        """Prints what can be printed by now. Returns False once the stop text was met."""
        self.waiting += self.decode(piece)
        keep = 0
        if self.stop:
            if self.stop in self.waiting:
                self.waiting = self.waiting.split(self.stop)[0]
                return False
            keep = next((n for n in range(min(len(self.stop), len(self.waiting)), 0, -1)
                         if self.stop.startswith(self.waiting[-n:])), 0)
        held = len(self.waiting) - keep
        self.ready, self.waiting = self.ready + self.waiting[:held], self.waiting[held:]
        if self.streams:
            click.echo(self.ready.encode(), nl=False)
            self.ready = ""
        return True

    def end(self):
        click.echo((self.ready + self.waiting + self.decode(b"", True)).encode())
