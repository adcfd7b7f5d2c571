"""How a model learnt: its losses, its rate, and by layer its gradients and changes, as charts."""

import math

import numpy as np

from ..drawing import COLOURS, line_chart, thinned
from ..looks import part_names
from ..optimizer import learning_rate
from ..run import counted_runs
from .parts import html, legend

POINTS = 300  # of a line
LAYERS = 6  # are drawn, of more
AROUND = 10  # steps on either side, whose mean a smoothed loss is: it lags behind nothing
WIDE, NARROW = (900, 340), (400, 300)  # pixels; of the second, a phone shows letters large enough


def losses(models):
    """The curves of losses as HTML. models: Measureds. The unit is bits a byte where their tokens
    differ, if a text tells how many bytes a token has."""
    tokenizers = [m.model.tokenizer.to_json() for m in models]
    same = all(t == tokenizers[0] for t in tokenizers)
    by_byte = not same and all(m.bytes_per_token for m in models)
    lines, one, validated = [], len(models) == 1, False
    for m in models:
        factor = 1 / m.bytes_per_token / math.log(2) if by_byte else 1
        history = m.model.history
        steps = range(m.model.step - len(history.losses) + 1, m.model.step + 1)
        training, held_back = ("training", "held back") if one else (m.name, m.name)

        def line(steps, losses, factor=factor):
            return thinned([(step, loss * factor) for step, loss in
                            zip(steps, losses, strict=True)], POINTS)

        if one:
            lines.append((training, line(steps, history.losses), "faint"))
        lines.append((training, line(steps, smoothed(history.losses).tolist())))
        if history.validation:
            validated = True
            lines.append((held_back, line(*zip(*history.validation, strict=True)),
                          "" if one else "dashed"))
    if not any(points for _, points, *_ in lines):
        return "<p>No step was trained yet.</p>"
    unit = "bits a byte" if by_byte else "nats a token"
    levels = guessing(models[0]) if same else []
    names = list(dict.fromkeys(name for name, *_ in lines))
    charts = "".join(f'<div class="{style}">' + line_chart(
        lines, *size, y_label=f"loss, {unit}", levels=levels, legend=False) + "</div>"
        for style, size in (("wide", WIDE), ("narrow", NARROW)))
    notes = [f"Smoothed over {2 * AROUND + 1} steps" + (", each step's behind it" if one else "")
             + "."]
    if validated and not one:
        notes.append("Dashed: on text held back.")
    if not same and not by_byte:
        notes.append("The models' tokens differ, so nats a token do not compare: give a "
                     "--dataset to see bits a byte.")
    if levels:
        notes.append("Red: what guessing gives, all tokens alike (uniform)"
                     + (", by how often each occurs (unigram), by the token before (bigram)."
                        if len(levels) > 1 else "."))
    return (legend((i % len(COLOURS), name) for i, name in enumerate(names)) + charts
            + f'<p class="note">{" ".join(notes)}</p>')


def smoothed(losses):
    """Of each of losses the mean with AROUND on either side, near the ends with fewer: (n,)."""
    place, sums = np.arange(len(losses)), np.cumsum([0.0, *losses])
    around = np.minimum(np.minimum(place, place[::-1]), AROUND)
    return (sums[place + around + 1] - sums[place - around]) / (2 * around + 1)


def guessing(m):
    """(name, nats a token) of what guessing gives, as line_chart's levels."""
    levels = [("uniform", math.log(m.model.config.vocab_size))]
    if m.numbers:
        levels += [(name, m.numbers["text"][name]) for name in ("unigram", "bigram")]
    return levels


def rates(models):
    """The learning rates as HTML, or nothing where no run was begun."""
    lines = []
    for m in models:
        points = []
        for run, end in counted_runs(m.model):
            steps = np.unique(np.linspace(run.first_step, max(run.first_step, end - 1), POINTS)
                              .astype(int)).tolist()
            points += [(step + 1, learning_rate(run.schedule, m.model.config.recipe, step,
                                                run.first_step, run.last_step)) for step in steps]
        if points:
            lines.append(("learning rate" if len(models) == 1 else m.name, points))
    if not lines:
        return ""
    chart = line_chart(lines, y_label="learning rate, AdamW's", start_at_zero=True, legend=False)
    names = legend(enumerate(name for name, _ in lines)) if len(models) > 1 else ""
    return f"<figure><figcaption>Learning rate</figcaption>{names}{chart}</figure>"


def looks(m, named):
    """The charts by layer of a model's looks as HTML, or nothing where it has none. named: whether
    to say which model's."""
    found = m.model.history.looks
    if not found:
        return ""
    names = part_names(m.model.config.num_layers)
    shown = np.unique(np.linspace(0, m.model.config.num_layers - 1, LAYERS).astype(int)).tolist()
    shown += [len(names) - 2, len(names) - 1]
    of = f", {m.name}" if named else ""
    parts = []
    for title, label, field in (("Gradient norm by layer", "norm of the gradient", "gradient"),
                                ("Update to weight by layer", "change of the weights in a step",
                                 "update")):
        lines = [(names[i], [(look.step, getattr(look, field)[i]) for look in found])
                 for i in shown]
        chart = line_chart(lines, y_label=label, log=True, legend=False)
        entries = legend(enumerate(names[i] for i in shown))
        parts.append(f"<figure><figcaption>{html(title + of)}</figcaption>{entries}{chart}"
                     "</figure>")
    return "".join(parts)
