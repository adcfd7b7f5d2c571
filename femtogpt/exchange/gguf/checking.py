"""A file beside the model itself, in llama.cpp where llama-cpp-python is installed."""

import contextlib
import ctypes
import importlib.util
from typing import NamedTuple

import numpy as np

from ...batches import spread_windows
from ...errors import FemtoError
from ...inspection import activations
from ...sampler import generate, prompt_ids
from ...tokenizer.protocol import newline_id

# Of logits, as a part of the largest: llama.cpp looks its GELU up in a table of float16, and reads
# activations in float16, or in 8 bits, where weights are.
TOLERANCE = {"float32": 2e-3, "float16": 1e-2, "q8_0": 1e-1}
WINDOWS = 8
TEXT = 4096  # tokens of a text whose ids are compared
BEGINNINGS = 8  # of greedy texts
FLOAT32 = 0  # ggml's number for it: what a cache of keys and values is of


class Check(NamedTuple):
    """What was compared."""

    difference: float  # the largest of any logit
    windows: int  # of num_tokens each
    texts: int  # greedy ones, up to the context's end
    same: int  # how many of them are the same
    apart: float  # where the others part: how far the model's own two logits lie apart at most


def missing():
    """The packages that a check needs and that are not installed."""
    return [name for name in ("llama_cpp",) if importlib.util.find_spec(name) is None]


def check(path, model, dtype, tokens):
    """A Check of the file at path that model was written to. tokens: of a text, num_tokens + 1 at
    least.

    Raises FemtoError where ids differ, logits by more than dtype explains, or greedy text where
    rounding does not explain it.
    """
    with _quiet():
        return _check(path, model, dtype, tokens)


@contextlib.contextmanager
def _quiet():
    """llama.cpp without its warnings, as that of a context padded to 256: what is wrong is raised.
    """
    import llama_cpp
    from llama_cpp._logger import llama_log_callback

    silent = llama_cpp.llama_log_callback(lambda *told: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    try:
        yield
    finally:
        llama_cpp.llama_log_set(llama_log_callback, ctypes.c_void_p(0))


def _check(path, model, dtype, tokens):
    from llama_cpp import Llama

    T = model.config.num_tokens
    theirs = Llama(str(path), n_ctx=T, n_batch=T, n_ubatch=T, logits_all=True, verbose=False,
                   type_k=FLOAT32, type_v=FLOAT32)
    try:
        _check_ids(model, theirs, tokens[:TEXT])
        windows = spread_windows(tokens, T, WINDOWS)[:, :-1]
        found = np.array([_difference(model, theirs, window) for window in windows])
        difference, largest = found.max(0)
        allowed = TOLERANCE[dtype] * max(1, largest)
        if not difference <= allowed:
            raise FemtoError(f"llama.cpp computes other logits, {difference:.2g} off at most, over "
                             f"{allowed:.2g}")
        starts = [window[: max(1, T // 8)].tolist() for window in windows[: BEGINNINGS - 1]]
        if newline_id(model.tokenizer) is not None:
            starts.append(prompt_ids(model.tokenizer, T, None))
        gaps = [_greedy(model, theirs, ids) for ids in starts if len(ids) < T]
    finally:
        theirs.close()
    parted = [gap for gap in gaps if gap is not None]
    apart = max(parted, default=0.0)
    if apart > 2 * allowed:
        raise FemtoError(f"llama.cpp's greedy text is another, where the two likeliest tokens lie "
                         f"{apart:.2g} apart")
    return Check(float(difference), len(windows), len(gaps), len(gaps) - len(parted), apart)


def _logits(theirs, ids, V):
    """(n, V): what llama.cpp computes for ids, from nothing."""
    theirs.reset()
    theirs.eval([int(id) for id in ids])
    return np.array(theirs.scores[: len(ids), :V])


def _check_ids(model, theirs, ids):
    text = model.tokenizer.decode(ids).decode("utf-8", "ignore")
    found = theirs.tokenize(text.encode(), add_bos=False)
    if found != model.tokenizer.encode(text).tolist():
        raise FemtoError("llama.cpp's tokenizer gives other ids for the text")
    if theirs.detokenize(found) != text.encode():
        raise FemtoError("llama.cpp's tokenizer spells the text otherwise")


def _difference(model, theirs, window):
    """(the largest of any logit, the largest logit)."""
    ours = activations(model.config, model.parameters, window)["logits"]
    return (np.abs(_logits(theirs, window, model.config.vocab_size) - ours).max(),
            np.abs(ours).max())


def _greedy(model, theirs, ids):
    """None where the likeliest continuation of ids, up to the context's end, is the same; else how
    far apart the two tokens lie for the model, where the first differs."""
    config = model.config
    count = config.num_tokens - len(ids)
    ours = [int(token) for token in generate(config, model.parameters, ids, count, 0, 0)]
    logits = _logits(theirs, ids + ours[:-1], config.vocab_size)[len(ids) - 1 :]
    found = logits.argmax(1)
    parts = np.flatnonzero(found != ours)
    if not parts.size:
        return None
    first = int(parts[0])
    own = activations(config, model.parameters, ids + ours[:first])["logits"][-1]
    return float(own[ours[first]] - own[found[first]])
