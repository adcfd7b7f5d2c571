"""A file of the Rust program -> a model, with every number checked before it is believed."""

import base64
import math
import os
import re
import stat
import struct

import numpy as np

from ...checkpoint import MOST_MARKS, History, Model
from ...config import GPTConfig
from ...errors import FemtoError, short
from ...optimizer import fresh_state
from ...tensors import count_parameters
from ...tokenizer import ByteTokenizer, LowercaseTokenizer, PiecesTokenizer
from ...tokenizer.pieces import UNKNOWN
from .layout import (
    INIT,
    LAYER_INSERTED,
    OPTIMIZER_RESET,
    POSITIONS,
    SESSION,
    STEP,
    moments,
    spelled,
    spells_all,
)

LONGEST_TEXT, MOST_ENTRIES = 2**16, 2**22  # bytes of a name or a piece; entries of a log
MOST_KEPT = 6_000_000  # bytes of a log that are kept in the lineage: some 100,000 steps


class _Source:
    """An open file: nothing is read, or allocated, that it is not large enough for."""

    def __init__(self, file):
        self.file, self.left = file, os.fstat(file.fileno()).st_size
        self.part = "tokenizer"  # what is being read, for messages

    def take(self, count):
        if count > self.left:
            raise FemtoError(f"it ends in its {self.part}: it was cut, or is damaged")
        self.left -= count
        data = self.file.read(count)
        if len(data) < count:
            raise FemtoError("it became shorter while it was read")
        return data

    def number(self, size=8):
        return int.from_bytes(self.take(size), "little")

    def count(self, least):
        """Of items that take at least `least` bytes each."""
        count = self.number()
        if count * least > self.left:
            raise FemtoError(f"its {self.part} claims more than the file holds")
        return count

    def bytes(self):
        length = self.count(1)
        if length > LONGEST_TEXT:
            raise FemtoError(f"its {self.part} has a text of {length:,} bytes, which none is")
        return self.take(length)

    def begin(self, part):
        self.part = part
        if self.left == 0:
            raise FemtoError(f"it ends before its {part}: it was cut, or an older femtoGPT wrote "
                             "it; save it again with the newest")


def read(path):
    """(the Model in a file of the Rust program, what to tell the user of it).

    Raises FemtoError, in one line that names the file, for all that is damaged, hostile, of
    an older layout or beyond femtogpt.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for a writer
            raise FemtoError("it is no file")
        with open(path, "rb") as file:
            _refuse_older(file)
            return _read(_Source(file))
    except OSError as error:
        raise FemtoError(f"{path} cannot be read: {error.strerror}") from None
    except FemtoError as error:
        raise FemtoError(f"{path} cannot be used: {error}") from None


def _refuse_older(file):
    """Raises FemtoError for the file's older layouts, which begin otherwise."""
    start = file.read(2 * 8 + 40)
    file.seek(0)
    if re.match(rb"(token_emb|(atten_)?norm_|head_|proj_|feedforward)", start[16:]):
        raise FemtoError("an older femtoGPT wrote it, with tensors and an optimizer alone: its "
                         "tokenizer, positions, shape and log are missing; save it again with a "
                         "femtoGPT whose files have them")
    if re.match(rb"(byte|bpe|ascii|char)", start[8:]):
        raise FemtoError("an older femtoGPT wrote it, whose tokenizer stands in another form; "
                         "save it again with the newest")


def _read(source):
    tokenizer, kept = _read_tokenizer(source)
    source.begin("positions")
    positions = source.number(4)
    if positions not in POSITIONS:
        raise FemtoError(f"its positions are of kind {positions}, not 0 (none) or 1 (absolute): "
                         "an older femtoGPT wrote it, without them, or it is damaged")
    source.begin("shape")
    T, V, C, L, NH, hs = (source.number() for _ in range(6))
    config = GPTConfig(V, T, C, L, NH, "femto", POSITIONS[positions])
    if hs != config.head_size:
        raise FemtoError(f"its heads are {hs} wide, not embedding_degree / num_heads = "
                         f"{config.head_size}")
    if tokenizer.vocab_size != V:
        raise FemtoError(f"its tokenizer has {tokenizer.vocab_size} tokens, its shape says {V}")
    size = count_parameters(config)
    if 4 * size > source.left:
        raise FemtoError("its shape claims more parameters than the file holds")
    model = Model(config, tokenizer, np.empty(size, np.float32))
    source.begin("tensors")
    kept["tensors"] = _read_tensors(source, spelled(model.parameters, config))
    source.begin("optimizer")
    t, count = source.number(), source.count(24)
    if t >= 2**53:
        raise FemtoError(f"its optimizer did {t} steps, which none can")
    kept["moments"] = []
    if count:
        if 8 * size > source.left:
            raise FemtoError("its optimizer claims more moments than the file holds")
        model.optimizer = fresh_state(config, "adamw")
        model.optimizer.t = t
        kept["moments"] = _read_tensors(source, moments(model.optimizer, config), count)
        if (model.optimizer.v < 0).any():
            raise FemtoError("its optimizer has a negative mean of squares")
    source.begin("log")
    losses, notes = _read_log(source, kept)
    if source.left:
        raise FemtoError(f"it holds {source.left:,} bytes more than its log")
    model.history = History(losses)
    model.step = max(t, len(losses))
    model.lineage = [{"import": {"format": "femto", **kept}}]
    return model, notes


