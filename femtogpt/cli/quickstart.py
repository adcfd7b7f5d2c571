"""femtogpt quickstart"""

import shlex
from pathlib import Path

import click

from .options import FILE, load_model, model_option, require_absent, say, say_if_compiling
from .train import Duration

DEFAULT_SECONDS = 600
EVALS, EVAL_STEPS = 30, 10  # times that it looks at the held-back text, and steps between at least


@click.command()
@click.argument("texts", nargs=-1, required=True, type=FILE, metavar="TEXT...")
@model_option
@click.option("--for", "seconds", type=Duration(), help="How long to train. [default: 10m, or the "
              "preset's]")
@click.option("--preset", type=click.Choice(["tiny", "small", "medium", "laptop-night"]),
              help="A shape made beforehand, instead of one for the text; for 1m, 5m, 30m, 8h.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True)
@click.option("--force", is_flag=True, help="Replace a model that is there.")
def command(texts, model, seconds, preset, seed, force):
    """Make a model of a text, with choices made for it.

    \b
    Looks at the text, chooses tokenizer, shape and dropout for it and the time
    there is, says why, and calls other commands, which it shows. Ctrl-C saves;
    `femtogpt train` then goes on.
    Example:
      femtogpt quickstart mytext.txt
      femtogpt quickstart notes/ --for 30m
    """
    stem = str(Path(model).with_suffix(""))
    page = f"{stem}.html"
    require_absent(model, force, "model")
    require_absent(page, force, "page")  # now, not after all the training

    from dataclasses import replace

    from ..data import find_texts
    from ..quickstart import PRESETS, choose, held_back, look, shape_text

    found = find_texts(texts, "quickstart")
    if preset:
        plan = PRESETS[preset]
        plan = replace(plan, seconds=seconds or plan.seconds)
        say(f"preset {preset}: {plan.tokenizer}, {shape_text(plan.shape)}")
    else:
        say_if_compiling(what="training")
        plan = choose(look(found), seconds or DEFAULT_SECONDS)
        if plan.tokenizer == "char" and len(texts) > 1:  # init learns characters from one text
            plan = replace(plan, tokenizer="byte")
    for sentence in plan.why:
        say(sentence)
    datasets = [f"--dataset={text}" for text in texts]
    shape = (f"--tokenizer={plan.tokenizer}", f"--num-tokens={plan.num_tokens}",
             *map("--{}={}".format, ("embedding-degree", "num-layers", "num-heads"), plan.shape))
    data = ()
    if plan.tokenizer == "bpe":
        data = (f"--tokenizer-data={stem}.tokenizer.json",)
        _call("train-bpe", *datasets, *data, f"--vocab-size={plan.vocab_size}")
    elif plan.tokenizer == "char":
        data = (f"--tokenizer-data={texts[0]}",)
    forced = ["--force"] if force else []
    _call("init", f"--model={model}", *shape, *data, f"--seed={seed}", *forced)
    _call("train", f"--model={model}", *datasets, f"--for={plan.seconds}", f"--seed={seed}",
          f"--batch-size={plan.batch_size}", f"--dropout={plan.dropout:g}",
          *([f"--weight-decay={plan.weight_decay:g}"] if plan.weight_decay else []),
          f"--val-fraction={held_back(sum(text.size for text in found)):.3g}",
          *([f"--steps={plan.steps}"] if plan.limited else []),
          *([f"--eval-every={max(EVAL_STEPS, plan.steps // EVALS)}"] if plan.steps else []))
    best = _best(model)
    _call("generate", f"--model={best}", "--count=300", "--temperature=0.8", f"--seed={seed}")
    _call("report", f"--model={best}", *datasets, f"--output={page}", *forced)


def _call(*arguments):
    """A command, shown before it is called."""
    from . import main

    say(f"$ femtogpt {shlex.join(arguments)}")
    main.main(list(arguments), standalone_mode=False)


def _best(model):
    """The file of the model as it was told best."""
    from ..trainer import best_path

    validation = load_model(model).history.validation
    best = best_path(model)
    if validation and best.exists() and min(validation, key=lambda at: at[1]) != validation[-1]:
        return str(best)
    return model
