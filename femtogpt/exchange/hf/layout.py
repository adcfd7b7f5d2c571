"""Which architecture of transformers computes what a model does, and how that spells its tensors.

    recipe standard, positions rope                     GPTNeoXForCausalLM      widened
    recipe standard, positions absolute, learned, none  GPT2LMHeadModel         widened
    recipe femto, positions absolute, learned, none     BertGenerationDecoder   as it is

Norm before or behind a half block, the residual raw or normalised, rotary positions or added
ones: these decide. Fixed sinusoids, and no positions (zeros), are a table as learned ones are.
"""

from typing import NamedTuple

import numpy as np

from ...errors import FemtoError
from ...layers.norm import EPS
from ...tensors import shape_table
from .widening import position_rows, wide_eps, wide_shapes


class Spelling(NamedTuple):
    """One tensor of a file: a view of what it holds, and its shape there (as many numbers)."""

    view: np.ndarray
    shape: tuple


def architecture(config):
    """The name of the class in transformers. Raises FemtoError where none computes the same."""
    if config.recipe == "standard":
        return "GPTNeoXForCausalLM" if config.positional_encoding == "rope" else "GPT2LMHeadModel"
    if config.positional_encoding == "rope":
        raise FemtoError("transformers has no architecture that takes the residual after the norm "
                         "(recipe femto) and turns queries and keys (rope); recipe femto can go "
                         "with positions absolute, learned or none")
    return "BertGenerationDecoder"


def is_widened(config):
    """Whether the architecture's head lacks a bias, so that the stream is widened."""
    return config.recipe == "standard"


def stored_shapes(config):
    """Tensors of shapes: those that are spelled in the file."""
    if is_widened(config):
        return wide_shapes(config)
    shape = (position_rows(config), config.embedding_degree)
    return shape_table(config)._replace(position_embedding=shape)


def spelled(t, config):
    """The file's names -> Spelling, of t: Tensors of stored_shapes(config). What t has not, such
    as attention's biases, is zero, in arrays of its own."""
    name = architecture(config)
    spell = {"GPTNeoXForCausalLM": _gpt_neox, "GPT2LMHeadModel": _gpt2}.get(name, _bert)
    result = {}
    for key, value in spell(t, config).items():
        value = value if isinstance(value, Spelling) else Spelling(value, value.shape)
        result[key] = value
    return result


def _zeros(*shape):
    return np.zeros(shape, np.float32)


