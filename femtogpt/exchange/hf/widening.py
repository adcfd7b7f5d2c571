"""A model of recipe standard in a wider stream, for programs whose head has no bias.

The stream is widened from C to C' = C + NH channels, heads from hs to hs + 1. What writes into
it (embeddings, projection, down, their biases) gives each new channel the mean of its C outputs,
so the new channels always hold the stream's mean. Then a norm over C' sees the same mean, and
C/C' of the variance: gains times sqrt(C/C') and eps times C/C' undo that. What reads the stream
has gains and rows of zero there. The last norm's bias is 1 in one new channel, and that row of
the head is the head's bias. A head's new number is zero; scores are then divided by sqrt(hs + 1),
so queries are times sqrt((hs + 1)/hs). Where another program wants rows of certain lengths, heads
may be more than one number wider (per_head), and everything above holds with that for 1.

Back again: all but gains and queries stands there as it was. These were rounded when they were
scaled, and then at most two neighbouring float32 come to the same number: one bit says which.
"""

import math

import numpy as np

from ...errors import FemtoError
from ...layers.embedding import sinusoids
from ...layers.norm import EPS
from ...tensors import Tensors, count_parameters, shape_table, views

GAINS = ("attention_norm_gain", "mlp_norm_gain", "final_norm_gain")
MEANS = ("token_embedding", "position_embedding", "projection_bias", "projection_weight",
         "down_bias", "down_weight")  # what writes into the stream


def with_positions(p, config):
    """p, Tensors, whose position_embedding (T, C) is what is added, be it fixed or nothing at all;
    with rotary positions p as it is."""
    T, C = config.num_tokens, config.embedding_degree
    if config.positional_encoding == "absolute":
        return p._replace(position_embedding=sinusoids(T, C).astype(np.float32))
    if config.positional_encoding == "none":
        return p._replace(position_embedding=np.zeros((T, C), np.float32))
    return p


def position_rows(config):
    """How many rows of positions there are to add: none with rotary ones."""
    return 0 if config.positional_encoding == "rope" else config.num_tokens


def wide_shapes(config, per_head=1):
    """The shapes of what widen gives."""
    V, C, L = config.vocab_size, config.embedding_degree, config.num_layers
    wide = C + config.num_heads * per_head
    return shape_table(config)._replace(
        token_embedding=(V, wide), position_embedding=(position_rows(config), wide),
        **{f"{norm}_{part}": (L, wide) for norm in ("attention_norm", "mlp_norm")
           for part in ("gain", "bias")},
        projection_bias=(L, wide), down_bias=(L, wide),
        final_norm_gain=(wide,), final_norm_bias=(wide,), head_weight=(wide, V), head_bias=(0,),
        query_key_value_weight=(L, wide, 3 * wide), projection_weight=(L, wide, wide),
        up_weight=(L, wide, 4 * C), down_weight=(L, 4 * C, wide),
    )


def wide_eps(config, per_head=1):
    """The norms' eps in the widened stream."""
    C = config.embedding_degree
    return EPS * C / (C + config.num_heads * per_head)


def widen(p, config, per_head=1):
    """Tensors of shapes wide_shapes(config, per_head), new, that compute what p (Tensors) does."""
    C, L, NH, hs = (config.embedding_degree, config.num_layers, config.num_heads,
                    config.head_size)
    p = with_positions(p, config)
    w = Tensors(*(np.zeros(shape, np.float32) for shape in wide_shapes(config, per_head)))
    for field in ("attention_norm_bias", "mlp_norm_bias", "final_norm_bias", *GAINS):
        getattr(w, field)[..., :C] = getattr(p, field)
    for field in GAINS:
        gain = getattr(w, field)
        gain[...] = scaled(gain, gain_scale(config, per_head))
    w.up_bias[...], w.up_weight[:, :C] = p.up_bias, p.up_weight
    w.head_weight[:C], w.head_weight[C], w.final_norm_bias[C] = p.head_weight, p.head_bias, 1
    narrow_heads = p.query_key_value_weight.reshape(L, C, 3, NH, hs)
    heads = w.query_key_value_weight.reshape(L, -1, 3, NH, hs + per_head)
    for l in range(L):
        heads[l, :C, :, :, :hs] = narrow_heads[l]
        heads[l, :C, 0] = scaled(heads[l, :C, 0], query_scale(config, per_head))
    for field in MEANS:
        new, old = getattr(w, field), getattr(p, field)
        if field == "projection_weight":  # its rows are the heads' numbers
            new = new.reshape(L, NH, hs + per_head, -1)[:, :, :hs]
            old = old.reshape(L, NH, hs, C)
        new[..., :C] = old
        new[..., C:] = old.mean(-1, dtype=np.float64, keepdims=True)
    return w


