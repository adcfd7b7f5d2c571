"""Which architecture of llama.cpp computes what a model does, and how that spells its tensors.

    recipe standard, positions rope                     gptneox   widened
    recipe standard, positions absolute, learned, none  gpt2      widened

Neither has a bias in its head, so hf/widening.py makes the stream wider. The head has one token
more than the vocabulary: llama.cpp ends a text at some token, whatever a file says, and this one
is never likely.
"""

import math

import numpy as np

from ...errors import FemtoError
from ...tensors import views
from ..hf.widening import wide_eps, widen
from .format import BLOCK, has_whole_blocks

NEVER = -10000.0  # the logit of the token that ends a text; float16 holds it
FILE_TYPES = {"float32": 0, "float16": 1, "q8_0": 7}  # what most of a file's numbers are
WIDEST = 4 / 3  # of the model's own width, for the sake of whole blocks


def architecture(config):
    """Its name. Raises FemtoError where none computes the same."""
    if config.recipe != "standard":
        raise FemtoError("llama.cpp has no architecture that takes the residual after the norm "
                         f"(recipe {config.recipe}); recipe standard can go")
    return "gptneox" if config.positional_encoding == "rope" else "gpt2"


def added_per_head(config, dtype):
    """How many numbers wider a head is made; for q8_0 as many as make rows of whole blocks, where
    that is not more than it saves."""
    hs, NH = config.head_size, config.num_heads
    # ggml copies what it does not turn in pairs: of a head of odd width it writes one number too
    # many, into the next head, and with several threads text then differs from run to run.
    step = 2 if config.positional_encoding == "rope" else 1
    multiple = max(step, BLOCK // math.gcd(NH, BLOCK))
    wide = (hs // multiple + 1) * multiple
    return wide - hs if dtype == "q8_0" and wide <= WIDEST * hs else step


def metadata(config, dtype):
    """Keys and values, but those of the tokenizer."""
    name, added = architecture(config), added_per_head(config, dtype)
    values = {
        "general.architecture": name, "general.file_type": FILE_TYPES[dtype],
        "general.quantization_version": 2,
        f"{name}.context_length": config.num_tokens,
        f"{name}.embedding_length": config.embedding_degree + config.num_heads * added,
        f"{name}.block_count": config.num_layers,
        f"{name}.feed_forward_length": 4 * config.embedding_degree,
        f"{name}.attention.head_count": config.num_heads,
        f"{name}.attention.layer_norm_epsilon": wide_eps(config, added),
    }
    if name == "gptneox":
        values |= {f"{name}.use_parallel_residual": False,
                   f"{name}.rope.dimension_count": config.head_size,
                   f"{name}.rope.freq_base": float(config.rotary_base)}
    return values


def tensors_of(model, dtype):
    """Name -> (kind, array, float32): matrices in dtype where they can be, in float16 where q8_0
    lacks whole blocks; vectors, and the table of positions, in float32."""
    config = model.config
    architecture(config)
    w = widen(views(model.parameters, config), config, added_per_head(config, dtype))
    V, wide = w.token_embedding.shape
    head = np.zeros((V + 1, wide), np.float32)
    head[:V] = w.head_weight.T
    head[V, config.embedding_degree] = NEVER  # where the last norm gives 1
    tensors = {"token_embd.weight": np.concatenate([w.token_embedding, head[V:] * 0])}
    if w.position_embedding.size:
        tensors["position_embd.weight"] = w.position_embedding
    for l in range(config.num_layers):
        at = f"blk.{l}"
        tensors |= {
            f"{at}.attn_norm.weight": w.attention_norm_gain[l],
            f"{at}.attn_norm.bias": w.attention_norm_bias[l],
            f"{at}.attn_qkv.weight": w.query_key_value_weight[l].T,
            f"{at}.attn_qkv.bias": np.zeros(3 * wide, np.float32),
            f"{at}.attn_output.weight": w.projection_weight[l].T,
            f"{at}.attn_output.bias": w.projection_bias[l],
            f"{at}.ffn_norm.weight": w.mlp_norm_gain[l],
            f"{at}.ffn_norm.bias": w.mlp_norm_bias[l],
            f"{at}.ffn_up.weight": w.up_weight[l].T,
            f"{at}.ffn_up.bias": w.up_bias[l],
            f"{at}.ffn_down.weight": w.down_weight[l].T,
            f"{at}.ffn_down.bias": w.down_bias[l],
        }
    tensors |= {"output_norm.weight": w.final_norm_gain, "output_norm.bias": w.final_norm_bias,
                "output.weight": head}
    return {name: (_kind(name, array, dtype), array) for name, array in tensors.items()}


def _kind(name, array, dtype):
    if array.ndim == 1 or name == "position_embd.weight":
        return "float32"
    return "float16" if dtype == "q8_0" and not has_whole_blocks(array) else dtype
