"""An exported folder beside the model itself, in transformers where that is installed."""

import contextlib
import importlib.util
from typing import NamedTuple

import numpy as np

from ...batches import spread_windows
from ...errors import FemtoError
from ...inspection import activations
from ...sampler import generate, prompt_ids
from ...tokenizer.protocol import newline_id

TOLERANCE = 1e-4  # of logits
WINDOWS = 8
TEXT = 4096  # tokens of a text whose ids are compared


class Check(NamedTuple):
    """What was compared, and found equal."""

    difference: float  # the largest of any logit
    windows: int  # of num_tokens each
    generated: int  # tokens of greedy texts that are the same
    tie: bool  # whether one of these texts parts where two tokens are as likely, by rounding
    slides: bool  # whether past the context's end they are the same too


def missing():
    """The packages that a check needs and that are not installed."""
    return [name for name in ("transformers", "torch") if importlib.util.find_spec(name) is None]


def check(folder, model, tokens):
    """A Check of a folder that model was written to. tokens: of a text, num_tokens + 1 at least.

    Loaded are AutoModelForCausalLM and AutoTokenizer, with no code but transformers' own and
    nothing from a network. Raises FemtoError where ids, logits or greedy text differ.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet(), torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        _check_ids(model, tokenizer, tokens[:TEXT])
        windows = spread_windows(tokens, model.config.num_tokens, WINDOWS)[:, :-1]
        logits = theirs(torch.from_numpy(windows)).logits.numpy()
        difference = max(map(_difference, [model] * len(windows), logits, windows))
        if not difference <= TOLERANCE:
            raise FemtoError(f"transformers computes other logits, {difference:.2g} off at most, "
                             f"above {TOLERANCE:g}")
        start = _text(model, windows[0, : max(1, model.config.num_tokens // 8)])
        newline = [""] if newline_id(model.tokenizer) is not None else []
        found = [_check_greedy(model, theirs, tokenizer, prompt)
                 for prompt in [*newline, *([start] if start else [])]]
    return Check(difference, len(windows), sum(same for same, _, _ in found),
                 any(tie for _, tie, _ in found), bool(found) and all(all_ for _, _, all_ in found))


@contextlib.contextmanager
def _quiet():
    """transformers without its bars and hints: what is wrong is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _text(model, ids):
    """What ids spell, as a str; bytes that are no text left out."""
    return model.tokenizer.decode(ids).decode("utf-8", "ignore")


def _check_ids(model, tokenizer, ids):
    text = _text(model, ids)
    if tokenizer(text)["input_ids"] != model.tokenizer.encode(text).tolist():
        raise FemtoError("transformers' tokenizer gives other ids for the text")


def _difference(model, logits, window):
    ours = activations(model.config, model.parameters, window)["logits"]
    return float(np.abs(logits - ours).max())


def _check_greedy(model, theirs, tokenizer, prompt):
    """(how many tokens are the same, whether then came a tie, whether all were), for the likeliest
    continuation: up to the context's end, and with rotary positions as far again."""
    import torch

    config, decode = model.config, model.tokenizer.decode
    ids = prompt_ids(model.tokenizer, config.num_tokens, prompt)
    within = config.num_tokens - len(ids)
    count = within + (config.num_tokens if config.positional_encoding == "rope" else 0)
    if count < 1:
        return 0, False, False
    ours = [int(token) for token in generate(config, model.parameters, ids, count, 0, 0)]
    given = tokenizer(prompt)["input_ids"]
    if given != ids:  # a newline by itself: with what follows it might be one token
        given = tokenizer("\n")["input_ids"] + given
    if given != ids:
        raise FemtoError(f"transformers' tokenizer gives other ids for {prompt!r:.60}")
    inputs = torch.tensor([ids])
    found = theirs.generate(inputs, max_new_tokens=count, do_sample=False)[0].tolist()[len(ids) :]
    same = next((i for i in range(count) if found[i : i + 1] != ours[i : i + 1]), count)
    if same < within:
        if same >= len(found):
            raise FemtoError(f"transformers ends its greedy text after {same} tokens")
        logits = activations(config, model.parameters, ids + ours[:same])["logits"][-1]
        if logits[ours[same]] - logits[found[same]] > 2 * TOLERANCE:
            raise FemtoError(f"transformers' greedy text is another from token {same + 1} on")
    if tokenizer.decode(found[:same]) != decode(ours[:same]).decode("utf-8", "replace"):
        raise FemtoError("transformers' tokenizer spells the greedy text otherwise")
    return same, same < within, same == count > within