def _read_tokenizer(source):
    """(the tokenizer, what else there is to keep of it)."""
    unit, case_sensitive, unk = source.number(4), source.number(1), source.number()
    if unit > 1 or case_sensitive > 1:
        raise FemtoError("it does not begin with a tokenizer as the newest femtoGPT writes it: it "
                         "is no femtoGPT file, or damaged, or of an older layout")
    by_id, room = {}, MOST_MARKS // 2  # each byte of a piece is a mark in a model file
    for _ in range(source.count(16)):
        id, piece = source.number(), source.bytes()
        room -= len(piece) + 2
        if room < 0:
            raise FemtoError("its vocabulary is larger than a model file can hold")
        if id in by_id:
            raise FemtoError(f"the token {id} is there twice")
        by_id[id] = piece
    pieces = [by_id.get(id) for id in range(len(by_id))]
    if None in pieces:
        raise FemtoError(f"the token {pieces.index(None)} is missing of {len(pieces)}")
    tokenizer = PiecesTokenizer(pieces)
    if unk >= len(pieces):
        raise FemtoError(f"its token for the unknown, {unk}, is missing")
    if UNKNOWN in pieces or not spells_all(pieces):
        if pieces[unk] != UNKNOWN:
            raise FemtoError(f"its token for the unknown is {short(pieces[unk])}; femtogpt has "
                             "none but <unk>")
    elif pieces == [bytes([byte]) for byte in range(256)]:
        tokenizer = ByteTokenizer()
    if not case_sensitive:
        tokenizer = LowercaseTokenizer(tokenizer)
    return tokenizer, {"unit": unit, "unk": unk, "tokens": list(by_id)}


def _read_tensors(source, tensors, count=None):
    """Fills all of tensors, a dict of name -> array. Returns the names in the file's order."""
    count = source.count(24) if count is None else count
    names = []
    missing = dict(tensors)
    for _ in range(count):
        name = source.bytes().decode("utf-8", "replace")
        tensor = missing.pop(name, None)
        if tensor is None:
            why = "is there twice" if name in tensors else "has no place in its shape"
            raise FemtoError(f"the tensor {short(name)} {why}")
        if source.count(4) != tensor.size:
            raise FemtoError(f"the tensor {name} has not the {tensor.size} numbers of its shape")
        values = np.frombuffer(source.take(4 * tensor.size), "<f4")
        shape = tuple(source.number() for _ in range(min(source.count(8), 3)))
        if shape != tensor.shape:
            raise FemtoError(f"the tensor {name} is not of the shape {tensor.shape}")
        if not np.isfinite(values).all():
            raise FemtoError(f"the tensor {name} holds NaN or infinity")
        tensor[...] = values.reshape(shape)
        names.append(name)
    if missing:
        raise FemtoError(f"the tensor {min(missing)} is missing")
    return names


def _read_log(source, kept):
    """(the loss of every step, notes). Puts the log into kept, as it stands."""
    start = source.file.tell() + 8
    count = source.count(12)
    if count > MOST_ENTRIES:
        raise FemtoError(f"its log has {count:,} entries, above {MOST_ENTRIES:,}")
    losses = []
    for _ in range(count):
        kind = source.number(4)
        if kind == INIT:
            source.take(6 * 8)
        elif kind == SESSION:
            source.take(4)
            source.bytes()
            source.bytes()
        elif kind == STEP:
            loss, _, gpu = struct.unpack("<fQB", source.take(13))
            if not math.isfinite(loss) or gpu > 1:
                raise FemtoError(f"step {len(losses) + 1} of its log is damaged")
            losses.append(loss)
        elif kind == LAYER_INSERTED:
            source.take(8)
        elif kind != OPTIMIZER_RESET:
            raise FemtoError(f"its log has an entry of kind {kind}; known are 0 to 4")
        source.bytes()
    length = source.file.tell() - start
    if length > MOST_KEPT:
        return losses, ["the log is too long to be kept, but for its losses"]
    source.file.seek(start)
    kept["log"] = base64.b64encode(source.file.read(length)).decode()
    kept["entries"], kept["steps"] = count, len(losses)
    return losses, []
