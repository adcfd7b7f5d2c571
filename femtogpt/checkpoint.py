"""The model file: one safetensors file that any reader of that format can open.

Tensors: every parameter by its name, the optimizer's moments as
optimizer.adamw.m.{name}, optimizer.adamw.v.{name}, optimizer.muon.m.{name}, and
history.loss (one a step), history.validation_step, history.validation_loss.
Metadata: one entry "femtogpt", a JSON string (several entries would come out in another
order in each process): format_version, config, tokenizer, step, optimizer, run, lineage,
looks (older files have none), sha256. The hash is over the whole file, its own 64 digits
taken as zeros.

A file holds no times and no names of machines: equal runs give equal bytes.
"""

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import dataclass, field

import numpy as np

from .config import GPTConfig
from .durable import previous_path, replace
from .errors import FemtoError
from .looks import looks_from_json
from .optimizer import OPTIMIZERS, OptimizerState, fresh_state
from .tensors import MUON_FIELDS, Tensors, count_parameters, lined_up_vectors, named
from .tokenizer import count_marks, tokenizer_from_json

FORMAT_VERSION = 1
# A vocabulary of 50,000 pieces is some 2 MB and 400,000 marks. What JSON takes once it is read goes
# by its marks, up to 50 bytes for each: hostile files are refused before.
LARGEST_HEADER, MOST_MARKS = 12_000_000, 1_200_000
_ZEROS = "0" * 64
_HASH_KEY = rb"\"sha256\": \""  # as it stands in the header: a JSON string within JSON
_DTYPES = {"float32": "F32", "int32": "I32"}


class OtherVersion(FemtoError):
    """The file is of another format version, not damaged: nothing may take its place."""


class NotOurs(FemtoError):
    """The file is none that femtogpt wrote, or its header is damaged."""


class NotFinite(FemtoError):
    """A tensor, .name, holds NaN or infinity: such a model is not written."""

    def __init__(self, path, name):
        super().__init__(f"{path} is not written, for {name} holds NaN or infinity")
        self.name = name


@dataclass
class History:
    """What training told: a loss a step in nats, (step, loss) of each validation, and some Looks.
    """

    losses: list = field(default_factory=list)
    validation: list = field(default_factory=list)
    looks: list = field(default_factory=list)


@dataclass
class Model:
    """Everything a model file holds.

    parameters: flat float32. step: steps trained in all. run: the options and the end
    of the newest run (see run.Run), None before the first. lineage: what was done to
    the model, oldest first. recovered: a sentence, where the file was damaged and the
    previous one was read in its place.
    """

    config: GPTConfig
    tokenizer: object
    parameters: np.ndarray
    optimizer: OptimizerState | None = None
    step: int = 0
    history: History = field(default_factory=History)
    run: dict | None = None
    lineage: list = field(default_factory=list)
    recovered: str | None = None


def save(model, path):
    """Writes a model, so that at every moment a loadable file stands at path or beside it.

    The file that stood there becomes path.previous, unless it is damaged
    (model.recovered): then the good one there stays. Raises FemtoError, which names the
    file, where that can't be, and NotFinite; the old file is then untouched.
    """
    for name, tensor in _tensors(model).items():
        if not np.isfinite(tensor).all():
            raise NotFinite(path, name)
    replace(path, _parts(model), keep_previous=not model.recovered)
    model.recovered = None


def _tensors(model):
    """The file's names -> arrays, in the file's order."""
    result = named(model.parameters, model.config)
    state = model.optimizer
    if state is not None:
        rest = [f for f in Tensors._fields if f not in MUON_FIELDS]
        adamw = rest if state.kind == "muon" else Tensors._fields
        for name, tensor in named(state.m, model.config, adamw).items():
            result[f"optimizer.adamw.m.{name}"] = tensor
        for name, tensor in named(state.v, model.config, adamw).items():
            result[f"optimizer.adamw.v.{name}"] = tensor
        if state.kind == "muon":
            for name, tensor in named(state.m, model.config, MUON_FIELDS).items():
                result[f"optimizer.muon.m.{name}"] = tensor
    steps = [step for step, _ in model.history.validation]
    losses = [loss for _, loss in model.history.validation]
    result["history.loss"] = np.asarray(model.history.losses, np.float32)
    result["history.validation_step"] = np.asarray(steps, np.int32)
    result["history.validation_loss"] = np.asarray(losses, np.float32)
    return result


