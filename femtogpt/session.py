"""What stands between a model with some texts and a trainer: reading, planning, holding back."""

from contextlib import nullcontext

from .data import encode_texts, fingerprint, split
from .run import plan


def prepare(model, texts, run=None, *, steps=None, until_step=None, changed_data=False, warn=None,
            watch=lambda what: nullcontext(), **options):
    """(run, tokens, training, validation), for a Trainer.

    texts: what find_texts found. run: one planned before; None: it is planned. steps,
    until_step, changed_data, options: as in run.plan. warn: as in encode_texts. watch: makes,
    of the word for what takes long, a context manager that yields a callback(bytes done,
    bytes in all). Raises FemtoError where the texts, the model and the options do not go
    together.
    """
    with watch("reading") as progress:
        data = fingerprint(texts, progress)
    if run is None:
        run = plan(model, data, steps, until_step, sum(text.size for text in texts),
                   changed_data, **options)
    with watch("tokenizing") as progress:
        tokens = encode_texts(model.tokenizer, texts, data, progress, warn)
    run = run.with_held_back(len(tokens), model.config.num_tokens)
    return run, tokens, *split(tokens, run.val_begin, run.val_end, model.config.num_tokens)
