"""BPE in plain loops, texts on which it is easy to get wrong, and tokenizers to try."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import strategies as st

from femtogpt.errors import FemtoError
from femtogpt.tokenizer import SPLITS, train_bpe
from femtogpt.tokenizer.learning import learn_merges
from femtogpt.tokenizer.split import lower
from femtogpt.tokenizer.tokens import END

TEXT = (
    "It's the end; they'll LOWER the lowest newer WIDEST\n\n  width of 1234 rows,\r\n"
    "\twe'Ve said: 'the' été, naïve 日本語日本 🙂🙂 "
    "ΣΑΣΑΣ  \u00a0 end's the the\n"
).encode() * 3

# Where patterns and lower-casing are easy to get wrong.
AWKWARD = (
    "aabtThHeE'sSlLdDvVrRmM ſ\u212aΣσςİıẞß1²Ⅷ١½"
    "\n\r\t\x0b\x1c\x85\u00a0\u2028\u3000\u0301\u200d_-.,“日🙂\x00"
)
texts = st.text(AWKWARD, max_size=40) | st.text(
    st.characters(max_codepoint=0x24F) | st.sampled_from(" \n'"), max_size=40
)


TRAINED = {split: train_bpe([TEXT], 400, split=split) for split in SPLITS}
LOWERED = {split: train_bpe([TEXT], 400, split=split, case_sensitive=False) for split in SPLITS}


def joined(ids, pair, new):
    """`ids` with `pair` replaced by `new`, from the left."""
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def naive_learn(chunks, num_merges, base=256):
    """Count every pair anew before each merge. `chunks`: a list of bytes, repeats and all."""
    words = [list(chunk) for chunk in chunks]
    merges = []
    while len(merges) < num_merges:
        counts = {}
        for word in words:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        words = [joined(word, best, base + len(merges)) for word in words]
        merges.append(best)
    return merges


def naive_apply(ids, merges):
    """Merge one place at a time: of the lowest rank, the leftmost."""
    ids = list(ids)
    while True:
        ranked = [(merges[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in merges]
        if not ranked:
            return ids
        (_, new), i = min(ranked)
        ids[i : i + 2] = [new]


def merges_of(tokenizer):
    return [(left, right) for left, right, _ in tokenizer.data.merges]


few_letters = st.lists(st.text("aabc", max_size=14).map(str.encode), max_size=8)


def laid_out(chunks):
    """What learn_merges takes: tokens with END around each chunk, and their weights."""
    token, weights = [END], [0]
    for chunk, count in chunks.items():
        token += [*chunk, END]
        weights += [count] * (len(chunk) + 1)
    return np.array(token, np.int32), np.array(weights, np.int64)


def ones(count):
    return np.ones(count, np.int64)


def learnt(chunks, num_merges):
    return list(map(tuple, learn_merges(*laid_out(chunks), ones(256), num_merges).tolist()))


def lowered(data):
    return lower(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def message(call, *args, **kwargs):
    with pytest.raises(FemtoError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)