def narrow(w, config, rounding):
    """The flat parameters of which widen made w. rounding: what `rounding` gave of them.

    Of a w that no model is widened to, some of it: widen that and compare.
    """
    C, L, NH, hs = (config.embedding_degree, config.num_layers, config.num_heads,
                    config.head_size)
    flat = np.zeros(count_parameters(config), np.float32)
    p = views(flat, config)
    bits = _Bits(rounding)
    for field in ("attention_norm_bias", "mlp_norm_bias", "final_norm_bias", "token_embedding",
                  "projection_bias", "down_bias", "down_weight"):
        getattr(p, field)[...] = getattr(w, field)[..., :C]
    if p.position_embedding.size:
        p.position_embedding[...] = w.position_embedding[:, :C]
    for field in GAINS:
        gain = getattr(p, field)
        gain[...] = unscaled(getattr(w, field)[..., :C], gain_scale(config), bits.take(gain.shape))
    p.up_bias[...], p.up_weight[...] = w.up_bias, w.up_weight[:, :C]
    p.head_weight[...], p.head_bias[...] = w.head_weight[:C], w.head_weight[C]
    p.projection_weight[...] = w.projection_weight.reshape(
        L, NH, hs + 1, C + NH)[:, :, :hs, :C].reshape(L, C, C)
    narrow_heads = p.query_key_value_weight.reshape(L, C, 3, NH, hs)
    heads = w.query_key_value_weight.reshape(L, C + NH, 3, NH, hs + 1)[:, :C, :, :, :hs]
    for l in range(L):
        narrow_heads[l, :, 1:] = heads[l, :, 1:]
        query = heads[l, :, 0]
        narrow_heads[l, :, 0] = unscaled(query, query_scale(config), bits.take(query.shape))
    bits.end()
    return flat


def rounding(p, config):
    """Of which of two numbers that are scaled to the same one the larger is meant: bytes, a bit
    for each gain and query of p (Tensors)."""
    C = config.embedding_degree
    parts = [upper(getattr(p, field), gain_scale(config)).ravel() for field in GAINS]
    parts += [upper(p.query_key_value_weight[l, :, :C], query_scale(config)).ravel()
              for l in range(config.num_layers)]
    return np.packbits(np.concatenate(parts)).tobytes()


class _Bits:
    """The bits of `rounding`, taken in its order."""

    def __init__(self, data):
        self.bits, self.taken = np.unpackbits(np.frombuffer(data, np.uint8)), 0

    def take(self, shape):
        begin, self.taken = self.taken, self.taken + math.prod(shape)
        if self.taken > self.bits.size:
            raise FemtoError("what it says of rounding is cut")
        return self.bits[begin : self.taken].reshape(shape)

    def end(self):
        if self.bits.size - self.taken >= 8:
            raise FemtoError("it says more of rounding than there are numbers")


def gain_scale(config, per_head=1):
    """What the norms' gains are multiplied by."""
    C = config.embedding_degree
    return math.sqrt(C / (C + config.num_heads * per_head))


def query_scale(config, per_head=1):
    """What queries are multiplied by."""
    return math.sqrt((config.head_size + per_head) / config.head_size)


def scaled(x, scale):
    """x (float32) times scale, rounded once more to float32: the same on every machine."""
    with np.errstate(over="ignore"):  # infinity is told by who sees it
        return (x.astype(np.float64) * scale).astype(np.float32)


def lowest(y, scale):
    """The number nearest to zero that scaled makes y. y: float32. NaN where there is none."""
    y = np.ascontiguousarray(y)
    size = np.abs(y)
    near = (size.astype(np.float64) / scale).astype(np.float32).view(np.int32)
    found = np.full(y.shape, np.nan, np.float32)
    for step in (2, 1, 0, -1, -2):  # neighbouring floats are neighbouring integers
        x = np.maximum(near + step, 0).astype(np.int32).view(np.float32)
        found = np.where(scaled(x, scale) == size, x, found)
    return np.copysign(found, y)


def upper(x, scale):
    """Whether x is not lowest(scaled(x)), but the number next to it away from zero."""
    return (lowest(scaled(x, scale), scale) != x).astype(np.uint8)


def unscaled(y, scale, upper):
    """The x of which scaled made y. upper: upper(x, scale)."""
    x = lowest(y, scale)
    return np.where(upper == 1, np.nextafter(x, np.copysign(np.float32(np.inf), x)), x)
