"""Generating: the next token is drawn from what the model says, and read in turn."""

import math

import numpy as np

from .decoder import Decoder
from .errors import FemtoError
from .layers.sampling import pick, weigh
from .tokenizer.protocol import newline_id

BLOCK = 256  # random numbers drawn at once
AT_ONCE = 8  # tokens a compiled call: it then costs little beside them, and text still streams
TOGETHER = 32  # samples that are worth a cache of keys and values each
NOT_FINITE = "the model's logits are not finite: its training diverged"


def sharpness_of(temperature):
    """One over the temperature, as a float32 can hold it: larger differences are none."""
    return min(1 / temperature, 3e38) if temperature > 0 else math.inf


def draw(logits, uniforms, temperature, top_k=None, top_p=None):
    """A token id (int64) out of softmax(logits / temperature) for each row of logits (S, V);
    temperature 0: the likeliest. uniforms: (S,), random, in [0, 1).

    top_k: of the k likeliest only. top_p: of the smallest set, likeliest first, that
    reaches this probability (Holtzman et al. 2020).
    """
    weights, ids = np.empty_like(logits), np.empty(len(logits), np.int64)
    if not weigh(weights, logits, sharpness_of(temperature)):
        raise FemtoError(NOT_FINITE)
    if top_k is not None or top_p is not None:
        for row in weights:
            cut(row, top_k, top_p)
    pick(ids, weights, uniforms)
    return ids


def cut(weights, top_k, top_p):
    """Sets weights (V,) of tokens that are not to be drawn to 0, in place."""
    order = np.argsort(-weights, kind="stable")
    if top_k is not None:
        weights[order[top_k:]] = 0
    if top_p is not None and top_p < 1:
        share = weights[order].astype(np.float64)
        before = np.cumsum(share) - share
        weights[order[before >= top_p * share.sum()]] = 0


def random_seed():
    """Another seed each time."""
    return int(np.random.SeedSequence().entropy % 2**63)


def prompt_ids(tokenizer, num_tokens, prompt):
    """A prompt's ids, after that of a newline where the vocabulary has one: a bare prompt could as
    well stand in mid-line. prompt: text, or None for a newline alone. Raises FemtoError
    where it is longer than num_tokens, or nothing can be begun with."""
    ids = tokenizer.encode(prompt).tolist() if prompt else []
    if len(ids) > num_tokens:
        raise FemtoError(f"the prompt is {len(ids)} tokens, the model sees {num_tokens} at once: "
                         "shorten it")
    if len(ids) < num_tokens and not (prompt or "").startswith("\n"):
        newline = newline_id(tokenizer)
        if newline is not None:
            return [newline, *ids]
        if not ids:
            raise FemtoError("this vocabulary cannot spell a newline to begin with: give a "
                             "--prompt")
    return ids


def generate(config, parameters, prompt, count, seed, temperature=0.5, top_k=None, top_p=None):
    """Yields `count` token ids that continue prompt (ids, at least one).

    The same seed gives the same ids.
    """
    for _, token in generate_together(config, parameters, [prompt], count, [seed], temperature,
                                      top_k, top_p):
        yield token


def generate_together(config, parameters, prompts, count, seeds, temperature=0.5, top_k=None,
                      top_p=None, ended=frozenset()):
    """Yields (sample, token id), a token of every sample in turn: each sample's are what
    generate gives for its prompt and seed.

    ended: a set to which the caller may add samples that are to get no more.
    """
    for sample, token, _ in _drawn(config, parameters, prompts, count, seeds, temperature, top_k,
                                   top_p, ended, AT_ONCE):
        yield sample, token


def generate_with_probabilities(config, parameters, prompts, count, seeds, temperature=0.5,
                                top_k=None, top_p=None, ended=frozenset()):
    """generate_together, which yields (sample, token id, probability): the same tokens, and how
    likely the model itself found each, at temperature 1 and out of all tokens."""
    for sample, token, logits in generate_with_logits(config, parameters, prompts, count, seeds,
                                                      temperature, top_k, top_p, ended):
        yield sample, token, probability(logits, token)


def generate_with_logits(config, parameters, prompts, count, seeds, temperature=0.5, top_k=None,
                         top_p=None, ended=frozenset()):
    """generate_together, which yields (sample, token id, logits): the same tokens, and the logits
    (V,) float32 that each was drawn from."""
    return _drawn(config, parameters, prompts, count, seeds, temperature, top_k, top_p, ended, 1)


def softmax(logits):
    """(V,) float64. logits: (V,)."""
    logits = logits.astype(np.float64)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def probability(logits, token):
    """softmax(logits)[token]. logits: (V,)."""
    return float(softmax(logits)[token])


def _drawn(config, parameters, prompts, count, seeds, temperature, top_k, top_p, ended, at_once):
    """(sample, token id, the logits before it, or None where at_once tokens are more than one)."""
    rngs = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
    decoder = Decoder(config, parameters, len(prompts))
    logits = np.empty((len(prompts), config.vocab_size), np.float32)
    for s, prompt in enumerate(prompts):
        if s > 0 and prompt == prompts[s - 1]:
            decoder.copy(s - 1, s)
            logits[s] = logits[s - 1]
        else:
            logits[s] = decoder.read(s, prompt)
    live, done = np.arange(len(prompts)), 0
    sharpness = sharpness_of(temperature)
    while done < count:
        if done % BLOCK == 0:
            uniforms = np.stack([rngs[s].random(BLOCK) for s in live], 1)
        row = done % BLOCK
        steps = min(at_once, count - done, BLOCK - row, decoder.room(live))
        before = logits.copy() if at_once == 1 else None
        if top_k is None and top_p is None:
            ids = decoder.draw(logits, live, uniforms[row : row + steps], sharpness)
            if ids is None:
                raise FemtoError(NOT_FINITE)
        else:
            ids = draw(logits, uniforms[row], temperature, top_k, top_p)[None]
            if done + 1 < count:
                logits = decoder.feed(ids[0], live)
        done += len(ids)
        for step in ids.tolist():
            for i, (s, token) in enumerate(zip(live.tolist(), step, strict=True)):
                if s not in ended:
                    yield s, token, None if before is None else before[i]
        if len(ended) > len(prompts) - live.size:
            kept = np.array([s not in ended for s in live.tolist()])
            live, logits, uniforms = live[kept], logits[kept], uniforms[:, kept].copy()
            if live.size == 0:
                return
