"""The starts of a search: what tells them from each other, and how long each is trained."""

import random
from dataclasses import dataclass, field, replace

from ..config import GPTConfig

# What may differ beside the seed, and within what: rate and layers by a factor about those given
# (log-uniform), dropout between two numbers (uniform).
VARIED = ("learning-rate", "dropout", "num-layers")
RATE_FACTOR, LAYERS_FACTOR, DROPOUTS = 10**0.5, 2, (0.0, 0.3)


@dataclass
class Candidate:
    """One start. number: from 1; 0 is the rival. ends: the step it is at after each round, were it
    to go through all. rounds: what came of those it went through, dicts: loss (in nats, on the
    text that is chosen by; None: it diverged), step (its last), seconds (of training, in this
    round, about; None where a kill left nothing to tell it by), note (where it diverged)."""

    number: int
    seed: int
    learning_rate: float
    dropout: float
    config: GPTConfig
    ends: list = field(default_factory=list)
    rounds: list = field(default_factory=list)

    @property
    def name(self):
        return f"candidate-{self.number}" if self.number else "rival"

    @property
    def diverged(self):
        return bool(self.rounds) and self.rounds[-1]["loss"] is None

    def to_json(self):
        return {"candidate": self.number, "seed": self.seed, "learning_rate": self.learning_rate,
                "dropout": self.dropout, "num_layers": self.config.num_layers,
                "rounds": self.rounds}


def draw(first, count, vary, steps, rounds):
    """`count` candidates: number 1 is as `first`, number k has its seed + k - 1 and what it draws.

    vary: names of VARIED. Round 1 is `steps` steps, each other twice those of the one before; of a
    candidate with other layers as many as take the same arithmetic.
    """
    found = [_drawn(first, number, vary) for number in range(1, count + 1)]
    for one in found:
        share = arithmetic(first.config) / arithmetic(one.config)
        one.ends = [max(r, round(steps * (2**r - 1) * share)) for r in range(1, rounds + 1)]
    return found


def _drawn(first, number, vary):
    seed = (first.seed + number - 1) % 2**63
    one = replace(first, number=number, seed=seed, ends=[], rounds=[])
    if number == 1:
        return one
    generator = random.Random(seed)
    # All are drawn, whatever varies: what one is must not depend on whether another varies too.
    rate, dropout, layers = (generator.random() for _ in VARIED)
    if "learning-rate" in vary:  # digits that can be typed
        one.learning_rate = float(f"{first.learning_rate * RATE_FACTOR ** (2 * rate - 1):.2g}")
    if "dropout" in vary:
        one.dropout = round(DROPOUTS[0] + (DROPOUTS[1] - DROPOUTS[0]) * dropout, 2)
    if "num-layers" in vary:
        count = round(first.config.num_layers * LAYERS_FACTOR ** (2 * layers - 1))
        one.config = replace(first.config, num_layers=max(1, count))
    return one


def arithmetic(config):
    """Multiplications a token in the products of a forward; a training step takes thrice that."""
    C, T = config.embedding_degree, config.num_tokens
    return config.num_layers * (12 * C * C + T * C) + C * config.vocab_size


def spent(candidates):
    """The arithmetic of all steps the candidates have taken, in that of a token of a forward."""
    return sum(one.rounds[-1]["step"] * arithmetic(one.config)
               for one in candidates if one.rounds)
