"""A model of recipe femto -> a file that the Rust program reads."""

import base64
import hashlib
import json
import struct

import numpy as np

from ...durable import replace
from ...errors import FemtoError
from ...tokenizer import AsciiTokenizer, ByteTokenizer, LowercaseTokenizer, PiecesTokenizer
from ...tokenizer.pieces import UNKNOWN
from .layout import INIT, POSITIONS, STEP, moments, spelled, spells_all


def write(model, path):
    """Writes a model as a file that the Rust program reads. Returns what to tell the user of it.

    An old file goes all or not. Raises FemtoError, which names the file, where the format has
    no place for such a model, or where it can't be written.
    """
    config, kept, notes = model.config, _kept(model), []
    if config.recipe != "femto":
        raise FemtoError(
            f"{path} cannot be written: femtoGPT takes the residual after the norm and knows no "
            f"rotary positions, so a model of recipe {config.recipe} would not be itself there; "
            "only models of `femtogpt init --recipe femto` can go back"
        )
    number = {name: number for number, name in POSITIONS.items()}.get(config.positional_encoding)
    if number is None:
        raise FemtoError(
            f"{path} cannot be written: femtoGPT has no positional encoding "
            f"{config.positional_encoding}, only {' and '.join(POSITIONS.values())}"
        )
    try:
        head = _tokenizer_bytes(model.tokenizer, kept, notes)
    except FemtoError as error:
        raise FemtoError(f"{path} cannot be written: {error}") from None
    head += struct.pack("<I6Q", number, *_shape(config))
    state, t, tensors = model.optimizer, 0, {}
    if state is not None and state.kind == "adamw":
        t, tensors = state.t, moments(state, config)
    elif state is not None:
        notes.append(f"the moments of {state.kind} have no place there: its AdamW begins anew")
    if model.history.validation:
        notes.append("the losses on held-back text have no place there")

    def parts():
        yield head
        yield from _tensor_parts(spelled(model.parameters, config), kept.get("tensors"))
        yield struct.pack("<Q", t)
        yield from _tensor_parts(tensors, kept.get("moments"))
        yield _log_bytes(model, kept)

    replace(path, parts(), keep_previous=False)
    return notes


def _shape(config):
    return (config.num_tokens, config.vocab_size, config.embedding_degree, config.num_layers,
            config.num_heads, config.head_size)


def _kept(model):
    """What was kept of the file that the model came from, {} where it came from none."""
    for entry in reversed(model.lineage):
        found = entry.get("import") if isinstance(entry, dict) else None
        if isinstance(found, dict) and found.get("format") == "femto":
            return found
    return {}


def _in_order(items, order):
    """The items in the order kept, if that is one of just these; else in their own."""
    place = {item: item for item in items}
    try:
        found = [place[item] for item in order]
    except (TypeError, KeyError):
        return list(place)
    return found if len(found) == len(set(found)) == len(place) else list(place)


def _packed(data):
    return struct.pack("<Q", len(data)) + data


def _tokenizer_bytes(tokenizer, kept, notes):
    case_sensitive = not isinstance(tokenizer, LowercaseTokenizer)
    inner = tokenizer if case_sensitive else tokenizer.inner
    if not isinstance(inner, ByteTokenizer | AsciiTokenizer | PiecesTokenizer):
        raise FemtoError(f"femtoGPT's tokenizer takes the longest token that fits, which is not "
                         f"what {type(inner).__name__} does; byte, ascii and a list of pieces can "
                         "go back")
    pieces = [inner.piece(id) for id in range(inner.vocab_size)]
    if UNKNOWN in pieces:
        unk = pieces.index(UNKNOWN)
    elif spells_all(pieces):
        unk = kept.get("unk")
        unk = unk if type(unk) is int and 0 <= unk < len(pieces) else 0
    else:
        raise FemtoError("femtoGPT's tokenizer needs a token for the unknown, and among the "
                         f"{len(pieces)} pieces there is no <unk>")
    if isinstance(inner, AsciiTokenizer):
        notes.append("a byte beyond ASCII, which is refused here, is <unk> there")
    order = _in_order(range(len(pieces)), kept.get("tokens"))
    unit = 1 if kept.get("unit") == 1 else 0
    return struct.pack("<IBQQ", unit, case_sensitive, unk, len(pieces)) + b"".join(
        struct.pack("<Q", id) + _packed(pieces[id]) for id in order)


def _tensor_parts(tensors, order):
    yield struct.pack("<Q", len(tensors))
    for name in _in_order(tensors, order):
        tensor = tensors[name]
        yield _packed(name.encode()) + struct.pack("<Q", tensor.size)
        yield np.ascontiguousarray(tensor, "<f4").tobytes()
        yield struct.pack(f"<Q{tensor.ndim}Q", tensor.ndim, *tensor.shape)


def _log_bytes(model, kept):
    """The log kept, or one that begins with the model's shape; then the steps since."""
    log, count, steps = _kept_log(kept) or (b"", 0, 0)
    entries = [struct.pack("<IfQB", STEP, loss, 0, 0) for loss in model.history.losses[steps:]]
    if _kept_log(kept) is None:
        entries.insert(0, struct.pack("<I6Q", INIT, *_shape(model.config)))
    parts = [struct.pack("<Q", count + len(entries)), log]
    # The program's ids are random; here the same run gets the same, and a fork its own.
    digest = hashlib.sha256(log or json.dumps(model.lineage[:1]).encode()).hexdigest()
    for entry in entries:
        digest = hashlib.sha256(digest.encode() + entry).hexdigest()
        parts.append(entry + _packed(digest[:32].encode()))
    return b"".join(parts)


def _kept_log(kept):
    """(bytes, entries, steps) of the log kept, None where there is none that can be one."""
    try:
        log, entries, steps = base64.b64decode(kept["log"]), kept["entries"], kept["steps"]
    except (LookupError, TypeError, ValueError):
        return None
    whole = type(entries) is type(steps) is int and 0 <= steps <= entries < 2**53
    return (log, entries, steps) if whole else None
