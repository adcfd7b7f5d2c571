"""What a model wrote while it learnt, and writes now."""

from ..errors import FemtoError
from ..run import newest_run
from ..scoring import sample_text
from .parts import Html, table, visible

SHOWN, TOKENS = 8, 200  # samples of the past; tokens of what it writes now


def samples(m):
    """A table of samples, by step, as HTML."""
    looks = [look for look in m.model.history.looks if look.sample.strip()
             and look.step < m.model.step]
    count = min(SHOWN, len(looks))
    looks = [looks[i * (len(looks) - 1) // max(1, count - 1)] for i in range(count)]
    rows = [(f"{look.step:,}", _text(look.sample)) for look in looks]
    run = newest_run(m.model)
    try:
        now = sample_text(m.model, "\n", TOKENS, run.seed if run else 1)
        rows.append((f"{m.model.step:,}, now", _text(now)))
    except FemtoError as error:  # a vocabulary that has no newline
        rows.append((f"{m.model.step:,}, now", f"(none: {error})"))
    return table(["after step", "a sample"], rows, "samples")


def _text(text):
    return Html(f'<span class="text">{visible(text.strip(chr(10)))}</span>')
