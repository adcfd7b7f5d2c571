"""All that a page tells of a model and cannot read from its file."""

import math
from dataclasses import dataclass

from ..checkpoint import Model
from ..data import count_bytes, count_tokens
from ..diagnosis import diagnose
from ..errors import FemtoError
from ..scoring import chunks

# Of a text, as many windows of at least so many tokens: enough to find hard places, in seconds.
WINDOWS, LEAST_TOKENS = 2000, 64


@dataclass
class Measured:
    """A model with what was measured of it on a text.

    name: for people. size: bytes of its file, None where that is not known. tokens: the text's,
    None without a text, and then all below is None too. numbers, findings: diagnose's, or None,
    and trouble is the sentence why. counts: (V,), how often each token occurs. chunks: as
    scoring.chunks has them, or None. bytes_per_token: of the text.
    """

    name: str
    model: Model
    size: int | None = None
    tokens: object = None
    numbers: dict | None = None
    findings: list | None = None
    trouble: str | None = None
    counts: object = None
    chunks: list | None = None
    bytes_per_token: float | None = None

    def mean_loss(self):
        """(nats a token, bits per byte) over all chunks."""
        sizes = [chunk["end"] - chunk["begin"] for chunk in self.chunks]
        loss = sum(chunk["loss"] * n for chunk, n in
                   zip(self.chunks, sizes, strict=True)) / sum(sizes)
        return loss, loss / math.log(2) / self.bytes_per_token


def measure(name, model, size=None, tokens=None, threads=None, progress=None):
    """A Measured. tokens: the text's, an array, or None. progress: as diagnose's."""
    found = Measured(name, model, size, tokens)
    if tokens is None:
        return found
    found.counts = count_tokens(tokens, model.config.vocab_size)
    found.bytes_per_token = count_bytes(model.tokenizer, found.counts) / len(tokens)
    try:
        found.chunks = chunks(model, tokens, LEAST_TOKENS, threads, WINDOWS)
        found.numbers, found.findings = diagnose(model, tokens, threads, progress)
    except FemtoError as error:
        found.trouble = str(error)
    return found
