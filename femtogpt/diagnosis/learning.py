"""How a model learns: spikes and memorising in its history; on a copy, other rates, and how noisy
its gradient is."""

import copy
import math

import numpy as np

from ..batches import draw_batch
from ..checkpoint import History
from ..compiling import compile_training
from ..curve import Curve
from ..looks import share_changed
from ..optimizer import fresh_state
from ..parallel import Engine
from ..run import comparable_from
from ..tensors import MUON_FIELDS, views
from ..tokenizer.protocol import newline_id
from ..update import Update
from .finding import Finding

FACTORS = (0.1, 1 / 3, 1, 3, 10, 100)  # of the run's rate
STEPS, WARMUP, LAST = 24, 8, 8  # of each; its loss is the mean of the last
# Parameters times tokens of a batch: some ten seconds on two cores for everything here. A larger
# batch is cut, to no fewer than two windows.
WORK = 2 * 10**9
NOISE_BATCHES, NOISE_WINDOWS = 16, 32  # of each
# Another rate is better if its loss is lower by this share of the unigram entropy, all there is to
# learn. A lower one: at the end of healthy runs a tenth of their rate is better by 0.04 mostly, by
# 0.18 where a model of 6 million parameters, whose batch is cut, has read its text four times. A
# higher one must also bring twice the progress, for at first a steep way down is quicker at any.
BETTER_LOWER, BETTER_HIGHER, FASTER = 0.25, 0.1, 2
SPIKES, SPIKES_WITHIN = 3, 1000  # steps: one or two may be bad batches
MOST_UPDATE = 0.1  # of the weights in one step; healthy runs have 0.013 to 0.05
# Windows of noise to one of the batch: a step then goes 1/300 as far as one without noise. Healthy
# runs have up to 30 at their end; what is above 5000 windows, so few batches cannot tell.
MOST_NOISE, TOLD_NOISE = 300, 5000
# Of the unigram entropy: by how much the loss on held-back text is above that on what was trained
# on, and above its own best. Healthy runs have up to 0.25, where the text's end is of another kind,
# but then held-back loss still falls.
GAP, RISE = 0.2, 0.01
AT_RATE = "femtogpt train --steps N --learning-rate"


def look_at_history(model, run):
    """What the model's past losses tell, as a dict: spikes of the last SPIKES_WITHIN steps; loss,
    the mean of the last 20, and validation, the last, and best, (step, loss), where there are."""
    losses = model.history.losses
    curve = Curve(History(), 0, 0)
    spikes = [step for step, loss in enumerate(losses) if curve.add(loss)]
    told = {"spikes": sum(step >= len(losses) - SPIKES_WITHIN for step in spikes),
            "loss": float(np.mean(losses[-20:])) if losses else None,
            "validation": None, "best": None}
    since = comparable_from(model, run)
    validation = [entry for entry in model.history.validation if entry[0] > since]
    if validation:
        told |= {"validation": validation[-1][1], "best": min(validation, key=lambda at: at[1])}
    return told


