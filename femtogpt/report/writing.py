"""The page: its sections, in order."""

from html import escape
from pathlib import Path

import numpy as np

from ..about import about, lineage_tree
from ..durable import replace
from ..errors import FemtoError
from ..surgery.compare import compare
from ..webpage import webpage
from .attention import attention_maps, sentence
from .curves import guessing, looks, losses, rates
from .hardest import hardest
from .parts import Html, html, table
from .samples import samples
from .tokens_map import tokens_map

HERE = Path(__file__).parent
NO_TEXT = "No text was given: with --dataset, this is measured on it."


def write(models, path):
    """Writes the page on models, Measureds of other names each. An old file goes all or not.
    Returns the page's bytes' number. Raises FemtoError, which names the file, where it can't be
    written."""
    style, script = ((HERE / name).read_text("utf-8") for name in ("report.css", "report.js"))
    title = models[0].name if len(models) == 1 else f"{len(models)} models"
    page = webpage(title, _body(title, models), style, script)
    replace(path, [page], keep_previous=False)
    return len(page)


def _body(title, models):
    many = len(models) > 1
    lead = f'<p class="about">{escape(about(models[0].model))}</p>' if not many else (
        '<p class="about">' + ", ".join(f"<b>{escape(m.name)}</b>" for m in models) + "</p>")
    text = models[0].tokens is not None

    def each(part, needs_text=False):
        """A part for every model, under its name."""
        if needs_text and not text:
            return f"<p>{NO_TEXT}</p>"
        return "".join((f"<h3>{escape(m.name)}</h3>" if many else "") + part(m) for m in models)

    charts = rates(models) + "".join(looks(m, many) for m in models)
    lacking = [m.name for m in models if not m.model.history.looks and m.model.step]
    if lacking:
        of = f" of {', '.join(lacking)}" if many else ""
        charts += (f'<p class="note">No gradients and updates were recorded{escape(of)}: that is '
                   "done every 20 steps or more, in files of this femtogpt. What they are now "
                   "stands under Diagnosis.</p>")
    sections = [
        ("At a glance", _glance(models)),
        ("Loss", losses(models)),
        ("Samples through time", each(samples)),
        ("Rate, gradients, updates", f'<div class="charts">{charts}</div>' if charts else
         "<p>No step was trained yet.</p>"),
        ("Diagnosis", each(_diagnosis, True)),
        ("Hardest parts of the text", each(_hardest, True)),
        ("Where attention looks", _attention(models, each)),
        ("Tokens", _side_by_side(models, tokens_map)),
        ("Lineage", each(_lineage)),
    ]
    if many:
        sections.insert(1, (f"Beside {models[0].name}", _compared(models)))
    sections = [(name, body, f"s{i}") for i, (name, body) in enumerate(sections)]
    links = "".join(f'<a href="#{id}">{html(name)}</a>' for name, _, id in sections)
    return (f"<main><h1>{escape(title)}</h1>{lead}<nav aria-label=\"Sections\">{links}</nav>"
            + "".join(f'<section id="{id}" aria-labelledby="{id}h"><h2 id="{id}h">{html(name)}</h2>'
                      f"{body}</section>" for name, body, id in sections) + "</main>\n")


def _side_by_side(models, part):
    return '<div class="charts">' + "".join(
        f"<figure>{f'<figcaption>{escape(m.name)}</figcaption>' if len(models) > 1 else ''}"
        f"{part(m)}</figure>" for m in models) + "</div>"


def _glance(models):
    """What the models are, a column each."""
    def column(m):
        c, model, state = m.model.config, m.model, m.model.optimizer
        history = model.history
        best = min(history.validation, key=lambda at: at[1], default=None)
        moments = state.m.nbytes + state.v.nbytes if state else 0
        losses = 4 * len(history.losses) + 8 * len(history.validation)
        loss, bits = m.mean_loss() if m.chunks else (None, None)
        return {
            "parameters": f"{model.parameters.size:,}",
            "layers, heads, width": f"{c.num_layers}, {c.num_heads}, {c.embedding_degree}",
            "context": f"{c.num_tokens} tokens",
            "recipe, positions": f"{c.recipe}, {c.positional_encoding}",
            "tokenizer": f"{model.tokenizer.name}, {c.vocab_size:,} tokens",
            "steps": f"{model.step:,}",
            "training loss": f"{np.mean(history.losses[-20:]):.3f} nats a token"
                             if history.losses else None,
            "held back": f"{history.validation[-1][1]:.3f}, best {best[1]:.3f} at step {best[0]:,}"
                         if best else None,
            "on this text": f"{loss:.3f} nats a token, {bits:.3f} bits a byte"
                            if m.chunks else None,
            "guessing gives": ", ".join(f"{name} {value:.3f}" for name, value in guessing(m)),
            "file": _megabytes(m.size) if m.size else None,
            "of which parameters": _megabytes(model.parameters.nbytes),
            "optimizer's moments": _megabytes(moments) if moments else "none",
            "losses": _megabytes(losses),
            "tokenizer and the rest": _megabytes(m.size - model.parameters.nbytes - moments
                                                 - losses) if m.size else None,
        }

    columns = [column(m) for m in models]
    rows = [(name, *(column[name] or "–" for column in columns)) for name in columns[0]
            if any(column[name] for column in columns)]
    head = ["", *(m.name for m in models)] if len(models) > 1 else None
    return table(head, rows, "glance" if head else "glance one")


