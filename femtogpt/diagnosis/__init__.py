"""What keeps a model from learning its text: numbers of both, and what of them is sick.

Every look_at_... measures and judges nothing; every ..._findings judges and measures nothing.
The bounds stand above each, with where they come from.
"""

from ..errors import FemtoError
from ..run import Run, defaults, earlier_runs
from .blocks import block_findings, look_at_blocks
from .context import context_findings, look_at_context
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
    FemtoError where the text is shorter than a window.
    """
    config = model.config
    if len(tokens) < config.num_tokens + 2:
        raise FemtoError(f"the dataset has {len(tokens)} tokens, but to look at them takes "
                         f"num_tokens + 2 = {config.num_tokens + 2}: use more text")
    runs = earlier_runs(model)
    run = runs[-1] if runs else Run(0, 1, "", **defaults(config.recipe))
    trained = model.step >= YOUNG
    text = look_at_text(model.tokenizer, tokens, config)
    context = look_at_context(model, tokens)
    blocks = look_at_blocks(model, tokens)
    history = look_at_history(model, run)
    rates = look_at_rates(model, run, tokens, threads, progress)
    findings = [
        *(context_findings(context, text) if trained else ()),
        *block_findings(blocks, trained),
        *learning_findings(history, rates, text["unigram"], trained),
        *text_findings(text, config, model.step * run.batch_size * config.num_tokens),
    ]
    numbers = {"step": model.step, "trained": trained, "text": text, "context": context,
               "blocks": blocks, "history": history, "learning": rates}
    return numbers, findings
