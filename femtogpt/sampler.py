"""Decoding: one token at a time, keys and values of the past kept.

This is a second forward; tests/test_sampler.py holds it to model_forward, position by
position. Where positions are rotary (or none) the cache is a ring that slides: only
distances count. Where they are absolute, a full window is begun again with its last
half, read anew.
"""

import math

import numpy as np

from .errors import FemtoError
from .layers.embedding import embedding_forward
from .layers.gelu import gelu_forward
from .layers.norm import norm_forward
from .layers.numeric import kernel
from .layers.rotary import rotary_forward, rotary_turns
from .layers.rows import dot_row, exp_row, largest
from .model import Constants, add, constants
from .tensors import views


@kernel
def vector_linear(out, x, weight, bias):
    """linear_forward of one row. Overwrites out. Four rows of weight at a time: fewer
    trips of out through the cache."""
    # out, bias: (O,)   x: (I,)   weight: (I, O)
    I, O = weight.shape
    for o in range(O):
        out[o] = bias[o]
    whole = I - I % 4
    for i in range(0, whole, 4):
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        w0, w1, w2, w3 = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
        for o in range(O):
            out[o] += x0 * w0[o] + x1 * w1[o] + x2 * w2[o] + x3 * w3[o]
    for i in range(whole, I):
        row = weight[i]
        for o in range(O):
            out[o] += x[i] * row[o]


@kernel
def attend(out, cache, qkv, num_heads, slot, filled):
    """One token's attention. Puts its key and value into cache[:, slot], then overwrites out.

    The cache's first `filled` slots are in use (the new one among them), in any order.
    """
    # out: (C,)   cache: (2, T, C), keys and values   qkv: (3C,)
    C = out.size
    hs = C // num_heads
    scalar = out.dtype.type
    scale = scalar(1 / math.sqrt(hs))
    for c in range(C):
        cache[0, slot, c] = qkv[C + c]
        cache[1, slot, c] = qkv[2 * C + c]
    weights = np.empty(filled, out.dtype)
    for h in range(num_heads):
        first = h * hs
        q = qkv[first : first + hs]
        for t in range(filled):
            weights[t] = dot_row(q, cache[0, t, first : first + hs], hs)
        total = exp_row(weights, weights, filled, largest(weights, filled), scale)
        o = out[first : first + hs]
        for c in range(hs):
            o[c] = 0
        for t in range(filled):
            value = cache[1, t, first : first + hs]
            share = weights[t] / total
            for c in range(hs):
                o[c] += share * value[c]


@kernel
def decode_token(logits, cache, token, slot, filled, p, k):
    """The logits (V,) after one more token. cache: (L, 2, T, C).

    k: Constants whose tables hold the one row of this token's position.
    """
    L, _, _, C = cache.shape
    x, norm = np.empty((1, C), logits.dtype), np.empty((1, C), logits.dtype)
    mean, rstd = np.empty(1, logits.dtype), np.empty(1, logits.dtype)
    qkv, branch = np.empty((1, 3 * C), logits.dtype), np.empty((1, C), logits.dtype)
    attention = np.empty(C, logits.dtype)
    up, gelu = np.empty((1, 4 * C), logits.dtype), np.empty((1, 4 * C), logits.dtype)
    nothing = np.zeros(3 * C, logits.dtype)
    embedding_forward(x, np.full(1, token), p.token_embedding, k.positions)
    for l in range(L):
        norm_forward(norm, mean, rstd, x, p.attention_norm_gain[l], p.attention_norm_bias[l])
        vector_linear(qkv[0], norm[0], p.query_key_value_weight[l], nothing)
        if k.turns.shape[1] > 0:
            rotary_forward(qkv, k.turns, k.num_heads)
        attend(attention, cache[l], qkv[0], k.num_heads, slot, filled)
        vector_linear(branch[0], attention, p.projection_weight[l], p.projection_bias[l])
        add(x, norm if k.normalised_residual else x, branch)
        norm_forward(norm, mean, rstd, x, p.mlp_norm_gain[l], p.mlp_norm_bias[l])
        vector_linear(up[0], norm[0], p.up_weight[l], p.up_bias[l])
        gelu_forward(gelu, up)
        vector_linear(branch[0], gelu[0], p.down_weight[l], p.down_bias[l])
        add(x, norm if k.normalised_residual else x, branch)
    norm_forward(norm, mean, rstd, x, p.final_norm_gain, p.final_norm_bias)
    vector_linear(logits, norm[0], p.head_weight, p.head_bias)


class Decoder:
    """Reads tokens one by one and tells the logits of the next."""

    def __init__(self, config, parameters):
        """parameters: flat float32."""
        self.config = config
        self._p = views(parameters, config)
        self._k = constants(config)
        self._slides = config.positional_encoding in ("rope", "none")
        self._cache = np.empty(
            (config.num_layers, 2, config.num_tokens, config.embedding_degree), np.float32
        )
        self._read = []

    def feed(self, token):
        """The logits (V,) float32 after one more token."""
        T = self.config.num_tokens
        if not self._slides and len(self._read) == T:
            again, self._read = self._read[-(T // 2) :] if T > 1 else [], []
            for old in again:
                self.feed(old)
        position = len(self._read)
        self._read.append(int(token))
        logits = np.empty(self.config.vocab_size, np.float32)
        decode_token(logits, self._cache, int(token), position % T, min(position + 1, T),
                     self._p, self._at(position))
        return logits

    def _at(self, position):
        """The constants, their tables cut to the row of one position."""
        k, turns, positions = self._k, self._k.turns, self._k.positions
        if turns.shape[1]:
            config = self.config
            turns = rotary_turns([position], config.num_heads, config.head_size,
                                 config.rotary_base).astype(np.float32)
        if self._p.position_embedding.shape[0]:
            positions = self._p.position_embedding[position : position + 1]
        elif positions.shape[0]:
            positions = positions[position : position + 1]
        return Constants(k.num_heads, k.normalised_residual, turns, positions)


def draw(logits, rng, temperature, top_k=None, top_p=None):
    """One token id out of softmax(logits / temperature); temperature 0: the likeliest.

    top_k: of the k likeliest only. top_p: of the smallest set, likeliest first, that
    reaches this probability (Holtzman et al. 2020).
    """
    if not np.isfinite(logits).all():
        raise FemtoError("the model's logits are not finite: its training diverged")
    if temperature == 0:
        return int(np.argmax(logits))
    scaled = logits.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    order = None
    if top_k is not None and top_k < p.size:
        order = np.argsort(-p, kind="stable")
        p[order[top_k:]] = 0
    p /= p.sum()
    if top_p is not None and top_p < 1:
        order = np.argsort(-p, kind="stable") if order is None else order
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= top_p]] = 0
        p /= p.sum()
    return int(rng.choice(p.size, p=p))


def generate(config, parameters, prompt, count, seed, temperature=0.5, top_k=None, top_p=None):
    """Yields `count` token ids that continue prompt (ids, at least one).

    The same seed gives the same ids.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    decoder = Decoder(config, parameters)
    for token in prompt:
        logits = decoder.feed(token)
    for _ in range(count):
        token = draw(logits, rng, temperature, top_k, top_p)
        yield token
        logits = decoder.feed(token)