def _megabytes(size):
    return f"{size / 1e6:,.2f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} KB"


def _compared(models):
    """Each other model beside the first."""
    rows = []
    for m in models[1:]:
        found = compare(models[0].model, m.model)
        both = [row for row in found["tensors"] if row["cosine"] is not None]
        tokens = found["tokens"] or []
        furthest = min(both, key=lambda row: row["cosine"], default=None)
        rows.append((
            m.name, found["shared"], f"{len(both)} of {len(found['tensors'])}",
            f"{np.median([row['cosine'] for row in both]):.3f}" if both else "–",
            f"{furthest['name']}, {furthest['cosine']:.3f}" if furthest else "–",
            f"{np.median([t['cosine'] for t in tokens]):.3f}" if tokens else "–"))
    return table(["model", "lineage in common", "tensors of a shape", "median cosine",
                  "least alike", "tokens, median cosine"], rows)


def _diagnosis(m):
    if m.findings is None:
        return f"<p>Could not be measured: {escape(m.trouble)}</p>"
    parts = [f'<div class="finding"><h4>{html(f.name)}</h4><p>{html(f.says)}.</p>'
             f"<p><b>What helps:</b> {html(f.helps)}</p></div>" for f in m.findings]
    if not parts:
        parts = ['<p class="good">Nothing wrong found.</p>']
    if not m.numbers["trained"]:
        parts.append("<p>Not trained yet, so nothing is said of what it has learnt.</p>")
    context, learning, text = (m.numbers[name] for name in ("context", "learning", "text"))
    update, noise = learning["update_to_weight"], learning["noise_scale"]
    rows = [(l, f"{layer['stream']:.3g}", f"{layer['attention']:.3f}", f"{layer['mlp']:.3f}",
             f"{layer['gradient']:.2g}",
             f"{min(layer['entropy']):.2f} to {max(layer['entropy']):.2f}")
            for l, layer in enumerate(m.numbers["blocks"]["layers"])]
    rates = [(f"{entry['rate']:.2g}", "not finite" if entry["loss"] is None else
              f"{entry['loss']:.3f}") for entry in learning["rates"]]
    parts += [
        "<details><summary>The numbers behind it, measured now</summary>",
        f"<p>The loss is {context['loss']:.3f}, with the context shuffled up to "
        f"{context['loss'] + context['shuffled']:.3f}. {text['repeated']:.1%} of the text is "
        f"repeated. A step at the run's rate, {learning['learning_rate']:.3g}, changes the weights "
        f"by {'?' if update is None else f'{update:.2%}'}; the gradient's noise scale is "
        f"{'?' if noise is None else f'{noise:,.1f}'} windows, the batch of "
        f"{learning['batch_size']}.</p>",
        table(["layer", "stream rms", "attention adds", "MLP adds", "gradient rms",
               "attention entropy"], rows),
        table(["rate tried on a copy", "loss after some steps"], rates), "</details>"]
    return "".join(parts)


def _hardest(m):
    return hardest(m) if m.chunks else f"<p>Could not be measured: {escape(m.trouble)}</p>"


def _attention(models, each):
    """The same words for all models, as far as they can spell them."""
    try:
        text = sentence(models[0])
    except FemtoError as error:  # a vocabulary that has no newline to begin with
        return f"<p>No sentence to look at: {escape(str(error))}</p>"

    def maps(m):
        try:
            return attention_maps(m, text)
        except FemtoError as error:
            return f"<p>Not drawn: {escape(str(error))}</p>"

    return each(maps)


def _lineage(m):
    hidden, lines = lineage_tree(m.model)
    lines = [f"({hidden} earlier entries)"] * bool(hidden) + lines
    return Html(f'<pre class="scroll">{escape(chr(10).join(lines) or "none is known")}</pre>')
