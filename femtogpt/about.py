"""What a model is and where it comes from, in words."""

from .errors import short
from .run import chronicle

MOST_ENTRIES = 40  # of the lineage are drawn


def about(model):
    """A line on what the model is."""
    c, history = model.config, model.history
    text = (f"A GPT of {c.num_layers} layers, {c.num_heads} heads and width {c.embedding_degree} "
            f"that sees {c.num_tokens} tokens at once; {model.parameters.size:,} parameters; "
            f"{model.tokenizer.name} tokenizer, {c.vocab_size:,} tokens. ")
    text += f"Trained for {model.step:,} steps" if model.step else "Not trained yet"
    if history.losses:
        text += f", to a loss of {history.losses[-1]:.3f} nats a token"
    if history.validation:
        text += f" ({history.validation[-1][1]:.3f} on text it was not trained on)"
    return text + "."


def lineage_tree(model):
    """(how many of the lineage's earlier entries are left away, the others as lines of a tree): a
    model's beginning, below it what was done to it, and, last of that, the child that the rest was
    done to."""
    entries = chronicle(model)
    hidden = max(0, len(entries) - MOST_ENTRIES)
    lines, depth = [], 0
    for place, entry in enumerate(entries[hidden:], hidden + 1):
        what, text = _told(entry, model)
        last = place == len(entries) or what == "init_with"
        branch = "" if place == 1 else "`- " if last else "|- "
        lines.append("   " * depth + branch + ascii(text)[1:-1][:200])
        depth += what == "init_with"
    return hidden, lines


def _batch(run):
    """As it was asked for: 32, or 4 x 8."""
    parts = run.get("accumulate", 1)
    return f"{parts} x {run['batch_size']}" if parts != 1 else run["batch_size"]


def _weight_decay(run):
    """Where it was asked for."""
    return f", weight decay {run['weight_decay']}" if run.get("weight_decay") else ""


def _precision(run):
    """Where it was asked for."""
    return ", bf16" if run.get("precision", "float32") != "float32" else ""


def _told(entry, model):
    """(what was done, a line on it). A file from elsewhere may hold anything."""
    try:
        [(what, e)] = entry.items()
        if what == "run":
            unfinished = e is model.run and model.step < e["last_step"]
            return what, (f"run: step {e['first_step']} to {e['last_step']}"
                          f"{f', now at {model.step}' if unfinished else ''}; {e['optimizer']}, "
                          f"batch {_batch(e)}, dropout {e['dropout']}"
                          f"{_weight_decay(e)}{_precision(e)}")
        if what == "init_with":
            changes = ", ".join(f"{name.replace('_', ' ')} {before} -> {after}"
                                for name, (before, after) in e["changes"].items())
            return what, f"child of this at step {e['step']}: {changes or 'a copy'}"
        if what == "insert_layer":
            return what, f"insert-layer at {', '.join(map(str, e['at']))}: step {e['step']}"
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in e.items())
        return what, f"{what.replace('_', '-')}: {told}"
    except (LookupError, TypeError, ValueError, AttributeError):
        return "", short(entry)
