"""A child: a model with another tokenizer, context, width or depth on its parent's weights.

Tokens. A piece that both spell keeps its embedding and head column; a new one starts as the mean
of those that the parent's tokenizer splits it into.

Width, from C to W channels, s = sqrt(W / C). Recipe standard: the new channels hold the mean of
the old ones, and all that is written to the stream is s times as large. A layer norm then finds the
mean it found, the variance it found (W channels share s^2 times the sum of squares), and gains
divided by s give the old channels what they had, eps and all. The new channels come out as zero,
so what reads them may start fresh, and no two numbers of the child are bound to stay equal. (What
copies channels, as Net2Net (Chen et al. 2016), needs W to be a multiple of C.)

Recipe femto's stream is a norm's output, whose mean no channel can know: there channels are
copied, W / C times, and what reads them is shared out among the copies. These part in training, for
the new heads and units read each of them otherwise.

Heads keep their queries, keys and values and may get wider; new heads, and new units of the MLP,
start with weights of zero behind them. A wider head has more pairs to turn: the parent's turn as
before at rotary_base ^ (new width / old), the new ones slower.

All this is exact but for float32's rounding.
"""

import math
from dataclasses import replace

import numpy as np

from ..activations import constants
from ..checkpoint import Model
from ..errors import FemtoError
from ..model import initial_parameters
from ..tensors import views
from .depth import insert_layers
from .inherit import inherit_vocabulary


def init_with(parent, tokenizer=None, num_tokens=None, embedding_degree=None, num_layers=None,
              num_heads=None, positional_encoding=None, seed=1):
    """(the child, how many tokens it has from its parent as they were). None: as the parent.

    Raises FemtoError for a shape that cannot compute what its parent does, with the nearest that
    can.
    """
    old = parent.config
    config = child_config(old, num_tokens, embedding_degree, num_layers, num_heads,
                          positional_encoding)
    model = parent
    if config.num_layers > old.num_layers:
        more = [old.num_layers] * (config.num_layers - old.num_layers)
        model = insert_layers(parent, more, seed)
    tensors, carried = views(model.parameters, model.config), old.vocab_size
    if tokenizer is None or tokenizer.to_json() == parent.tokenizer.to_json():
        tokenizer = parent.tokenizer
    else:
        tensors, carried = inherit_vocabulary(tensors, parent.tokenizer, tokenizer)
        config = replace(config, vocab_size=tokenizer.vocab_size)
    if positional_encoding == "learned" and old.positional_encoding == "absolute":
        tensors = tensors._replace(
            position_embedding=constants(replace(old, num_tokens=config.num_tokens)).positions)
    parameters = initial_parameters(config, seed)
    _widen(views(parameters, config), tensors, config, old)
    before, after = ({**c.to_json(), "tokenizer": t.name}
                     for c, t in ((old, parent.tokenizer), (config, tokenizer)))
    changes = {name: [before[name], after[name]] for name in after if before[name] != after[name]}
    if tokenizer is not parent.tokenizer:
        changes["tokenizer"] = [before["tokenizer"], after["tokenizer"]]
    lineage = [*parent.lineage, *([{"run": parent.run}] if parent.run else []),
               {"init_with": {"step": parent.step, "seed": seed, "changes": changes}}]
    return Model(config, tokenizer, parameters, lineage=lineage), carried


