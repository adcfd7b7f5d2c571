"""The model: forward and backward, spelled out.

Letters: B sequences of T tokens in a micro-batch, N = B T; C the width, L layers,
NH heads, V tokens in the vocabulary. numba compiles this file as it stands; every
step of a pass calls a pair of layers/ by name.
"""

import numpy as np

from .layers.attention import attention_backward, attention_forward
from .layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from .layers.distinct import number_tokens, repeat_backward, repeat_forward
from .layers.dropout import dropout_backward, dropout_forward, hash32
from .layers.embedding import embedding_backward, embedding_forward
from .layers.gelu import gelu_backward, gelu_forward
from .layers.linear import linear_backward, linear_forward, parameters_backward
from .layers.matmul import matmul
from .layers.norm import norm_backward, norm_forward
from .layers.numeric import addressed, inlined
from .layers.residual import add, clear, copy, move
from .layers.rotary import rotary_backward, rotary_forward
from .layers.turns import end_stage, wait_for
from .tensors import Tensors, count_parameters, lined_up_vectors, views

HEAD_COLUMNS = 6144  # of a huge model that are summed in one turn


def initial_parameters(config, seed):
    """A fresh flat vector of parameters, float32, the same for the same seed.

    standard: norm gains 1, token embedding N(0, 1), query_key_value and up
    N(0, 1/sqrt(C)), head and learned positions N(0, 0.02), all else zero: so every
    block at first adds nothing. femto: every weight and gain N(0, 0.02), biases zero.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    flat = lined_up_vectors(config, 1)[0, : count_parameters(config)]
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


@inlined
def draw_keys(keys, sequence_keys, site):
    """Dropout's keys of one place in the model, one a sequence."""
    for b in range(keys.size):
        keys[b] = hash32(np.uint64(site), sequence_keys[b])


@inlined
def kept(rows, i):
    """What forward left there as number i. Of a huge model it is gone, and this is the space."""
    return rows[i % rows.shape[0]]


@inlined
def is_huge(a):
    """Whether norms and GELU are not kept, for the memory they take, and backward makes them."""
    return a.norm.shape[0] == 1


@inlined
def repeats(p, k):
    """Whether what is before the first attention follows from each token alone (distinct.py)."""
    positions = p.position_embedding.shape[0] + k.positions.shape[0]
    return positions == 0 and not k.normalised_residual


@inlined
def rows_that_differ(a, p, l, k):
    """Of block l's norm before the attention: the first, N or as many as there are tokens."""
    return a.count[0] if l == 0 and repeats(p, k) else a.x.shape[1]


@inlined
def block_forward(a, p, l, k, rate, sequence_keys):
    """Block l: a.x[2 l] -> a.x[2 l + 2]."""
    N = a.x.shape[1]
    rows = N // sequence_keys.size  # T

    # x += attention(norm(x))
    x, norm, qkv = a.x[2 * l], kept(a.norm, 2 * l), a.qkv[l]
    D = rows_that_differ(a, p, l, k)
    if D < N:  # each of them once
        x, norm, qkv = a.branch[:D], norm[:D], a.dqkv[:D]
        embedding_forward(x, a.distinct[:D], p.token_embedding, k.positions)
    norm_forward(norm, a.mean[2 * l], a.rstd[2 * l], x,
                 p.attention_norm_gain[l], p.attention_norm_bias[l])
    linear_forward(qkv, norm, p.query_key_value_weight[l], None, k.bfloat16)
    if D < N:
        repeat_forward(a.qkv[l], qkv, a.number)
    if k.turns.shape[1] > 0:
        rotary_forward(a.qkv[l], k.turns, k.num_heads)
    draw_keys(a.keys, sequence_keys, 2 * l)
    attention_forward(a.attention[l], a.weights[l], a.qkv[l], k.num_heads, rate, a.keys)
    linear_forward(a.branch, a.attention[l], p.projection_weight[l], p.projection_bias[l],
                   k.bfloat16)
    if rate > 0:
        draw_keys(a.keys, sequence_keys, 2 * l + 1)
        for b in range(a.keys.size):
            branch = a.branch[b * rows : (b + 1) * rows]
            dropout_forward(branch, branch, rate, a.keys[b], 0, branch.shape[1], 1)
    add(a.x[2 * l + 1], kept(a.norm, 2 * l) if k.normalised_residual else a.x[2 * l], a.branch)

    # x += mlp(norm(x))
    x, norm = a.x[2 * l + 1], kept(a.norm, 2 * l + 1)
    norm_forward(norm, a.mean[2 * l + 1], a.rstd[2 * l + 1], x,
                 p.mlp_norm_gain[l], p.mlp_norm_bias[l])
    linear_forward(a.slope[l], norm, p.up_weight[l], p.up_bias[l], k.bfloat16)
    gelu, slope = kept(a.gelu, l), a.slope[l]
    if is_huge(a):  # backward makes both
        slope = a.dgelu
        copy(slope, a.slope[l])
    gelu_forward(gelu, slope)
    linear_forward(a.branch, gelu, p.down_weight[l], p.down_bias[l], k.bfloat16)
    add(a.x[2 * l + 2], norm if k.normalised_residual else x, a.branch)


