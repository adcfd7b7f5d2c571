"""GGUF, llama.cpp's file: a header, keys with values, where each tensor is, and the tensors.

Little-endian, version 3; ggml's docs/gguf.md is the reference. A shape is written last axis
first, for there that is the one along which numbers are neighbours.
"""

import math
import struct

import numpy as np

ALIGNMENT = 32  # bytes; every tensor begins at a multiple of it
BLOCK = 32  # numbers that share a scale in q8_0
KINDS = {"float32": 0, "float16": 1, "q8_0": 8}  # ggml's numbers for them
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # GGUF's for values


def file_parts(values, tensors):
    """The parts (bytes) of a file. values: key -> bool, int (stored as uint32), float (float32),
    str, or a list of str or of int (int32). tensors: name -> (kind, array): kind of KINDS."""
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    for key, value in values.items():
        kind, data = _value(value)
        head += [_string(key), struct.pack("<I", kind), data]
    blocks, at = [], 0
    for name, (kind, array) in tensors.items():
        data = encoded(array, kind)
        head += [_string(name), struct.pack("<I", array.ndim),
                 struct.pack(f"<{array.ndim}Q", *array.shape[::-1]),
                 struct.pack("<IQ", KINDS[kind], at)]
        blocks += [data, bytes(-len(data) % ALIGNMENT)]
        at += len(data) + len(blocks[-1])
    head = b"".join(head)
    return [head, bytes(-len(head) % ALIGNMENT), *blocks]


def _string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value):
    """(the number of its type, its bytes)."""
    if isinstance(value, bool):
        return BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return UINT32, struct.pack("<I", value)
    if isinstance(value, float):
        return FLOAT32, struct.pack("<f", value)
    if isinstance(value, str):
        return STRING, _string(value)
    if isinstance(value[0], str):
        kind, data = STRING, b"".join(map(_string, value))
    else:
        kind, data = INT32, struct.pack(f"<{len(value)}i", *value)
    return ARRAY, struct.pack("<IQ", kind, len(value)) + data


def encoded(array, kind):
    """The bytes of an array (float32) as kind. Infinity where a number is beyond float16."""
    if kind == "q8_0":
        return _q8_0(np.ascontiguousarray(array, np.float32)).tobytes()
    with np.errstate(over="ignore"):
        return array.astype({"float32": "<f4", "float16": "<f2"}[kind], order="C").tobytes()


def _q8_0(array):
    """Of each 32 numbers of a row: a scale in float16, and 32 whole numbers of it in int8. As
    ggml rounds: by the scale in float32, halves away from zero."""
    blocks = array.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    # What float32 cannot invert is zero in float16.
    inverse = np.float32(1) / np.where(scale < np.finfo(np.float32).tiny, np.float32(np.inf), scale)
    steps = np.abs(blocks * inverse)
    whole = np.floor(steps)
    out = np.empty(len(blocks), [("scale", "<f2"), ("numbers", "i1", BLOCK)])
    with np.errstate(over="ignore"):
        out["scale"] = scale[:, 0]
    out["numbers"] = np.copysign(whole + (steps - whole >= 0.5), blocks)
    return out


def has_whole_blocks(array):
    """Whether q8_0 can hold an array: whether its rows are of whole blocks."""
    return array.shape[-1] % BLOCK == 0 and math.prod(array.shape) > 0
