"""What the Rust femtoGPT writes and computes, from its layout alone, for tests of the exchange."""

import struct

import numpy as np


def tensors_of(shape, scale=0.3, seed=1):
    """Random tensors by the program's names, gains near 1. shape: the file's six numbers."""
    _, V, C, L, NH, hs = shape
    sizes = {"token_embedding": (V, C)}
    for l in range(L):
        sizes |= {f"norm_{l}_coeff": (C,), f"norm_{l}_bias": (C,),
                  f"proj_{l}_weights": (C, C), f"proj_{l}_bias": (C,),
                  f"atten_norm_{l}_coeff": (C,), f"atten_norm_{l}_bias": (C,),
                  f"feedforward1_{l}_weights": (C, 4 * C), f"feedforward1_{l}_bias": (4 * C,),
                  f"feedforward2_{l}_weights": (4 * C, C), f"feedforward2_{l}_bias": (C,)}
        sizes |= {f"head_{l}_{h}_{c}": (C, hs) for h in range(NH) for c in "qkv"}
    sizes |= {"head_norm_coeff": (C,), "head_norm_bias": (C,),
              "head_map_weights": (C, V), "head_map_bias": (V,)}
    rng = np.random.default_rng(seed)
    order = list(sizes)
    rng.shuffle(order)  # a HashMap's
    return {name: rng.normal(name.endswith("coeff"), scale, sizes[name]).astype("<f4")
            for name in order}


def moments_of(tensors, seed=2):
    rng = np.random.default_rng(seed)
    names = [name + end for name in tensors for end in ("_m", "_v")]
    rng.shuffle(names)
    return {name: rng.random(tensors[name[:-2]].shape).astype("<f4") for name in names}


class Writer:
    """A file's bytes. counts: where its u64 counts and sizes stand; floats: (start, stop)s."""

    def __init__(self):
        self.data, self.counts, self.floats = bytearray(), [], []

    def number(self, value):
        self.counts.append(len(self.data))
        self.data += struct.pack("<Q", value)

    def text(self, value):
        self.number(len(value))
        self.data += value

    def map(self, tensors):
        self.number(len(tensors))
        for name, tensor in tensors.items():
            self.text(name.encode())
            self.number(tensor.size)
            self.floats.append((len(self.data), len(self.data) + tensor.nbytes))
            self.data += tensor.tobytes()
            self.number(tensor.ndim)
            for size in tensor.shape:
                self.number(size)


def written(shape, tensors, moments=None, t=0, tokens=None, unk=0, unit=0, case_sensitive=1,
            positions=1, losses=(2.5, 2.25)):
    """A Writer of a whole file. tokens: a dict of id -> bytes."""
    w = Writer()
    if tokens is None:
        tokens = {0: b"<unk>"} | {id: bytes([96 + id]) for id in range(shape[1] - 1, 0, -1)}
    w.data += struct.pack("<IBQ", unit, case_sensitive, unk)
    w.number(len(tokens))
    for id, piece in tokens.items():
        w.data += struct.pack("<Q", id)
        w.text(piece)
    w.data += struct.pack("<I", positions)
    for size in shape:
        w.number(size)
    w.map(tensors)
    w.data += struct.pack("<Q", t)
    w.map(moments or {})
    entries = [struct.pack("<I6Q", 0, *shape),
               struct.pack("<IfQ", 1, 0.1, 8) + b"text.txt" + struct.pack("<Q", 20) + b"0" * 20,
               *(struct.pack("<IfQB", 2, loss, 87, 1) for loss in losses),
               struct.pack("<IQ", 3, 0), struct.pack("<I", 4)]
    w.number(len(entries))
    for number, entry in enumerate(entries):
        w.data += entry
        w.text(f"{number:032x}".encode())
    return w


def logits_of(shape, tensors, ids, positions=1):
    """What the program computes, (T, V) float64, written out head by head."""
    _, _, C, L, NH, hs = shape
    p = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    T = len(ids)
    row, column = np.arange(T)[:, None], np.arange(C)[None]
    angle = row / 10000 ** (2 * (column // 2) / C)
    x = p["token_embedding"][ids]
    if positions:
        x = x + np.where(column % 2 == 0, np.sin(angle), np.cos(angle))

    def norm(x, name):
        centred = x - x.mean(1, keepdims=True)
        spread = np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return centred / spread * p[f"{name}_coeff"] + p[f"{name}_bias"]

    for l in range(L):
        n, heads = norm(x, f"norm_{l}"), []
        for h in range(NH):
            q, k, v = (n @ p[f"head_{l}_{h}_{c}"] for c in "qkv")
            e = np.where(np.tri(T) > 0, np.exp(q @ k.T * hs**-0.5), 0)
            heads.append(e / e.sum(1, keepdims=True) @ v)
        x = n + np.concatenate(heads, 1) @ p[f"proj_{l}_weights"] + p[f"proj_{l}_bias"]
        n = norm(x, f"atten_norm_{l}")
        u = n @ p[f"feedforward1_{l}_weights"] + p[f"feedforward1_{l}_bias"]
        u = 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
        x = n + u @ p[f"feedforward2_{l}_weights"] + p[f"feedforward2_{l}_bias"]
    return norm(x, "head_norm") @ p["head_map_weights"] + p["head_map_bias"]
