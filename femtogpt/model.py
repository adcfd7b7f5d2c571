"""The model: forward and backward, spelled out.

Letters: B sequences of T tokens in a micro-batch, N = B T; C the width, L layers,
NH heads, V tokens in the vocabulary. numba compiles this file as it stands; every
step of a pass calls a pair of layers/ by name.
"""

from typing import NamedTuple

import numpy as np

from .layers.attention import attention_backward, attention_forward
from .layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from .layers.dropout import dropout_backward, dropout_forward
from .layers.embedding import embedding_backward, embedding_forward, sinusoids
from .layers.gelu import gelu_backward, gelu_forward
from .layers.linear import linear_backward, linear_forward
from .layers.norm import norm_backward, norm_forward
from .layers.numeric import hash32, kernel
from .layers.rotary import rotary_angles, rotary_backward, rotary_forward
from .tensors import Tensors, count_parameters, views


class Constants(NamedTuple):
    """What a pass needs besides parameters and tokens. Arrays without rows: not used."""

    num_heads: int
    normalised_residual: bool  # recipe femto: the residual is taken after the norm
    cos: np.ndarray  # (T, hs/2) with rotary positions, else (0, 0)
    sin: np.ndarray
    positions: np.ndarray  # (T, C) with fixed sinusoids, else (0, C)


class Activations(NamedTuple):
    """What forward leaves for backward, and backward's own space, for N = B T tokens."""

    x: np.ndarray  # (2 L + 1, N, C)   the stream before each half block, and at the end
    norm: np.ndarray  # (2 L + 1, N, C)   each of these normalised
    mean: np.ndarray  # (2 L + 1, N)
    rstd: np.ndarray  # (2 L + 1, N)
    qkv: np.ndarray  # (L, N, 3C)   queries and keys already turned
    p: np.ndarray  # (L, B, NH, T, T)   attention's probabilities
    attention: np.ndarray  # (L, N, C)   all heads side by side
    gelu: np.ndarray  # (L, N, 4C)
    slope: np.ndarray  # (L, N, 4C)   of GELU
    logits: np.ndarray  # (N, V)   then probabilities, then their gradient
    branch: np.ndarray  # (N, C)   what a half block adds, then its gradient
    dx: np.ndarray  # (N, C)
    dnorm: np.ndarray  # (N, C)
    dqkv: np.ndarray  # (N, 3C)
    dgelu: np.ndarray  # (N, 4C)
    keys: np.ndarray  # (B,) uint64   dropout's, of the layer at work


def constants(config, dtype=np.float32):
    """The Constants of a config."""
    T, C = config.num_tokens, config.embedding_degree
    cos = sin = np.zeros((0, 0), dtype)
    positions = np.zeros((0, C), dtype)
    if config.positional_encoding == "rope":
        angles = rotary_angles(np.arange(T), config.head_size, config.rotary_base)
        cos, sin = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
    elif config.positional_encoding == "absolute":
        positions = sinusoids(T, C).astype(dtype)
    return Constants(config.num_heads, config.recipe == "femto", cos, sin, positions)


def allocate_activations(config, sequences, dtype=np.float32):
    """Activations for a micro-batch of `sequences` sequences."""
    T, C, L = config.num_tokens, config.embedding_degree, config.num_layers
    N = sequences * T
    shapes = Activations(
        x=(2 * L + 1, N, C), norm=(2 * L + 1, N, C), mean=(2 * L + 1, N), rstd=(2 * L + 1, N),
        qkv=(L, N, 3 * C), p=(L, sequences, config.num_heads, T, T), attention=(L, N, C),
        gelu=(L, N, 4 * C), slope=(L, N, 4 * C), logits=(N, config.vocab_size),
        branch=(N, C), dx=(N, C), dnorm=(N, C), dqkv=(N, 3 * C), dgelu=(N, 4 * C), keys=None,
    )
    arrays = [np.empty(shape, dtype) for shape in shapes[:-1]]
    return Activations(*arrays, np.empty(sequences, np.uint64))