@inlined
def block_backward(g, a, p, w, l, k, rate, sequence_keys, fresh):
    """Block l: a.dx, the gradient of a.x[2 l + 2], becomes that of a.x[2 l]. Adds to g;
    fresh: overwrites the matrices there. w: p's matrices, as in matrices.py."""
    N = a.x.shape[1]
    rows = N // sequence_keys.size  # T

    # x += mlp(norm(x))
    x, norm, gelu = a.x[2 * l + 1], kept(a.norm, 2 * l + 1), kept(a.gelu, l)
    if is_huge(a):
        gelu_forward(gelu, a.slope[l])
        norm_forward(norm, a.mean[2 * l + 1], a.rstd[2 * l + 1], x,
                     p.mlp_norm_gain[l], p.mlp_norm_bias[l])
    linear_backward(a.dgelu, g.down_weight[l], g.down_bias[l],
                    a.dx, gelu, w.down_weight[l], fresh, k.bfloat16)
    gelu_backward(a.dgelu, a.slope[l])
    linear_backward(a.dnorm, g.up_weight[l], g.up_bias[l],
                    a.dgelu, norm, w.up_weight[l], fresh, k.bfloat16)
    if k.normalised_residual:
        move(a.dnorm, a.dx)
    norm_backward(a.dx, g.mlp_norm_gain[l], g.mlp_norm_bias[l], a.dnorm,
                  x, a.mean[2 * l + 1], a.rstd[2 * l + 1], p.mlp_norm_gain[l])

    # x += attention(norm(x))
    dbranch = a.dx
    if rate > 0:
        dbranch = a.branch
        draw_keys(a.keys, sequence_keys, 2 * l + 1)
        for b in range(a.keys.size):
            part = slice(b * rows, (b + 1) * rows)
            dropout_backward(dbranch[part], a.dx[part], rate, a.keys[b], 0, a.dx.shape[1], 1)
    linear_backward(a.dnorm, g.projection_weight[l], g.projection_bias[l],
                    dbranch, a.attention[l], w.projection_weight[l], fresh, k.bfloat16)
    draw_keys(a.keys, sequence_keys, 2 * l)
    attention_backward(a.dqkv, a.dnorm, a.attention[l], a.weights[l], a.qkv[l], k.num_heads, rate,
                       a.keys)
    if k.turns.shape[1] > 0:
        rotary_backward(a.dqkv, k.turns, k.num_heads)
    x, D = a.x[2 * l], rows_that_differ(a, p, l, k)
    if D < N:
        x = a.branch[:D]
        embedding_forward(x, a.distinct[:D], p.token_embedding, k.positions)
        repeat_backward(a.dqkv, a.number)
        repeat_backward(a.dx, a.number)
    norm = kept(a.norm, 2 * l)[:D]
    if is_huge(a):
        norm_forward(norm, a.mean[2 * l], a.rstd[2 * l], x,
                     p.attention_norm_gain[l], p.attention_norm_bias[l])
    linear_backward(a.dnorm[:D], g.query_key_value_weight[l], None,
                    a.dqkv[:D], norm, w.query_key_value_weight[l], fresh, k.bfloat16)
    if k.normalised_residual:
        move(a.dnorm, a.dx)
    norm_backward(a.dx[:D], g.attention_norm_gain[l], g.attention_norm_bias[l], a.dnorm[:D],
                  x, a.mean[2 * l], a.rstd[2 * l], p.attention_norm_gain[l])


