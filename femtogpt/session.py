"""What stands between a model with some texts and a trainer: reading, planning, holding back."""

from contextlib import nullcontext

from .data import encode_texts, fingerprint, split
from .errors import FemtoError
from .run import plan
from .token_files import joined


def prepare(model, texts, run=None, *, steps=None, until_step=None, changed_data=False, warn=None,
            watch=lambda what: nullcontext(), **options):
    """(run, tokens, training, validation), for a Trainer.

    texts: what find_texts found, texts or files of tokens. run: one planned before; None: it is
    planned. steps, until_step, changed_data, options: as in run.plan. warn: as in encode_texts.
    watch: makes, of the word for what takes long, a context manager that yields a callback(bytes
    done, bytes in all). Raises FemtoError where the texts, the model and the options do not go
    together.
    """
    with watch("reading") as progress:
        data = fingerprint(texts, progress)
    if run is None:
        run = plan(model, data, steps, until_step, sum(text.size for text in texts),
                   changed_data, **options)
    with watch("tokenizing") as progress:
        tokens = _tokens(model.tokenizer, texts, data, progress, warn)
    run = run.with_held_back(len(tokens), model.config.num_tokens)
    return run, tokens, *split(tokens, run.val_begin, run.val_end, model.config.num_tokens)


def _tokens(tokenizer, texts, data, progress, warn):
    """What encode_texts makes of texts, or files of tokens as they are, Joined."""
    made = [text for text in texts if text.tokens is not None]
    if not made:
        return encode_texts(tokenizer, texts, data, progress, warn)
    if len(made) < len(texts):
        other = next(text for text in texts if text.tokens is None)
        raise FemtoError(f"dataset {other.path} is text, and {made[0].path} a file of tokens: give "
                         "one kind alone")
    return joined(tokenizer, [text.tokens for text in made])
