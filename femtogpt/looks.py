"""What training looks at now and then: each part's gradient and change, and a sample of what the
model writes; few enough looks of a run to be kept in the model file."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .errors import FemtoError
from .tensors import MUON_FIELDS, NAMES, views

MOST = 24  # looks are kept
LONGEST_SAMPLE = 120  # bytes
MEASURED = 16384  # numbers of a matrix, at most, that tell by how much it changes


class Look(NamedTuple):
    """A look at a model right after a step.

    gradient, update: a number each for every layer, then for the embeddings and the head; 0 for a
    layer that was not there yet. gradient: the norm of the step's gradient, before clipping.
    update: the share by which the step changed the weights, the median of a layer's matrices.
    sample: a text it wrote, from a newline on; empty where its vocabulary has none.
    """

    step: int
    gradient: list
    update: list
    sample: str


def part_names(num_layers):
    """What a Look's numbers are of, in their order."""
    return [*(f"layer {l}" for l in range(num_layers)), "embeddings", "head"]


def matrices(parameters, config):
    """Copies of what is measured of each part's matrices, as a list of lists of arrays."""
    p = views(parameters, config)
    parts = [*([getattr(p, field)[l] for field in MUON_FIELDS] for l in range(config.num_layers)),
             [p.token_embedding], [p.head_weight]]
    return [[matrix[:: -(-matrix.size // MEASURED)].copy() for matrix in part] for part in parts]


def share_changed(before, after):
    """By what share of its norm an array changed."""
    return norm(after - before) / max(norm(before), 1e-30)


def norm(x):
    """The norm of an array, summed in float64 and, unlike BLAS's, always in the same order."""
    return math.sqrt(np.square(x, dtype=np.float64).sum())


def changes(before, after):
    """Of each part, the median of its matrices' share_changed. before, after: as of matrices."""
    return [float(np.median([share_changed(*pair) for pair in zip(*part, strict=True)]))
            for part in zip(before, after, strict=True)]


def gradient_norms(gradient, config):
    """The norm of each part's gradient. gradient: flat."""
    g = views(gradient, config)
    layered = [tensor for tensor, name in zip(g, NAMES, strict=True) if "{l}" in name]
    parts = [*([tensor[l] for tensor in layered] for l in range(config.num_layers)),
             [g.token_embedding, g.position_embedding],
             [g.final_norm_gain, g.final_norm_bias, g.head_weight, g.head_bias]]
    return [math.hypot(*map(norm, part)) for part in parts]


def with_look(looks, look):
    """The looks with one more, at most MOST: the one goes that lies closest to its neighbours.

    Closest on a scale of square roots, for the beginning changes fastest. As it depends on the
    looks alone, a run that was cut off and goes on keeps the same ones.
    """
    look = look._replace(gradient=_short(look.gradient), update=_short(look.update))
    looks = [*looks, look]
    if len(looks) > MOST:
        roots = [math.sqrt(look.step) for look in looks]
        del looks[min(range(1, MOST), key=lambda i: roots[i + 1] - roots[i - 1])]
    return looks


def _short(numbers):
    """Three digits are enough for a chart, and short in a file."""
    return [float(f"{x:.3g}") for x in numbers]


def with_layers(looks, new):
    """The looks of a model in which the layers `new` (its own numbers, ascending) are new."""
    def widened(numbers):
        numbers = list(numbers)
        for place in new:
            numbers.insert(place, 0.0)
        return numbers

    return [look._replace(gradient=widened(look.gradient), update=widened(look.update))
            for look in looks]


def looks_from_json(values, config, step):
    """The list of Look of a file. step: the model's. Raises FemtoError for what with_look does
    not make."""
    parts = config.num_layers + 2

    def numbers(x):
        return (isinstance(x, list) and len(x) == parts
                and all(type(v) is float and 0 <= v < math.inf for v in x))

    try:
        looks = [Look(*value) for value in values]
        right = (isinstance(values, list) and len(looks) <= MOST
                 and all(type(look.step) is int and numbers(look.gradient)
                         and numbers(look.update) and isinstance(look.sample, str)
                         and len(look.sample) <= LONGEST_SAMPLE for look in looks))
        steps = [0, *(look.step for look in looks)]
        right = (right and steps[-1] <= step
                 and all(a < b for a, b in pairwise(steps)))
    except TypeError:
        right = False
    if not right:
        raise FemtoError("its looks are not what this version writes")
    return looks
