"""A model -> a page."""

import base64
import hashlib
import json
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from ...durable import replace
from ...errors import FemtoError
from ...sampler import NOT_FINITE
from ...tensors import ranges, shape_table
from .check import rounding
from .tokens import tokenizer_data

HERE = Path(__file__).parent
SCRIPTS = ("tokenizer.js", "decoder.js", "sampler.js", "page.js")
LARGEST = 100_000_000  # bytes of a page; browsers take more, but no longer at once
BYTES = {"float16": 2, "float32": 4}


def write(model, path, dtype=None):
    """Writes a model as a page. Returns what to tell the user of it.

    dtype: the weights', "float16" or "float32"; None: float16 where a check finds greedy text the
    same with it, else float32. An old file goes all or not. Raises FemtoError, which names the
    file, where the page would be above LARGEST, the weights are not finite or beyond float16, or
    it can't be written.
    """
    try:
        _check_size(model.parameters.size * BYTES[dtype or "float16"] * 4 // 3, dtype)
        dtype, weights, note = _weights(model, dtype)
        page = _page(model, Path(path).stem, dtype, weights, note)
        _check_size(len(page), dtype)
    except FemtoError as error:
        raise FemtoError(f"{path} cannot be written: {error}") from None
    replace(path, [page], keep_previous=False)
    return [f"a page of {_megabytes(len(page))}, weights in {dtype}: {note}"]


def _check_size(size, dtype):
    """Raises FemtoError for a page of size bytes, if that is above LARGEST."""
    if size > LARGEST:
        raise FemtoError(f"it would be {_megabytes(size)}, above {_megabytes(LARGEST)}: "
                         + ("--dtype float16 halves that" if dtype == "float32" else
                            "a page is for smaller models"))


def _megabytes(size):
    return f"{size / 1e6:,.2f} MB"


def _weights(model, dtype):
    """(dtype, the parameters in it, what there is to say of it)."""
    parameters = model.parameters
    if not np.isfinite(parameters).all():
        raise FemtoError(NOT_FINITE)
    if dtype == "float32":
        return dtype, parameters.astype("<f4"), "the model's own numbers"
    with np.errstate(over="ignore"):
        half = parameters.astype("<f2")
    if not np.isfinite(half).all():
        note = f"its largest weight, {np.abs(parameters).max():.3g}, is beyond float16"
        if dtype == "float16":
            raise FemtoError(f"{note}; take --dtype float32")
    else:
        found = rounding(model, half.astype(np.float32))
        note = found.sentence()
        if found.same or dtype == "float16":
            return "float16", half, note
    return "float32", parameters.astype("<f4"), f"{note}: so they stay float32"


def _page(model, name, dtype, weights, note):
    """The page's bytes. name: of the model, for its title; note: a sentence on the weights."""
    config = model.config
    tensors = {field: [start, shape] for field, (start, _), shape in
               zip(shape_table(config)._fields, ranges(config), shape_table(config), strict=True)}
    data = {"config": config.to_json(), "dtype": dtype, "count": weights.size, "tensors": tensors,
            "tokenizer": tokenizer_data(model.tokenizer)}
    style = (HERE / "page.css").read_text("utf-8")
    script = "\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS)
    frame = Template((HERE / "page.html").read_text("utf-8"))
    page = frame.substitute(
        title=escape(name), about=escape(about(model)),
        weights_note=escape(f"Its weights are stored in {dtype}: {note}."),
        style=style, style_hash=csp_hash(style), script=script, script_hash=csp_hash(script),
        # Within a script element only "<" could end it.
        model=json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        weights=base64.b64encode(weights.tobytes()).decode("ascii"),
    )
    return page.encode("utf-8", "replace")  # a file's name may be no Unicode


def csp_hash(text):
    """An inline script's or style's name in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def about(model):
    """A line on what the model is."""
    c, history = model.config, model.history
    text = (f"A GPT of {c.num_layers} layers, {c.num_heads} heads and width {c.embedding_degree} "
            f"that sees {c.num_tokens} tokens at once; {model.parameters.size:,} parameters; "
            f"{model.tokenizer.name} tokenizer, {c.vocab_size:,} tokens. ")
    text += f"Trained for {model.step:,} steps" if model.step else "Not trained yet"
    if history.losses:
        text += f", to a loss of {history.losses[-1]:.3f} nats a token"
    if history.validation:
        text += f" ({history.validation[-1][1]:.3f} on text it was not trained on)"
    return text + "."
