"""femtogpt estimate"""

import click
from click.core import ParameterSource

from .options import (
    FILE,
    json_option,
    load_model,
    make_shape,
    print_json,
    say,
    say_if_compiling,
    shape_options,
    threads_option,
)

OF_ANY_MODEL = ("model", "batch_size", "accumulate", "precision", "ranks", "bandwidth", "threads",
                "as_json")
BUSY = 0.8  # of its processors' time: with less, the machine did other work


@click.command()
@click.option("--model", type=FILE, help="A model there is already, instead of a shape.")
@shape_options
@click.option("--batch-size", type=click.IntRange(1, 65536), help="[default: 32]")
@click.option("--accumulate", type=click.IntRange(1, 65536), help="As for train. [default: 1]")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), help="As for train.")
@click.option("--ranks", type=click.IntRange(2, 65536),
              help="Predict steps on so many machines like this one too, a process each.")
@click.option("--bandwidth", type=click.FloatRange(0, min_open=True),
              help="Of the network that joins them, in Gb/s. [default: 1]")
@threads_option
@json_option
@click.pass_context
def command(context, model, kind, batch_size, accumulate, precision, ranks, bandwidth, threads,
            as_json, **options):
    """Tell what training a shape takes, before it is trained.

    \b
    Times steps of it on this machine, for about two seconds; writes nothing.
    Example:
      femtogpt estimate --embedding-degree=192 --num-layers=8 --num-heads=8
      femtogpt estimate --accumulate=8 --ranks=8 --bandwidth=10
    """
    if bandwidth and not ranks:
        raise click.UsageError("--bandwidth is of a network: give --ranks, the machines, too")

    from ..estimate import compute_optimal_steps, file_bytes, step_time
    from ..experiment.entries import nearest_in_log
    from ..machine import available_processors
    from ..network import predict, traffic
    from ..optimizer import OPTIMIZER
    from ..run import newest_run, require_precision
    from ..shards import memory_to_train
    from ..tensors import count_parameters

    if model:
        _refuse_shape(context)
        loaded = load_model(model)
        tokenizer, config, run = loaded.tokenizer, loaded.config, newest_run(loaded)
    else:
        tokenizer, config = make_shape(kind, options)
        run = None
    batch_size = batch_size or (run.batch_size if run else 32)
    accumulate = accumulate or (run.accumulate if run else 1)
    sequences = accumulate * batch_size
    optimizer = run.optimizer if run else OPTIMIZER[config.recipe]
    precision = precision or (run.precision if run else "float32")
    require_precision(precision)
    if ranks:
        traffic(config, batch_size, accumulate, ranks)  # now, not after the timing
    say_if_compiling(what="training", precision=precision)
    threads = threads or available_processors()
    step = step_time(config, batch_size, optimizer, threads, accumulate=accumulate,
                     precision=precision)
    values = {
        "parameters": count_parameters(config),
        "memory_to_train_bytes": memory_to_train(config, batch_size, threads, accumulate),
        "file_bytes": file_bytes(config, optimizer),
        "seconds_a_step": step.seconds,
        "timed": "steps" if step.whole else "parts of a step",
        "share_of_processors": step.share,
        "tokens_per_second": sequences * config.num_tokens / step.seconds,
        "compute_optimal_steps": compute_optimal_steps(config, sequences),
        "steps_left": max(0, run.last_step - loaded.step) if run else None,
        "log": nearest_in_log(count_parameters(config)),
    }
    if ranks:
        bandwidth = bandwidth or 1.0
        there = predict(config, optimizer, batch_size, accumulate, step, threads, ranks,
                        bandwidth * 1e9 / 8)
        values["predicted"] = {
            "ranks": ranks, "gigabits_per_second": bandwidth, "seconds_a_step": there.seconds,
            "computing": there.computing, "sending": there.sending,
            "batch_for_a_tenth": there.batch_size}
    if as_json:
        print_json(values)
        return
    click.echo(f"{values['parameters']:,} parameters ({tokenizer.name}, vocabulary "
               f"{config.vocab_size}, recipe {config.recipe}, {config.positional_encoding})")
    click.echo(f"  memory to train: about {values['memory_to_train_bytes'] / 1e6:,.0f} MB")
    click.echo(f"  model file: {values['file_bytes'] / 1e6:,.1f} MB in training, and up to three "
               "times that on disk while it is saved")
    batch = batch_size if accumulate == 1 else f"{accumulate} x {batch_size}"
    click.echo(f"  a step: {_time(step.seconds)} (batch {batch}, {optimizer}"
               f"{', bf16' if precision == 'bf16' else ''}; "
               f"{values['tokens_per_second']:,.0f} tokens/s), timed by {values['timed']}")

    if ranks:
        click.echo(f"  on {ranks} machines like this one, at {bandwidth:g} Gb/s, it would be "
                   f"{_time(there.seconds)} (computing {_time(there.computing)}, sending "
                   f"{_time(there.sending)} more), {step.seconds / there.seconds:.1f} times as "
                   "fast: a prediction; sending would take a tenth of a step of "
                   f"{there.batch_size:,} sequences")

    def told(what, steps, more=""):
        click.echo(f"  {what}: {steps:,} steps, {_time(steps * step.seconds)}{more}")

    if values["steps_left"]:
        told("the run that was cut off", values["steps_left"])
    told("20 tokens a parameter", values["compute_optimal_steps"],
         " (of longer training a larger model makes more)")
    log = values["log"]
    few, many = min(log["steps"]), max(log["steps"])
    numbers = ", ".join(f"#{number}" for number in log["experiments"])
    click.echo(f"  as the experiments of {log['parameters']:,} parameters ({numbers}): "
               + (f"{few:,} to " if few < many else "") + f"{many:,} steps, "
               + (f"{_time(few * step.seconds)} to " if few < many else "")
               + _time(many * step.seconds))
    if step.share < BUSY:
        say(f"this process had {step.share:.0%} of its processors, for other work: alone, steps "
            "take less")


def _refuse_shape(context):
    for parameter in context.command.params:
        if (parameter.name not in OF_ANY_MODEL
                and context.get_parameter_source(parameter.name) == ParameterSource.COMMANDLINE):
            raise click.UsageError(f"{parameter.opts[0]} is for a model that is yet to be made; "
                                   "--model has its own shape: give one of them")


def _time(seconds):
    """In the unit a person would take."""
    if seconds < 0.1:
        return f"{1000 * seconds:.1f} ms"
    unit, length = next((u for u in (("s", 1), ("minutes", 60), ("hours", 3600))
                         if seconds < 120 * u[1]), ("days", 86400))
    return f"{seconds / length:.{2 if seconds < 1 else 1}f} {unit}"
