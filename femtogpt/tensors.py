"""One flat array seen as named tensors.

Parameters, gradients and moments are each one flat vector, so that an optimizer or
a sum is one loop, and each is seen through `Tensors`: views into it, the layers of a
kind stacked along a first axis of L.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Tensors(NamedTuple):
    """Views of one flat vector. The order here is the order there.

    What Muon trains, the blocks' matrices, comes last, so that AdamW's part is a
    prefix of the vector.
    """

    token_embedding: np.ndarray  # (V, C)
    position_embedding: np.ndarray  # (T, C) where positions are learned, else (0, C)
    attention_norm_gain: np.ndarray  # (L, C)
    attention_norm_bias: np.ndarray  # (L, C)
    projection_bias: np.ndarray  # (L, C)
    mlp_norm_gain: np.ndarray  # (L, C)
    mlp_norm_bias: np.ndarray  # (L, C)
    up_bias: np.ndarray  # (L, 4C)
    down_bias: np.ndarray  # (L, C)
    final_norm_gain: np.ndarray  # (C,)
    final_norm_bias: np.ndarray  # (C,)
    head_weight: np.ndarray  # (C, V)
    head_bias: np.ndarray  # (V,)
    query_key_value_weight: np.ndarray  # (L, C, 3C)   columns: q, k, v; each heads in order
    projection_weight: np.ndarray  # (L, C, C)
    up_weight: np.ndarray  # (L, C, 4C)
    down_weight: np.ndarray  # (L, 4C, C)


# How the model file spells each field; {l} stands for the layer.
NAMES = Tensors(
    token_embedding="token_embedding",
    position_embedding="position_embedding",
    attention_norm_gain="layers.{l}.attention_norm.gain",
    attention_norm_bias="layers.{l}.attention_norm.bias",
    projection_bias="layers.{l}.attention.projection.bias",
    mlp_norm_gain="layers.{l}.mlp_norm.gain",
    mlp_norm_bias="layers.{l}.mlp_norm.bias",
    up_bias="layers.{l}.mlp.up.bias",
    down_bias="layers.{l}.mlp.down.bias",
    final_norm_gain="final_norm.gain",
    final_norm_bias="final_norm.bias",
    head_weight="head.weight",
    head_bias="head.bias",
    query_key_value_weight="layers.{l}.attention.query_key_value.weight",
    projection_weight="layers.{l}.attention.projection.weight",
    up_weight="layers.{l}.mlp.up.weight",
    down_weight="layers.{l}.mlp.down.weight",
)
LINE = 64  # bytes of the processor's cache that come and go together
MUON_FIELDS = ("query_key_value_weight", "projection_weight", "up_weight", "down_weight")


def lined_up(shape, dtype=np.float32):
    """np.zeros whose first number begins a line of the cache, so that of rows of 16 numbers and
    their multiples no vector lies in two. (Without, a pass takes 1 to 2% longer: Zen 5.)"""
    count = math.prod(shape) if isinstance(shape, tuple) else shape
    spare = LINE // np.dtype(dtype).itemsize
    numbers = np.zeros(count + spare, dtype)
    skipped = -numbers.ctypes.data % LINE // numbers.itemsize
    return numbers[skipped : skipped + count].reshape(shape)


def lined_up_vectors(config, count):
    """(count, P and up to 15 more) zeros: vectors of P parameters in whose every one the blocks'
    matrices begin at a line of the cache, whatever the vocabulary. (Without, F's step takes 1 to
    2% longer, and by Strassen's products 5%: Zen 5.)"""
    spare = LINE // 4
    length = math.ceil(count_parameters(config) / spare) * spare
    skipped = -count_adamw_parameters(config) % spare
    return lined_up(skipped + count * length)[skipped:].reshape(count, length)


@lru_cache
def shape_table(config):
    """The shape of every field for a config: the one table everything else is made from."""
    V, T, C, L = config.vocab_size, config.num_tokens, config.embedding_degree, config.num_layers
    return Tensors(
        token_embedding=(V, C),
        position_embedding=(T if config.positional_encoding == "learned" else 0, C),
        attention_norm_gain=(L, C),
        attention_norm_bias=(L, C),
        projection_bias=(L, C),
        mlp_norm_gain=(L, C),
        mlp_norm_bias=(L, C),
        up_bias=(L, 4 * C),
        down_bias=(L, C),
        final_norm_gain=(C,),
        final_norm_bias=(C,),
        head_weight=(C, V),
        head_bias=(V,),
        query_key_value_weight=(L, C, 3 * C),
        projection_weight=(L, C, C),
        up_weight=(L, C, 4 * C),
        down_weight=(L, 4 * C, C),
    )


def count_parameters(config):
    """How many numbers a model of this config has: L (12 C^2 + 10 C) + 2 C V + V + 2 C
    (and T C more where positions are learned)."""
    return sum(math.prod(shape) for shape in shape_table(config))


def count_adamw_parameters(config):
    """The length of the flat vector's first part, which Muon never trains."""
    table = shape_table(config)._asdict()
    return sum(math.prod(shape) for field, shape in table.items() if field not in MUON_FIELDS)


@lru_cache
def ranges(config):
    """Of each field, (start, stop) in the flat vector."""
    result, start = [], 0
    for shape in shape_table(config):
        stop = start + math.prod(shape)
        result.append((start, stop))
        start = stop
    return Tensors(*result)


def views(flat, config):
    """The Tensors that see flat, a vector of count_parameters(config) numbers."""
    shapes = shape_table(config)
    return Tensors(*(
        flat[start:stop].reshape(shape)
        for (start, stop), shape in zip(ranges(config), shapes, strict=True)
    ))


def named(flat, config, fields=Tensors._fields):
    """The model file's names -> views of flat, layer by layer; a field of size 0 has no name.

    flat may be a prefix of the whole vector if `fields` lie in it.
    """
    result = {}
    for field, name, shape, (start, stop) in zip(
        Tensors._fields, NAMES, shape_table(config), ranges(config), strict=True
    ):
        if field not in fields or start == stop:
            continue
        tensor = flat[start:stop].reshape(shape)
        if "{l}" in name:
            for l in range(config.num_layers):
                result[name.format(l=l)] = tensor[l]
        else:
            result[name] = tensor
    return result
