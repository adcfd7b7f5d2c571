"""Pieces of HTML that the parts of a page share. All text goes through here, and is escaped."""

from html import escape


def table(head, rows, style=""):
    """A table that scrolls by itself. head: cells of text; rows: lists of cells, the first of each
    its name; a cell: text, or an Html."""
    parts = [f'<div class="scroll"><table class="{style}">']
    if head:
        parts.append("<thead><tr>" + "".join(f'<th scope="col">{html(c)}</th>' for c in head)
                     + "</tr></thead>")
    parts.append("<tbody>")
    for first, *others in rows:
        parts.append(f'<tr><th scope="row">{html(first)}</th>'
                     + "".join(f"<td>{html(c)}</td>" for c in others) + "</tr>")
    return "".join([*parts, "</tbody></table></div>"])


class Html(str):
    """Text that is HTML already."""


def html(cell):
    """A cell as HTML."""
    return cell if isinstance(cell, Html) else escape(str(cell))


def visible(text):
    """Text for a page, escaped, in one run: a newline as a sign, what cannot be printed as a dot.
    """
    text = "".join(c if c.isprintable() or c == "\n" else "·" for c in text)
    return Html(escape(text).replace("\n", "<i>⏎</i> "))


def symbols(piece):
    """A token's bytes as a short label: blanks as signs, what is no text as its bytes."""
    text = piece.decode("utf-8", "backslashreplace")
    text = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def swatch(number, dashed=False):
    """A bit of a chart's line, for a legend. number: the line's."""
    dash = ' stroke-dasharray="6 3"' if dashed else ""
    return Html(f'<svg class="swatch" width="22" height="8" aria-hidden="true"><path class="line '
                f'line-{number}" d="M0 4h22" stroke-width="2.5"{dash}/></svg>')


def legend(entries):
    """A legend, of (number of the line or None, name) each."""
    items = (f"<li>{swatch(number) if number is not None else ''}{escape(name)}</li>"
             for number, name in entries)
    return f'<ul class="legend">{"".join(items)}</ul>'
