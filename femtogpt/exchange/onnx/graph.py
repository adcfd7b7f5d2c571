"""What a model computes, as ONNX's graph: the formulas of model.py and layers/, in its operators.

In: input_ids (B, S) int64. Out: logits (B, S, V) float32. Letters else as in model.py.

Where positions are rotary, or none, a token sees itself and the T - 1 before it, and S may be above
T: that is decoder.py's window, which slides. Added positions end at T.
"""

import math

import numpy as np

from ...activations import constants
from ...layers.gelu import CUBIC, LINEAR
from ...layers.norm import EPS
from ...tensors import named
from .format import TYPES, node, tensor, value_info


class Graph:
    """Nodes and the tensors they need, as they are added."""

    def __init__(self, tensors):
        """tensors: name -> array."""
        self.tensors, self.nodes = dict(tensors), []

    def __call__(self, operator, *inputs, outputs=1, **attributes):
        """Adds a node; the name of its output, or a list of them. inputs: names, or what becomes a
        tensor: an array, a float (float32), an int or a list of int (int64)."""
        at = f"{len(self.nodes)}.{operator}"
        names = [at] if outputs == 1 else [f"{at}.{i}" for i in range(outputs)]
        self.nodes.append(node(operator, [*map(self._name, inputs)], names, attributes))
        return names[0] if outputs == 1 else names

    def _name(self, one):
        if isinstance(one, str):
            return one
        if not isinstance(one, np.ndarray):
            one = np.array(one, np.float32 if isinstance(one, float) else np.int64)
        name = f"constant.{len(self.tensors)}"
        self.tensors[name] = one
        return name


def graph_of(model):
    """The GraphProto of a model. Its tensors have the model file's names."""
    c = model.config
    tensors = named(model.parameters, c)
    if c.positional_encoding == "absolute":
        tensors["position_embedding"] = constants(c).positions
    add = Graph(tensors)
    length = add("Squeeze", add("Shape", "input_ids", start=1, end=2))
    positions = add("Range", 0, length, 1)  # (S,)
    x = add("Gather", "token_embedding", "input_ids")
    if "position_embedding" in tensors:  # a Gather beyond the table fails
        x = add("Add", x, add("Gather", "position_embedding", positions))
    turn = rotation(add, c, positions) if c.positional_encoding == "rope" else None
    hidden = out_of_sight(add, c, positions)
    for l in range(c.num_layers):
        x = block(add, c, f"layers.{l}", x, turn, hidden)
    x = normalised(add, "final_norm", x)
    add.nodes.append(node("Add", [add("MatMul", x, "head.weight"), "head.bias"], ["logits"], {}))
    return {1: add.nodes, 2: "femtogpt",
            5: [tensor(name, array) for name, array in add.tensors.items()],
            11: value_info("input_ids", "int64", ("batch", "sequence")),
            12: value_info("logits", "float32", ("batch", "sequence", c.vocab_size))}


def block(add, c, name, x, turn, hidden):
    """A block of the stream x (B, S, C)."""
    norm = normalised(add, f"{name}.attention_norm", x)
    branch = linear(add, f"{name}.attention.projection",
                    attention(add, c, f"{name}.attention", norm, turn, hidden))
    x = add("Add", norm if c.recipe == "femto" else x, branch)
    norm = normalised(add, f"{name}.mlp_norm", x)
    branch = linear(add, f"{name}.mlp.down", gelu(add, linear(add, f"{name}.mlp.up", norm)))
    return add("Add", norm if c.recipe == "femto" else x, branch)


def normalised(add, name, x):
    """layers/norm.py."""
    return add("LayerNormalization", x, f"{name}.gain", f"{name}.bias", epsilon=EPS)


def linear(add, name, x):
    """layers/linear.py."""
    return add("Add", add("MatMul", x, f"{name}.weight"), f"{name}.bias")


def gelu(add, x):
    """layers/gelu.py: x s(z)."""
    z = add("Mul", x, add("Add", add("Mul", add("Mul", x, x), CUBIC), LINEAR))
    return add("Mul", x, add("Sigmoid", z))


def attention(add, c, name, x, turn, hidden):
    """layers/attention.py: of the stream normalised, x (B, S, C), all heads side by side."""
    qkv = add("MatMul", x, f"{name}.query_key_value.weight")
    qkv = add("Reshape", qkv, [0, 0, 3, c.num_heads, c.head_size])  # 0: as it is
    qkv = add("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (add("Gather", qkv, i, axis=0) for i in range(3))  # (B, NH, S, hs)
    if turn:
        q, k = turn(q), turn(k)
    s = add("MatMul", q, add("Transpose", k, perm=[0, 1, 3, 2]))
    s = add("Mul", s, 1 / math.sqrt(c.head_size))
    p = add("Softmax", add("Where", hidden, -math.inf, s), axis=-1)
    out = add("Transpose", add("MatMul", p, v), perm=[0, 2, 1, 3])
    return add("Reshape", out, [0, 0, c.embedding_degree])


def out_of_sight(add, c, positions):
    """(S, S) bool: which keys (columns) a query does not see, those after it and those T or more
    before it."""
    query, key = (add("Unsqueeze", positions, [axis]) for axis in (1, 0))
    back = add("Sub", query, key)
    return add("Or", add("Less", back, 0), add("Greater", back, c.num_tokens - 1))


def rotation(add, c, positions):
    """layers/rotary.py: a function that turns queries or keys x (B, NH, S, hs). Angles are
    float64, as there."""
    half = c.head_size // 2
    rows = add("Cast", add("Unsqueeze", positions, [1]), to=TYPES[np.dtype("float64")])
    angles = add("Mul", rows, c.rotary_base ** (-np.arange(half) / half))
    # Of float64 older versions of onnxruntime have no Cos.
    cos, sin = (add("Cast", add("Sin", angle), to=TYPES[np.dtype("float32")])
                for angle in (add("Add", angles, np.array(math.pi / 2)), angles))

    def turn(x):
        x1, x2 = add("Split", x, outputs=2, axis=-1)
        return add("Concat", add("Sub", add("Mul", x1, cos), add("Mul", x2, sin)),
                   add("Add", add("Mul", x1, sin), add("Mul", x2, cos)), axis=-1)

    return turn
