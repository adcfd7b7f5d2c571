"""What an experiment is judged by: measured on its model, held against the entry's goal."""

from typing import NamedTuple

from ..scoring import SAMPLED_TOKENS, evaluate, sample_text, score


class Measure(NamedTuple):
    """label: for people. higher: whether more is better. form: of a value, for format()."""

    label: str
    higher: bool
    form: str


MEASURES = {
    "valid": Measure("lines that keep all rules", True, ".1%"),
    "form": Measure("lines with the form of a sum", True, ".1%"),
    "right": Measure("held-out sums right", True, ".1%"),
    "worst": Measure("worst action right", True, ".1%"),
    "continued": Measure("characters continued right", True, ".2%"),
    "closed": Measure("brackets closed in a sample", True, ".0%"),
    "loss": Measure("training loss", False, ".3f"),
    "val_loss": Measure("loss on held-back text", False, ".3f"),
    "val_falls": Measure("fall of the held-back loss in the run", True, ".2f"),
    "bits_per_byte": Measure("bits a byte on held-back text", False, ".3f"),
    "memory_mb": Measure("MB resident", False, ".0f"),
    "seconds_a_step": Measure("seconds a step", False, ".2f"),
    "minutes": Measure("minutes", False, ".1f"),
}
_CLOSES = {")": "(", "]": "[", "}": "{"}


def closed_brackets(text):
    """The share of brackets ()[]{} that have their partner, in the right order. A closing one
    that does not fit is without a partner itself; what is open at the text's end too."""
    open_, total, paired = [], 0, 0
    for c in text:
        if c in "([{":
            total += 1
            open_.append(c)
        elif c in _CLOSES:
            total += 1
            if open_ and open_[-1] == _CLOSES[c]:
                open_.pop()
                paired += 2
    return paired / total if total else 0.0


def judge(entry, model, text, validation, seed, threads=None):
    """All that the entry's task measures on a trained model: measures, intervals of those that
    are shares, and a sample, as a dict. text: what it was trained on, bytes."""
    result = {"sample": sample_text(model, entry.prompt, 400, seed), "intervals": {}}
    if len(validation):
        measured = evaluate(model, validation, threads)
        result["val_loss"] = measured["loss"]
        result["bits_per_byte"] = measured["bits_per_byte"]
        result["intervals"]["val_loss"] = measured["interval"]
        told = [loss for _, loss in model.history.validation]
        result["val_falls"] = told[0] - told[-1]
    if entry.task == "code":
        result["closed"] = closed_brackets(sample_text(model, entry.prompt, SAMPLED_TOKENS, seed))
    shares = score(model, entry.task, text.decode("utf-8", "replace"), seed)
    for name, share in shares.items():
        result[name] = share.share
        result["intervals"][name] = list(share.interval)
    return result


def bound_of(goal, measure, result, others):
    """The number that a result's measure is held against, None where it is not known yet.

    others: (entry number, seed) or ("rival", entry number, seed) -> result.
    """
    bound = goal[measure]
    if not isinstance(bound, dict):
        return bound
    key = ((bound["entry"], result["seed"]) if "entry" in bound
           else ("rival", result["entry"], result["seed"]))
    return others[key][measure] if key in others else None


def reached(measure, value, bound):
    """Is the value as good as the bound? None where either is not known."""
    if value is None or bound is None:
        return None
    return value >= bound if MEASURES[measure].higher else value <= bound
