"""What a child's tokens start from, where its tokenizer is another than its parent's."""

import numpy as np

from ..errors import FemtoError


def inherit_vocabulary(tensors, parent, tokenizer):
    """(the parent's Tensors for another vocabulary, how many of its tokens are carried over).

    parent, tokenizer: Tokenizers. A new token starts as the mean of the pieces it is split into
    by the parent's; one that the parent's cannot spell, as the mean of all.
    """
    known = {}
    for id in range(parent.vocab_size):
        known.setdefault(parent.piece(id), id)
    everything = np.arange(parent.vocab_size)
    sources, carried = [], 0
    for id in range(tokenizer.vocab_size):
        piece = tokenizer.piece(id)
        if piece in known:
            sources.append([known[piece]])
            carried += 1
            continue
        try:
            ids = parent.encode(piece)
        except FemtoError:
            ids = []
        sources.append(ids if len(ids) else everything)

    def means(rows):  # (V, ...) -> (V', ...)
        whole = rows.mean(0)
        return np.stack([whole if ids is everything else rows[ids].mean(0) for ids in sources])

    return tensors._replace(
        token_embedding=means(tensors.token_embedding),
        head_weight=np.ascontiguousarray(means(tensors.head_weight.T).T),
        head_bias=means(tensors.head_bias),
    ), carried
