"""Charts made of text: as SVG, which any browser shows, and as letters for a terminal."""

import math
from html import escape

COLOURS = ("#1a6faf", "#d9730d", "#2e8b57", "#9b3fa0", "#b8860b", "#555555", "#c2506e", "#2a9d9d")
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 8, 34  # pixels around the plot
STYLES = {"": ' stroke-width="1.4"', "faint": ' stroke-width="1" stroke-opacity="0.4"',
          "dashed": ' stroke-width="1.4" stroke-dasharray="6 3"'}
LETTERS = "*o+x"  # of lines in a terminal
LETTER = 6.2  # pixels, about, of the labels' letters


def line_chart(lines, width=420, height=240, x_label="step", y_label="loss, nats a token",
               levels=(), start_at_zero=False, log=False, legend=True):
    """An <svg> element, as text.

    lines: (name, [(x, y), ...]) each, or (name, points, style), style "faint" or "dashed"; equal
    names share a colour. levels: (name, y) each, drawn across, dashed. log: y on a scale of
    logarithms. Points that are not finite, or have no logarithm, are left out. legend: whether
    the lines' names are told. Classes and data- attributes are for a page's style and script.
    """
    lines = [(name, [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)
                     and (y > 0 or not log)], *style) for name, points, *style in lines]
    xs = [x for _, points, *_ in lines for x, _ in points] or [0, 1]
    ys = [y for _, points, *_ in lines for _, y in points] + [y for _, y in levels] or [0, 1]
    x_ticks = ticks(0, max(xs))
    y_ticks = (log_ticks(min(ys) or 0.1, max(ys)) if log else
               ticks(0 if start_at_zero else min(ys), max(ys)))
    x_low, x_high = 0, max(xs) or 1
    scaled = math.log10 if log else float
    y_low, y_high = scaled(y_ticks[0]), scaled(y_ticks[-1])

    def place(x, y):
        return (LEFT + (x - x_low) / (x_high - x_low) * (width - LEFT - RIGHT),
                TOP + (y_high - scaled(y)) / (y_high - y_low) * (height - TOP - BOTTOM))

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
             f'width="{width}" height="{height}" role="img" aria-label="{escape(y_label)}, by '
             f'{escape(x_label)}" font-family="sans-serif" font-size="11" fill="#333" '
             f'class="chart" data-x="{LEFT} {width - RIGHT} {x_low} {x_high:g}" '
             f'data-y="{height - BOTTOM} {TOP} {y_low:.9g} {y_high:.9g}{" log" * log}">',
             f'<rect class="back" width="{width}" height="{height}" fill="white"/>']
    for y in y_ticks:
        _, at = place(0, y)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{width - RIGHT}" stroke="#e4e4e4"/>'
                     f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in x_ticks:
        if x <= x_high:
            at, _ = place(x, y_ticks[0])
            parts.append(f'<text x="{at:.1f}" y="{height - BOTTOM + 14}" '
                         f'text-anchor="middle">{x:g}</text>')
    parts.append(f'<text x="{(LEFT + width) / 2:.0f}" y="{height - 4}" '
                 f'text-anchor="middle">{escape(x_label)}</text>'
                 '<text class="y-label" text-anchor="middle" transform="translate(11 '
                 f'{height / 2 - 10:.0f}) rotate(-90)">{escape(y_label)}</text>')
    above = -math.inf  # where the last level's label stands
    for name, y in sorted(levels, key=lambda level: -level[1]):
        _, at = place(0, y)
        label = at + 12 if at - above < 24 else at - 4
        above = label
        parts.append(f'<path class="level" d="M{LEFT} {at:.1f}H{width - RIGHT}" stroke="#c0392b" '
                     'stroke-dasharray="5 4"/>'
                     f'<text class="level" x="{width - RIGHT - 2}" y="{label:.1f}" '
                     f'text-anchor="end" fill="#c0392b">{escape(name)}</text>')
    names = list(dict.fromkeys(name for name, *_ in lines))
    for name, points, *style in lines:
        if points:
            strokes = STYLES[style[0] if style else ""]
            path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in points)
            number = names.index(name) % len(COLOURS)
            parts.append(f'<path class="line line-{number}" data-name="{escape(name)}" d="M{path}" '
                         f'fill="none" stroke="{COLOURS[number]}"{strokes}/>')
    longest = max(map(len, names), default=0)
    # Top right: losses fall, so it is empty there.
    for i, name in enumerate(names if legend else ()):
        y = TOP + 12 + 15 * i
        x = width - RIGHT - 8 - longest * LETTER
        parts.append(f'<path d="M{x - 20:.0f} {y - 4}h14" stroke-width="2" '
                     f'stroke="{COLOURS[i % len(COLOURS)]}"/><text x="{x:.0f}" y="{y}">'
                     f'{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"])


def heat_maps(maps, names, columns, cell=12):
    """An <svg> element, as text: squares of n by n cells, `columns` of them side by side.

    maps: (title, n rows of n numbers from 0, white, to 1, full colour) each. names: n, of the
    rows and the columns. cell: pixels.
    """
    side = len(names) * cell
    wide, high = side + 3 * cell, side + 4 * cell  # of a square with its names and title
    width, height = wide * columns, high * -(-len(maps) // columns)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
             f'width="{width}" height="{height}" role="img" font-family="monospace" '
             f'font-size="{0.8 * cell:g}" text-anchor="middle" fill="#333">',
             f'<rect width="{width}" height="{height}" fill="white"/>']
    for number, (title, rows) in enumerate(maps):
        x, y = 2 * cell + number % columns * wide, 3 * cell + number // columns * high
        parts.append(f'<text x="{x + side / 2:g}" y="{y - 1.4 * cell:g}">{escape(title)}</text>'
                     f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="none" '
                     'stroke="#bbb"/>')
        for i, name in enumerate(names):
            at = (i + 0.5) * cell
            parts.append(f'<text x="{x + at:g}" y="{y - 0.3 * cell:g}">{escape(name)}</text>'
                         f'<text x="{x - 0.7 * cell:g}" y="{y + at + 0.3 * cell:g}">'
                         f'{escape(name)}</text>')
            parts += [f'<rect x="{x + j * cell}" y="{y + i * cell}" width="{cell}" '
                      f'height="{cell}" fill="{COLOURS[0]}" fill-opacity="{value:.2f}"/>'
                      for j, value in enumerate(rows[i]) if value >= 0.005]
    return "\n".join([*parts, "</svg>"])


def letter_chart(lines, width=72, height=18, x_label="step"):
    """A chart of letters, as lines of text: each of `lines` (as line_chart's, finite) has its own.
    """
    points = [point for _, line in lines for point in line]
    xs, ys = zip(*points, strict=True)
    x_low, x_span, y_low = min(xs), max(xs) - min(xs) or 1, min(ys)
    y_span = max(ys) - y_low or 1
    grid = [[" "] * width for _ in range(height)]
    for letter, (_, line) in zip(LETTERS, lines, strict=False):
        for x, y in line:
            row = round((height - 1) * (1 - (y - y_low) / y_span))
            grid[row][round((width - 1) * (x - x_low) / x_span)] = letter
    labels = [f"{y_low + y_span * (1 - row / (height - 1)):8.3f} |" if row % 4 == 0
              else " " * 9 + "|" for row in range(height)]
    rows = [label + "".join(row).rstrip() for label, row in zip(labels, grid, strict=True)]
    ends = f"{min(xs):<{width // 2}g}{max(xs):>{width - width // 2}g}"
    names = ", ".join(f"{letter} {name}" for letter, (name, _) in zip(LETTERS, lines, strict=False))
    return "\n".join([*rows, " " * 9 + "+" + "-" * width, " " * 10 + ends,
                      f"{'':10}{x_label}; {names}"])


def thinned(points, most=400):
    """Points (x, y), the means of neighbours where there are more than `most`."""
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), max(1, size))]
    return [tuple(sum(values) / len(group) for values in zip(*group, strict=True))
            for group in groups]


def log_ticks(low, high):
    """Numbers 1, 2 or 5 times a power of ten from low or just below to high or just above; of
    more than two powers, those alone."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    found = [float(f"{m}e{e}") for e in range(first, last + 1) for m in factors]
    begin = max(i for i, y in enumerate(found) if y <= low)
    end = min(i for i, y in enumerate(found) if y >= high)
    return found[begin : max(end, begin + 1) + 1]


def ticks(low, high, wanted=5):
    """Round numbers from low or just below to high or just above, about `wanted` of them."""
    span = (high - low) or abs(high) or 1.0
    rough = span / wanted
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