def _gpt_neox(t, config):
    wide, NH = t.token_embedding.shape[1], config.num_heads
    result = {"gpt_neox.embed_in.weight": t.token_embedding}
    for l in range(config.num_layers):
        at = f"gpt_neox.layers.{l}"
        # Rows by heads, of each head its queries, keys, values.
        heads = t.query_key_value_weight[l].reshape(wide, 3, NH, wide // NH).transpose(2, 1, 3, 0)
        result |= {
            f"{at}.input_layernorm.weight": t.attention_norm_gain[l],
            f"{at}.input_layernorm.bias": t.attention_norm_bias[l],
            f"{at}.attention.query_key_value.weight": Spelling(heads, (3 * wide, wide)),
            f"{at}.attention.query_key_value.bias": _zeros(3 * wide),
            f"{at}.attention.dense.weight": t.projection_weight[l].T,
            f"{at}.attention.dense.bias": t.projection_bias[l],
            f"{at}.post_attention_layernorm.weight": t.mlp_norm_gain[l],
            f"{at}.post_attention_layernorm.bias": t.mlp_norm_bias[l],
            f"{at}.mlp.dense_h_to_4h.weight": t.up_weight[l].T,
            f"{at}.mlp.dense_h_to_4h.bias": t.up_bias[l],
            f"{at}.mlp.dense_4h_to_h.weight": t.down_weight[l].T,
            f"{at}.mlp.dense_4h_to_h.bias": t.down_bias[l],
        }
    return result | {
        "gpt_neox.final_layer_norm.weight": t.final_norm_gain,
        "gpt_neox.final_layer_norm.bias": t.final_norm_bias,
        "embed_out.weight": t.head_weight.T,
    }


def _gpt2(t, config):
    wide = t.token_embedding.shape[1]
    result = {"transformer.wte.weight": t.token_embedding,
              "transformer.wpe.weight": t.position_embedding}
    for l in range(config.num_layers):
        at = f"transformer.h.{l}"
        result |= {
            f"{at}.ln_1.weight": t.attention_norm_gain[l],
            f"{at}.ln_1.bias": t.attention_norm_bias[l],
            f"{at}.attn.c_attn.weight": t.query_key_value_weight[l],
            f"{at}.attn.c_attn.bias": _zeros(3 * wide),
            f"{at}.attn.c_proj.weight": t.projection_weight[l],
            f"{at}.attn.c_proj.bias": t.projection_bias[l],
            f"{at}.ln_2.weight": t.mlp_norm_gain[l],
            f"{at}.ln_2.bias": t.mlp_norm_bias[l],
            f"{at}.mlp.c_fc.weight": t.up_weight[l],
            f"{at}.mlp.c_fc.bias": t.up_bias[l],
            f"{at}.mlp.c_proj.weight": t.down_weight[l],
            f"{at}.mlp.c_proj.bias": t.down_bias[l],
        }
    return result | {"transformer.ln_f.weight": t.final_norm_gain,
                     "transformer.ln_f.bias": t.final_norm_bias,
                     "lm_head.weight": t.head_weight.T}


def _bert(t, config):
    C, L = config.embedding_degree, config.num_layers
    result = {"bert.embeddings.word_embeddings.weight": t.token_embedding,
              "bert.embeddings.position_embeddings.weight": t.position_embedding}

    def norm(at, gain, bias):
        return {f"{at}.LayerNorm.weight": gain, f"{at}.LayerNorm.bias": bias}

    # Its norms stand behind what they follow: ours of the next half block.
    result |= norm("bert.embeddings", t.attention_norm_gain[0], t.attention_norm_bias[0])
    for l in range(L):
        at = f"bert.encoder.layer.{l}"
        for i, part in enumerate(("query", "key", "value")):
            columns = t.query_key_value_weight[l, :, i * C : (i + 1) * C]
            result |= {f"{at}.attention.self.{part}.weight": columns.T,
                       f"{at}.attention.self.{part}.bias": _zeros(C)}
        after = ((t.final_norm_gain, t.final_norm_bias) if l == L - 1 else
                 (t.attention_norm_gain[l + 1], t.attention_norm_bias[l + 1]))
        result |= {
            f"{at}.attention.output.dense.weight": t.projection_weight[l].T,
            f"{at}.attention.output.dense.bias": t.projection_bias[l],
            **norm(f"{at}.attention.output", t.mlp_norm_gain[l], t.mlp_norm_bias[l]),
            f"{at}.intermediate.dense.weight": t.up_weight[l].T,
            f"{at}.intermediate.dense.bias": t.up_bias[l],
            f"{at}.output.dense.weight": t.down_weight[l].T,
            f"{at}.output.dense.bias": t.down_bias[l],
            **norm(f"{at}.output", *after),
        }
    # The bias stands there twice; older versions of transformers take the first for both.
    return result | {"lm_head.decoder.weight": t.head_weight.T, "lm_head.bias": t.head_bias,
                     "lm_head.decoder.bias": t.head_bias}


def config_json(config, start):
    """The content of config.json. start: the id of what a text begins with, or None."""
    C, NH, hs = config.embedding_degree, config.num_heads, config.head_size
    name = architecture(config)
    # What is null has another default there, which would be some token of ours.
    shared = {"architectures": [name], "vocab_size": config.vocab_size,
              "tie_word_embeddings": False, "use_cache": True, "dtype": "float32",
              "bos_token_id": start, "eos_token_id": None, "pad_token_id": None}
    if name == "GPT2LMHeadModel":
        return {"model_type": "gpt2", **shared, "n_positions": config.num_tokens,
                "n_embd": C + NH, "n_layer": config.num_layers, "n_head": NH, "n_inner": 4 * C,
                "activation_function": "gelu_new", "layer_norm_epsilon": wide_eps(config),
                "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    shared |= {"num_hidden_layers": config.num_layers, "num_attention_heads": NH,
               "intermediate_size": 4 * C, "hidden_act": "gelu_new",
               "max_position_embeddings": config.num_tokens}
    if name == "BertGenerationDecoder":
        return {"model_type": "bert-generation", **shared, "hidden_size": C,
                "layer_norm_eps": EPS, "is_decoder": True, "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0}
    # Not an option of GPT-NeoX's own, but its cache of keys and values is made by it: so past the
    # context's end the window slides as it does here.
    return {"model_type": "gpt_neox", **shared, "hidden_size": C + NH,
            "sliding_window": config.num_tokens,
            "layer_norm_eps": wide_eps(config), "use_parallel_residual": False,
            "attention_bias": True, "attention_dropout": 0.0, "hidden_dropout": 0.0,
            "rotary_emb_base": config.rotary_base,
            "rotary_pct": (hs + 0.5) / (hs + 1)}  # of hs + 1 numbers hs turn: it is rounded down


