"""How signals fare in a model, layer by layer: one pass over a few windows, looked at."""

import numpy as np

from ..activations import allocate_activations, constants
from ..batches import spread_windows
from ..inspection import attention_weights
from ..passes import loss_and_gradients
from ..tensors import views
from .finding import Finding

WINDOWS = 16


def look_at_blocks(model, tokens):
    """Numbers of a pass over WINDOWS windows of tokens, as a dict.

    token_share: of the variance of what the first block reads, what tells tokens apart
    (the rest tells positions). norm_gains: the root mean square (rms) gain of each norm.
    layers, of each: stream, the rms of what it passes on; in, of what it reads; attention, mlp,
    the rms of what its halves add over that of what they are added to; gradient, the rms over its
    parameters; entropy, of each head, over that of attending everywhere alike; output, of
    each head, its rms over that of what it reads.
    """
    config = model.config
    L, NH, T = config.num_layers, config.num_heads, config.num_tokens
    k, p = constants(config), views(model.parameters, config)
    gradient = np.zeros_like(model.parameters)
    g, a, key = views(gradient, config), allocate_activations(config, 1), np.zeros(1, np.uint64)
    looked_at = spread_windows(tokens, T, WINDOWS)
    layers = np.zeros((L, 4 + 2 * NH))
    signal = np.zeros(2)
    for window in looked_at:
        loss_and_gradients(g, a, p, window[:-1], window[1:], k, 1 / (T * len(looked_at)), 0.0, key)
        signal += _token_variance(a.x[0], p.token_embedding[window[:-1]])
        for l in range(L):
            before, between, after = a.x[2 * l : 2 * l + 3]
            kept = a.norm[2 * l : 2 * l + 2] if k.normalised_residual else (before, between)
            layers[l] += [
                rms(before), rms(after),
                rms(between - kept[0]) / _some(rms(kept[0])),
                rms(after - kept[1]) / _some(rms(kept[1])),
                *head_entropies(a.qkv[l], NH),
                *(rms(a.attention[l].reshape(T, NH, -1), (0, 2)) / _some(rms(a.norm[2 * l]))),
            ]
    layers /= len(looked_at)
    stacked = [f for f, shape in zip(g._fields, g, strict=True)
               if shape.shape[0] == L and f not in ("token_embedding", "final_norm_gain")]
    return {
        "token_share": float(signal[0] / _some(signal[1])),
        "norm_gains": [float(rms(gain)) for gain in
                       (*p.attention_norm_gain, *p.mlp_norm_gain, p.final_norm_gain)],
        "layers": [{
            "in": row[0], "stream": row[1], "attention": row[2], "mlp": row[3],
            "gradient": float(rms(np.concatenate([getattr(g, f)[l].ravel() for f in stacked]))),
            "entropy": row[4 : 4 + NH], "output": row[4 + NH :],
        } for l, row in enumerate(layers.tolist())],
    }


def rms(x, axis=None):
    """The root mean square, in float64."""
    return np.sqrt(np.square(x, dtype=np.float64).mean(axis))


def _some(x):
    return max(x, 1e-30)


def _token_variance(x, embedded):
    """(of the tokens' embeddings, of all the first block reads), both (T, C): the variance."""
    return np.array([embedded.var(0).sum(), embedded.var(0).sum() + (x - embedded).var(0).sum()])


def head_entropies(qkv, num_heads):
    """Of each head, the entropy of its attention over that of attending everywhere alike, mean
    over queries: 0 to 1. qkv: (T, 3C), as Activations have it."""
    p, T = attention_weights(qkv, num_heads), len(qkv)
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(2)
    return entropy.sum(1) / max(np.log(np.arange(1, T + 1)).sum(), 1e-30)


