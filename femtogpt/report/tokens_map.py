"""A map of the tokens: their embeddings in two dimensions, alike ones close together."""

import unicodedata

import numpy as np

from ..drawing import COLOURS
from ..tensors import views
from .parts import html, legend, symbols

MOST = 400  # tokens, the most frequent
WIDTH, HEIGHT, MARGIN = 460, 400, 18
LETTER, LINE, LONGEST = 7.5, 13, 9  # of labels: pixels across and down, letters
KINDS = ("letters", "capitals", "digits", "blanks", "other signs", "bytes of longer characters",
         "several characters", "several, after a blank")


def kind(piece):
    """The place in KINDS of a token's bytes."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return 5
    if len(text) > 1 and text.strip():
        return 7 if text[0].isspace() else 6
    if not text.strip():
        return 3
    category = unicodedata.category(text)
    return (1 if category in ("Lu", "Lt") else 0 if category[0] in "LM" else
            2 if category[0] == "N" else 4)


def flattened(table):
    """(places, share): the rows of table (n, C) in their two main directions (n, 2), each with its
    largest number above zero, so that the same table gives the same map; and the share of the
    variance that these directions hold."""
    centred = table.astype(np.float64) - table.mean(0, dtype=np.float64)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    kept = directions[:2]
    largest = np.take_along_axis(kept, np.abs(kept).argmax(1)[:, None], 1)
    places = np.zeros((len(table), 2))  # of a single token, or width, there is one direction
    places[:, : len(kept)] = centred @ (kept * np.where(largest < 0, -1, 1)).T
    return places, float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-300))


def tokens_map(m):
    """The map of a Measured's tokens as HTML: those that its text has, of many the most frequent;
    without a text, the first."""
    V = m.model.config.vocab_size
    ids = np.arange(V)[:MOST]
    if m.counts is not None:
        ids = np.argsort(-m.counts, kind="stable")[:MOST]
        ids = ids[m.counts[ids] > 0]
    places, share = flattened(views(m.model.parameters, m.model.config).token_embedding[ids])
    low, span = places.min(0), np.maximum(np.ptp(places, axis=0), 1e-30)
    xy = (places - low) / span * (WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN) + MARGIN
    xy[:, 1] = HEIGHT - xy[:, 1]
    labelled, points, kinds = [], [], []
    for id, (x, y) in zip(ids.tolist(), xy.tolist(), strict=True):
        piece = m.model.tokenizer.piece(id)
        label = symbols(piece)
        kinds.append(kind(piece))
        told = f"“{label}”, {KINDS[kinds[-1]]}"
        if m.counts is not None:
            told += f", {m.counts[id]:,} times"
        shown = label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"
        across = len(shown) * LETTER / 2
        if all(abs(x - u) >= across + w or abs(y - v) >= LINE for u, v, w in labelled):
            labelled.append((x, y, across))
            mark = f'<text x="{x:.1f}" y="{y + 4:.1f}">{html(shown)}</text>'
        else:
            mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
        points.append((x, f'<g class="point fill-{kinds[-1]}"><title>{html(told)}</title>'
                          f"{mark}</g>"))
    points.sort(key=lambda point: point[0])  # the keys go from left to right
    which = ("" if m.counts is None else " of the text") if len(ids) < V else ""
    return (
        legend((k, KINDS[k]) for k in sorted(set(kinds)) if k < len(COLOURS))
        + f'<svg class="map" data-rove viewBox="0 0 {WIDTH} {HEIGHT}" role="group" '
        f'aria-label="map of the tokens">{"".join(p for _, p in points)}</svg>'
        f'<p class="note">{len(ids):,} tokens{which} by their embeddings; these two directions '
        f"hold {share:.0%} of what tells them apart.</p>")
