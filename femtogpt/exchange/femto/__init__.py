"""The model file of the Rust femtoGPT, to and from a model of recipe femto.

bincode 1: little-endian, numbers u64 where nothing else is said, a bool one byte, lists and maps
a count and their items, maps in any order.

    tokenizer      unit u32, case_sensitive bool, unk, tokens: map of id -> bytes
    positions      u32: 0 none, 1 absolute
    shape          num_tokens vocab_size embedding_degree num_layers num_heads head_size
    tensors        map of name -> (values: list of f32, shape: list), row-major
    optimizer      AdamW's steps, map of tensors: NAME_m and NAME_v of each
    log            list of (kind u32, what is of that kind, id string)

What a model has no place for, so that the same bytes can be written again, is kept in its
lineage: {"import": {"format": "femto", ...}}.
"""

from .reading import read
from .writing import write

__all__ = ["read", "write"]
