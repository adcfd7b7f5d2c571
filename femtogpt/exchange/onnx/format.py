"""ONNX's file: a protobuf message, ModelProto, as onnx/onnx.proto defines it; little-endian.

A message is written as a dict, from a field's number in onnx.proto to its value: a NodeProto is
{1: inputs, 2: outputs, 3: name, 4: operator, 5: attributes}.
"""

import struct

import numpy as np

IR_VERSION, OPSET = 8, 17  # of 2022; the opset is the first that has LayerNormalization
LARGEST = 2**31 - 1  # bytes of a message, for those who read it
TYPES = {np.dtype(name): number for name, number in  # ONNX's numbers for them
         (("float32", 1), ("int64", 7), ("float64", 11))}


def encoded(message):
    """The parts (bytes) of a message: field's number -> int, float, str, bytes, a message, or a
    list of these."""
    parts = []
    for number, values in message.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int):
                parts += [_varint(number << 3), _varint(value % 2**64)]
            elif isinstance(value, float):
                parts += [_varint(number << 3 | 5), struct.pack("<f", value)]
            else:
                if isinstance(value, str):
                    value = value.encode()
                inner = encoded(value) if isinstance(value, dict) else [value]
                parts += [_varint(number << 3 | 2), _varint(sum(map(len, inner))), *inner]
    return parts


def _varint(value):
    """Seven bits a byte, the lowest first; the eighth says that more come."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def tensor(name, array):
    """A TensorProto. array: of a type of TYPES."""
    data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return {1: list(array.shape), 2: TYPES[array.dtype], 8: name, 9: data}


def node(operator, inputs, outputs, attributes):
    """A NodeProto. inputs, outputs: names. attributes: name -> int, float, or a list of int."""
    return {1: inputs, 2: outputs, 3: outputs[0], 4: operator,
            5: [_attribute(name, value) for name, value in attributes.items()]}


def _attribute(name, value):
    field, kind = ((2, 1) if isinstance(value, float) else (3, 2) if isinstance(value, int) else
                   (8, 7))
    return {1: name, field: value, 20: kind}


def value_info(name, dtype, shape):
    """A ValueInfoProto. shape: of each axis its size, or a name where that may be any."""
    dimensions = [{1 if isinstance(size, int) else 2: size} for size in shape]
    return {1: name, 2: {1: {1: TYPES[np.dtype(dtype)], 2: {1: dimensions}}}}


def file_parts(graph, producer, about, facts):
    """The parts (bytes) of a file. graph: a GraphProto. producer: (the program that wrote it, its
    version). about: a sentence. facts: name -> str."""
    program, version = producer
    operators = {1: "", 2: OPSET}  # ONNX's own
    return encoded({1: IR_VERSION, 2: program, 3: version, 6: about, 7: graph, 8: operators,
                    14: [{1: name, 2: fact} for name, fact in facts.items()]})
