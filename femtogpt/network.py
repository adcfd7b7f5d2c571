"""What a step would take on several machines alike, joined by a network: a prediction.

A step of N machines is what one takes for its part of the batch and of the update, and then what
travels: each sends the others their parts of its gradients' sums, and all have the updated
parameters from their owners (femtogpt/ranks.py). A network takes

    latency * messages + bytes / bandwidth

for that (Hockney 1994). Parameters go while nothing is computed; of the sums, what is sent of one
layer goes while those below it are computed, for the last time in a step (femtogpt/reduction.py).
benchmarks/ranks.py measures both here, and holds the prediction to two processes on this machine.
"""

import math
from dataclasses import dataclass

from .errors import FemtoError
from .ranks import Ranks, cut
from .reduction import Branches, spans_by_layer
from .shards import count_shards, micro_batch_size
from .tensors import MUON_FIELDS, count_parameters

LATENCY = 50e-6  # seconds a message, of Ethernet by TCP, if nothing is known of it
BACKWARD = 2 / 3  # of a pass's arithmetic
SMALL_SHARE = 0.1  # of a step's time, that sending may take


class _OneOf(Ranks):
    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@dataclass(frozen=True)
class Traffic:
    """What the rank that sends most sends: messages, one after the other, and bytes."""

    messages: int
    bytes: int

    def seconds(self, bandwidth, latency):
        return latency * self.messages + self.bytes / bandwidth


@dataclass(frozen=True)
class Prediction:
    """Of a step, in seconds: computing, and sending while nothing is computed. batch_size:
    sequences of a step of which sending would take SMALL_SHARE."""

    computing: float
    sending: float
    batch_size: int

    @property
    def seconds(self):
        return self.computing + self.sending


def traffic(config, batch_size, accumulate, ranks):
    """The Traffic of a step of so many ranks: that of sums, and that of parameters. FemtoError
    where the batch has too few shards for them."""
    each = count_shards(config, batch_size)
    if accumulate * each < ranks:
        raise FemtoError(f"a batch of {accumulate * batch_size} for this model is cut in "
                         f"{accumulate * each} shards, too few for {ranks} processes: give fewer, "
                         f"or --accumulate {-(-ranks // each)}")
    sums = max(len(Branches(accumulate * each, _OneOf(rank, ranks), each).own_roots)
               for rank in range(ranks))
    others = ranks - 1
    vector = 4 * count_parameters(config) * others // ranks  # float32, but for one's own part
    # Each span of a layer to its owner; one that several own is cut.
    spans = sum(map(len, spans_by_layer(config))) + others if others else 0
    return Traffic(sums * spans, sums * vector), Traffic(others, vector)


def predict(config, optimizer, batch_size, accumulate, step, threads, ranks, bandwidth,
            latency=LATENCY):
    """The Prediction for so many machines of one rank each.

    step: an estimate.StepTime of accumulate times batch_size sequences on one machine, with so many
    threads. bandwidth: bytes a second."""
    sums, parameters = (each.seconds(bandwidth, latency)
                        for each in traffic(config, batch_size, accumulate, ranks))
    matrices = len(MUON_FIELDS) * config.num_layers  # none of which is cut
    updating = step.update / (ranks if optimizer == "adamw" else min(ranks, matrices))
    passes = step.seconds - step.update
    together = threads * micro_batch_size(config, cut(batch_size, count_shards(config, batch_size)))
    last_backward = BACKWARD * passes * min(1.0, together / (accumulate * batch_size))
    hidden = min(sums, last_backward) * (1 - 1 / config.num_layers)
    sending = sums - hidden + parameters
    passes /= ranks
    allowed = sending * (1 / SMALL_SHARE - 1) - updating
    enough = math.ceil(allowed * accumulate * batch_size / passes)
    return Prediction(passes + updating, sending, max(ranks, enough))
