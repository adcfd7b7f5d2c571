"""How a batch is cut: in shards, whose gradients are computed each by itself, and in micro-batches
of them, which are worked on at once. And the memory that it takes to train so.
"""

import math

from .activations import HUGE, activation_shapes
from .layers.strassen import LEAST
from .machine import available_processors
from .matrices import are_transposed
from .ranks import ALONE, cut
from .reduction import Branches
from .tensors import count_adamw_parameters, count_parameters

# Parameters of a model that all threads can share a shard of; and of one whose gradients rather
# wait for each other than lie side by side. (E, waiting, holds 15 MB less and takes 1% longer: Zen
# 4.)
LARGE, IN_PASSES = 3_000_000, 16_000_000


def is_large(config):
    """Whether it is such a model."""
    return count_parameters(config) > LARGE


def micro_batch_tokens(config):
    """Positions that are worked on at once: enough that fetching the weights is little beside
    using them, few enough that what they leave for the backward stays in the cache. (Half or
    twice as many cost 2 to 9% of a step on two cores of a Zen 4, at widths 64 to 160; on a Zen 5
    320 cost C 2%, and 160 D and E 2 to 3%. Where a block's products are Strassen's, whose sums are
    then used for longer, 160 cost C 5%, G of 32 sequences 3%: Zen 4; of AVX2 2 to 3%.)"""
    large = 12 * config.num_layers * config.embedding_degree**2 >= 2_000_000
    return 320 if large or config.embedding_degree >= LEAST else 160


def count_shards(config, batch_size):
    """A power of two: up to 8 for small models, fewer where gradients would fill the memory (1 for
    a huge model, which many threads work on in turns.py's way), or shards be so short that to sum
    their gradients takes long beside computing them."""
    parameters = count_parameters(config)
    most = 1 if parameters > HUGE else 2 if parameters > 16_000_000 else (
        4 if parameters > 1_000_000 else 8)
    shortest = 80 if config.embedding_degree < 128 else 160
    wanted = max(1, batch_size * config.num_tokens // shortest)
    shards = 1
    while 2 * shards <= min(most, wanted, batch_size):
        shards *= 2
    return shards


def shards_at_once(config, shards, threads):
    """How many shards are computed before what can be summed of them is, each into a gradient of
    its own: those of a batch (with large gradients no more than there are threads), or so many
    times more that every thread has one. A huge one's threads share one. shards: of a batch."""
    if count_parameters(config) > HUGE:
        return 1
    at_once = 1 if count_parameters(config) > IN_PASSES else shards
    while at_once < threads:
        at_once *= 2
    return at_once


def micro_batch_size(config, shards):
    """Sequences that are worked on at once: the longest shard in passes of about one length."""
    longest = max(stop - start for start, stop in shards)
    wanted = micro_batch_tokens(config) / config.num_tokens
    sequences = math.ceil(longest / max(1, round(longest / wanted)))
    if sequences > 1 and sequences - wanted > wanted - (sequences - 1):
        sequences -= 1  # which is nearer
    return sequences


def memory_to_train(config, batch_size, threads=None, accumulate=1):
    """An estimate in bytes of what training holds: parameters, two moments, a gradient for each
    shard in work and each sum that waits, each thread's activations, matrices transposed for
    backward, and some 130 MB for Python and its libraries."""
    threads = threads or available_processors()
    shards = count_shards(config, batch_size)
    sequences = micro_batch_size(config, cut(batch_size, shards))
    of_shard = -(-batch_size // shards // sequences) if is_large(config) else 1
    activations = sum(math.prod(shape) for shape in activation_shapes(config, sequences))
    branches = Branches(accumulate * shards, ALONE, shards_at_once(config, shards, threads))
    at_once = 1 if count_parameters(config) > HUGE else accumulate * shards
    at_work = min(threads, at_once * of_shard)
    numbers = count_parameters(config) * (3 + branches.rows) + at_work * activations
    if are_transposed(config):
        numbers += count_parameters(config) - count_adamw_parameters(config)
    return 4 * numbers + 130_000_000
