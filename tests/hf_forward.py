"""What GPT-NeoX, GPT-2 and BertGenerationDecoder of transformers compute, in numpy and float64,
from the files of a folder alone, for tests of the exchange."""

import json

import numpy as np
from safetensors.numpy import load_file


def forward(folder, ids):
    """(logits (n, V), the stream before the last norm (n, C'))."""
    config = json.loads((folder / "config.json").read_text())
    w = {name: tensor.astype(np.float64)
         for name, tensor in load_file(folder / "model.safetensors").items()}
    return {"gpt_neox": gpt_neox, "gpt2": gpt2, "bert-generation": bert}[config["model_type"]](
        w, config, np.asarray(ids))


def norm(x, w, name, eps):
    deviation = x - x.mean(1, keepdims=True)
    return (deviation / np.sqrt((deviation**2).mean(1, keepdims=True) + eps) * w[f"{name}.weight"]
            + w[f"{name}.bias"])


def gelu_new(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(q, k, v):
    """q, k, v: (n, NH, hs). Returns (n, NH hs)."""
    n, _, hs = q.shape
    scores = np.einsum("thc,shc->hts", q, k) / np.sqrt(hs)
    scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(2, keepdims=True))
    return np.einsum("hts,shc->thc", weights / weights.sum(2, keepdims=True), v).reshape(n, -1)


def turned(x, size, base):
    """The first `size` numbers of each head turned by their position, in halves."""
    angles = np.arange(len(x))[:, None] * base ** (-np.arange(0, size, 2) / size)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b, rest = x[..., : size // 2], x[..., size // 2 : size], x[..., size:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)


def gpt_neox(w, config, ids):
    NH, eps = config["num_attention_heads"], config["layer_norm_eps"]
    hs = config["hidden_size"] // NH
    size = int(hs * config["rotary_pct"])
    assert config["hidden_act"] == "gelu_new" and not config["use_parallel_residual"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["gpt_neox.embed_in.weight"][ids]
    for l in range(config["num_hidden_layers"]):
        at = f"gpt_neox.layers.{l}"
        qkv = linear(norm(x, w, f"{at}.input_layernorm", eps), f"{at}.attention.query_key_value")
        q, k, v = np.split(qkv.reshape(len(ids), NH, 3 * hs), 3, -1)
        q, k = (turned(y, size, config["rotary_emb_base"]) for y in (q, k))
        x = x + linear(attention(q, k, v), f"{at}.attention.dense")
        up = linear(norm(x, w, f"{at}.post_attention_layernorm", eps), f"{at}.mlp.dense_h_to_4h")
        x = x + linear(gelu_new(up), f"{at}.mlp.dense_4h_to_h")
    return norm(x, w, "gpt_neox.final_layer_norm", eps) @ w["embed_out.weight"].T, x


def gpt2(w, config, ids):
    NH, eps = config["n_head"], config["layer_norm_epsilon"]
    assert config["activation_function"] == "gelu_new" and not config["tie_word_embeddings"]

    def linear(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: len(ids)]
    for l in range(config["n_layer"]):
        at = f"transformer.h.{l}"
        qkv = linear(norm(x, w, f"{at}.ln_1", eps), f"{at}.attn.c_attn")
        q, k, v = (y.reshape(len(ids), NH, -1) for y in np.split(qkv, 3, 1))
        x = x + linear(attention(q, k, v), f"{at}.attn.c_proj")
        up = linear(norm(x, w, f"{at}.ln_2", eps), f"{at}.mlp.c_fc")
        x = x + linear(gelu_new(up), f"{at}.mlp.c_proj")
    return norm(x, w, "transformer.ln_f", eps) @ w["lm_head.weight"].T, x


def bert(w, config, ids):
    NH, eps = config["num_attention_heads"], config["layer_norm_eps"]
    assert config["hidden_act"] == "gelu_new" and config["is_decoder"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = (w["bert.embeddings.word_embeddings.weight"][ids]
         + w["bert.embeddings.position_embeddings.weight"][: len(ids)])
    x = norm(x, w, "bert.embeddings.LayerNorm", eps)
    for l in range(config["num_hidden_layers"]):
        at = f"bert.encoder.layer.{l}"
        q, k, v = (linear(x, f"{at}.attention.self.{part}").reshape(len(ids), NH, -1)
                   for part in ("query", "key", "value"))
        x = norm(x + linear(attention(q, k, v), f"{at}.attention.output.dense"), w,
                 f"{at}.attention.output.LayerNorm", eps)
        up = gelu_new(linear(x, f"{at}.intermediate.dense"))
        x = norm(x + linear(up, f"{at}.output.dense"), w, f"{at}.output.LayerNorm", eps)
    return linear(x, "lm_head.decoder"), x
