"""What is wrong with a text, or between it, its tokenizer and a model's size."""

import math

import numpy as np

from ..data import BLOCK, blocks, count_bytes, count_tokens, unigram_entropy
from ..tensors import count_parameters
from ..tokenizer.adapted import ReservedTokenizer
from .finding import Finding

LOOK = 2**20  # tokens, of a longer text, that are looked at in detail
STRETCH = 1024  # of them in one piece
# A repeat: as many tokens in a row, as before (Lee et al. 2022, Deduplicating Training Data Makes
# Language Models Better). They find 3 to 14% of web corpora repeated; a file given twice is 50%.
REPEAT, MOST_REPEATED = 50, 0.3
RARE, MOST_RARE = 20, 0.25
# Below one token a character a tokenizer joins characters; Latin letters as single bytes have 1.0,
# Cyrillic ones 1.8, Japanese ones 2.9.
MOST_TOKENS_PER_CHARACTER = 1.5
# Of the text's bytes as tokens of their own, while most of what the tokenizer learnt never occurs.
MOST_SINGLE, MOST_UNSEEN = 0.75, 0.5
# Repeats are worth ever less, after 40 nothing (Muennighoff et al. 2023, Scaling Data-Constrained
# Language Models). The shortest run that taught a model anything here was 250 steps of batch 32.
EPOCHS, SHORTEST_RUN = 40, 250 * 32
# What a parameter can store, in bits (Morris et al. 2025, How Much Do Language Models Memorize?).
# The healthy runs of experiments.md could store their text up to 30 times.
BITS_PER_PARAMETER, MOST_COPIES = 3.6, 100
# 20 tokens a parameter are balanced (Hoffmann et al. 2022); at 1000, by the law fitted there, three
# quarters of what can still be gained is to be had from size alone.
MOST_TOKENS_PER_PARAMETER = 1000


def look_at_text(tokenizer, tokens, config):
    """Numbers of a text, tokens (an array or Stretches), as a dict.

    unigram, bigram, trigram: nats a token of guessing by counts of so many tokens.
    repeated: the share of its stretches of 50 tokens that stood there before. rare, unseen,
    single: of tokens of several bytes, how many occur under 20 times, or never; the share
    of bytes that are tokens of their own.
    """
    counts = count_tokens(tokens, tokenizer.vocab_size)
    pieces = [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]
    # Reserved ids are meant to be without a use: what they are called does not count.
    reserved = tokenizer.count if isinstance(tokenizer, ReservedTokenizer) else 0
    several = np.array([len(piece) > 1 for piece in pieces])
    several[tokenizer.vocab_size - reserved :] = False
    # A character's first byte is none of those that continue one, 10xxxxxx.
    characters = np.array([sum(byte & 0xC0 != 0x80 for byte in piece) for piece in pieces])
    size = count_bytes(tokenizer, counts)
    bigram, trigram = ngram_losses(_sample(tokens), tokenizer.vocab_size)[1:]
    return {
        "tokens": len(tokens), "bytes": size,
        "tokens_per_character": len(tokens) / max(1, int((counts * characters).sum())),
        "unigram": unigram_entropy(counts), "bigram": bigram, "trigram": trigram,
        "repeated": repeated_share(tokens),
        "vocab_size": tokenizer.vocab_size, "several_bytes": int(several.sum()),
        "rare": int((counts[several] < RARE).sum()),
        "unseen": int((counts[several] == 0).sum()),
        "single": float(counts[~several].sum() / size),
        "parameters": count_parameters(config),
    }


