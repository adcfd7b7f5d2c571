"""A model -> a file that onnxruntime runs."""

from typing import NamedTuple

import numpy as np

from ... import __version__
from ...about import about
from ...checkpoint import FORMAT_VERSION
from ...durable import replace
from ...errors import FemtoError
from ...scoring import check_length
from ...tokenizer.protocol import newline_id
from .checking import Check, check, missing
from .format import LARGEST, file_parts
from .graph import graph_of


class Exported(NamedTuple):
    """What came of it."""

    size: int  # of the file, in bytes
    checked: Check | None  # None where that could not be
    notes: list  # sentences for the user


def write(model, path, tokens=None):
    """Writes a model as an ONNX file in float32, checked in onnxruntime where that is installed.
    Returns an Exported.

    tokens: of a text, to check on; None: random ones. An old file goes all or not. Raises
    FemtoError, which names the file, where it would be too large or something differs.
    """
    notes, checked = [], None
    try:
        parts = _parts(model)
        if missing():
            notes.append("not checked, for onnxruntime (pip install onnxruntime) cannot be "
                         "imported here")
        else:
            checked = _checked(parts, model, tokens)
    except FemtoError as error:
        raise FemtoError(f"{path} is not written: {error}") from None
    replace(path, parts, keep_previous=False)
    return Exported(sum(map(len, parts)), checked, notes)


def facts(model):
    """What the file tells of the model, name -> str: what ids mean is up to the tokenizer."""
    c = model.config
    values = {"format_version": FORMAT_VERSION, "step": model.step,
              "tokenizer": model.tokenizer.name, "vocab_size": c.vocab_size,
              "num_tokens": c.num_tokens, "recipe": c.recipe,
              "positional_encoding": c.positional_encoding,
              "newline_id": newline_id(model.tokenizer)}  # what a prompt begins with
    return {name: str(fact) for name, fact in values.items() if fact is not None}


def _parts(model):
    if not np.isfinite(model.parameters).all():
        raise FemtoError("it would hold NaN or infinity")
    parts = file_parts(graph_of(model), ("femtogpt", __version__), about(model), facts(model))
    size = sum(map(len, parts))
    if size > LARGEST:
        raise FemtoError(f"it would be {size:,} bytes, and a file of ONNX ends at {LARGEST:,}")
    return parts


def _checked(parts, model, tokens):
    c = model.config
    if tokens is None:
        tokens = np.random.default_rng(1).integers(0, c.vocab_size, 8 * c.num_tokens + 1)
    check_length(tokens, c.num_tokens)
    try:
        return check(b"".join(parts), model, tokens)
    except FemtoError:
        raise
    except Exception as error:  # of whatever kind: it is another program on our file
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise FemtoError(f"onnxruntime, as it is installed here, fails on it ({why:.200})"
                         ) from None
