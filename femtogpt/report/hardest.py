"""The parts of a text that a model finds hardest, each token by how likely it found it."""

import codecs

from ..inspection import probabilities
from .parts import Html, html, table, visible

CHUNKS, TOKENS = 4, 160  # listed; shown of each, at most
LEAST = (0.9, 0.5, 0.2, 0.05, 0.01, 0.0)  # of each colour, as `generate --show-probabilities` has


def hardest(m):
    """A table of the hardest chunks of a Measured's text as HTML."""
    order = sorted(m.chunks, key=lambda chunk: (-chunk["loss"], chunk["begin"]))[:CHUNKS]
    rows = [(f"{chunk['loss']:.2f}", f"{chunk['bits_per_byte']:.2f}", f"{chunk['byte']:,}",
             _text(m, chunk)) for chunk in order]
    names = [*(f"{least:.0%} up" for least in LEAST[:-1]), "less"]
    colours = "".join(f'<li><span class="p p{i}">{html(name)}</span></li>'
                      for i, name in enumerate(names))
    return (f'<ul class="legend"><li>how likely each token was:</li>{colours}</ul>'
            + table(["nats a token", "bits a byte", "at byte", "text"], rows, "hardest"))


def _text(m, chunk):
    T, begin = m.model.config.num_tokens, chunk["begin"] - 1
    end = min(chunk["end"], begin + TOKENS)
    parts, decoder, whole = [], codecs.getincrementaldecoder("utf-8")("replace"), []
    for start in range(begin, end - 1, T):
        ids = m.tokens[start : min(start + T + 1, chunk["end"])].astype(int)
        odds = probabilities(m.model.config, m.model.parameters, ids)
        for place, (id, p) in enumerate(zip(ids[1:].tolist(), odds.tolist(), strict=True),
                                        start + 2):
            whole.append(p)
            text = decoder.decode(m.model.tokenizer.piece(id), place == chunk["end"])
            if text:  # a character of several tokens has the colour of the least likely
                parts.append(_token(text, min(whole)))
                whole = []
    return Html(f'<span class="text" data-rove role="group" aria-label="text of the chunk">'
                f'{"".join(parts)}</span>')


def _token(text, p):
    number = next(i for i, least in enumerate(LEAST) if p >= least)
    return f'<span class="p p{number}" title="{_percent(p)}">{visible(text)}</span>'


def _percent(p):
    return "less than 0.01 %" if p < 1e-4 else f"{100 * p:.2f} %" if p < 0.1 else f"{100 * p:.1f} %"