@inlined
def head_forward(a, p, targets, k, first, last):
    """The logits of positions first..last, as probabilities in a.logits; their losses' sum."""
    N, L = last - first, a.qkv.shape[0]
    logits = a.logits[:N]
    linear_forward(logits, kept(a.norm, 2 * L)[first:last], p.head_weight, p.head_bias, k.bfloat16)
    return cross_entropy_forward(logits, logits, targets[first:last])


@inlined
def head_backward(dweight, dbias, a, p, targets, k, first, last, scale, turn):
    """Fills a.dnorm of these positions, adds to the head's gradients. a.logits becomes its own."""
    V, L = a.logits.shape[1], a.qkv.shape[0]
    logits, norm = a.logits[: last - first], kept(a.norm, 2 * L)[first:last]
    cross_entropy_backward(logits, logits, targets[first:last], scale)
    matmul(a.dnorm[first:last], logits, p.head_weight.T, k.bfloat16)
    # Some columns at a time, for whoever waits for its turn with them.
    width = HEAD_COLUMNS if is_huge(a) else V
    for start in range(0, V, width):
        stop = min(start + width, V)
        wait_for(turn, stop)
        parameters_backward(dweight[:, start:stop], dbias[start:stop],
                            logits[:, start:stop], norm, False, k.bfloat16)
        if last == a.dx.shape[0]:
            end_stage(turn, stop)


@inlined
def model_forward(a, p, tokens, k, rate, sequence_keys):
    """Fills a up to the last norm, what the head reads. tokens: (N,)."""
    L = a.qkv.shape[0]
    positions = p.position_embedding if p.position_embedding.shape[0] > 0 else k.positions
    embedding_forward(a.x[0], tokens, p.token_embedding, positions)
    if repeats(p, k):
        number_tokens(a.number, a.distinct, a.count, a.place, tokens)
    for l in range(L):
        block_forward(a, p, l, k, rate, sequence_keys)
    norm_forward(kept(a.norm, 2 * L), a.mean[2 * L], a.rstd[2 * L], a.x[2 * L],
                 p.final_norm_gain, p.final_norm_bias)


@addressed
def model_backward(g, a, p, w, tokens, k, rate, sequence_keys, top, bottom, fresh, turn):
    """From a.dnorm, the gradient of the last norm, to every parameter's. Adds to g.

    Of blocks top - 1 down to bottom; L and 0 are all, and what is above and below them. Stages of
    a turn, after the V of the head: the norm, each block, the embedding.
    """
    L, V = a.qkv.shape[0], a.logits.shape[1]
    if top == L:
        wait_for(turn, V + 1)
        clear(a.dx)
        norm_backward(a.dx, g.final_norm_gain, g.final_norm_bias, a.dnorm,
                      a.x[2 * L], a.mean[2 * L], a.rstd[2 * L], p.final_norm_gain)
        end_stage(turn, V + 1)
    for l in range(top - 1, bottom - 1, -1):
        wait_for(turn, V + 1 + L - l)
        block_backward(g, a, p, w, l, k, rate, sequence_keys, fresh)
        end_stage(turn, V + 1 + L - l)
    if bottom == 0:
        D = a.count[0] if repeats(p, k) else tokens.size
        wait_for(turn, V + 2 + L)
        embedding_backward(g.token_embedding, g.position_embedding, a.dx[:D],
                           a.distinct[:D] if repeats(p, k) else tokens)
        end_stage(turn, V + 2 + L)


@addressed
def forward_and_head(dweight, dbias, a, p, tokens, targets, k, scale, rate, sequence_keys, turn):
    """The forward, and the head's backward too: there only some of the logits are kept at a time.

    Returns the loss, as loss_and_gradients. dweight, dbias: the head's gradients, added to; with
    them a.dnorm is filled, unless scale is 0. turn: as in turns.py, after which the V of the head.
    """
    N, R = tokens.size, a.logits.shape[0]
    model_forward(a, p, tokens, k, rate, sequence_keys)
    loss = 0.0
    for first in range(0, N, R):
        last = min(first + R, N)
        loss += head_forward(a, p, targets, k, first, last)
        if scale != 0:
            head_backward(dweight, dbias, a, p, targets, k, first, last, scale, turn)
    return loss
