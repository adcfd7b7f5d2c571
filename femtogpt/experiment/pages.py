"""Results: kept as JSON, and as people read them, a Markdown table and a page with curves."""

import json
from html import escape
from pathlib import Path

from ..drawing import line_chart
from ..errors import FemtoError
from .entries import entries
from .measures import MEASURES, bound_of, reached

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem;
         border-bottom: 1px solid #ddd; }
.entry { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.entry > * { flex: 1 1 26rem; min-width: 0; }
svg { max-width: 100%; height: auto; }
pre { background: #f6f6f4; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere;
      font-size: 12px; margin: 0 0 .6rem; max-height: 12rem; overflow: auto; }
.yes { color: #1e7b34; } .no { color: #b03a2e; } .small { color: #666; font-size: 13px; }
"""


def load_results(folder):
    """What the attempts in a folder came to: (number, seed) -> result, and those of rivals as
    ("rival", number, seed). What is in FOLDER.json and not in the folder comes from there."""
    found = {}
    kept = Path(f"{Path(folder)}.json")
    if kept.exists():
        try:
            found = {tuple(key): result
                     for key, result in json.loads(kept.read_text(encoding="utf-8"))}
        except (ValueError, TypeError):
            raise FemtoError(f"{kept} is damaged: remove it, and the results that are not in "
                             f"{folder} with it") from None
    for path in sorted(Path(folder).glob("*/seed-*/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        number, seed = result["entry"], result["seed"]
        found[number, seed] = result
        for rival in path.parent.glob("rival/*/seed-*/result.json"):
            found["rival", number, seed] = json.loads(rival.read_text(encoding="utf-8"))
    return found


def as_json(results):
    """All results as load_results reads them, a line each."""
    lines = (json.dumps([key, result | {"curve": _short(result["curve"])}])
             for key, result in sorted(results.items(), key=lambda item: str(item[0])))
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _short(points):
    return [[round(x, 1), round(y, 4)] for x, y in points]


def verdict(entry, result, results):
    """[(measure, value, bound, reached)] of a result, for each of its entry's goals."""
    rows = []
    for measure in entry.goal:
        value, bound = result.get(measure), bound_of(entry.goal, measure, result, results)
        rows.append((measure, value, bound, reached(measure, value, bound)))
    return rows


def shown(measure, value):
    """A measure's value for people."""
    return "?" if value is None else format(value, MEASURES[measure].form)


def one_line(entry, result, results):
    """A result in a line: each goal's measure, its bound, and whether it was reached."""
    words = {True: "reached", False: "NOT reached", None: "nothing to compare with yet"}
    parts = [f"{MEASURES[measure].label} {shown(measure, value)} "
             f"({_sign(measure)} {shown(measure, bound)}: {words[ok]})"
             for measure, value, bound, ok in verdict(entry, result, results)]
    return f"{entry.name}, seed {result['seed']}: " + "; ".join(parts)


def _sign(measure):
    return "at least" if MEASURES[measure].higher else "at most"


def _seeds(results, number):
    return [result for key, result in sorted(results.items(), key=lambda item: str(item[0]))
            if key[0] == number]


def _rows(results):
    """(entry, its results, [(measure, [values], [bounds], all reached)]) of those that ran."""
    for number, entry in entries().items():
        runs = _seeds(results, number)
        if runs:
            verdicts = [verdict(entry, run, results) for run in runs]
            goals = [(column[0][0], [v for _, v, _, _ in column], [b for _, _, b, _ in column],
                      all(ok for *_, ok in column)) for column in zip(*verdicts, strict=True)]
            yield entry, runs, goals


def _cells(entry, runs, goals):
    """The table's cells as text."""
    log = "ours"
    if entry.log:
        steps, loss, minutes = (entry.log[name] for name in ("steps", "loss", "minutes"))
        told = f"{steps} steps", loss and f"loss {loss:.2f}", minutes and f"{minutes:g} min"
        log = f"{', '.join(filter(None, told))}: {entry.log['verdict']}"
    minutes = sorted(run["minutes"] for run in runs)
    took = f"{minutes[0]:.1f}" if len(runs) == 1 else f"{minutes[0]:.1f} to {minutes[-1]:.1f}"
    measured, asked = [], []
    for measure, values, bounds, _ in goals:
        label = MEASURES[measure].label
        measured.append(f"{label} {', '.join(shown(measure, value) for value in values)}")
        bounds = list(dict.fromkeys(shown(measure, bound) for bound in bounds))
        source = entry.goal[measure]
        what = ""
        if isinstance(source, dict):
            what = (f" (#{source['entry']}'s)" if "entry" in source
                    else f" (#{source['rival']}'s model, this text, as long)")
        asked.append(f"{_sign(measure)} {', '.join(bounds)}{what}")
    steps = "/".join(dict.fromkeys(str(run["steps"]) for run in runs))
    return {
        "experiment": entry.name, "parameters": f"{runs[0]['parameters']:,}", "the log": log,
        "steps": steps, "minutes": took, "measured, by seed": measured, "goal": asked,
        "reached": ["yes" if ok else "no" for *_, ok in goals],
    }


def markdown(results, command):
    """The table of all results as Markdown. command: what made them."""
    rows = [_cells(*row) for row in _rows(results)]
    lines = [f"Made by `{command}`. {_machines(results)}", ""]
    if rows:
        lines += ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    for cells in rows:
        texts = ("<br>".join(cell) if isinstance(cell, list) else cell for cell in cells.values())
        lines.append("| " + " | ".join(texts) + " |")
    others = sorted({run["other_text"] for run in results.values() if run["other_text"]})
    return "\n".join(lines + [""] * bool(others) + [f"- {other}" for other in others]) + "\n"


def _machines(results):
    told = {(run["machine"], run["threads"]) for run in results.values()}
    dates = sorted(run["date"] for run in results.values())
    machines = "; ".join(f"{name}, {threads} threads" for name, threads in sorted(told))
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""
    return f"Machine: {machines}. {when}." if dates else "No results yet."


def html(results, command):
    """All results as one page that needs nothing else."""
    parts = ["<!doctype html><meta charset=utf-8><title>femtogpt: experiments</title>",
             f"<style>{STYLE}</style><h1>Experiments</h1>",
             f"<p>Made by <code>{escape(command)}</code>. {escape(_machines(results))} "
             "Dashed in the charts: the loss at which the log's run ended.</p><table>"]
    rows = list(_rows(results))
    for i, row in enumerate(rows):
        cells = _cells(*row)
        if not i:
            parts.append("<tr>" + "".join(f"<th>{name}</th>" for name in cells) + "</tr>")
        parts.append("<tr>" + "".join(f"<td>{_html_cell(cell)}</td>"
                                      for cell in cells.values()) + "</tr>")
    parts.append("</table>")
    for entry, runs, goals in rows:
        parts.append(_section(entry, runs, _cells(entry, runs, goals)))
    return "\n".join(parts)


def _html_cell(cell):
    if isinstance(cell, str):
        return escape(cell)
    return "<br>".join(f'<span class="{word}">{word}</span>' if word in ("yes", "no")
                       else escape(word) for word in cell)


def _section(entry, runs, cells):
    lines = [(f"seed {run['seed']}", run["curve"]) for run in runs]
    if len(runs) == 1 and runs[0]["validation"]:
        lines.append(("held back", runs[0]["validation"]))
    levels = ()
    if entry.log and entry.log["loss"]:
        levels = [(f"log: {entry.log['loss']:.2f} after {entry.log['steps']} steps",
                   entry.log["loss"])]
    run = runs[0]
    notes = "".join(f"<br>seed {run['seed']}, {escape(note)}" for run in runs
                    for note in run["notes"])
    kind = entry.tokenizer if isinstance(entry.tokenizer, dict) else {entry.tokenizer: ""}
    shape = {**entry.shape, **entry.train, **{f"tokenizer {k}": v for k, v in kind.items()}}
    told = ", ".join(f"{name.replace('_', ' ')} {value}".strip() for name, value in shape.items())
    return (f'<h2 id="e{entry.number}">{escape(entry.name)}</h2><div class="entry">'
            f"<div>{line_chart(lines, levels=levels)}</div><div>"
            f"<pre>{escape(entry.prompt.strip() + run['sample'])}</pre>"
            f'<p class="small">{escape(told)}. {escape(cells["the log"])}; here '
            f'{cells["steps"]} steps, {cells["minutes"]} minutes, {run["memory_mb"] or 0:.0f} MB.'
            f"{notes}</p></div></div>")
