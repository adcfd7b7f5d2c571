"""A model -> a folder that transformers loads."""

import base64
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...checkpoint import FORMAT_VERSION, file_parts
from ...durable import lock, replace
from ...errors import FemtoError, short
from ...tensors import views
from ...tokenizer.protocol import newline_id
from .card import card, curve, measured
from .checking import Check, check, missing
from .layout import architecture, config_json, is_widened, spelled
from .vocabulary import notes as vocabulary_notes
from .vocabulary import tokenizer_config, tokenizer_json
from .widening import rounding, widen, with_positions

CONFIG = "config.json"  # without it nothing loads a folder: written last, removed first
FILES = (CONFIG, "README.md", "generation_config.json", "loss.svg", "model.safetensors",
         "tokenizer.json", "tokenizer_config.json")


class Exported(NamedTuple):
    """What came of it."""

    architecture: str
    checked: Check | None  # None where that could not be
    notes: list  # sentences for the user


def write(model, folder, tokens=None, data=None, force=False):
    """Writes a model as a folder that transformers loads, checked in transformers where that is
    installed, and put in its place when it is whole and right. Returns an Exported.

    tokens: of a text, to check and measure on; None: random ones, nothing is measured. data: the
    text's fingerprint. force: the files of an earlier export may be replaced. Raises FemtoError,
    which names the folder, where no architecture computes the same or something differs.
    """
    refuse_place(folder, force)
    said = vocabulary_notes(model.tokenizer)
    place = Path(os.path.realpath(folder))
    with lock(place, "written", "folder"):
        refuse_place(folder, force)  # again, for two that start together
        try:
            checked = _write(model, place, tokens, data, said)
        except FemtoError as error:
            raise FemtoError(f"{folder} is not written: {error}") from None
        except OSError as error:
            raise FemtoError(f"{folder} cannot be written: {error.strerror}; choose another "
                             "place") from None
    if model.optimizer is not None:
        said.append("the optimizer's moments have no place there: training goes on with fresh ones")
    return Exported(architecture(model.config), checked, said)


def refuse_place(folder, force):
    """Raises FemtoError where an export must not go: what is there is replaced with force alone,
    and only if it is an earlier export and nothing else."""
    folder = Path(folder)
    if not (folder.exists() or folder.is_symlink()):
        return
    if not force:
        raise FemtoError(f"{folder} exists already: give --force to replace that export, or "
                         "another name")
    if not folder.is_dir():
        raise FemtoError(f"{folder} is no folder, so --force does not replace it: give another "
                         "name")
    other = sorted({entry.name for entry in folder.iterdir()} - set(FILES))
    if other:
        raise FemtoError(f"{folder} holds {short(other[0])}, which is no part of an export, so "
                         "--force does not replace it: give another name")


def _write(model, folder, tokens, data, said):
    """Writes beside folder, checks that, puts it in place. Returns a Check or None; adds to said.
    """
    content = _content(model, folder.name, measured(model, tokens, data))
    staging = folder.with_name(f"{folder.name}.writing")
    _clear(staging)
    staging.mkdir()
    try:
        for name, parts in content.items():
            replace(staging / name, parts, keep_previous=False)
        lacking, checked = missing(), None
        if lacking:
            said.append(f"not checked, for {' and '.join(lacking)} cannot be imported here")
        else:
            checked = _checked(staging, model, _some_tokens(model, tokens))
        _move(staging, folder)
    finally:
        _clear(staging)
    return checked


def _checked(staging, model, tokens):
    try:
        return check(staging, model, tokens)
    except FemtoError:
        raise
    except Exception as error:  # of whatever kind: it is other programs' code on our folder
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise FemtoError(f"transformers, as it is installed here, fails on it ({why:.200})"
                         ) from None


def _clear(staging):
    """Removes what a killed process, or this one, left at staging. Raises FemtoError where what
    stands there is something else."""
    if not (staging.exists() or staging.is_symlink()):
        return
    ours = {*FILES, *(f"{name}.writing" for name in FILES)}
    if staging.is_symlink() or not staging.is_dir() or not ours >= {
            entry.name for entry in staging.iterdir()}:
        raise FemtoError(f"{staging} is in the way: move it")
    shutil.rmtree(staging)


def _move(staging, folder):
    """Puts the files in place: a folder that does not load until all of them are there."""
    if not folder.exists():
        os.rename(staging, folder)
        return
    (folder / CONFIG).unlink(missing_ok=True)
    for name in FILES[::-1]:  # config.json at last
        if (staging / name).exists():
            os.replace(staging / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _some_tokens(model, tokens):
    """tokens, or random ones where there are none."""
    if tokens is not None:
        return tokens
    count = 8 * model.config.num_tokens + 1
    return np.random.default_rng(1).integers(0, model.config.vocab_size, count)


def _content(model, name, result):
    """Of each file its parts; config.json last."""
    config, start = model.config, newline_id(model.tokenizer)
    architecture(config)
    vocabulary = tokenizer_json(model.tokenizer)
    tensors = tensors_of(model)
    for key, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise FemtoError(f"{key} would hold NaN or infinity")
    drawn = curve(model)
    generation = {"bos_token_id": start, "eos_token_id": None, "pad_token_id": None,
                  "max_length": config.num_tokens}
    content = {"model.safetensors": file_parts(tensors, _kept(model), format="pt"),
               "tokenizer.json": _json(vocabulary),
               "tokenizer_config.json": _json(tokenizer_config(config.num_tokens)),
               "generation_config.json": _json(generation),
               "README.md": [card(model, name, result).encode()]}
    if drawn:
        content["loss.svg"] = [drawn.encode()]
    return content | {CONFIG: _json(config_json(config, start))}


def _json(values):
    return [(json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()]


def tensors_of(model):
    """The file's names -> arrays that hold what the architecture needs."""
    config, p = model.config, views(model.parameters, model.config)
    stored = widen(p, config) if is_widened(config) else with_positions(p, config)
    return {name: np.ascontiguousarray(view).reshape(shape)
            for name, (view, shape) in spelled(stored, config).items()}


def _kept(model):
    """What import needs besides the tensors, for the header of model.safetensors: other programs
    pass over it."""
    config = model.config
    losses = np.asarray(model.history.losses, "<f4").tobytes()
    bits = rounding(views(model.parameters, config), config) if is_widened(config) else b""
    return {
        "format_version": FORMAT_VERSION, "config": config.to_json(),
        "tokenizer": model.tokenizer.to_json(), "step": model.step, "run": model.run,
        "lineage": model.lineage, "validation": model.history.validation,
        "looks": model.history.looks,
        "losses": base64.b64encode(losses).decode(),
        "rounding": base64.b64encode(bits).decode(),
    }
