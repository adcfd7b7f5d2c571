"""What a pass reads besides parameters and tokens, and what it leaves for its backward.

Letters as in model.py.
"""

import math
from typing import NamedTuple

import numpy as np

from .layers.attention import weights_shape
from .layers.embedding import sinusoids
from .layers.rotary import rotary_turns
from .tensors import count_parameters, lined_up

# The head works on R positions at once, so that [N, V] need never be whole: R V is about LOGITS
# (64 MB) at most, unless R would fall below MIN_ROWS. Few rows make many trips through the
# head's weights: at V 50257, C 192, 48 rows made a step 1.17 times as long as 160 (Zen 4).
LOGITS, MIN_ROWS = 2**24, 48

# Parameters of a model that is to be trained in little memory rather than in the least time: norms
# and GELU are computed twice, and all threads add to one gradient, in turn (layers/turns.py).
HUGE = 100_000_000


class Constants(NamedTuple):
    """What a pass needs besides parameters and tokens. Arrays without rows: not used."""

    num_heads: int
    normalised_residual: bool  # recipe femto: the residual is taken after the norm
    turns: np.ndarray  # (3, T, C) with rotary positions, else (3, 0, C)
    positions: np.ndarray  # (T, C) with fixed sinusoids, else (0, C)
    bfloat16: bool | None  # as in matmul.py, of all products but attention's


class Activations(NamedTuple):
    """What forward leaves for backward, and backward's own space, for N = B T tokens."""

    x: np.ndarray  # (2 L + 1, N, C)   the stream before each half block, and at the end
    norm: np.ndarray  # (2 L + 1, N, C)   each of these normalised; of a huge model (1, N, C)
    mean: np.ndarray  # (2 L + 1, N)
    rstd: np.ndarray  # (2 L + 1, N)
    qkv: np.ndarray  # (L, N, 3C)   queries and keys already turned
    weights: np.ndarray  # (L, *weights_shape)   attention's: how much of each value
    attention: np.ndarray  # (L, N, C)   all heads side by side
    gelu: np.ndarray  # (L, N, 4C); of a huge model (1, N, 4C)
    slope: np.ndarray  # (L, N, 4C)   of GELU; of a huge model what GELU is taken of
    logits: np.ndarray  # (R, V)   of R positions at once; then probabilities, then their gradient
    branch: np.ndarray  # (N, C)   what a half block adds, then its gradient
    dx: np.ndarray  # (N, C)
    dnorm: np.ndarray  # (N, C)
    dqkv: np.ndarray  # (N, 3C)
    dgelu: np.ndarray  # (N, 4C)
    keys: np.ndarray  # (B,) uint64   dropout's, of the layer at work
    number: np.ndarray  # (N,) int64   the number of each position's token in `distinct`
    distinct: np.ndarray  # (N,) int64   the tokens that differ
    count: np.ndarray  # (1,) int64   how many they are
    place: np.ndarray  # (V,) int64   number_tokens' own


def constants(config, dtype=np.float32, bfloat16=None):
    """The Constants of a config. bfloat16: as precision.use gives it."""
    T, C = config.num_tokens, config.embedding_degree
    turns, positions = np.zeros((3, 0, C), dtype), np.zeros((0, C), dtype)
    if config.positional_encoding == "rope":
        angles = rotary_turns(np.arange(T), config.num_heads, config.head_size,
                              config.rotary_base)
        turns = lined_up(angles.shape, dtype)
        turns[...] = angles
    elif config.positional_encoding == "absolute":
        positions = sinusoids(T, C).astype(dtype)
    return Constants(config.num_heads, config.recipe == "femto", turns, positions, bfloat16)


def activation_shapes(config, sequences, keep_all=False):
    """Activations of shapes, for a micro-batch of `sequences` sequences. keep_all: a huge model's
    too."""
    T, C, L = config.num_tokens, config.embedding_degree, config.num_layers
    N, V = sequences * T, config.vocab_size
    norms = halves = 2 * L + 1
    gelus = L
    if count_parameters(config) > HUGE and not keep_all:
        norms = gelus = 1
    parts = -(-N // max(MIN_ROWS, LOGITS // V))
    return Activations(
        x=(halves, N, C), norm=(norms, N, C), mean=(halves, N), rstd=(halves, N),
        qkv=(L, N, 3 * C), weights=(L, *weights_shape(T, sequences, config.num_heads)),
        attention=(L, N, C),
        gelu=(gelus, N, 4 * C), slope=(L, N, 4 * C),
        logits=(-(-N // parts), V),
        branch=(N, C), dx=(N, C), dnorm=(N, C), dqkv=(N, 3 * C), dgelu=(N, 4 * C),
        keys=(sequences,), number=(N,), distinct=(N,), count=(1,), place=(V,),
    )


def smaller(a, config, sequences):
    """Activations for fewer sequences, in the memory of a."""
    parts = (x.reshape(-1)[: math.prod(shape)].reshape(shape)
             for x, shape in zip(a, activation_shapes(config, sequences), strict=True))
    return Activations(*parts)._replace(logits=a.logits)


def allocate_activations(config, sequences, dtype=np.float32, keep_all=False):
    """Activations for a micro-batch of `sequences` sequences, as activation_shapes says."""
    *shapes, keys, number, distinct, count, place = activation_shapes(config, sequences, keep_all)
    return Activations(
        *(lined_up(shape, dtype) for shape in shapes), np.empty(keys, np.uint64),
        *(np.full(shape, -1) for shape in (number, distinct, count, place)))