# Healthy runs (experiments.md): a block multiplies the stream by 1 to 3, layers' gradients differ
# by up to 3, heads' entropies are 0.07 to 0.9, gains 0.8 to 1.4, each half adds 0.2 to 2 of what it
# is added to. The bounds lie well outside of that, where float32 and one rate for all still work.
GROWTH, GRADIENTS, IDLE = 10, 30, 1e-3
SATURATED, UNIFORM, SILENT, HEADS = 0.02, 0.99, 0.01, 0.25
LEAST_GAIN = 0.1
# Positions whose variance is ten times that of the tokens: femtoGPT's start is 500 times.
LEAST_TOKEN_SHARE = 0.1

FRESH = "train a fresh model of the standard recipe: femtogpt init"
LOWER = "a fresh model, femtogpt init, at a lower rate, femtogpt train --learning-rate"


def block_findings(blocks, trained):
    """Findings on look_at_blocks' numbers. trained: the model has had steps enough that what is
    as it was at the start is sick."""
    yield from _scales(blocks["layers"], trained)
    yield from _heads(blocks["layers"], trained)
    if blocks["token_share"] < LEAST_TOKEN_SHARE:
        yield Finding("positions-drown-tokens", f"{blocks['token_share']:.2%} of the variance of "
                      "what the first block reads tells tokens apart, the rest only positions",
                      f"{FRESH} (rotary positions are not added to tokens)")
    low = sum(gain < LEAST_GAIN for gain in blocks["norm_gains"])
    if low:
        yield Finding("norm-gains-near-zero", f"{low} of {len(blocks['norm_gains'])} norms have "
                      f"gains under {LEAST_GAIN} (the least {min(blocks['norm_gains']):.3f}; they "
                      "begin at 1): they silence what they pass on", FRESH)


def _scales(layers, trained):
    growth = [layer["stream"] / _some(layer["in"]) for layer in layers]
    most, least = int(np.argmax(growth)), int(np.argmin(growth))
    if growth[most] > GROWTH:
        yield Finding("activation-exploding", f"layer {most} multiplies the stream by "
                      f"{growth[most]:.3g} (to an rms of {layers[most]['stream']:.3g})", LOWER)
    if growth[least] < 1 / GROWTH:
        yield Finding("activation-dying", f"layer {least} multiplies the stream by "
                      f"{growth[least]:.3g} (to an rms of {layers[least]['stream']:.3g})", FRESH)
    idle = [(layer[half], f"layer {l}'s {half}") for l, layer in enumerate(layers)
            for half in ("attention", "mlp") if layer[half] < IDLE]
    if trained and idle:
        yield Finding("layer-idle", f"{min(idle)[1]} adds {min(idle)[0]:.2g} of what it is added "
                      f"to; idle are {len(idle)} of {2 * len(layers)} half layers",
                      "fewer --num-layers, or a fresh start: femtogpt init")
    gradients = [layer["gradient"] for layer in layers]
    most, least = int(np.argmax(gradients)), int(np.argmin(gradients))
    if gradients[most] > GRADIENTS * gradients[least]:
        name = "gradient-exploding" if most < least else "gradient-dying"
        yield Finding(name, f"layer {most}'s gradients have an rms of {gradients[most]:.2g}, layer "
                      f"{least}'s of {gradients[least]:.2g}: one rate cannot serve both", FRESH)


def _heads(layers, trained):
    heads = [head for layer in layers
             for head in zip(layer["entropy"], layer["output"], strict=True)]
    entropies = [entropy for entropy, _ in heads]
    saturated = sum(entropy < SATURATED for entropy in entropies)
    uniform = sum(entropy > UNIFORM for entropy in entropies) if trained else 0
    silent = sum(output < SILENT for _, output in heads)
    if saturated >= HEADS * len(heads):
        yield Finding("attention-saturated", f"{saturated} of {len(heads)} heads look at one token "
                      f"alone (entropy down to {min(entropies):.4f} of attending to all alike), "
                      "where softmax has no gradient", LOWER)
    if max(uniform, silent) >= HEADS * len(heads):
        what = (f"{silent} of {len(heads)} heads put out nothing" if silent >= uniform else
                f"{uniform} of {len(heads)} heads attend to all tokens alike (entropy "
                f"{max(entropies):.4f} of the most there can be)")
        yield Finding("attention-dead", what, FRESH)
