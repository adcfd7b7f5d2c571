"""What a search came to, and whether it was worth its time: measured on text nobody was chosen by.
"""

import math
from pathlib import Path

from .. import checkpoint, durable
from ..scoring import difference, evaluate


def is_at(search, output):
    """Is the file at output the model of a search that is through?"""
    try:
        return (search.through
                and Path(output).read_bytes() == search.path_of(search.winner).read_bytes())
    except OSError:
        return False


def conclude(search, output):
    """Writes the winner of a search that is through to output. Returns, as a dict:

    output, winner (its number), steps; loss, interval: as scoring.evaluate's, on search.telling;
    rounds: of each, see _told; candidates: as in search.json; seconds: of all their training,
    about; rival_steps; compare: None without a rival, else see _compared.
    """
    winner = search.winner
    model = checkpoint.load(search.path_of(winner))
    if not is_at(search, output):
        with durable.lock(output):
            checkpoint.save(model, output)
    measured = evaluate(model, search.telling, search.threads)
    return {
        "output": str(output), "winner": winner.number, "steps": model.step,
        "loss": measured["loss"], "interval": measured["interval"],
        "rounds": [_told(search, number) for number in range(1, search.rounds + 1)],
        "candidates": [one.to_json() for one in search.candidates],
        "seconds": _seconds(search.candidates), "rival_steps": search.rival_steps(),
        "compare": _compared(search, model) if search.rival.rounds else None,
    }


def _told(search, number):
    """A round: how many candidates; the best, worst, mean and standard deviation of their losses on
    search.choosing; winner: which place it had who won in the end."""
    entries = [one.rounds[number - 1] for one in search.standing(number)]
    losses = [entry["loss"] for entry in entries if entry["loss"] is not None]
    mean = sum(losses) / len(losses)
    squares = sum((loss - mean) ** 2 for loss in losses)
    won = search.winner.rounds[number - 1]["loss"]
    return {"candidates": len(entries), "best": min(losses), "worst": max(losses), "mean": mean,
            "deviation": math.sqrt(squares / max(1, len(losses) - 1)),
            "winner": 1 + sum(loss < won for loss in losses)}


def _compared(search, model):
    """The rival: steps, seconds, loss, interval; difference: the winner's loss less the rival's
    (mean, low, high: 95%, by how neighbouring windows differ; another seed would differ more); and
    worth: True, False, or None where the text can't tell. Losses are None if it diverged."""
    [entry] = search.rival.rounds
    told = {"steps": entry["step"], "seconds": _seconds([search.rival])}
    if search.rival.diverged:
        return told | {"loss": None, "interval": None, "difference": None, "worth": True}
    rival = checkpoint.load(search.path_of(search.rival))
    measured = evaluate(rival, search.telling, search.threads)
    mean, low, high = difference(model, rival, search.telling, search.threads)
    return told | {"loss": measured["loss"], "interval": measured["interval"],
                   "difference": [mean, low, high],
                   "worth": True if high < 0 else False if low > 0 else None}


def _seconds(candidates):
    return sum(entry["seconds"] or 0.0 for one in candidates for entry in one.rounds)
