"""What a step would take on several machines alike, joined by a network: a prediction.

A step of N machines is what one takes for its part of the batch and of the update, and then what
travels: each sends the others their parts of its gradients' sums, and all have the updated
parameters from their owners (femtogpt/ranks.py). A network takes

    latency * messages + bytes / bandwidth

for that (Hockney 1994), while nothing is computed. benchmarks/ranks.py measures both here, and
holds the prediction to two processes on this machine.
"""

import math
from dataclasses import dataclass

from .errors import FemtoError
from .parallel import Branches, count_shards
from .ranks import Ranks
from .tensors import MUON_FIELDS, count_parameters

LATENCY = 50e-6  # seconds a message, of Ethernet by TCP, if nothing is known of it
SMALL_SHARE = 0.1  # of a step's time, that sending may take


class _OneOf(Ranks):
    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@dataclass(frozen=True)
class Traffic:
    """What the rank that sends most sends in a step: messages, one after the other; bytes."""

    messages: int
    bytes: int


@dataclass(frozen=True)
class Prediction:
    """Of a step, in seconds: computing and sending. batch_size: sequences of a step of which
    sending would take SMALL_SHARE."""

    computing: float
    sending: float
    batch_size: int

    @property
    def seconds(self):
        return self.computing + self.sending


def traffic(config, batch_size, accumulate, ranks):
    """The Traffic of so many ranks. FemtoError where the batch has too few shards for them."""
    each = count_shards(config, batch_size)
    if accumulate * each < ranks:
        raise FemtoError(f"a batch of {accumulate * batch_size} for this model is cut in "
                         f"{accumulate * each} shards, too few for {ranks} processes: give fewer, "
                         f"or --accumulate {-(-ranks // each)}")
    sums = max(len(Branches(accumulate * each, _OneOf(rank, ranks), each).own_roots)
               for rank in range(ranks))
    others = ranks - 1
    vector = 4 * count_parameters(config) * others // ranks  # float32, but for one's own part
    return Traffic((sums + 1) * others, (sums + 1) * vector)


def predict(config, optimizer, batch_size, accumulate, step, ranks, bandwidth, latency=LATENCY):
    """The Prediction for so many machines of one rank each.

    step: an estimate.StepTime of accumulate times batch_size sequences on one machine.
    bandwidth: bytes a second."""
    sent = traffic(config, batch_size, accumulate, ranks)
    sending = latency * sent.messages + sent.bytes / bandwidth
    matrices = len(MUON_FIELDS) * config.num_layers  # none of which is cut
    updating = step.update / (ranks if optimizer == "adamw" else min(ranks, matrices))
    passes = (step.seconds - step.update) / ranks
    allowed = sending * (1 / SMALL_SHARE - 1) - updating
    enough = math.ceil(allowed * accumulate * batch_size / passes)
    return Prediction(passes + updating, sending, max(ranks, enough))
