"""A folder that femtogpt wrote for transformers -> the model as it was, to the bit."""

import base64
import json
import math
import os
from pathlib import Path

import numpy as np

from ...checkpoint import History, Model, NotOurs, fill, opened, read_header
from ...config import GPTConfig
from ...errors import FemtoError
from ...looks import looks_from_json
from ...tensors import Tensors, count_parameters, views
from ...tokenizer import LARGEST_FILE, MOST_MARKS, count_marks, tokenizer_from_json
from ...tokenizer.protocol import newline_id
from .layout import config_json, is_widened, spelled, stored_shapes
from .vocabulary import tokenizer_json
from .widening import narrow
from .writing import CONFIG, tensors_of

# Of sums, so of means too, another numpy may round the last bit otherwise.
SLACK = {"rtol": 1e-6, "atol": 1e-9}
FREE = ("dtype", "torch_dtype", "use_cache")  # of config.json: they change no number


def read(folder):
    """(the Model in a folder that `write` wrote, what to tell the user of it).

    Nothing in the folder is run. Raises FemtoError, in one line that names the folder, for what
    is damaged or not whole, and for what another program wrote.
    """
    try:
        found = _json(Path(folder) / CONFIG)
        path = Path(folder) / "model.safetensors"
        if not path.is_file():
            raise FemtoError("model.safetensors is missing")
        with opened(path) as file:
            try:
                header, metadata = read_header(path, file)
            except NotOurs:
                kind = found.get("model_type")
                raise FemtoError(
                    f"its model.safetensors (model_type {kind!r:.40}) is not what `femtogpt export "
                    "--format hf` writes: it is another model, which no model here computes alike, "
                    "or was saved again by a program that dropped what femtogpt keeps in it"
                ) from None
            model = _read(file, header, metadata)
        _check_beside(model, found, _json(Path(folder) / "tokenizer.json"))
    except FemtoError as error:
        raise FemtoError(f"{folder} cannot be read: {str(error)[:400]}") from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
            RecursionError) as error:
        raise FemtoError(f"{folder} cannot be read: it holds what no femtogpt writes "
                         f"({type(error).__name__})") from None
    model.lineage.append({"import": {"format": "hf", "step": model.step}})
    return model, []


def _json(path):
    """The object in a JSON file. Raises FemtoError."""
    if not path.is_file():  # to open a pipe would wait for a writer
        raise FemtoError(f"{path.name} is missing, so it is no whole folder of a model")
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST_FILE else b""
    except OSError as error:
        raise FemtoError(f"{path.name}: {error.strerror}") from None
    try:
        if count_marks(content) > MOST_MARKS:
            raise ValueError
        values = json.loads(content)
        values.keys()
    except (ValueError, RecursionError, AttributeError):
        raise FemtoError(f"its {path.name} is damaged, or not one femtogpt writes") from None
    return values


def _read(file, header, metadata):
    """The Model: nothing is allocated that the file is not large enough for."""
    left = os.fstat(file.fileno()).st_size - file.tell()
    config = GPTConfig.from_json(metadata["config"])
    size = sum(math.prod(shape) for shape in stored_shapes(config))
    if 4 * max(size, count_parameters(config)) > left:
        raise FemtoError("its config claims more parameters than the file holds")
    tokenizer = tokenizer_from_json(metadata["tokenizer"])
    if tokenizer.vocab_size != config.vocab_size:
        raise FemtoError("its tokenizer and its config disagree on the size of the vocabulary")
    stored = Tensors(*(np.empty(shape, np.float32) for shape in stored_shapes(config)))
    spelling = spelled(stored, config)
    tensors = {name: np.empty(shape, np.float32) for name, (_, shape) in spelling.items()}
    fill(tensors, file, header)
    for name, (view, _) in spelling.items():
        view[...] = tensors[name].reshape(view.shape)
    model = Model(config, tokenizer, _flat(stored, config, metadata["rounding"]),
                  step=metadata["step"], run=metadata["run"], lineage=metadata["lineage"],
                  history=_history(metadata, config))
    if (type(model.step) is not int or not len(model.history.losses) <= model.step < 2**53
            or not isinstance(model.lineage, list) or not isinstance(model.run, dict | None)):
        raise FemtoError("its step, run or lineage is not what this version writes")
    for name, tensor in tensors_of(model).items():
        if not np.allclose(tensors[name], tensor, **SLACK):
            raise FemtoError(f"the tensor {name} is not what a model here is written as: its "
                             "numbers were changed since")
    return model


def _flat(stored, config, rounding):
    if is_widened(config):
        return narrow(stored, config, base64.b64decode(rounding, validate=True))
    flat = np.empty(count_parameters(config), np.float32)
    for to, source in zip(views(flat, config), stored, strict=True):
        to[...] = source[: len(to)]
    return flat


def _history(metadata, config):
    losses = np.frombuffer(base64.b64decode(metadata["losses"], validate=True), "<f4")
    validation = [(step, float(loss)) for step, loss in metadata["validation"]]
    steps = [step for step, _ in validation]
    if (not np.isfinite(losses).all() or not all(math.isfinite(loss) for _, loss in validation)
            or not all(type(step) is int and 0 <= step < 2**31 for step in steps)):
        raise FemtoError("its losses are not what this version writes")
    return History(losses.tolist(), validation,
                   looks_from_json(metadata.get("looks", []), config, metadata["step"]))


def _check_beside(model, found, vocabulary):
    """Raises FemtoError where other programs would compute another model than was read."""
    for name, value in config_json(model.config, newline_id(model.tokenizer)).items():
        if name not in FREE and found.get(name) != value:
            raise FemtoError(f"its {CONFIG} has {name} {found.get(name)!r:.60}, not {value!r:.60}: "
                             "it was changed since femtogpt wrote it")
    if vocabulary != tokenizer_json(model.tokenizer):
        raise FemtoError("its tokenizer.json is not the tokenizer it was written with: it was "
                         "changed since femtogpt wrote it")