def look_at_rates(model, run, tokens, threads=None, progress=None):
    """What training tells, on copies of the model, as a dict.

    before: the loss; rates: of each rate, that after STEPS steps (None: not finite).
    update_to_weight: by what share the blocks' matrices change in a step at the run's rate, the
    median (None: not finite). noise_scale: the batch, in windows, at which the gradient's noise
    and its signal are alike: B_simple of McCandlish et al. 2018, An Empirical Model of
    Large-Batch Training, appendix A.1 (None: no signal was found).
    progress: called with how much of it is done, and all there is.
    """
    fits = max(2, WORK // (model.parameters.size * model.config.num_tokens))
    total, done = len(FACTORS) * STEPS + NOISE_BATCHES, 0

    def tick():
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    compile_training(optimizer=run.optimizer)
    with Engine(model.config, min(NOISE_WINDOWS, fits), threads) as engine:
        before, noise = _noise_scale(engine, model, run, tokens, min(NOISE_WINDOWS, fits), tick)
    rates, ratio, size = [], None, min(run.total_batch_size, fits)
    with Engine(model.config, size, threads) as engine:
        for factor in FACTORS:
            loss, changed = _try(engine, model, run, tokens, size, factor, tick)
            rates.append({"rate": factor * run.learning_rate, "loss": loss})
            if factor == 1:
                ratio = changed
    return {"learning_rate": run.learning_rate, "batch_size": run.total_batch_size,
            "noise_scale": noise, "before": before, "rates": rates, "update_to_weight": ratio}


def _noise_scale(engine, model, run, tokens, size, tick):
    total, squares, before = np.zeros(model.parameters.size), 0.0, 0.0
    for step in range(NOISE_BATCHES):
        batch, keys = draw_batch(tokens, model.config.num_tokens, size, run.seed + 1, step,
                                 newline_id(model.tokenizer))
        loss, gradient, parts = engine.loss_and_gradient(model.parameters, batch, run.dropout, keys)
        total += gradient
        before += loss / NOISE_BATCHES
        squares += parts.sum() / NOISE_BATCHES
        tick()
    large = float(np.square(total / NOISE_BATCHES).sum())
    # |G_b|^2 is on average |G|^2 + tr / b, tr the trace of the gradients' covariance: two b's
    # tell both.
    trace = (squares - large) / (1 / size - 1 / (size * NOISE_BATCHES))
    signal = (NOISE_BATCHES * large - squares) / (NOISE_BATCHES - 1)
    return before, (float(trace / signal) if signal > 0 else None)


def _try(engine, model, run, tokens, size, factor, tick):
    """(loss after some steps at factor times the run's rate, None where it is not finite; the
    last step's update over the weights)."""
    config, parameters = model.config, model.parameters.copy()
    state = copy.deepcopy(model.optimizer)
    if state is None or state.kind != run.optimizer:
        state = fresh_state(config, run.optimizer)
    losses, update = [], Update(config, parameters, state)
    for step in range(STEPS):
        batch, keys = draw_batch(tokens, config.num_tokens, size, run.seed + 1, step,
                                 newline_id(model.tokenizer))
        before = parameters.copy() if step == STEPS - 1 else None
        update.set_rate(factor * run.learning_rate * min(1, (step + 1) / WARMUP))
        losses.append(engine.loss_and_gradient(parameters, batch, run.dropout, keys, update)[0])
        update.finish()
        tick()
    loss = float(np.mean(losses[-LAST:]))
    return loss if math.isfinite(loss) else None, _update_to_weight(before, parameters, config)


def _update_to_weight(before, after, config):
    old, new = views(before, config), views(after, config)
    with np.errstate(all="ignore"):  # at a rate far too high
        ratio = float(np.median([
            share_changed(getattr(old, field)[l], getattr(new, field)[l])
            for field in MUON_FIELDS for l in range(config.num_layers)]))
    return ratio if math.isfinite(ratio) else None


def learning_findings(history, rates, unigram, trained):
    """Findings on look_at_history's and look_at_rates' numbers. unigram: the text's entropy."""
    yield from _rate(history, rates, unigram, trained)
    noise, batch = rates["noise_scale"], rates["batch_size"]
    if noise is not None and MOST_NOISE * batch < noise < TOLD_NOISE:
        yield Finding("batch-too-noisy", f"the gradient's noise is as large as its signal at a "
                      f"batch of {noise:,.0f} windows (the noise scale), but the batch is of "
                      f"{batch}", f"femtogpt train --steps N --batch-size {max(32, 4 * batch)}")
    loss, validation = history["loss"], history["validation"]
    step, best = history["best"] or (None, None)
    if (validation is not None and validation - loss > GAP * unigram
            and validation - best > RISE * unigram):
        yield Finding("memorising", f"held-back text has loss {validation:.3f}, training text "
                      f"{loss:.3f}; the best was {best:.3f} at step {step}",
                      "the model of that step is model.best.safetensors; femtogpt train with "
                      "--dropout 0.1 or --patience 3, more text, or a smaller model")


def _rate(history, rates, unigram, trained):
    losses = [math.inf if entry["loss"] is None else entry["loss"] for entry in rates["rates"]]
    own = FACTORS.index(1)
    low, high = int(np.argmin(losses[:own])), own + 1 + int(np.argmin(losses[own + 1 :]))
    rate, loss = rates["rates"][own]["rate"], losses[own]
    changed = rates["update_to_weight"]
    changes = "" if changed is None else f"; a step changes the weights by {changed:.2%}"

    def than(other):
        better = rates["rates"][other]["rate"]
        return (f"after {STEPS} more steps at {rate:.3g} the loss is {loss:.3f}, at {better:.3g} "
                f"it is {losses[other]:.3f}{changes}", f"{AT_RATE} {better:.1g}")

    if loss - losses[low] > BETTER_LOWER * unigram or not math.isfinite(loss):
        yield Finding("learning-rate-too-high", *than(low))
    elif history["spikes"] >= SPIKES or (trained and changed and changed > MOST_UPDATE):
        yield Finding("learning-rate-too-high", f"{history['spikes']} spikes of the loss in the "
                      f"last {SPIKES_WITHIN} steps{changes}", f"{AT_RATE} {rate / 3:.1g}")
    elif (loss - losses[high] > BETTER_HIGHER * unigram
          and rates["before"] - losses[high] > FASTER * (rates["before"] - loss)):
        yield Finding("learning-rate-too-low", *than(high))