def initial_parameters(config, seed):
    """A fresh flat vector of parameters, float32, the same for the same seed.

    standard: norm gains 1, token embedding N(0, 1), query_key_value and up
    N(0, 1/sqrt(C)), head and learned positions N(0, 0.02), all else zero: so every
    block at first adds nothing. femto: every weight and gain N(0, 0.02), biases zero.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    flat = np.zeros(count_parameters(config), np.float32)
    p = views(flat, config)
    width = config.embedding_degree**-0.5
    if config.recipe == "standard":
        spread = {"token_embedding": 1.0, "position_embedding": 0.02, "head_weight": 0.02,
                  "query_key_value_weight": width, "up_weight": width}
    else:
        spread = {f: 0.02 for f in Tensors._fields if not f.endswith("_bias")}
    for field, tensor in p._asdict().items():
        if field in spread:
            tensor[...] = rng.standard_normal(tensor.shape, np.float32) * np.float32(spread[field])
        elif field.endswith("_gain"):
            tensor[...] = 1
    return flat


@kernel
def draw_keys(keys, sequence_keys, site):
    """Dropout's keys of one place in the model, one a sequence."""
    for b in range(keys.size):
        keys[b] = hash32(np.uint64(site), sequence_keys[b])


@kernel
def block_forward(a, p, l, k, rate, sequence_keys):
    """Block l: a.x[2 l] -> a.x[2 l + 2]."""
    N = a.x.shape[1]
    rows = N // sequence_keys.size  # T

    # x += attention(norm(x))
    x, norm = a.x[2 * l], a.norm[2 * l]
    norm_forward(norm, a.mean[2 * l], a.rstd[2 * l], x,
                 p.attention_norm_gain[l], p.attention_norm_bias[l])
    linear_forward(a.qkv[l], norm, p.query_key_value_weight[l], None)
    if k.cos.shape[0] > 0:
        rotary_forward(a.qkv[l], k.cos, k.sin, k.num_heads)
    draw_keys(a.keys, sequence_keys, 2 * l)
    attention_forward(a.attention[l], a.p[l], a.qkv[l], rate, a.keys)
    linear_forward(a.branch, a.attention[l], p.projection_weight[l], p.projection_bias[l])
    if rate > 0:
        draw_keys(a.keys, sequence_keys, 2 * l + 1)
        for b in range(a.keys.size):
            dropout_forward(a.branch[b * rows : (b + 1) * rows].ravel(), rate, a.keys[b], 0)
    add(a.x[2 * l + 1], norm if k.normalised_residual else x, a.branch)

    # x += mlp(norm(x))
    x, norm = a.x[2 * l + 1], a.norm[2 * l + 1]
    norm_forward(norm, a.mean[2 * l + 1], a.rstd[2 * l + 1], x,
                 p.mlp_norm_gain[l], p.mlp_norm_bias[l])
    linear_forward(a.slope[l], norm, p.up_weight[l], p.up_bias[l])
    gelu_forward(a.gelu[l], a.slope[l])
    linear_forward(a.branch, a.gelu[l], p.down_weight[l], p.down_bias[l])
    add(a.x[2 * l + 2], norm if k.normalised_residual else x, a.branch)


@kernel
def block_backward(g, a, p, l, k, rate, sequence_keys):
    """Block l: a.dx, the gradient of a.x[2 l + 2], becomes that of a.x[2 l]. Adds to g."""
    N = a.x.shape[1]
    rows = N // sequence_keys.size  # T

    # x += mlp(norm(x))
    linear_backward(a.dgelu, g.down_weight[l], g.down_bias[l],
                    a.dx, a.gelu[l], p.down_weight[l])
    gelu_backward(a.dgelu, a.slope[l])
    linear_backward(a.dnorm, g.up_weight[l], g.up_bias[l],
                    a.dgelu, a.norm[2 * l + 1], p.up_weight[l])
    if k.normalised_residual:
        move(a.dnorm, a.dx)
    norm_backward(a.dx, g.mlp_norm_gain[l], g.mlp_norm_bias[l], a.dnorm,
                  a.x[2 * l + 1], a.mean[2 * l + 1], a.rstd[2 * l + 1], p.mlp_norm_gain[l])

    # x += attention(norm(x))
    copy(a.branch, a.dx)
    if rate > 0:
        draw_keys(a.keys, sequence_keys, 2 * l + 1)
        for b in range(a.keys.size):
            dropout_backward(a.branch[b * rows : (b + 1) * rows].ravel(), rate, a.keys[b], 0)
    linear_backward(a.dnorm, g.projection_weight[l], g.projection_bias[l],
                    a.branch, a.attention[l], p.projection_weight[l])
    draw_keys(a.keys, sequence_keys, 2 * l)
    attention_backward(a.dqkv, a.dnorm, a.p[l], a.qkv[l], rate, a.keys)
    if k.cos.shape[0] > 0:
        rotary_backward(a.dqkv, k.cos, k.sin, k.num_heads)
    linear_backward(a.dnorm, g.query_key_value_weight[l], None,
                    a.dqkv, a.norm[2 * l], p.query_key_value_weight[l])
    if k.normalised_residual:
        move(a.dnorm, a.dx)
    norm_backward(a.dx, g.attention_norm_gain[l], g.attention_norm_bias[l], a.dnorm,
                  a.x[2 * l], a.mean[2 * l], a.rstd[2 * l], p.attention_norm_gain[l])


