"""Decoding: one token at a time, keys and values of the past kept.

This is a second forward; tests/test_sampler.py holds it to model_forward, position by
position. Where positions are rotary (or none) the cache is a ring that slides: only
distances count. Where they are absolute, a full window is begun again with its last
half, read anew.

What is worked on at once is N rows, each a token of some sequence: a prompt's tokens, or
the next one of each of several samples. Every row is computed in the same order however
many there are, so a sample is the same, to the bit, alone and beside others.
"""

import math

import numpy as np

from .activations import constants
from .layers.blocks import COMPILED
from .layers.denormals import no_denormals
from .layers.gelu import gelu_forward
from .layers.norm import norm_forward
from .layers.numeric import entry, inlined, kernel
from .layers.rotary import rotary_forward
from .layers.row_product import assist, row_product, rows_product
from .layers.rows import add_row, copy_row, exp_row, largest, scale_row
from .layers.sampling import pick, weigh
from .layers.team import Team
from .machine import available_processors
from .model import add
from .tensors import Tensors, views

LARGE = 2_000_000  # parameters from which on it gains to share a token's products among threads
MOST_THREADS = 4  # more were not tried


@kernel
def embed(x, token, position, table, positions):
    """x = the token's embedding and its position's, if positions has rows. x: (C,)."""
    if positions.shape[0] > 0:
        add_row(x, table[token], positions[position], x.size)
    else:
        copy_row(x, table[token], x.size)


@kernel
def rotary_turn(turns, position, frequencies, num_heads):
    """rotary_turns of one position. turns: (3, C), frequencies: (hs/2,) float64."""
    half = frequencies.size
    for i in range(half):
        cos, sin = math.cos(position * frequencies[i]), math.sin(position * frequencies[i])
        for h in range(num_heads):
            first, second = 2 * h * half + i, (2 * h + 1) * half + i
            turns[0, first], turns[1, first], turns[2, first] = cos, -sin, 0
            turns[0, second], turns[1, second], turns[2, second] = cos, 0, sin


@kernel
def remember(keys, values, qkv, slot):
    """Puts one token's keys and values into a slot of the cache."""
    # keys: (NH, hs, T), so that scores are a row_product   values: (NH, T, hs)   qkv: (3C,)
    NH, hs, _ = keys.shape
    C = NH * hs
    for h in range(NH):
        for c in range(hs):
            keys[h, c, slot] = qkv[C + h * hs + c]
        copy_row(values[h, slot], qkv[2 * C + h * hs :], hs)


@kernel
def attend(out, keys, values, q, filled, scores, nothing):
    """One token's attention to the first `filled` slots of a layer's cache, in any order."""
    # out, q: (C,)   keys: (NH, hs, T)   values: (NH, T, hs)   scores: (T,)   nothing: zeros
    NH, hs, _ = keys.shape
    scalar = out.dtype.type
    s = scores[:filled]
    for h in range(NH):
        o = out[h * hs : (h + 1) * hs]
        row_product(s, q[h * hs : (h + 1) * hs], keys[h, :, :filled], nothing)
        total = exp_row(s, s, filled, largest(s, filled), scalar(1 / math.sqrt(hs)))
        row_product(o, s, values[h], nothing)
        scale_row(o, o, hs, scalar(1) / total)


@inlined
def read(logits, tokens, sequences, past, lengths, keys, values, tensors, positions,
         frequencies, num_heads, normalised_residual, desk):
    """Reads N tokens, one after another where they are of one sequence. Overwrites logits
    with those after the last M of them; adds to past, lengths, keys, values."""
    # logits: (M, V)   tokens, sequences: (N,)   past: (S, T)   lengths: (S,), of all S sequences
    # keys: (S, L, NH, hs, T)   values: (S, L, NH, T, hs)   tensors: those of Tensors
    # positions: (T, C) or (0, C)   frequencies: (hs/2,), or (0,) without rotary positions
    # desk: a Team's
    p = Tensors(*tensors)
    (N,), (M, _), (_, T) = tokens.shape, logits.shape, past.shape
    L, C, F = p.up_weight.shape
    slots, filled = np.empty(N, np.int64), np.empty(N, np.int64)
    mean, rstd = np.empty(N, logits.dtype), np.empty(N, logits.dtype)
    x, norm = np.empty((N, C), logits.dtype), np.empty((N, C), logits.dtype)
    qkv, attention = np.empty((N, 3 * C), logits.dtype), np.empty((N, C), logits.dtype)
    branch = np.empty((N, C), logits.dtype)
    up, gelu = np.empty((N, F), logits.dtype), np.empty((N, F), logits.dtype)
    turns = np.empty((3, N, C), logits.dtype)
    scores, nothing = np.empty(T, logits.dtype), np.zeros(3 * C + T, logits.dtype)
    for n in range(N):
        s, position = sequences[n], lengths[sequences[n]]
        slots[n], filled[n] = position % T, min(position + 1, T)
        past[s, slots[n]] = tokens[n]
        lengths[s] += 1
        embed(x[n], tokens[n], position, p.token_embedding, positions)
        if frequencies.size > 0:
            rotary_turn(turns[:, n], position, frequencies, num_heads)
    for l in range(L):
        norm_forward(norm, mean, rstd, x, p.attention_norm_gain[l], p.attention_norm_bias[l])
        rows_product(qkv, norm, p.query_key_value_weight[l], nothing, desk)
        if frequencies.size > 0:
            rotary_forward(qkv, turns, num_heads)
        for n in range(N):
            remember(keys[sequences[n], l], values[sequences[n], l], qkv[n], slots[n])
        for n in range(N):
            attend(attention[n], keys[sequences[n], l], values[sequences[n], l], qkv[n, :C],
                   filled[n], scores, nothing)
        rows_product(branch, attention, p.projection_weight[l], p.projection_bias[l], desk)
        add(x, norm if normalised_residual else x, branch)
        norm_forward(norm, mean, rstd, x, p.mlp_norm_gain[l], p.mlp_norm_bias[l])
        rows_product(up, norm, p.up_weight[l], p.up_bias[l], desk)
        gelu_forward(gelu, up)
        rows_product(branch, gelu, p.down_weight[l], p.down_bias[l], desk)
        add(x, norm if normalised_residual else x, branch)
    last = norm[N - M :]
    norm_forward(last, mean, rstd, x[N - M :], p.final_norm_gain, p.final_norm_bias)
    rows_product(logits, last, p.head_weight, p.head_bias, desk)


