"""Text as tokens that merge in place, for learning merges and for applying them.

A token of n bytes that begins at byte i is token[i] = id; its last byte, if that is another
one, holds -n; END stands between chunks, before the first and behind the last. So both
neighbours of a token are found without links, and 2 bytes a byte of text are all it takes,
4 where there are more ids or longer tokens. What a merge leaves between a token's ends is
negative.
"""

from __future__ import annotations

import numpy as np

from femtogpt.layers.numeric import allocation_free

END = -1


def id_type(vocab_size: int, longest: int) -> type:
    """The narrowest type for a text of `vocab_size` ids, of tokens of `longest` bytes."""
    return np.int16 if vocab_size <= 1 << 15 and longest < 1 << 15 else np.int32


@allocation_free
def before(token, i):
    """Where the token, or END, begins that stands before the one at i."""
    last = token[i - 1]
    return i - 1 if last >= END else i + last


@allocation_free
def join(token, i, j, end, new):
    """Makes one token, `new`, of those that begin at i and j; the second ends before end."""
    token[i], token[j] = new, END
    token[end - 1] = i - end


@allocation_free
def lay_out(store, starts, ids, counts, token, weights):
    """Writes chunks as tokens, END around each. Chunk c is store[starts[c]:starts[c + 1]].

    ids: (256,), the token of each byte. counts: how often each chunk occurs, or (1,) for
    all the same. token: (bytes + chunks + 1,); weights: the count of what stands in token
    at the same place, or (1,).
    """
    token[0] = END
    weights[0] = counts[0]
    to = 1
    for c in range(len(starts) - 1):
        for i in range(starts[c], starts[c + 1]):
            token[to] = ids[store[i]]
            if len(weights) > 1:
                weights[to] = counts[c]
            to += 1
        token[to] = END
        to += 1


@allocation_free
def lay_out_tokens(ids, lengths, token):
    """Writes tokens that stand already, of `lengths` bytes each, to token: (bytes,)."""
    i = 0
    for id in ids:
        end = i + lengths[id]
        token[i + 1 : end] = END
        token[end - 1] = i - end
        token[i] = id
        i = end


@allocation_free
def join_parts(numbers, store, starts, out):
    """Writes parts, by number, one after the other; returns how long that is.

    Part p is store[starts[p]:starts[p + 1]]: the bytes of a token, or the tokens of a chunk.
    """
    to = 0
    for number in numbers:
        for i in range(starts[number], starts[number + 1]):
            out[to] = store[i]
            to += 1
    return to
