"""Where each head looks in a sentence."""

import json

import numpy as np

from ..errors import FemtoError
from ..inspection import activations
from ..scoring import sample_text
from .parts import html, symbols

MOST_TOKENS, MOST_CELLS = 20, 16_000
SHADES = 8


def sentence(m):
    """A bit of a Measured's text, from the middle's next line on; without a text, of what the
    model writes. Bytes."""
    tokenizer = m.model.tokenizer
    if m.tokens is None:
        return sample_text(m.model, "\n", 4 * MOST_TOKENS, 1, 0).strip("\n").encode()
    middle = max(0, len(m.tokens) // 2 - 4 * MOST_TOKENS)
    text = tokenizer.decode(m.tokens[middle : middle + 8 * MOST_TOKENS])
    _, newline, line = text.partition(b"\n")
    if not newline or len(line) < MOST_TOKENS:
        line = text
    return line


def attention_maps(m, text):
    """Maps of all heads on a text's beginning as HTML. text: bytes. Raises FemtoError for what the
    model cannot spell."""
    config = m.model.config
    L, NH = config.num_layers, config.num_heads
    most = min(MOST_TOKENS, config.num_tokens, max(8, int((2 * MOST_CELLS / (L * NH)) ** 0.5)))
    ids = m.model.tokenizer.encode(text)[:most]
    if len(ids) < 2:
        raise FemtoError("a text of two tokens or more is needed, and a context as long")
    names = [symbols(m.model.tokenizer.piece(id)) for id in ids.tolist()]
    found = activations(config, m.model.parameters, ids)
    rows = []
    for l in range(L):
        cells = "".join(f"<td>{_map(weights, f'layer {l}, head {h}')}</td>" for h, weights in
                        enumerate(found[f"layers.{l}.attention_weights"]))
        rows.append(f'<tr><th scope="row">{l}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">head {h}</th>' for h in range(NH))
    words = "".join(f"<span>{html(name)}</span>" for name in names)
    return (f'<div class="attention" data-tokens="{html(json.dumps(names))}">'
            f'<p class="sentence">{words}</p><div class="scroll"><table><thead><tr>'
            f'<th scope="col">layer</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
            '</div></div><p class="note">A row is a token that looks, a column one that is looked '
            "at: itself, on the diagonal, or one before it.</p>")


def _map(weights, name):
    """weights: (n, n), rows that add up to 1. Cells of a shade are one path; data-values: of each
    row up to the diagonal, two digits a percentage."""
    n = len(weights)
    shades = np.ceil(weights * SHADES - 0.5).astype(int)
    paths = []
    for shade in range(1, SHADES + 1):
        cells = "".join(f"M{j} {i}h1v1h-1z" for i, j in np.argwhere(shades == shade).tolist())
        if cells:
            paths.append(f'<path fill-opacity="{shade / SHADES:g}" d="{cells}"/>')
    percent = np.minimum(99, np.rint(100 * weights)).astype(int)
    values = "".join(f"{p:02}" for i in range(n) for p in percent[i, : i + 1].tolist())
    return (f'<svg viewBox="0 0 {n} {n}" role="img" aria-label="{name}" data-values="{values}">'
            f'<path class="half" d="M0 0L{n} {n}H0z"/>{"".join(paths)}</svg>')
