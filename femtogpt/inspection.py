"""What is inside a model while it reads: every activation of one pass, by name."""

import math

import numpy as np

from .activations import allocate_activations, constants
from .errors import FemtoError
from .passes import loss_and_gradients
from .tensors import views


def attention_weights(qkv, num_heads):
    """Where each head looks: softmax of q k^T / sqrt(hs), no token seeing a later one.

    qkv: (T, 3C), queries and keys turned, as Activations have it. Returns (NH, T, T), a row a
    query.
    """
    T, C = qkv.shape[0], qkv.shape[1] // 3
    q, key = (qkv[:, i * C : (i + 1) * C].reshape(T, num_heads, -1).swapaxes(0, 1) for i in (0, 1))
    scores = q @ key.swapaxes(1, 2) / math.sqrt(q.shape[2])
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(2, keepdims=True))
    return weights / weights.sum(2, keepdims=True)


def probabilities(config, parameters, ids):
    """How likely the model found each of ids (n,) but the first, given those before it: (n - 1,)
    float64. 2 <= n <= num_tokens + 1."""
    logits = activations(config, parameters, ids[:-1])["logits"].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    shares = np.exp(logits)
    return shares[np.arange(len(ids) - 1), ids[1:]] / shares.sum(1)


def activations(config, parameters, ids):
    """All that a forward computes for ids (n,), 1 <= n <= num_tokens, as a dict of float32 arrays.

    embedding (n, C); of each layer l: layers.{l}.attention_norm (n, C), .query_key_value (n, 3C;
    queries and keys turned), .attention_weights (NH, n, n), .attention (n, C; all heads side by
    side), .after_attention (n, C; the stream), .mlp_norm (n, C), .gelu (n, 4C), .output (n, C;
    the stream); final_norm (n, C); logits (n, V). Raises FemtoError for ids that cannot be.
    """
    ids, T = np.asarray(ids, np.int64), config.num_tokens
    n = len(ids)
    if not 1 <= n <= T:
        raise FemtoError(f"{n} tokens were given, and the model reads 1 to {T} at once")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise FemtoError(f"token ids must be from 0 to {config.vocab_size - 1}")
    padded = np.zeros(T + 1, np.int64)  # later tokens change nothing of what is before them
    padded[:n] = ids
    p, a = views(parameters, config), allocate_activations(config, 1, keep_all=True)
    loss_and_gradients(p, a, p, padded[:-1], padded[1:], constants(config), 0.0, 0.0,
                       np.zeros(1, np.uint64))
    found = {"embedding": a.x[0]}
    for l in range(config.num_layers):
        found |= {
            # The first block's may be one row for each token that differs.
            f"layers.{l}.attention_norm": a.norm[2 * l][a.number if l == 0 and a.count[0] > 0
                                                        else slice(None)],
            f"layers.{l}.query_key_value": a.qkv[l],
            f"layers.{l}.attention_weights": attention_weights(a.qkv[l, :n], config.num_heads),
            f"layers.{l}.attention": a.attention[l],
            f"layers.{l}.after_attention": a.x[2 * l + 1],
            f"layers.{l}.mlp_norm": a.norm[2 * l + 1],
            f"layers.{l}.gelu": a.gelu[l],
            f"layers.{l}.output": a.x[2 * l + 2],
        }
    found["final_norm"] = a.norm[2 * config.num_layers]
    found = {name: array if name.endswith("weights") else array[:n].copy()
             for name, array in found.items()}
    found["logits"] = found["final_norm"] @ p.head_weight + p.head_bias
    return found