def _sample(tokens):
    """All tokens, or LOOK of them in stretches from all over."""
    if len(tokens) <= LOOK:
        return tokens[np.arange(len(tokens))]
    starts = np.linspace(0, len(tokens) - STRETCH, LOOK // STRETCH).astype(np.int64)
    return tokens[(starts[:, None] + np.arange(STRETCH)).ravel()]


def ngram_losses(tokens, vocab_size):
    """Losses in nats of guessing the next token of tokens, (n,), by the 0, 1 and 2 before it.

    Counts are of every other stretch, the loss is that of the stretches between: counts of
    the text itself would know its rare pairs by heart. Smoothed as by Witten and Bell 1991:

        p(w | h) = (c(h w) + kinds(h) p(w | shorter h)) / (c(h) + kinds(h))
    """
    tokens = tokens.astype(np.uint64)
    word, learn = tokens[2:], np.arange(2, len(tokens)) // STRETCH % 2 == 0
    if learn.all():  # a short text: by its halves
        learn = np.arange(word.size) < word.size // 2
    p, context, losses = np.full(word.size, 1 / vocab_size), np.zeros_like(word), []
    for before in range(3):
        if before:
            context = context * np.uint64(vocab_size) + tokens[2 - before : -before]
        # Above a vocabulary of 2**21 this wraps, which makes few of them one.
        whole = context * np.uint64(vocab_size) + word
        wholes, at, count = np.unique(whole[learn], return_index=True, return_counts=True)
        contexts, total = np.unique(context[learn], return_counts=True)
        kinds = np.unique(context[learn][at], return_counts=True)[1]
        count, total, kinds = (_look_up(keys, values, wanted) for keys, values, wanted in (
            (wholes, count, whole), (contexts, total, context), (contexts, kinds, context)))
        p = np.where(total > 0, (count + kinds * p) / np.maximum(total + kinds, 1), p)
        losses.append(float(-np.log(p[~learn]).mean()))
    return losses


def _look_up(keys, values, wanted):
    """values of the wanted among the sorted keys, 0 where they are not."""
    at = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def repeated_share(tokens):
    """The share of tokens' stretches of REPEAT that stand there earlier too.

    By a rolling hash of each; of a long text, those are looked at whose hash is a multiple of
    some number, so that a repeat is met with what it repeats.
    """
    base = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2^64
    powers, inverses = (np.cumprod(np.full(BLOCK + REPEAT, x, np.uint64))
                        for x in (base, pow(base, -1, 2**64)))
    every = np.uint64(max(1, len(tokens) // LOOK))
    found, left = [], np.zeros(0, np.uint64)
    for block in blocks(tokens):
        values = np.concatenate([left, _mixed(block.astype(np.uint64) + np.uint64(1))])
        left = values[max(0, values.size - REPEAT + 1) :]
        if values.size < REPEAT:
            continue
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * powers[: values.size])])
        hashes = _mixed((sums[REPEAT:] - sums[:-REPEAT]) * inverses[: sums.size - REPEAT])
        found.append(hashes[hashes % every == 0])
    hashes = np.concatenate(found) if found else left[:0]
    return 1 - np.unique(hashes).size / hashes.size if hashes.size else 0.0


def _mixed(x):
    x = x * np.uint64(0xD6E8FEB86659FD93)
    return (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)


def text_findings(text, config, read):
    """Findings on look_at_text's numbers. read: how many tokens the model was trained on."""
    return [*_tokenizer(text), *_amount(text, config, read), *_size(text)]


def _tokenizer(text):
    unseen, rare, several = text["unseen"], text["rare"], text["several_bytes"]
    if text["tokens_per_character"] > MOST_TOKENS_PER_CHARACTER:
        yield Finding("tokenizer-misfit", f"the tokenizer cuts this text into "
                      f"{text['tokens_per_character']:.2f} tokens a character",
                      "learn one from this text: femtogpt train-bpe, then init --tokenizer=bpe")
    elif several and unseen / several > MOST_UNSEEN and text["single"] > MOST_SINGLE:
        yield Finding("tokenizer-misfit", f"{text['single']:.0%} of the text are tokens of one "
                      f"byte each, and {unseen:,} of the {several:,} longer ones never occur in it",
                      "learn one from this text: femtogpt train-bpe, then init --tokenizer=bpe")
    elif rare / text["vocab_size"] > MOST_RARE:
        enough = text["vocab_size"] - rare
        yield Finding("vocabulary-too-large", f"{rare:,} of {text['vocab_size']:,} tokens occur "
                      f"under {RARE} times in this text: too seldom to learn what they mean",
                      f"femtogpt train-bpe --vocab-size {enough}, or more text")


def _amount(text, config, read):
    count, least = text["tokens"], SHORTEST_RUN * config.num_tokens // EPOCHS
    if text["repeated"] > MOST_REPEATED:
        yield Finding("text-duplicated", f"{text['repeated']:.0%} of the text stood there before "
                      f"(in stretches of {REPEAT} tokens)",
                      "give each file once with --dataset, and remove what is repeated")
    if read / count > EPOCHS:
        yield Finding("text-too-short", f"its {count:,} tokens were read {read / count:.0f} times; "
                      f"after {EPOCHS} times reading again teaches nothing",
                      "more text with --dataset, or fewer --steps")
    elif count < least:
        yield Finding("text-too-short", f"{count:,} tokens are fewer than {least:,}, and so read "
                      f"over {EPOCHS} times in even a short run",
                      "more text with --dataset")


def _size(text):
    bits = text["tokens"] * text["trigram"] / math.log(2)
    copies = BITS_PER_PARAMETER * text["parameters"] / bits
    ratio = text["tokens"] / text["parameters"]
    if copies > MOST_COPIES:
        yield Finding("model-too-large", f"{text['parameters']:,} parameters could store this text "
                      f"{copies:.0f} times over",
                      "femtogpt init with a smaller --embedding-degree or --num-layers, or more "
                      "text")
    elif ratio > MOST_TOKENS_PER_PARAMETER:
        yield Finding("model-too-small", f"the text has {ratio:,.0f} tokens a parameter: most of "
                      "it cannot be learnt by so small a model",
                      "femtogpt init with a larger --embedding-degree or --num-layers")
