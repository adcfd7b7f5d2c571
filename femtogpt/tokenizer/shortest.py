"""The fewest pieces that spell a text: a shortest path, found in one pass over a trie.

cost[j], the fewest pieces that spell the first j bytes, is one more than the least cost[i]
of the places i from which one piece leads to j. Of several such i the first is taken, so
the last piece is the longest: as Hugging Face's Unigram model does where all scores are
equal, and it is what we write.
"""

from __future__ import annotations

import numpy as np

from femtogpt.layers.numeric import kernel

# Columns of a trie in a double array (Aoe 1989): the child of node s by a byte is row
# t = trie[s, FIRST] + byte if trie[t, OWNER] is s, else there is none. Row 0 is the root.
FIRST, OWNER, ID = range(3)
NONE = -1
FAR = 1 << 30  # more pieces than any text has


@kernel
def build_trie(store, starts, order):
    """(trie, nodes): (rows, 3) int32, and (V,) the row of each piece.

    Piece p is store[starts[p]:starts[p + 1]]; order: (n,) the pieces meant, sorted, no two
    the same.
    """
    trie, nodes = np.full((1024, 3), NONE, np.int32), np.full(len(starts) - 1, NONE, np.int32)
    # A node: its row, and which of `order` begin with its bytes, and how many those are.
    queue = np.empty((len(store) + 1, 4), np.int64)
    queue[0, 0], queue[0, 1], queue[0, 2], queue[0, 3] = 0, 0, len(order), 0
    letters, heads = np.empty(256, np.int64), np.empty(257, np.int64)
    done, waiting, low = 0, 1, 1
    while done < waiting:
        row, begin, end, depth = queue[done]
        done += 1
        piece = order[begin]
        if starts[piece] + depth == starts[piece + 1]:  # the shortest is the first
            trie[row, ID], nodes[piece] = piece, row
            begin += 1
        children = 0
        for k in range(begin, end):
            letter = np.int64(store[starts[order[k]] + depth])
            if children == 0 or letter != letters[children - 1]:
                letters[children], heads[children] = letter, k
                children += 1
        heads[children] = end
        first, tried, k = max(1, low - letters[0]) if children else 1, 0, 0
        while k < children:
            if first + 512 > len(trie):
                larger = np.full((2 * len(trie), 3), NONE, np.int32)
                larger[: len(trie)] = trie
                trie = larger
            if trie[first + letters[k], OWNER] != NONE:
                first, tried, k = first + 1, tried + 1, 0
            else:
                k += 1
        if tried > 64:  # it is crowded there: leaving some rows unused keeps this linear
            low = first + letters[0]
        trie[row, FIRST] = first
        for k in range(children):
            trie[first + letters[k], OWNER] = row
            queue[waiting, 0], queue[waiting, 3] = first + letters[k], depth + 1
            queue[waiting, 1], queue[waiting, 2] = heads[k], heads[k + 1]
            waiting += 1
    return trie, nodes


@kernel
def fewest(data, trie, cost, last, open_):
    """Fills in, for each place j of data, (n,) uint8, from 0 to n, with (n + 1,) each:

    cost[j]: int32, the fewest pieces that spell data[:j]; last[j]: int32, the last of them.
    open_[j]: bool, whether a piece may begin there that goes on after the end.
    """
    n = len(data)
    cost[: n + 1] = FAR
    cost[0] = 0
    for i in range(n):
        here, node, j = cost[i] + 1, 0, i
        while j < n:
            child = trie[node, FIRST] + data[j]
            if trie[child, OWNER] != node:
                break
            j, node = j + 1, child
            if trie[node, ID] != NONE and here < cost[j]:
                cost[j], last[j] = here, trie[node, ID]
        open_[i] = j == n
    open_[n] = True


@kernel
def trace(at, last, lengths, ids):
    """Writes the pieces of data[:at], cost[at] of them, to ids."""
    for k in range(len(ids) - 1, -1, -1):
        ids[k] = last[at]
        at -= lengths[ids[k]]


@kernel
def sure(data, last, lengths, open_):
    """The last place that the path to a longer text's end goes through whatever follows.

    What stands in cost and last does not depend on what follows. A longer text's path has a
    last place within data, and it is open: either a piece goes on after the end there, or
    it is the end. From there the path back is known. So what the paths back from all open
    places have in common is sure; the last of these places is looked for by replacing the
    last of them by where its piece begins until one is left. What comes later is encoded
    alone as it is here: of the places whose paths go through this one all costs become less
    by the same, and all others can only become worse.

    It is moved back, along the path, to where a character of UTF-8 may begin.
    """
    j, places = len(data), open_.sum()
    while places > 1:
        if open_[j]:
            i = j - lengths[last[j]]
            places -= open_[i]
            open_[i] = True
        j -= 1
    while not open_[j]:
        j -= 1
    while 0 < j < len(data) and data[j] & 0xC0 == 0x80:
        j -= lengths[last[j]]
    return j


@kernel
def costs_without(store, starts, trie, nodes, cost, last, open_, out):
    """out[p]: the fewest other pieces that spell piece p; 0 for pieces not in the trie."""
    for p in range(len(nodes)):
        row, begin, end = nodes[p], starts[p], starts[p + 1]
        out[p] = 0
        if trie[row, ID] == p:
            trie[row, ID] = NONE
            fewest(store[begin:end], trie, cost, last, open_)
            out[p] = cost[end - begin]
            trie[row, ID] = p