def child_config(old, num_tokens=None, embedding_degree=None, num_layers=None, num_heads=None,
                 positional_encoding=None):
    """The child's GPTConfig, with its parent's vocabulary. Raises FemtoError, see init_with."""
    W, L = embedding_degree or old.embedding_degree, num_layers or old.num_layers
    C, hs, encoding = old.embedding_degree, old.head_size, old.positional_encoding
    for option, asked, had in (("--embedding-degree", W, C), ("--num-layers", L, old.num_layers)):
        if asked < had:
            raise FemtoError(f"{option} {asked} is less than the parent's {had}, which no smaller "
                             f"model can compute: the nearest that can is {had}")
    if positional_encoding not in (None, encoding):
        if (encoding, positional_encoding) != ("absolute", "learned"):
            raise FemtoError(f"--positional-encoding {positional_encoding}: what a parent with "
                             f"{encoding} has learned cannot be carried over to it; leave it away")
        encoding = positional_encoding
    if W > C and encoding == "absolute":
        raise FemtoError(f"--embedding-degree {W}: absolute positions are others at another width; "
                         "give --positional-encoding learned too, and the child keeps the parent's")
    if old.recipe == "femto" and W % C:
        raise FemtoError(f"--embedding-degree {W}: recipe femto can copy whole channels alone, so "
                         f"the width is a multiple of the parent's {C}: the nearest is "
                         f"{C * max(1, round(W / C))}")

    def cuts(width):  # the numbers of heads that have room for the parent's
        return [n for n in range(old.num_heads, width // hs + 1)
                if width % n == 0 and not (encoding == "rope" and width // n % 2)]

    fitting = cuts(W)
    if not fitting:
        near = [width for width in range(max(C, W - hs), W + hs + 1) if cuts(width)]
        raise FemtoError(f"--embedding-degree {W} cannot be cut into {old.num_heads} or more heads "
                         f"as wide as the parent's {hs} or wider: the nearest that can is "
                         f"{min(near, key=lambda width: abs(width - W))}")
    heads = num_heads or fitting[-1]
    if heads not in fitting:
        raise FemtoError(f"--num-heads {heads}: heads can be added and widened, but not narrower "
                         f"than the parent's ({old.num_heads} of {hs}): at --embedding-degree {W} "
                         f"the nearest is {min(fitting, key=lambda n: abs(n - heads))}")
    base = old.rotary_base
    if encoding == "rope" and W // heads > hs:
        base = old.rotary_base ** (W // heads / hs)
        if base >= 1e12:
            raise FemtoError(f"--num-heads {heads} makes heads too wide, {W // heads}, to turn "
                             f"as the parent's {hs} do: the nearest is {fitting[-1]}")
    return replace(old, num_tokens=num_tokens or old.num_tokens, embedding_degree=W, num_layers=L,
                   num_heads=heads, positional_encoding=encoding, rotary_base=base)


def _widen(p, q, config, old):
    """Fills p, the child's fresh Tensors, from q: its parent's, as deep, of its vocabulary."""
    C, W = old.embedding_degree, config.embedding_degree
    copies = W // C if old.recipe == "femto" else 1
    s = math.sqrt(W / C) if copies == 1 else 1.0

    def written(x):  # (..., C) -> (..., W)
        if copies > 1:
            return np.tile(x, copies)
        mean = np.broadcast_to(x.mean(-1, dtype=float, keepdims=True), (*x.shape[:-1], W - C))
        return (s * np.concatenate([x, mean], -1)).astype(np.float32)

    def read(fresh, x):  # (..., W, O) fresh, (..., C, O) -> (..., W, O)
        if copies > 1:
            return np.concatenate([x / np.float32(copies)] * copies, -2)
        return np.concatenate([x, fresh[..., C:, :]], -2)

    p.token_embedding[:] = written(q.token_embedding)
    T = min(len(p.position_embedding), len(q.position_embedding))
    p.position_embedding[:T] = written(q.position_embedding[:T])
    for field in ("attention_norm", "mlp_norm", "final_norm"):
        gain, bias = getattr(p, f"{field}_gain"), getattr(p, f"{field}_bias")
        for i in range(copies):
            part = slice(i * C, (i + 1) * C)
            gain[..., part] = getattr(q, f"{field}_gain") / np.float32(s)
            bias[..., part] = getattr(q, f"{field}_bias")
    for field in ("projection_bias", "down_bias"):
        getattr(p, field)[:] = written(getattr(q, field))

    old_columns, columns = _head_columns(config, old)
    query = p.query_key_value_weight[:, :, : old.num_heads * config.head_size]
    carried = q.query_key_value_weight.copy()
    carried[:, :, :C] *= np.float32(math.sqrt(config.head_size / old.head_size))
    fresh = p.query_key_value_weight
    wide = read(fresh[:, :, columns], carried)
    if config.head_size > old.head_size:
        query[:] = 0  # of what is new in an old head the keys alone are fresh
    fresh[:, :, columns] = wide
    p.projection_weight[:] = 0
    p.projection_weight[:, old_columns] = written(q.projection_weight)
    p.up_weight[:, :, : 4 * C] = read(p.up_weight[:, :, : 4 * C], q.up_weight)
    p.up_bias[:, : 4 * C] = q.up_bias
    p.down_weight[:] = 0
    p.down_weight[:, : 4 * C] = written(q.down_weight)
    p.head_weight[:] = read(p.head_weight, q.head_weight)
    p.head_bias[:] = q.head_bias


def _head_columns(config, old):
    """Where the parent's C numbers of all heads are in the child's W, and its 3 C columns of
    query_key_value in 3 W: the halves of a head, whose pairs are turned, each at their beginning.
    """
    hs, wide = old.head_size, config.head_size
    i = np.arange(hs)
    within = np.where(i < hs // 2, i, i - hs // 2 + wide // 2)
    one = (np.arange(old.num_heads)[:, None] * wide + within).ravel()
    return one, np.concatenate([part * config.embedding_degree + one for part in range(3)])