@kernel
def model_forward(a, p, tokens, k, rate, sequence_keys):
    """Fills a; a.logits are the model's answer. tokens: (N,)."""
    L = a.qkv.shape[0]
    positions = p.position_embedding if p.position_embedding.shape[0] > 0 else k.positions
    embedding_forward(a.x[0], tokens, p.token_embedding, positions)
    for l in range(L):
        block_forward(a, p, l, k, rate, sequence_keys)
    norm_forward(a.norm[2 * L], a.mean[2 * L], a.rstd[2 * L], a.x[2 * L],
                 p.final_norm_gain, p.final_norm_bias)
    linear_forward(a.logits, a.norm[2 * L], p.head_weight, p.head_bias)


@kernel
def model_backward(g, a, p, tokens, k, rate, sequence_keys):
    """From a.logits, which holds its own gradient by now, to every parameter's. Adds to g."""
    L = a.qkv.shape[0]
    linear_backward(a.dnorm, g.head_weight, g.head_bias, a.logits, a.norm[2 * L], p.head_weight)
    a.dx[:, :] = 0
    norm_backward(a.dx, g.final_norm_gain, g.final_norm_bias, a.dnorm,
                  a.x[2 * L], a.mean[2 * L], a.rstd[2 * L], p.final_norm_gain)
    for l in range(L - 1, -1, -1):
        block_backward(g, a, p, l, k, rate, sequence_keys)
    embedding_backward(g.token_embedding, g.position_embedding, a.dx, tokens)


@kernel
def loss_and_gradients(g, a, p, tokens, targets, k, scale, rate, sequence_keys):
    """The whole pass of a micro-batch: adds scale times the gradients of the summed loss to g.

    tokens, targets: (N,) int64, the targets one position later. scale: one over all
    positions of the batch makes it the mean's gradient. sequence_keys: (B,) uint64.
    Returns the sum of the losses in nats, float64.
    """
    model_forward(a, p, tokens, k, rate, sequence_keys)
    loss = cross_entropy_forward(a.logits, a.logits, targets)
    cross_entropy_backward(a.logits, a.logits, targets, scale)
    model_backward(g, a, p, tokens, k, rate, sequence_keys)
    return loss


@kernel
def summed_loss(a, p, tokens, targets, k, sequence_keys):
    """The sum of the losses in nats of a micro-batch, without gradients or dropout."""
    model_forward(a, p, tokens, k, 0.0, sequence_keys)
    return cross_entropy_forward(a.logits, a.logits, targets)


@kernel
def add(out, x, y):
    """out = x + y, all (N, C)."""
    for n in range(out.shape[0]):
        o, u, v = out[n], x[n], y[n]
        for c in range(o.size):
            o[c] = u[c] + v[c]


@kernel
def copy(to, source):
    """to = source, both (N, C). (to[:, :] = source takes numba two seconds more to compile.)"""
    for n in range(to.shape[0]):
        t, s = to[n], source[n]
        for c in range(t.size):
            t[c] = s[c]


@kernel
def move(to, source):
    """to += source; source = 0. Both (N, C)."""
    for n in range(to.shape[0]):
        t, s = to[n], source[n]
        for c in range(t.size):
            t[c] += s[c]
            s[c] = 0
