"""What rounding the weights to float16 changes: measured, by our own forward."""

from typing import NamedTuple

import numpy as np

from ...decoder import Decoder
from ...errors import FemtoError
from ...sampler import NOT_FINITE
from ...tokenizer.protocol import newline_id

BEGINNINGS, COUNT = 8, 100  # texts, and tokens of each


class Rounding(NamedTuple):
    """Of greedy texts of a model and of the same model with its weights rounded:

    same: whether they are equal. texts: how many, of COUNT tokens each. difference: the largest
    of two logits for the same past. margin: how near the two likeliest tokens ever came.
    """

    same: bool
    texts: int
    difference: float
    margin: float

    def sentence(self):
        """It, for people."""
        told = "the same" if self.same else "NOT the same"
        return (f"greedy text of {self.texts} beginnings, {COUNT} tokens each, is {told} as "
                f"with float32 (logits differ by {self.difference:.2g} at most, the two "
                f"likeliest by {self.margin:.2g} at least)")


def rounding(model, rounded):
    """The Rounding of a Model. rounded: its parameters rounded, float32.

    Texts begin with a newline, where the vocabulary has one, and with tokens from all over the
    vocabulary. Raises FemtoError where logits are not finite.
    """
    V, newline = model.config.vocab_size, newline_id(model.tokenizer)
    beginnings = {*np.linspace(0, V - 1, BEGINNINGS).astype(int).tolist()}
    tokens = np.array(sorted(beginnings | ({newline} if newline is not None else set())))
    sequences, same, difference, margin = np.arange(len(tokens)), True, 0.0, np.inf
    decoders = [Decoder(model.config, p, len(tokens)) for p in (model.parameters, rounded)]
    for _ in range(COUNT):
        ours, theirs = (decoder.feed(tokens, sequences) for decoder in decoders)
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            raise FemtoError(NOT_FINITE)
        # Both read what the model itself writes: equal to the end, or told apart where they part.
        tokens = ours.argmax(1)
        same = same and bool((theirs.argmax(1) == tokens).all())
        difference = max(difference, float(np.abs(ours - theirs).max()))
        margin = min(margin, float(np.ptp(np.sort(ours, 1)[:, -2:], 1).min()))
    return Rounding(same, len(tokens), difference, margin)
