"""A model with more layers that computes what it computed before.

The new layers' projection and mlp.down are zero, so they add nothing to a raw residual
stream: not a bit of the logits changes, and what these two read has a fresh start to learn from.

Recipe femto takes its residual after the norm, so there a layer that adds nothing still
normalises: x -> g (x - mean) / sqrt(var + eps). The norm that comes next undoes any g but for its
own eps, and all of it where g = sqrt(var + eps). So g is that, as measured on some text: the
closest there is.
"""

from dataclasses import replace

import numpy as np

from ..activations import allocate_activations, constants
from ..checkpoint import Model
from ..errors import FemtoError
from ..looks import with_layers
from ..model import initial_parameters
from ..optimizer import fresh_state
from ..passes import summed_loss
from ..tensors import NAMES, ranges, shape_table, views


def insert_layers(model, places, seed=1, windows=None):
    """A Model with a new layer before each of the old layers `places` (L: behind the last).

    A place may be named several times. Step, history, run and the old layers' moments stay; the
    new layers' are zero. windows: (B, T + 1) tokens on which recipe femto is measured, None:
    random ones. Raises FemtoError for a place that is none.
    """
    old = model.config
    for place in places:
        if not 0 <= place <= old.num_layers:
            raise FemtoError(f"--insert-at {place}: the model has {old.num_layers} layers, so a "
                             f"place is from 0 (before the first) to {old.num_layers} (behind the "
                             "last)")
    config = replace(old, num_layers=old.num_layers + len(places))
    kept = [l + sum(place <= l for place in places) for l in range(old.num_layers)]
    new = sorted(set(range(config.num_layers)) - set(kept))
    parameters = initial_parameters(config, seed)
    p = views(parameters, config)
    gain = 1
    if old.recipe == "femto":
        windows = random_windows(old, seed) if windows is None else windows
        gain = _spread(model, windows)[sorted(places), None]
    for tensor in (p.attention_norm_gain, p.mlp_norm_gain):
        tensor[new] = gain
    for tensor in (p.projection_weight, p.down_weight):
        tensor[new] = 0
    _copy_layers(parameters, model.parameters, config, old, kept)
    optimizer = model.optimizer
    if optimizer:
        optimizer = fresh_state(config, model.optimizer.kind)
        optimizer.t = model.optimizer.t
        _copy_layers(optimizer.m, model.optimizer.m, config, old, kept)
        _copy_layers(optimizer.v, model.optimizer.v, config, old, kept)
    entry = {"insert_layer": {"at": sorted(places), "step": model.step, "seed": seed}}
    history = replace(model.history, looks=with_layers(model.history.looks, new))
    return Model(config, model.tokenizer, parameters, optimizer, model.step, history, model.run,
                 [*model.lineage, entry])


def random_windows(config, seed, count=16):
    """(count, T + 1) tokens drawn evenly, where there is no text."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return rng.integers(config.vocab_size, size=(count, config.num_tokens + 1))


def _spread(model, windows):
    """sqrt(var + eps) of the stream before each layer and behind the last: (L + 1,)."""
    windows = windows[:: -(-len(windows) // 16)]  # enough, and never much memory
    a = allocate_activations(model.config, len(windows))
    summed_loss(a, views(model.parameters, model.config), windows[:, :-1].ravel(),
                windows[:, 1:].ravel(), constants(model.config), np.zeros(len(windows), np.uint64))
    return np.sqrt((a.rstd[::2].astype(float) ** -2).mean(1))


def _copy_layers(to, source, config, old, kept):
    """Old layer l becomes layer kept[l], all else stays what it was. to, source: flat, or such
    prefixes of it as AdamW's v beside Muon."""
    for name, (start, stop), shape, (old_start, old_stop), old_shape in zip(
        NAMES, ranges(config), shape_table(config), ranges(old), shape_table(old), strict=True
    ):
        if stop <= to.size:
            tensor = source[old_start:old_stop].reshape(old_shape)
            to[start:stop].reshape(shape)[kept if "{l}" in name else ...] = tensor
