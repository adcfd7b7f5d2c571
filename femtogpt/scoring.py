"""How good a model is: its loss on a text, and scores by the bundled data's own rules."""

import math
import random
from typing import NamedTuple

import numpy as np

from dummy_data import (
    addition_dummy,
    simple_dummy,
    simple_dummy2,
    simple_sequence,
    simple_sequence2,
)

from .batches import windows
from .data import count_bytes, count_tokens
from .errors import FemtoError
from .parallel import Engine
from .sampler import TOGETHER, generate, generate_together

SAMPLED_TOKENS = 4000  # of text that is judged line by line
HELD_OUT_PAIRS = 200
PROMPTS_PER_ACTION = 40
PHASES = 20  # where in a sequence a continuation is asked for
CONTINUED = 200  # characters
WINDOWS_AT_ONCE = 2048
GROUPS = 50  # of neighbouring windows, whose losses tell how sure their mean is
Z = 1.96  # standard deviations: 95%


class Share(NamedTuple):
    """How many of how many were right."""

    right: int
    of: int

    @property
    def share(self):
        return self.right / self.of if self.of else 0.0

    @property
    def interval(self):
        """(low, high): where the true share lies with a confidence of 95%, by Wilson's score
        (Wilson 1927), which holds near 0 and 1 too."""
        if not self.of:
            return 0.0, 1.0
        middle = self.share + Z**2 / (2 * self.of)
        spread = Z * math.sqrt(self.share * (1 - self.share) / self.of + (Z / (2 * self.of)) ** 2)
        scale = 1 + Z**2 / self.of
        return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)

    def to_json(self):
        return {"share": self.share, "of": self.of, "interval": list(self.interval)}


def check_length(tokens, num_tokens):
    """Raises FemtoError where tokens are fewer than one window and its last target."""
    if len(tokens) < num_tokens + 1:
        raise FemtoError(f"the dataset has {len(tokens)} tokens, but a window needs num_tokens + 1 "
                         f"= {num_tokens + 1}: use more text")


def evaluate(model, tokens, threads=None):
    """loss (nats a token, the mean over all positions of consecutive windows of num_tokens),
    interval (low, high; the loss with a confidence of 95%, from how neighbouring windows
    differ), perplexity, bits_per_byte, tokens (how many were predicted), as a dict."""
    T = model.config.num_tokens
    count = (len(tokens) - 1) // T
    loss, error = _mean_and_error(*_groups(model, tokens, threads))
    predicted = tokens[1 : count * T + 1]
    bits = loss / math.log(2) * len(predicted)
    counts = count_tokens(predicted, model.config.vocab_size)
    return {
        "loss": loss,
        "interval": [loss - Z * error, loss + Z * error],
        "perplexity": math.exp(min(loss, 700)),
        "bits_per_byte": bits / count_bytes(model.tokenizer, counts),
        "tokens": len(predicted),
    }


def difference(model, other, tokens, threads=None):
    """(mean, low, high): the loss of a model less that of another of the same tokenizer and
    context, in nats a token, and where it is with a confidence of 95%, by the same windows."""
    groups, losses = _groups(model, tokens, threads)
    mean, error = _mean_and_error(groups, losses - _groups(other, tokens, threads)[1])
    return mean, mean - Z * error, mean + Z * error


