"""Every formula of the package once more, in plain loops and float64.

Slow, and easy to compare with a textbook. Nothing here calls femtogpt's kernels: the
tests hold those to what stands here. Letters as in femtogpt/model.py.
"""

import math

import numpy as np

from femtogpt.muon import NEWTON_SCHULZ

# --- layers ---------------------------------------------------------------------------


def norm(x, gain, bias):
    """out = gain (x - mean) / sqrt(variance + 1e-5) + bias, row by row."""
    N, C = x.shape
    out = np.zeros((N, C))
    for n in range(N):
        mean = sum(x[n]) / C
        variance = sum((x[n, c] - mean) ** 2 for c in range(C)) / C
        for c in range(C):
            out[n, c] = gain[c] * (x[n, c] - mean) / math.sqrt(variance + 1e-5) + bias[c]
    return out


def matmul(a, b):
    """out[n, m] = sum over k of a[n, k] b[k, m]."""
    N, K = a.shape
    M = b.shape[1]
    out = np.zeros((N, M))
    for n in range(N):
        for m in range(M):
            out[n, m] = sum(a[n, k] * b[k, m] for k in range(K))
    return out


def linear(x, weight, bias=None):
    """out = x weight + bias."""
    out = matmul(x, weight)
    if bias is not None:
        for n in range(out.shape[0]):
            for o in range(out.shape[1]):
                out[n, o] += bias[o]
    return out


def gelu(x):
    """out = 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    out = np.zeros(x.shape)
    for index, v in np.ndenumerate(x):
        z = math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)
        out[index] = 0.5 * v * (1 + math.tanh(z))
    return out


def embedding(tokens, table, positions):
    """out[n] = table[token n] + positions[n mod T]; positions may have no rows."""
    out = np.zeros((len(tokens), table.shape[1]))
    for n, token in enumerate(tokens):
        for c in range(table.shape[1]):
            out[n, c] = table[token, c]
            if len(positions) > 0:
                out[n, c] += positions[n % len(positions), c]
    return out


def sinusoids(T, C):
    """sin(t / 10000^(c / C)) in even columns c, in the odd one after it cos of the same."""
    out = np.zeros((T, C))
    for t in range(T):
        for c in range(0, C, 2):
            angle = t / 10000 ** (c / C)
            out[t, c] = math.sin(angle)
            if c + 1 < C:
                out[t, c + 1] = math.cos(angle)
    return out


def rotary(qkv, T, num_heads, base):
    """Numbers i and i + hs/2 of each query's and key's head turned by t base^(-i / (hs/2))."""
    N, C = qkv.shape[0], qkv.shape[1] // 3
    hs = C // num_heads
    half = hs // 2
    out = np.array(qkv, np.float64)
    for n in range(N):
        for start in range(0, 2 * C, hs):  # a query's or key's head
            for i in range(half):
                angle = (n % T) * base ** (-i / half)
                turned = complex(qkv[n, start + i], qkv[n, start + half + i])
                turned *= complex(math.cos(angle), math.sin(angle))
                out[n, start + i], out[n, start + half + i] = turned.real, turned.imag
    return out


def causal_softmax(s, scale):
    """p[t, j] = e^(scale s[t, j]) / sum over i <= t of e^(scale s[t, i]), 0 for j > t."""
    T = s.shape[0]
    p = np.zeros((T, T))
    for t in range(T):
        most = max(s[t, j] for j in range(t + 1))
        total = sum(math.exp(scale * (s[t, j] - most)) for j in range(t + 1))
        for j in range(t + 1):
            p[t, j] = math.exp(scale * (s[t, j] - most)) / total
    return p


def attention(qkv, T, num_heads, masks=None):
    """Causal self-attention. masks[b][h]: (T, T), what the probabilities are multiplied by."""
    N, C = qkv.shape[0], qkv.shape[1] // 3
    hs = C // num_heads
    out = np.zeros((N, C))
    for b in range(N // T):
        rows = qkv[b * T : (b + 1) * T]
        for h in range(num_heads):
            q, k, v = (rows[:, part * C + h * hs : part * C + (h + 1) * hs] for part in range(3))
            p = causal_softmax(matmul(q, k.T), 1 / math.sqrt(hs))
            if masks is not None:
                p = p * masks[b][h]
            out[b * T : (b + 1) * T, h * hs : (h + 1) * hs] = matmul(p, v)
    return out


def cross_entropy(logits, targets):
    """Sum over n of -log(e^logits[n, target n] / sum of e^logits[n])."""
    loss = 0.0
    for n, target in enumerate(targets):
        most = max(logits[n])
        total = sum(math.exp(v - most) for v in logits[n])
        loss -= logits[n, target] - most - math.log(total)
    return loss


# --- dropout --------------------------------------------------------------------------


def hash32(x, key):
    """On Python's own integers; each line is taken modulo 2^32."""
    h = (x * 0x9E3779B1 + key) % 2**32
    h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)


def dropout_mask(count, rate, key):
    """0 for an element that is dropped, else 1 / (1 - rate)."""
    threshold = int(rate * 2**32)
    return np.array(
        [0.0 if hash32(i, key) < threshold else 1 / (1 - rate) for i in range(count)])


def attention_masks(T, num_heads, rate, keys):
    """attention's masks: the elements of a sequence are numbered head by head, then query by
    query, then key by key."""
    return [dropout_mask(num_heads * T * T, rate, int(key)).reshape(num_heads, T, T)
            for key in keys]