def _parts(model):
    """The file's bytes, part by part."""
    state = model.optimizer
    metadata = {
        "format_version": FORMAT_VERSION,
        "config": model.config.to_json(),
        "tokenizer": model.tokenizer.to_json(),
        "step": model.step,
        "optimizer": None if state is None else {"kind": state.kind, "t": state.t},
        "run": model.run,
        "lineage": model.lineage,
        "looks": model.history.looks,
    }
    return file_parts(_tensors(model), metadata)


def file_parts(tensors, metadata, **beside):
    """The bytes, part by part, of a safetensors file of tensors (name -> float32 or int32 array)
    with a hash over all of it. metadata: a dict for JSON, with a format_version. beside: other
    metadata, strings."""
    metadata = json.dumps({**metadata, "sha256": _ZEROS})
    header = {"__metadata__": {**beside, "femtogpt": metadata}, **_layout(tensors)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER or count_marks(text) > MOST_MARKS:
        raise FemtoError("the model's tokenizer and lineage are too large for a model file")
    start = len(text).to_bytes(8, "little")
    digest = hashlib.sha256(start + text)
    for tensor in tensors.values():
        digest.update(_bytes_of(tensor))
    place = text.rindex(_HASH_KEY) + len(_HASH_KEY)
    yield start + text[:place] + digest.hexdigest().encode() + text[place + 64 :]
    yield from map(_bytes_of, tensors.values())


def _bytes_of(tensor):
    return memoryview(np.ascontiguousarray(tensor)).cast("B")


def _layout(tensors):
    """What the header says of each tensor: its type, its shape, where its bytes are."""
    layout, offset = {}, 0
    for name, tensor in tensors.items():
        layout[name] = {"dtype": _DTYPES[tensor.dtype.name], "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    return layout


def load(path):
    """Reads a model file, every byte checked.

    A damaged or missing file gives way to path.previous; Model.recovered then says so.
    Raises FemtoError, which names the file, if neither can be read.
    """
    try:
        return _read(path)
    except FemtoError as error:
        previous = previous_path(os.path.realpath(path))
        if isinstance(error, OtherVersion) or not previous.exists():
            raise
        model = _read(previous)
        model.recovered = f"{error}; read {previous} in its place, step {model.step}"
        return model


def _read(path):
    # One open file from beginning to end: whoever trains this model may rename another over it.
    with opened(path) as file:
        header, metadata = read_header(path, file)
        try:
            return _read_tensors(file, header, metadata)
        except FemtoError as error:
            raise FemtoError(f"{path} cannot be used: {str(error)[:300]}") from None
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
                RecursionError) as error:
            raise FemtoError(f"{path} cannot be used: it holds what no femtogpt writes "
                             f"({type(error).__name__})") from None


def read_metadata(path):
    """The metadata (a dict) of a model file whose hash is right. Raises FemtoError."""
    with opened(path) as file:
        return read_header(path, file)[1]


@contextlib.contextmanager
def opened(path):
    """A regular file (to open a pipe would wait for a writer), and what is wrong in one line."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FemtoError(f"{path} is not a file; name a model file with --model")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise FemtoError(f"{path} does not exist: make a model with `femtogpt init`, or name one "
                         "with --model") from None
    except OSError as error:
        raise FemtoError(f"{path} cannot be read: {error.strerror}") from None


def read_header(path, file):
    """(the header, its metadata) of an open file whose hash is right; the tensors come next."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(LARGEST_HEADER, size - 8):
        raise FemtoError(f"{path} is not a femtogpt model: no safetensors file, or cut")
    text = file.read(length)
    header, metadata = parse_header(path, text)
    place = text.rfind(_HASH_KEY) + len(_HASH_KEY)
    digest = hashlib.sha256(start + text[:place] + _ZEROS.encode() + text[place + 64 :])
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    if metadata.get("sha256") != digest.hexdigest():
        raise FemtoError(f"{path} is damaged: its bytes do not match the hash they were saved with")
    file.seek(8 + length)
    return header, metadata


def parse_header(path, text):
    """(what the header says of each tensor, the metadata), dicts of no certain content.

    text: the header's bytes. Raises NotOurs and OtherVersion.
    """
    try:
        if count_marks(text) > MOST_MARKS:
            raise ValueError
        header = json.loads(text)
        metadata = json.loads(header.pop("__metadata__")["femtogpt"])
        version = metadata["format_version"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise NotOurs(f"{path} is not a femtogpt model, or its header is damaged") from None
    if version != FORMAT_VERSION:
        raise OtherVersion(
            f"{path} has format version {version!r:.20}, this femtogpt reads version "
            f"{FORMAT_VERSION}: use the femtogpt that wrote it, or a newer one"
        )
    return header, metadata


def _read_tensors(file, header, metadata):
    """The Model: nothing is allocated that the file is not large enough for."""
    left = os.fstat(file.fileno()).st_size - file.tell()
    config = GPTConfig.from_json(metadata["config"])
    lengths = [header[f"history.{name}"]["shape"][0]
               for name in ("loss", "validation_step")]
    if 4 * max(count_parameters(config), *lengths) > left:
        raise FemtoError("its config claims more parameters than the file holds")
    model = Model(
        config, tokenizer_from_json(metadata["tokenizer"]),
        lined_up_vectors(config, 1)[0, : count_parameters(config)], step=metadata["step"],
        history=History([0.0] * lengths[0], [(0, 0.0)] * lengths[1]), run=metadata["run"],
        lineage=metadata["lineage"],
    )
    if model.tokenizer.vocab_size != config.vocab_size:
        raise FemtoError("its tokenizer and its config disagree on the size of the vocabulary")
    if (type(model.step) is not int or not lengths[0] <= model.step < 2**53
            or not isinstance(model.lineage, list) or not isinstance(model.run, dict | None)):
        raise FemtoError("its step, run or lineage is not what this version writes")
    optimizer = metadata["optimizer"]
    if optimizer is not None:
        if optimizer["kind"] not in OPTIMIZERS or type(optimizer["t"]) is not int:
            raise FemtoError("its optimizer is not one this version knows")
        model.optimizer = fresh_state(config, optimizer["kind"])
        model.optimizer.t = optimizer["t"]
    tensors = _tensors(model)
    fill(tensors, file, header)
    losses, steps, validation = (tensors[f"history.{name}"].tolist()
                                 for name in ("loss", "validation_step", "validation_loss"))
    model.history = History(losses, list(zip(steps, validation, strict=True)),
                            looks_from_json(metadata.get("looks", []), config, model.step))
    return model


def fill(tensors, file, header):
    """Reads a file's tensors into tensors (name -> contiguous array), which are all that is to be
    there. header: what read_header gave, emptied. Raises FemtoError for another type, shape or
    place, and for NaN and infinity."""
    left = os.fstat(file.fileno()).st_size - file.tell()
    for name, entry in _layout(tensors).items():
        if name not in header:
            raise FemtoError(f"the tensor {name} is missing")
        if header.pop(name) != entry:
            raise FemtoError(f"the tensor {name} is not {entry['dtype']} {entry['shape']} at the "
                             "place where its config asks for it")
    if header:
        raise FemtoError(f"it holds a tensor that has no place: {min(header)!r:.80}")
    if sum(tensor.nbytes for tensor in tensors.values()) != left:
        raise FemtoError("it holds more than its tensors")
    for name, tensor in tensors.items():
        file.readinto(_bytes_of(tensor))
        if not np.isfinite(tensor).all():
            raise FemtoError(f"the tensor {name} holds NaN or infinity")
