"""Generating, with all there is to tell of each token; and attention."""

import base64
import time

import numpy as np

from ..errors import FemtoError
from ..inspection import activations
from ..sampler import generate_with_logits, prompt_ids, random_seed, softmax
from ..tokenizer.whole_text import WholeText

ALTERNATIVES = 8  # the likeliest tokens that are told beside the one that was drawn


def beginning(model, settings):
    """(the ids a text begins with, its seed). Raises FemtoError for a prompt that can't be."""
    ids = prompt_ids(model.tokenizer, model.config.num_tokens, settings.prompt or None)
    return ids, random_seed() if settings.seed is None else settings.seed


def written(model, ids, seed, settings, stopped):
    """Yields what to tell while `femtogpt generate`'s text for these settings is written, dicts
    for JSON. First: step, seed, ids, num_tokens (the model's). Then of each token: id, piece,
    probability, alternatives (of piece, probability), both the model's own, and parts: what text
    is certain by now, each with the numbers (from 0) of the tokens that made it. At last: end
    ("count", "stop" or "stopped"), parts, seconds since the first token; or error, a sentence.

    stopped: called before each token, for whether to end.
    """
    yield {"step": model.step, "seed": str(seed), "ids": ids,
           "num_tokens": model.config.num_tokens}
    text, end, began = WholeText(settings.stop), "count", None
    tokens = generate_with_logits(model.config, model.parameters, [ids], settings.count, [seed],
                                  settings.temperature, settings.top_k, settings.top_p)
    try:
        for number, (_, token, logits) in enumerate(tokens):
            began = began or time.perf_counter()
            parts = text.take(model.tokenizer.piece(token), number)
            yield _token(model.tokenizer, token, logits) | {"parts": parts}
            if text.ended or stopped():
                end = "stop" if text.ended else "stopped"
                break
    except FemtoError as error:  # logits that are not finite
        yield {"error": str(error)}
        return
    yield {"end": end, "parts": text.rest(), "seconds": time.perf_counter() - began}


def _token(tokenizer, token, logits):
    shares = softmax(logits)
    likely = np.argpartition(-shares, min(ALTERNATIVES, shares.size - 1))[:ALTERNATIVES]
    likely = likely[np.argsort(-shares[likely], kind="stable")].tolist()
    return {"id": token, "piece": label(tokenizer.piece(token)),
            "probability": float(shares[token]),
            "alternatives": [[label(tokenizer.piece(id)), float(shares[id])] for id in likely]}


def label(piece):
    """A token's bytes as text, those that are none as in \\xe2."""
    return piece.decode("utf-8", "backslashreplace")


def attention(model, ids):
    """Where each head looks while it reads ids, at most num_tokens of them, for JSON: step,
    pieces (n), layers, heads, and weights: base64 of layers x heads x n x n bytes, 255 for all of
    a token's attention, row by row. Raises FemtoError for ids that are none."""
    found = activations(model.config, model.parameters, ids)
    weights = np.stack([found[f"layers.{l}.attention_weights"]
                        for l in range(model.config.num_layers)])
    return {"step": model.step, "pieces": [label(model.tokenizer.piece(id)) for id in ids],
            "layers": model.config.num_layers, "heads": model.config.num_heads,
            "weights": base64.b64encode(np.rint(255 * weights).astype(np.uint8)).decode("ascii")}
