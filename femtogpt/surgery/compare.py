"""What two models have in common, and which tokens a model takes for each other."""

import numpy as np

from ..run import chronicle
from ..tensors import named, views

BLOCK = 2**22  # cosines at once


def cosine(a, b):
    """Of two tensors of one shape, as vectors; 0 where one is zero."""
    a, b = (x.ravel().astype(float) for x in (a, b))
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length else 0.0


def compare(a, b):
    """Two Models: shared (how many entries of their chronicles are the same, from the first),
    tensors (of all names: name, name_b, cosine, norm_a, norm_b, difference, the norm of b - a
    over a's; None where there is none), tokens (of all pieces that both spell: id_a, id_b, cosine
    of their embeddings; None where the widths differ), as a dict.

    A layer is compared with the layer it was before others were inserted.
    """
    chains = [chronicle(m) for m in (a, b)]
    shared = 0
    while shared < min(map(len, chains)) and chains[0][shared] == chains[1][shared]:
        shared += 1
    origins = [_origins(m, chain, shared) for m, chain in zip((a, b), chains, strict=True)]
    other = {f"layers.{l}": f"layers.{origins[1].index(origin)}"
             for l, origin in enumerate(origins[0]) if origin in origins[1]}
    tensors_a, tensors_b = (named(m.parameters, m.config) for m in (a, b))
    rows = []
    for name, x in tensors_a.items():
        layer = ".".join(name.split(".")[:2])
        there = name
        if name.startswith("layers."):
            there = other[layer] + name.removeprefix(layer) if layer in other else None
        y = tensors_b.pop(there, None)
        row = {"name": name, "name_b": there if y is not None else None, "cosine": None,
               "norm_a": _norm(x), "norm_b": _norm(y), "difference": None}
        if y is not None and x.shape == y.shape:
            row["cosine"] = cosine(x, y)
            row["difference"] = _norm(y - x) / row["norm_a"] if row["norm_a"] else None
        rows.append(row)
    rows += [{"name": None, "name_b": name, "cosine": None, "norm_a": None, "norm_b": _norm(y),
              "difference": None} for name, y in tensors_b.items()]
    return {"shared": shared, "tensors": rows, "tokens": _tokens(a, b)}


def _origins(model, chain, shared):
    """Of each layer, where it comes from: things that are equal where that is the same."""
    count = model.config.num_layers
    inserted = [(number, entry["insert_layer"]["at"]) for number, entry in enumerate(chain)
                if isinstance(entry, dict) and isinstance(entry.get("insert_layer"), dict)]
    try:
        layers = list(range(count - sum(len(places) for _, places in inserted)))
        for number, places in inserted:
            for place in sorted(places, reverse=True):
                # Of what only one of the two has, nothing is the same.
                layers.insert(place, (number, len(layers), None if number < shared else id(model)))
    except (TypeError, LookupError):  # a lineage that insert-layer did not write
        return list(range(count))
    return layers if len(layers) == count else list(range(count))


def _norm(x):
    return None if x is None else float(np.linalg.norm(x.astype(float)))


def _tokens(a, b):
    if a.config.embedding_degree != b.config.embedding_degree:
        return None
    ids = {}
    for id in range(b.tokenizer.vocab_size):
        ids.setdefault(b.tokenizer.piece(id), id)
    pairs = [(id, ids[piece]) for id in range(a.tokenizer.vocab_size)
             if (piece := a.tokenizer.piece(id)) in ids]
    tables = [views(m.parameters, m.config).token_embedding for m in (a, b)]
    return [{"id_a": i, "id_b": j, "cosine": cosine(tables[0][i], tables[1][j])}
            for i, j in pairs]


def nearest_tokens(table, neighbours, limit):
    """Of the `limit` tokens with the nearest neighbours, the nearest first: (id, [(id, cosine) of
    its nearest others]). table: (V, C)."""
    table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-30)
    V = len(table)
    neighbours = min(neighbours, V - 1)
    if not neighbours:
        return []
    ids, cosines = np.empty((V, neighbours), int), np.empty((V, neighbours))
    step = max(1, BLOCK // V)
    for i in range(0, V, step):
        found = table[i : i + step] @ table.T
        own = np.arange(len(found))
        found[own, own + i] = -2
        part = np.argpartition(-found, neighbours - 1, axis=1)[:, :neighbours]
        values = np.take_along_axis(found, part, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        ids[i : i + step] = np.take_along_axis(part, order, 1)
        cosines[i : i + step] = np.take_along_axis(values, order, 1)
    first = np.argsort(-cosines[:, 0], kind="stable")[:limit].tolist()
    return [(t, list(zip(ids[t].tolist(), cosines[t].tolist(), strict=True))) for t in first]
