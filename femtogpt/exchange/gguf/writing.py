"""A model -> a file that llama.cpp runs."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...durable import replace
from ...errors import FemtoError
from ...scoring import check_length
from . import layout, vocabulary
from .checking import Check, check, missing
from .format import file_parts

DTYPES = ("float32", "float16", "q8_0")


class Exported(NamedTuple):
    """What came of it."""

    architecture: str
    checked: Check | None  # None where that could not be
    notes: list  # sentences for the user


def write(model, path, dtype="float32", tokens=None):
    """Writes a model as a GGUF file, checked in llama.cpp where llama-cpp-python is installed.
    Returns an Exported.

    dtype: the matrices', of DTYPES. tokens: of a text, to check on; None: random ones. An old
    file goes all or not. Raises FemtoError, which names the file, where no architecture computes
    the same, no vocabulary gives the same ids or something differs.
    """
    try:
        parts, notes = _parts(model, Path(path).stem, dtype)
        checked = None
        if missing():
            notes.append("not checked, for llama_cpp (pip install llama-cpp-python) cannot be "
                         "imported here")
        else:
            checked = _checked(parts, model, dtype, tokens)
    except FemtoError as error:
        raise FemtoError(f"{path} is not written: {error}") from None
    replace(path, parts, keep_previous=False)
    return Exported(layout.architecture(model.config), checked, notes)


def _parts(model, name, dtype):
    """(the file's parts, sentences for the user)."""
    values = layout.metadata(model.config, dtype) | {"general.name": name or "femtogpt"}
    values |= vocabulary.metadata(model.tokenizer)
    tensors = layout.tensors_of(model, dtype)
    for key, (_, array) in tensors.items():
        if not np.isfinite(array).all():
            raise FemtoError(f"{key} would hold NaN or infinity")
    for key, (kind, array) in tensors.items():
        if kind == "float16" and np.abs(array).max() > np.finfo(np.float16).max:
            raise FemtoError(f"{key} has a number beyond float16, {np.abs(array).max():.3g}; take "
                             "--dtype float32")
    notes = vocabulary.notes(model.tokenizer)
    if dtype == "q8_0":
        matrices = [kind for kind, _ in tensors.values() if kind != "float32"]
        halves = matrices.count("float16")
        if halves:
            notes.append(f"{halves} of {len(matrices)} matrices stay float16: q8_0 needs rows of a "
                         "multiple of 32")
    return file_parts(values, tensors), notes


def _checked(parts, model, dtype, tokens):
    if tokens is None:
        count = 8 * model.config.num_tokens + 1
        tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, count)
    check_length(tokens, model.config.num_tokens)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.gguf")
        file.write_bytes(b"".join(parts))
        try:
            return check(file, model, dtype, tokens)
        except FemtoError:
            raise
        except Exception as error:  # of whatever kind: it is another program on our file
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise FemtoError(f"llama.cpp, as it is installed here, fails on it ({why:.200})"
                             ) from None
