"""A file beside the model itself, in onnxruntime where that is installed."""

import importlib.util
from typing import NamedTuple

import numpy as np

from ...batches import spread_windows
from ...decoder import Decoder
from ...errors import FemtoError
from ...inspection import activations

TOLERANCE = 1e-4  # of logits; of large ones as a part of the largest
WINDOWS = 8


class Check(NamedTuple):
    """What was compared, and found equal."""

    difference: float  # the largest of any logit
    windows: int  # of num_tokens each
    beyond: int  # tokens past the context's end, where the window slides


def missing():
    """The packages that a check needs and that are not installed."""
    return [name for name in ("onnxruntime",) if importlib.util.find_spec(name) is None]


def check(data, model, tokens):
    """A Check of a file's bytes that model was written to. tokens: of a text, num_tokens + 1 at
    least. Raises FemtoError where logits differ."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised too
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def difference(ids, ours):
        ids = np.asarray(ids, np.int64)[None]
        [theirs] = session.run(["logits"], {"input_ids": ids})
        off, allowed = np.abs(theirs[0] - ours).max(), TOLERANCE * max(1, np.abs(ours).max())
        if not off <= allowed:
            raise FemtoError(f"onnxruntime computes other logits, {off:.2g} off at most, above "
                             f"{allowed:.2g}")
        return float(off)

    c, T = model.config, model.config.num_tokens
    windows = spread_windows(tokens, T, WINDOWS)[:, :-1]
    found = [difference(window, activations(c, model.parameters, window)["logits"])
             for window in windows]
    beyond = 0
    if c.positional_encoding in ("rope", "none"):
        stretch, decoder = tokens[: 2 * T], Decoder(c, model.parameters)
        found.append(difference(stretch, np.vstack([decoder.feed([id]) for id in stretch])))
        beyond = len(stretch) - T
    return Check(max(found), len(windows), beyond)
