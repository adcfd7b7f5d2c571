"""What keeps a model from learning its text: numbers of both, and what of them is sick.

Every look_at_... measures and judges nothing; every ..._findings judges and measures nothing.
The bounds stand above each, with where they come from.
"""

import math

import numpy as np

from ..batches import spread_windows
from ..divergence import first_bad_place
from ..errors import FemtoError
from ..run import Run, defaults, earlier_runs
from .blocks import block_findings, look_at_blocks
from .context import WINDOWS, context_findings, look_at_context
from .finding import Finding
from .learning import learning_findings, look_at_history, look_at_rates
from .text import look_at_text, text_findings

__all__ = ["Finding", "diagnose"]

# Steps within which any healthy run has learnt the frequencies of its tokens and begun to use its
# context; before them, what is not learnt is no sickness.
YOUNG = 100


def diagnose(model, tokens, threads=None, progress=None):
    """(numbers, findings): a dict by what was looked at, and a list of Finding, of a model and
    its text's tokens, an array.

    progress: called with how much is done and all there is. The model stays as it is. Raises
    FemtoError where the text is shorter than a window, or the loss not finite.
    """
    config = model.config
    if config.num_tokens == 1:
        raise FemtoError("a model of num_tokens 1 has no context to look at: init with more "
                         "--num-tokens")
    if len(tokens) < config.num_tokens + 2:
        raise FemtoError(f"the dataset has {len(tokens)} tokens, but to look at them takes "
                         f"num_tokens + 2 = {config.num_tokens + 2}: use more text")
    runs = earlier_runs(model)
    run = runs[-1] if runs else Run(0, 1, "", **defaults(config.recipe))
    trained = model.step >= YOUNG
    text = look_at_text(model.tokenizer, tokens, config)
    context = look_at_context(model, tokens)
    if not math.isfinite(context["loss"]):
        windows = spread_windows(tokens, config.num_tokens, WINDOWS)
        place = first_bad_place(config, model.parameters, windows, 0.0,
                                np.zeros(len(windows), np.uint64))
        raise FemtoError(f"the model's loss is not finite: NaN or infinity is first in {place}; "
                         "take an earlier model (.previous, .best) or a fresh one")
    blocks = look_at_blocks(model, tokens)
    history = look_at_history(model, run)
    rates = look_at_rates(model, run, tokens, threads, progress)
    findings = [
        *(context_findings(context, text) if trained else ()),
        *block_findings(blocks, trained),
        *learning_findings(history, rates, text["unigram"], trained),
        *text_findings(text, config, config.num_tokens * _windows_read(model, runs)),
    ]
    numbers = {"step": model.step, "trained": trained, "text": text, "context": context,
               "blocks": blocks, "history": history, "learning": rates}
    return numbers, findings


def _windows_read(model, runs):
    """How many windows of the newest run's text the model was trained on."""
    ends = [*(run.first_step for run in runs[1:]), model.step]
    return sum((end - run.first_step) * run.total_batch_size
               for run, end in zip(runs, ends, strict=False) if run.data == runs[-1].data)
