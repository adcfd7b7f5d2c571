"""Whether a model uses its context: its loss once more, on what stands before shuffled."""

import math

import numpy as np

from ..activations import allocate_activations, constants
from ..batches import spread_windows
from ..passes import loss_and_gradients
from ..tensors import views
from .finding import Finding

WINDOWS = 128
# Shuffling must cost at least this share of what one more token tells by counting alone. A loss
# further than that above guessing by frequency has not learnt even that: no matter of context.
LEAST_USE = 0.1


def look_at_context(model, tokens, seed=1):
    """Of WINDOWS windows of tokens, in nats a token, as a dict:

    loss; shuffled, by how much it rises where each input is shuffled; earlier_shuffled, by how
    much that of the last position does where all before the last input are. Of both the upper
    end of what the measurement allows, two standard errors above the mean.
    """
    config, rng = model.config, np.random.default_rng(seed)
    T, k, p = config.num_tokens, constants(config), views(model.parameters, config)
    a, key = allocate_activations(config, 1), np.zeros(1, np.uint64)
    rows = []
    for window in spread_windows(tokens, T, WINDOWS):
        inputs, targets = window[:-1], window[1:]
        earlier = np.append(rng.permutation(inputs[:-1]), inputs[-1])
        row = []
        for shown in (inputs, rng.permutation(inputs), earlier):
            total = loss_and_gradients(p, a, p, shown, targets, k, 0.0, 0.0, key)
            # What the logits' last rows hold now are probabilities.
            last = a.logits[(T - 1) % a.logits.shape[0], targets[-1]]
            row += [total / T, -math.log(max(float(last), 1e-30))]
        rows.append(row)
    loss, last, shuffled, _, _, earlier = np.array(rows).T
    return {"loss": float(loss.mean()), "shuffled": _upper(shuffled - loss),
            "earlier_shuffled": _upper(earlier - last)}


def _upper(differences):
    return float(differences.mean() + 2 * differences.std() / math.sqrt(differences.size))


def context_findings(context, text):
    """Findings on look_at_context's numbers, beside look_at_text's."""
    unigram, bigram, trigram = text["unigram"], text["bigram"], text["trigram"]
    loss = context["loss"]
    helps = ("train a fresh model: femtogpt init (the standard recipe is what leaves this "
             "plateau), or give it more --steps")
    least = LEAST_USE * (unigram - bigram)
    if loss > unigram + least:
        return
    if context["shuffled"] < least:
        yield Finding("context-unused", f"loss {loss:.3f} is what guessing by token frequency "
                      f"gives ({unigram:.3f}), and shuffling the context changes it by "
                      f"{max(0, context['shuffled']):.3f} at most", helps)
    elif context["earlier_shuffled"] < LEAST_USE * (bigram - trigram):
        yield Finding("only-last-token-used", f"loss {loss:.3f}, guessing by the last token gives "
                      f"{bigram:.3f}; shuffling all before it changes "
                      f"{max(0, context['earlier_shuffled']):.3f} at most", helps)
