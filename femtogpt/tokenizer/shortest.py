"""The fewest pieces that spell a text: a shortest path, found in one pass.

cost[j], the fewest pieces that spell the first j bytes, is one more than the least cost[i]
of the places i from which one piece leads to j. Of several such i the first is taken, so
the last piece is the longest: as Hugging Face's Unigram model does where all scores are
equal, and it is what we write. The pieces that end at j are found with the automaton of
Aho and Corasick 1975. So a byte takes a step or two, and one more for each piece that ends
there, however long pieces are: a run of spaces is no worst case.
"""

from __future__ import annotations

import numpy as np

from femtogpt.layers.numeric import entry, kernel

# A trie of pieces as a table with a row for each node, which is a double array (Aoe 1989):
# the child of row s by a byte is row t = trie[s, FIRST] + byte if trie[t, OWNER] is s, else
# there is none. Row 0 is the root. ID: which piece the node is, or NONE; DEPTH: its bytes.
# FAIL: the node of the longest end of its bytes that is another node; NEXT: that is a piece.
FIRST, OWNER, ID, DEPTH, FAIL, NEXT = range(6)
COLUMNS = 8  # so that no row lies across two cache lines
NONE = -1
FAR = 1 << 30  # more pieces than any text has


@kernel
def step(trie, node, byte):
    """The node of the longest end of what led to `node`, and then byte, that is a node."""
    child = trie[node, FIRST] + byte
    while trie[child, OWNER] != node:
        if node == 0:
            return 0
        node = trie[node, FAIL]
        child = trie[node, FIRST] + byte
    return child


@entry
def build_trie(store, starts, order):
    """(trie, nodes): (rows, COLUMNS) int32, and (V,) the row of each piece.

    Piece p is store[starts[p]:starts[p + 1]]; order: (n,) the pieces meant, sorted, no two
    the same.
    """
    trie = np.full((1024, COLUMNS), NONE, np.int32)
    nodes = np.full(len(starts) - 1, NONE, np.int32)
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
                larger = np.full((2 * len(trie), COLUMNS), NONE, np.int32)
                larger[: len(trie)] = trie
                trie = larger
            if trie[first + letters[k], OWNER] != NONE:
                first, tried, k = first + 1, tried + 1, 0
            else:
                k += 1
        if tried > 64:  # it is crowded there: leaving some rows unused keeps this linear
            low = first + letters[0]
        trie[row, FIRST], trie[row, DEPTH] = first, depth
        for k in range(children):
            trie[first + letters[k], OWNER] = row
            queue[waiting, 0], queue[waiting, 3] = first + letters[k], depth + 1
            queue[waiting, 1], queue[waiting, 2] = heads[k], heads[k + 1]
            waiting += 1
    trie[0, FAIL] = trie[0, NEXT] = 0
    for k in range(1, waiting):  # the shorter ones first
        row = queue[k, 0]
        owner, fail = np.int64(trie[row, OWNER]), 0
        if owner != 0:
            fail = step(trie, trie[owner, FAIL], row - trie[owner, FIRST])
        trie[row, FAIL] = fail
        trie[row, NEXT] = fail if trie[fail, ID] != NONE else trie[fail, NEXT]
    return trie, nodes


@entry
def fewest(data, trie, cost, last):
    """Fills in, for each place j of data, (n,) uint8, from 0 to n, with (n + 1,) int32 each:

    cost[j]: the fewest pieces that spell data[:j]; last[j]: the last of them. Returns the
    node of the longest end of data that is one.
    """
    cost[0], node = 0, 0
    for j in range(len(data)):
        node = step(trie, node, data[j])
        best, piece, match = FAR, NONE, node
        while match != 0:  # the longest first
            here = cost[j + 1 - trie[match, DEPTH]] + 1
            if here < best and trie[match, ID] != NONE:
                best, piece = here, trie[match, ID]
            match = trie[match, NEXT]
        cost[j + 1], last[j + 1] = best, piece
    return node


@entry
def trace(at, last, lengths, ids):
    """Writes the pieces of data[:at], cost[at] of them, to ids."""
    for k in range(len(ids) - 1, -1, -1):
        ids[k] = last[at]
        at -= lengths[ids[k]]


@entry
def sure(data, trie, node, last, lengths):
    """The last place that the path to a longer text's end goes through whatever follows.

    What stands in cost and last does not depend on what follows. A longer text's path has a
    last place within data, and it is open: a piece that goes on after the end may begin
    there, which `node`, that of data's end, and its FAIL know; or it is the end. From there
    the path back is known. So what the paths back from all open places have in common is
    sure; the last of these places is looked for by replacing the last of them by where its
    piece begins until one is left. What comes later is encoded alone as it is here: of the
    places whose paths go through this one all costs become less by the same, and all others
    can only become worse.

    It is moved back, along the path, to where a character of UTF-8 may begin.
    """
    j, places, open_ = len(data), 1, np.zeros(len(data) + 1, np.bool_)
    open_[j] = True
    while node != 0:
        open_[j - trie[node, DEPTH]] = True
        places, node = places + 1, trie[node, FAIL]
    while places > 1:
        if open_[j]:
            i = j - lengths[last[j]]
            places -= int(open_[i])
            open_[i] = True
        j -= 1
    while not open_[j]:
        j -= 1
    while 0 < j < len(data) and data[j] & 0xC0 == 0x80:
        j -= lengths[last[j]]
    return j


@entry
def costs_without(store, starts, trie, nodes, cost, last, out):
    """out[p]: the fewest other pieces that spell piece p; 0 for pieces not in the trie."""
    for p in range(len(nodes)):
        row, begin, end = nodes[p], starts[p], starts[p + 1]
        out[p] = 0
        if trie[row, ID] == p:
            trie[row, ID] = NONE
            fewest(store[begin:end], trie, cost, last)
            out[p] = cost[end - begin]
            trie[row, ID] = p
