"""How good a model is: its loss on a text, and scores by the bundled data's own rules."""

import math
import random

from dummy_data import addition_dummy, simple_dummy, simple_dummy2

from .data import count_bytes, count_tokens, windows
from .errors import FemtoError
from .parallel import Engine
from .sampler import TOGETHER, generate, generate_together

SAMPLED_TOKENS = 4000  # of text that is judged line by line
HELD_OUT_PAIRS = 200
PROMPTS_PER_ACTION = 40
WINDOWS_AT_ONCE = 2048


def evaluate(model, tokens, threads=None):
    """loss (nats a token, the mean over all positions of consecutive windows of num_tokens),
    perplexity, bits_per_byte, tokens (how many were predicted), as a dict."""
    T = model.config.num_tokens
    if len(tokens) < T + 1:
        raise FemtoError(f"the dataset has {len(tokens)} tokens, but a window needs num_tokens + 1 "
                         f"= {T + 1}: use more text")
    starts = range(0, len(tokens) - T, T)
    total = 0.0
    with Engine(model.config, 64, threads) as engine:
        for i in range(0, len(starts), WINDOWS_AT_ONCE):
            part = starts[i : i + WINDOWS_AT_ONCE]
            total += engine.mean_loss(model.parameters, windows(tokens, part, T)) * len(part)
    loss = total / len(starts)
    predicted = tokens[1 : len(starts) * T + 1]
    bits = loss / math.log(2) * len(predicted)
    counts = count_tokens(predicted, model.config.vocab_size)
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700)),
        "bits_per_byte": bits / count_bytes(model.tokenizer, counts),
        "tokens": len(predicted),
    }


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


def _share(kept_and_total):
    kept, total = kept_and_total
    return kept / total if total else 0.0


def score_simple(model, dataset, seed):
    """The share of sampled lines (temperature 0.5) that keep all rules of simple_dummy.py."""
    text = sample_text(model, "\n", SAMPLED_TOKENS, seed)
    return {"score": _share(simple_dummy.valid_lines(text)),
            "lines": simple_dummy.valid_lines(text)[1]}


def score_addition(model, dataset, seed):
    """Of sampled lines: the share with the form of a sum, and of these the true ones. Of
    held-out pairs: the share answered right, greedily; that is the score."""
    text = sample_text(model, "\n", SAMPLED_TOKENS, seed)
    pairs = addition_dummy.held_out_pairs(dataset, random.Random(seed), HELD_OUT_PAIRS)
    if not pairs:
        raise FemtoError("the dataset holds every pair there is: none is left to be held out")
    found = answers(model, [addition_dummy.prompt(*pair) for pair in pairs])
    right = sum(text == addition_dummy.answer(*pair)
                for text, pair in zip(found, pairs, strict=True))
    return {"score": right / len(pairs), "form": _share(addition_dummy.form(text)),
            "true": _share(addition_dummy.true_sums(text)), "pairs": len(pairs)}


def score_actions(model, dataset, seed):
    """For each action, the share of fresh prompts answered right; the score is the worst."""
    rng = random.Random(seed)
    actions = {}
    for action in range(10):
        prompts = simple_dummy2.prompts(rng, action, PROMPTS_PER_ACTION, dataset)
        found = answers(model, [prompt for prompt, _ in prompts])
        right = sum(simple_dummy2.is_right(text, expected)
                    for text, (_, expected) in zip(found, prompts, strict=True))
        actions[str(action)] = right / len(prompts)
    return {"score": min(actions.values()), "actions": actions, "prompts": PROMPTS_PER_ACTION}


TASKS = {"simple": score_simple, "addition": score_addition, "actions": score_actions}


def score(model, task, dataset, seed=1):
    """The score of a task ("text": none beyond the loss) and its parts, as a dict."""
    return TASKS[task](model, dataset, seed) if task in TASKS else {}
