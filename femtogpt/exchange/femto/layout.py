"""What stands in the Rust program's files, and what it is here."""

from ...tensors import views

POSITIONS = {0: "none", 1: "absolute"}
LAYER_TENSORS = {
    "norm_{l}_coeff": "attention_norm_gain", "norm_{l}_bias": "attention_norm_bias",
    "proj_{l}_weights": "projection_weight", "proj_{l}_bias": "projection_bias",
    "atten_norm_{l}_coeff": "mlp_norm_gain", "atten_norm_{l}_bias": "mlp_norm_bias",
    "feedforward1_{l}_weights": "up_weight", "feedforward1_{l}_bias": "up_bias",
    "feedforward2_{l}_weights": "down_weight", "feedforward2_{l}_bias": "down_bias",
}
OTHER_TENSORS = {
    "token_embedding": "token_embedding",
    "head_norm_coeff": "final_norm_gain", "head_norm_bias": "final_norm_bias",
    "head_map_weights": "head_weight", "head_map_bias": "head_bias",
}
# Upstream, and the fork before its files told their positions, computed k qᵀ: there k asks and q is
# asked. In files of this layout it is q that asks. A young model's logits don't show which (they
# differ by 1e-12), the moments do: tests/test_exchange.py.
HEAD_TENSORS = "qkv"
INIT, SESSION, STEP, LAYER_INSERTED, OPTIMIZER_RESET = range(5)


def spelled(flat, config):
    """The Rust program's names -> views of flat, a vector of count_parameters(config) numbers."""
    p, C, hs = views(flat, config), config.embedding_degree, config.head_size
    result = {name: getattr(p, field) for name, field in OTHER_TENSORS.items()}
    for l in range(config.num_layers):
        for name, field in LAYER_TENSORS.items():
            result[name.format(l=l)] = getattr(p, field)[l]
        for h in range(config.num_heads):
            for place, letter in enumerate(HEAD_TENSORS):
                start = place * C + h * hs
                columns = p.query_key_value_weight[l, :, start : start + hs]
                result[f"head_{l}_{h}_{letter}"] = columns
    return result


def moments(state, config):
    """NAME_m and NAME_v -> views of an AdamW state."""
    return {f"{name}_{letter}": tensor for letter in "mv"
            for name, tensor in spelled(getattr(state, letter), config).items()}


def spells_all(pieces):
    """Whether every byte is a piece, so that nothing is unknown."""
    return {bytes([byte]) for byte in range(256)} <= set(pieces)
