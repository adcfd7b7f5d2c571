"""What llama.cpp's gptneox and gpt2 compute, in numpy and float64, from a GGUF file alone, read by
the package `gguf`, for tests of the exchange."""

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from hf_forward import attention, gelu_new, norm, turned


def read(path):
    """(key -> value, name -> array of float64, name -> how it is stored)."""
    reader = GGUFReader(path)
    values = {key: field.contents() for key, field in reader.fields.items()}
    tensors = {t.name: dequantize(t.data, t.tensor_type).astype(np.float64).reshape(
        [int(size) for size in t.shape[::-1]]) for t in reader.tensors}
    return values, tensors, {t.name: t.tensor_type.name for t in reader.tensors}


def forward(path, ids):
    """(logits (n, V + 1), the stream before the last norm (n, C'))."""
    values, w, _ = read(path)
    name = values["general.architecture"]
    NH, eps = (values[f"{name}.attention.{key}"] for key in ("head_count", "layer_norm_epsilon"))
    assert w["token_embd.weight"].shape[1] == values[f"{name}.embedding_length"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["token_embd.weight"][ids]
    if name == "gpt2":
        assert len(w["position_embd.weight"]) == values["gpt2.context_length"]
        x = x + w["position_embd.weight"][: len(ids)]
    else:
        assert values["gptneox.use_parallel_residual"] is False
    for l in range(values[f"{name}.block_count"]):
        at = f"blk.{l}"
        qkv = linear(norm(x, w, f"{at}.attn_norm", eps), f"{at}.attn_qkv")
        q, k, v = (y.reshape(len(ids), NH, -1) for y in np.split(qkv, 3, 1))
        if name == "gptneox":
            rope = [values[f"gptneox.rope.{key}"] for key in ("dimension_count", "freq_base")]
            q, k = (turned(y, *rope) for y in (q, k))
        x = x + linear(attention(q, k, v), f"{at}.attn_output")
        up = linear(norm(x, w, f"{at}.ffn_norm", eps), f"{at}.ffn_up")
        x = x + linear(gelu_new(up), f"{at}.ffn_down")
    return norm(x, w, "output_norm", eps) @ w["output.weight"].T, x