@entry
def decode(ids, weights, uniforms, sharpness, logits, tokens, sequences, past, lengths, keys,
           values, tensors, positions, frequencies, num_heads, normalised_residual, desk):
    """Reads tokens, if there are any; then, as often as ids has rows, draws the next token of
    each sequence from logits and reads it. Returns whether every logit drawn from is finite.

    One compiled call for several tokens: at C 80 a call takes half as long as a token.
    """
    # ids: (steps, M)   weights: space, as logits   uniforms: (steps, M)   the rest: as read's
    step = 0
    while True:
        if tokens.size > 0:
            read(logits, tokens, sequences, past, lengths, keys, values, tensors, positions,
                 frequencies, num_heads, normalised_residual, desk)
        if step == ids.shape[0]:
            return True
        if not weigh(weights, logits, sharpness):
            return False
        pick(ids[step], weights, uniforms[step])
        tokens = ids[step]
        step += 1


class Decoder:
    """Reads tokens of one or more sequences and tells the logits of the next."""

    def __init__(self, config, parameters, sequences=1, threads=None):
        """parameters: flat float32. threads: that share the products [default: as many as help]."""
        T, hs = config.num_tokens, config.head_size
        p, k = views(parameters, config), constants(config)
        self.config = config
        self._slides = config.positional_encoding in ("rope", "none")
        self._past = np.zeros((sequences, T), np.int64)  # tokens, by slot
        self._lengths = np.zeros(sequences, np.int64)
        kept = (sequences, config.num_layers, config.num_heads)
        self._keys = np.empty((*kept, hs, T), np.float32)
        self._values = np.empty((*kept, T, hs), np.float32)
        learned = config.positional_encoding == "learned"
        half = hs // 2 if config.positional_encoding == "rope" else 0
        frequencies = config.rotary_base ** (-np.arange(half) / max(half, 1))
        # A plain tuple: numba takes twice as long to unpack a named one (2.7 us, 1.2).
        self._model = (tuple(p), p.position_embedding if learned else k.positions, frequencies,
                       k.num_heads, k.normalised_residual)
        if threads is None:
            threads = 1 if parameters.size < LARGE else min(available_processors(), MOST_THREADS)
        self._team = Team(threads if COMPILED else 1, assist)  # other products are not shared

    def read(self, sequence, tokens):
        """The logits (V,) float32 after all tokens of a fresh sequence, read at once."""
        T = self.config.num_tokens
        logits = self._decode(1, tokens[:T], [sequence] * min(len(tokens), T))
        for token in tokens[T:]:
            logits = self.feed([token], [sequence])
        return logits[0]

    def feed(self, tokens, sequences=(0,)):
        """The logits (n, V) float32 after one more token of each of n sequences."""
        self._make_room(sequences)
        return self._decode(len(tokens), tokens, sequences)

    def room(self, sequences):
        """How many more tokens of each of these sequences can be drawn in one call."""
        self._make_room(sequences)
        if self._slides:
            return self._past.shape[1]
        return int(self._past.shape[1] - self._lengths[sequences].max())

    def draw(self, logits, sequences, uniforms, sharpness):
        """Draws tokens (steps, n) of n sequences, each row by uniforms (steps, n) from the
        logits (n, V) after the row before; steps is at most room(). Overwrites logits with
        those after the last. None where logits are not finite."""
        ids = np.empty(uniforms.shape, np.int64)
        finite = self._call(ids, np.empty_like(logits), uniforms, sharpness, logits,
                            np.empty(0, np.int64), sequences)
        return ids if finite else None

    def _make_room(self, sequences):
        """Where positions are absolute: begins full windows again with their last half."""
        T = self.config.num_tokens
        if self._slides:
            return
        for s in sequences:
            if self._lengths[s] == T:
                self._lengths[s] = 0
                if T > 1:
                    self._decode(1, self._past[s, -(T // 2) :].copy(), [s] * (T // 2))

    def copy(self, source, to):
        """Makes sequence `to` what sequence `source` is."""
        for state in (self._past, self._lengths, self._keys, self._values):
            state[to] = state[source]

    def _decode(self, count, tokens, sequences):
        logits = np.empty((count, self.config.vocab_size), np.float32)
        none = np.empty((0, count))
        self._call(none.astype(np.int64), logits, none, 1.0, logits, np.asarray(tokens, np.int64),
                   np.asarray(sequences, np.int64))
        return logits

    @no_denormals()
    def _call(self, *arguments):
        with self._team.desk() as desk:
            return decode(*arguments, self._past, self._lengths, self._keys, self._values,
                          *self._model, desk)