# --- the model ------------------------------------------------------------------------


def logits(config, parameters, tokens, rate=0.0, keys=None):
    """The model's answer, (N, V). parameters: the model file's names -> arrays.

    keys: dropout's, one a sequence. Layer l's attention draws its mask with the key
    hash(2 l, sequence's key), what follows its projection with hash(2 l + 1, ...).
    """
    p = {name: np.asarray(array, np.float64) for name, array in parameters.items()}
    T, C = config.num_tokens, config.embedding_degree
    if config.positional_encoding == "learned":
        positions = p["position_embedding"]
    elif config.positional_encoding == "absolute":
        positions = sinusoids(T, C)
    else:
        positions = np.zeros((0, C))
    x = embedding(tokens, p["token_embedding"], positions)
    for l in range(config.num_layers):
        layer = {
            name.removeprefix(f"layers.{l}."): array
            for name, array in p.items() if name.startswith(f"layers.{l}.")
        }
        normal = norm(x, layer["attention_norm.gain"], layer["attention_norm.bias"])
        branch = _attention_branch(config, layer, normal, l, rate, keys)
        x = (normal if config.recipe == "femto" else x) + branch
        normal = norm(x, layer["mlp_norm.gain"], layer["mlp_norm.bias"])
        up = gelu(linear(normal, layer["mlp.up.weight"], layer["mlp.up.bias"]))
        branch = linear(up, layer["mlp.down.weight"], layer["mlp.down.bias"])
        x = (normal if config.recipe == "femto" else x) + branch
    x = norm(x, p["final_norm.gain"], p["final_norm.bias"])
    return linear(x, p["head.weight"], p["head.bias"])


def _attention_branch(config, layer, normal, l, rate, keys):
    T, C, NH = config.num_tokens, config.embedding_degree, config.num_heads
    qkv = linear(normal, layer["attention.query_key_value.weight"])
    if config.positional_encoding == "rope":
        qkv = rotary(qkv, T, NH, config.rotary_base)
    if rate > 0:
        masks = attention_masks(T, NH, rate, [hash32(2 * l, int(key)) for key in keys])
    else:
        masks = None
    heads = attention(qkv, T, NH, masks)
    branch = linear(heads, layer["attention.projection.weight"], layer["attention.projection.bias"])
    if rate > 0:
        for b, key in enumerate(keys):
            mask = dropout_mask(T * C, rate, hash32(2 * l + 1, int(key)))
            branch[b * T : (b + 1) * T] *= mask.reshape(T, C)
    return branch


# --- optimizers -----------------------------------------------------------------------


def adamw(p, m, v, g, t, rate, beta1, beta2, decay, eps=1e-8):
    """The t-th update (from 1): what p, m and v become."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    direction = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p - rate * (direction + decay * p), m, v


def orthogonalise(x):
    """Newton-Schulz: X <- a X + (b X X^T + c (X X^T)^2) X for each a, b, c, X scaled first."""
    x = x / (np.sqrt(np.sum(x**2)) + 1e-7)
    transposed = x.shape[0] > x.shape[1]
    if transposed:
        x = x.T
    for a, b, c in NEWTON_SCHULZ:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if transposed else x


def muon(w, m, g, rate, decay=0.0):
    """What w (in, out) and its moment become."""
    m = 0.85 * m + 0.15 * g
    u = orthogonalise(0.15 * g + 0.85 * m)
    return w - rate * (math.sqrt(max(1, w.shape[1] / w.shape[0])) * u + decay * w), m


MUON_NAMES = ("query_key_value.weight", "projection.weight", "up.weight", "down.weight")


def update(recipe, optimizer, p, m, v, g, t, rate, muon_decay=0.0):
    """One update of a whole model: dicts of the model file's names, changed in place.

    rate: AdamW's; Muon's is 0.02 where that is 0.003.
    """
    length = math.sqrt(sum(np.sum(gradient**2) for gradient in g.values()))
    clip = 1 / length if length > 1 else 1.0
    beta2 = 0.999 if recipe == "femto" else 0.99
    for name in p:
        if optimizer == "muon" and name.endswith(MUON_NAMES):
            C = p[name].shape[0]
            # q, k and v side by side are three matrices
            parts = 3 if "query_key_value" in name else 1
            width = p[name].shape[1] // parts
            assert parts == 1 or width == C
            for j in range(parts):
                part = slice(j * width, (j + 1) * width)
                p[name][:, part], m[name][:, part] = muon(
                    p[name][:, part], m[name][:, part], g[name][:, part] * clip,
                    rate * 0.02 / 0.003, muon_decay,
                )
        else:
            decay = 0.01 if recipe == "femto" or name == "head.weight" else 0.0
            p[name], m[name], v[name] = adamw(
                p[name], m[name], v[name], g[name] * clip, t, rate, 0.9, beta2, decay
            )


def learning_rate(recipe, peak, low, warmup, decay, step, first, last):
    """The rate of the step from `step` to step + 1 of a run from first to last."""
    if recipe == "femto":
        if step < warmup:
            return peak * (step + 1) / warmup
        if step < warmup + decay:
            return peak + (low - peak) * (step - warmup) / decay
        return low
    if decay is None:
        decay = max(1, int(0.4 * (last - first)))
    risen = (step - first + 1) / warmup if step - first < warmup else 1.0
    left = (last - step) / decay if last - step < decay else 1.0
    return low + (peak - low) * min(risen, left)