def _groups(model, tokens, threads):
    count = (len(tokens) - 1) // model.config.num_tokens
    return _losses(model, tokens, min(WINDOWS_AT_ONCE, -(-count // GROUPS)), threads)


def _mean_and_error(groups, losses):
    """The mean of what each group of windows has, (groups,), and its standard error.

    Neighbours are alike, so the unit is a group of them, not a token.
    """
    weights = np.array([len(group) for group in groups])
    weights = weights / weights.sum()
    mean = float(weights @ losses)
    error = math.sqrt(float(weights**2 @ (losses - mean) ** 2)
                      * len(groups) / max(1, len(groups) - 1))
    return mean, error


def _losses(model, tokens, size, threads, most=None):
    """Of consecutive windows, in groups of up to `size`: their starts, and (groups,) mean losses.
    most: about so many groups, of more, evenly from all over."""
    T = model.config.num_tokens
    check_length(tokens, T)
    starts = range(0, len(tokens) - T, T)
    groups = [starts[i : i + size] for i in range(0, len(starts), max(1, size))]
    groups = groups[:: -(-len(groups) // most) if most else 1]
    with Engine(model.config, 64, threads) as engine:
        return groups, np.array([engine.mean_loss(model.parameters, windows(tokens, group, T))
                                 for group in groups])


def chunks(model, tokens, chunk_size, threads=None, most=None):
    """Which parts of a text are easy and hard: of each chunk, in the text's order, begin and end
    (the tokens predicted are tokens[begin:end]), byte (where that begins in the text), loss (nats
    a token) and bits_per_byte, as dicts. A chunk is chunk_size tokens, rounded up to windows.
    most: of a text of more chunks, about so many are looked at, evenly from all over."""
    T = model.config.num_tokens
    groups, losses = _losses(model, tokens, -(-chunk_size // T), threads, most)
    lengths = np.array([len(model.tokenizer.piece(i)) for i in range(model.config.vocab_size)])
    found, at, byte = [], 0, 0
    for group, loss in zip(groups, losses.tolist(), strict=True):
        begin, end = group[0] + 1, group[-1] + T + 1
        byte += int(lengths[tokens[at:begin]].sum())
        size = int(lengths[tokens[begin:end]].sum())
        bits = loss / math.log(2) * (end - begin) / max(1, size)
        found.append({"begin": begin, "end": end, "byte": byte, "loss": loss,
                      "bits_per_byte": bits})
        at, byte = end, byte + size
    return found


def sample_text(model, prompt, count, seed, temperature=0.5):
    """`count` tokens that continue prompt, as text without it."""
    ids = generate(model.config, model.parameters, model.tokenizer.encode(prompt).tolist(), count,
                   seed, temperature)
    return model.tokenizer.decode(list(ids)).decode("utf-8", "replace")


def answers(model, prompts, longest=40):
    """The greedy continuation of each prompt up to the first newline."""
    if len(prompts) > TOGETHER:
        return (answers(model, prompts[:TOGETHER], longest)
                + answers(model, prompts[TOGETHER:], longest))
    ids = [model.tokenizer.encode(prompt).tolist() for prompt in prompts]
    texts, ended = [b""] * len(ids), set()
    for sample, token in generate_together(model.config, model.parameters, ids, longest,
                                           [0] * len(ids), temperature=0, ended=ended):
        texts[sample] += model.tokenizer.piece(token)
        if b"\n" in texts[sample]:
            ended.add(sample)
    return [text.split(b"\n")[0].decode("utf-8", "replace") for text in texts]


def score_simple(model, dataset, seed):
    """valid: the lines, sampled at temperature 0.5, that keep all rules of simple_dummy.py."""
    text = sample_text(model, "\n", SAMPLED_TOKENS, seed)
    return {"valid": Share(*simple_dummy.valid_lines(text))}


def score_addition(model, dataset, seed):
    """right: the held-out pairs that are answered right, greedily. form: the sampled lines with
    the form of a sum; true: of these, the true ones."""
    pairs = addition_dummy.held_out_pairs(dataset, random.Random(seed), HELD_OUT_PAIRS)
    if not pairs:
        raise FemtoError("the dataset holds every pair there is: none is left to be held out")
    found = answers(model, [addition_dummy.prompt(*pair) for pair in pairs])
    right = sum(text == addition_dummy.answer(*pair)
                for text, pair in zip(found, pairs, strict=True))
    text = sample_text(model, "\n", SAMPLED_TOKENS, seed)
    return {"right": Share(right, len(pairs)), "form": Share(*addition_dummy.form(text)),
            "true": Share(*addition_dummy.true_sums(text))}


def score_actions(model, dataset, seed):
    """worst: of the ten actions' shares of fresh prompts answered right, the lowest; and all
    ten, action 0 to action 9."""
    rng = random.Random(seed)
    actions = {}
    for action in range(10):
        prompts = simple_dummy2.prompts(rng, action, PROMPTS_PER_ACTION, dataset)
        found = answers(model, [prompt for prompt, _ in prompts])
        right = sum(simple_dummy2.is_right(text, expected)
                    for text, (_, expected) in zip(found, prompts, strict=True))
        actions[f"action {action}"] = Share(right, len(prompts))
    return {"worst": min(actions.values()), **actions}


def score_sequence(module):
    """The scoring of dummy_data's simple_sequence or simple_sequence2, a function as above:
    continued, the characters that go on as they must, greedily, from phases drawn anywhere."""
    def continued(model, dataset, seed):
        rng = random.Random(seed)
        phases = [rng.randrange(module.PERIOD) for _ in range(PHASES)]
        before = model.config.num_tokens  # as much as the model can see
        prompts = [model.tokenizer.encode(module.continuation(phase - before, before)).tolist()
                   for phase in phases]
        texts = [b""] * PHASES
        for sample, token in generate_together(model.config, model.parameters, prompts, CONTINUED,
                                               [0] * PHASES, temperature=0):
            texts[sample] += model.tokenizer.piece(token)
        scores = [module.score(text.decode("utf-8", "replace"), phase, CONTINUED)
                  for text, phase in zip(texts, phases, strict=True)]
        return {"continued": Share(*map(sum, zip(*scores, strict=True)))}

    return continued


TASKS = {"simple": score_simple, "addition": score_addition, "actions": score_actions,
         "sequence": score_sequence(simple_sequence),
         "sequence2": score_sequence(simple_sequence2)}


def score(model, task, dataset, seed=1):
    """The Shares of a task, the one that counts first ("text": none beyond the loss), as a dict.

    dataset: the text that the model was trained on, so that nothing it has seen is asked."""
    return TASKS[task](model, dataset, seed) if task in TASKS else {}
