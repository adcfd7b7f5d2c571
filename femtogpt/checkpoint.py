"""The model file: one safetensors file that any reader of that format can open.

Tensors: every parameter by its name, the optimizer's moments as
optimizer.adamw.m.{name}, optimizer.adamw.v.{name}, optimizer.muon.m.{name}, and
history.loss (one a step), history.validation_step, history.validation_loss.
Metadata: one entry "femtogpt", a JSON string (several entries would come out in another
order in each process): format_version, config, tokenizer, step, optimizer, run, lineage,
sha256. The hash is over the whole file, its own 64 digits taken as zeros.

A file holds no times and no names of machines: equal runs give equal bytes.
"""

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import numpy as np
from safetensors import SafetensorError, safe_open

from .config import GPTConfig
from .errors import FemtoError
from .optimizer import OPTIMIZERS, OptimizerState, fresh_state
from .tensors import MUON_FIELDS, Tensors, count_parameters, named
from .tokenizer import tokenizer_from_json

FORMAT_VERSION = 1
LARGEST_HEADER = 100_000_000  # the safetensors format's own limit
_ZEROS = "0" * 64
_HASH_KEY = rb"\"sha256\": \""  # as it stands in the header: a JSON string within JSON
_DTYPES = {"float32": "F32", "int32": "I32"}


class OtherVersion(FemtoError):
    """The file is of another format version, not damaged: nothing may take its place."""


@dataclass
class History:
    """What training told: a loss a step in nats, and (step, loss) of each validation."""

    losses: list = field(default_factory=list)
    validation: list = field(default_factory=list)


@dataclass
class Model:
    """Everything a model file holds.

    parameters: flat float32. step: steps trained in all. run: the options and the end
    of the newest run (see trainer.Run), None before the first. lineage: what was done to
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


def previous_path(path):
    """Where the checkpoint before the newest is kept."""
    return Path(f"{path}.previous")


def save(model, path):
    """Writes a model, so that at every moment a loadable file stands at path or beside it.

    Beside the target, fsynced, then renamed over it; the file that stood there becomes
    path.previous, unless it is damaged (model.recovered): then the good one there stays.
    Raises FemtoError, which names the file, where that can't be, or where a number is NaN
    or infinite; the old file is then untouched.
    """
    path = Path(os.path.realpath(path))  # of a link, the file it stands for
    temporary = Path(f"{path}.writing")
    for name, tensor in _tensors(model).items():
        if not np.isfinite(tensor).all():
            raise FemtoError(f"{path} is not written, for {name} holds NaN or infinity")
    try:
        with open(temporary, "wb") as file:
            _write(model, file)
            file.flush()
            os.fsync(file.fileno())
        if not model.recovered:
            _keep_previous(path)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        for stray in (temporary, Path(f"{path}.linking")):
            with contextlib.suppress(OSError):
                stray.unlink()
        raise FemtoError(f"cannot write {path}: {error.strerror}. The file that was there is "
                         "untouched; make room or choose another place with --model") from None
    model.recovered = None


def _keep_previous(path):
    """Lets path.previous be the file at path, which stays there too."""
    if not path.exists():
        return
    linked = Path(f"{path}.linking")
    try:
        linked.unlink(missing_ok=True)
        os.link(path, linked)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, linked)
    os.replace(linked, previous_path(path))


def _sync_folder(folder):
    """Makes a rename last through a power cut, where folders can be opened (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _write(model, file):
    state = model.optimizer
    metadata = {
        "format_version": FORMAT_VERSION,
        "config": model.config.to_json(),
        "tokenizer": model.tokenizer.to_json(),
        "step": model.step,
        "optimizer": None if state is None else {"kind": state.kind, "t": state.t},
        "run": model.run,
        "lineage": model.lineage,
        "sha256": _ZEROS,
    }
    tensors = _tensors(model)
    header, offset = {"__metadata__": {"femtogpt": json.dumps(metadata)}}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype.name], "shape": tensor.shape,
                        "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little")
    digest = hashlib.sha256(start + text)
    for tensor in tensors.values():
        digest.update(_bytes_of(tensor))
    place = text.rindex(_HASH_KEY) + len(_HASH_KEY)
    file.write(start + text[:place] + digest.hexdigest().encode() + text[place + 64 :])
    for tensor in tensors.values():
        file.write(_bytes_of(tensor))


def _bytes_of(tensor):
    return memoryview(np.ascontiguousarray(tensor)).cast("B")


def load(path):
    """Reads a model file, every byte checked.

    A damaged or missing file gives way to path.previous; Model.recovered then says so.
    Raises FemtoError, which names the file, if neither can be read.
    """
    try:
        return _read(Path(path))
    except FemtoError as error:
        previous = previous_path(os.path.realpath(path))
        if isinstance(error, OtherVersion) or not previous.exists():
            raise
        model = _read(previous)
        model.recovered = f"{error}; read {previous} in its place, step {model.step}"
        return model


def _read(path):
    metadata = read_metadata(path)
    try:
        config = GPTConfig.from_json(metadata["config"])
        count = count_parameters(config)
        if 4 * count > path.stat().st_size:
            raise FemtoError("its config claims more parameters than the file holds")
        model = Model(
            config, tokenizer_from_json(metadata["tokenizer"]), np.empty(count, np.float32),
            step=metadata["step"], run=metadata["run"], lineage=metadata["lineage"],
        )
        if model.tokenizer.vocab_size != config.vocab_size:
            raise FemtoError("its tokenizer and its config disagree on the size of the vocabulary")
        if type(model.step) is not int or model.step < 0 or not isinstance(model.lineage, list):
            raise FemtoError("its step or lineage is not what this version writes")
        optimizer = metadata["optimizer"]
        if optimizer is not None:
            if optimizer["kind"] not in OPTIMIZERS or not isinstance(optimizer["t"], int):
                raise FemtoError("its optimizer is not one this version knows")
            model.optimizer = fresh_state(config, optimizer["kind"])
            model.optimizer.t = optimizer["t"]
        with safe_open(path, "numpy") as file:
            _fill(model, file)
    except (KeyError, TypeError, OSError, SafetensorError, OverflowError) as error:
        raise FemtoError(f"{path} is damaged: {error}") from None
    except FemtoError as error:
        raise FemtoError(f"{path} cannot be used: {error}") from None
    return model


def _fill(model, file):
    """Copies an open file's tensors into the model; refuses missing, extra and misshapen ones."""
    names = set(file.keys())
    for name, tensor in _tensors(model).items():
        if name not in names:
            raise FemtoError(f"the tensor {name} is missing")
        names.remove(name)
        if name.startswith("history."):
            continue
        stored = file.get_tensor(name)
        if stored.shape != tensor.shape or stored.dtype != np.float32:
            raise FemtoError(f"the tensor {name} is {stored.dtype} {stored.shape}, "
                             f"but its config asks for float32 {tensor.shape}")
        if not np.isfinite(stored).all():
            raise FemtoError(f"the tensor {name} holds NaN or infinity")
        tensor[...] = stored
    if names:
        raise FemtoError(f"it holds a tensor that has no place: {sorted(names)[0]}")
    losses, steps, validation = (
        file.get_tensor(f"history.{name}")
        for name in ("loss", "validation_step", "validation_loss")
    )
    if losses.ndim != 1 or steps.ndim != 1 or steps.shape != validation.shape:
        raise FemtoError("its history is not what this version writes")
    model.history.losses = losses.tolist()
    model.history.validation = list(zip(steps.tolist(), validation.tolist(), strict=True))


def read_metadata(path):
    """The metadata (a dict) of a model file whose hash is right. Raises FemtoError."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise FemtoError(f"{path} is not a femtogpt model: no safetensors file, or cut")
            text = file.read(length)
            metadata = _parse(path, text)
            place = text.rfind(_HASH_KEY) + len(_HASH_KEY)
            digest = hashlib.sha256(start + text[:place] + _ZEROS.encode() + text[place + 64 :])
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except FileNotFoundError:
        raise FemtoError(f"{path} does not exist: make a model with `femtogpt init`, or name one "
                         "with --model") from None
    except OSError as error:
        raise FemtoError(f"{path} cannot be read: {error.strerror}") from None
    if metadata.get("sha256") != digest.hexdigest():
        raise FemtoError(f"{path} is damaged: its bytes do not match the hash they were saved with")
    return metadata


def _parse(path, header):
    try:
        metadata = json.loads(json.loads(header)["__metadata__"]["femtogpt"])
        version = metadata["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FemtoError(f"{path} is not a femtogpt model, or its header is damaged") from None
    if version != FORMAT_VERSION:
        raise OtherVersion(f"{path} has format version {version}, this femtogpt reads version "
                           f"{FORMAT_VERSION}: use the femtogpt that wrote it, or a newer one")
    return metadata


@contextlib.contextmanager
def lock(path):
    """Holds a model for one writer. Raises FemtoError, which names the holder, if it is taken.

    The operating system drops the lock when its holder dies, so none is ever stale.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FemtoError(f"{path}: there is no folder {path.parent}; make it first")
    beside = path.with_name(f".{path.name}.lock")
    held = filelock.FileLock(beside, timeout=0)
    try:
        held.acquire()
    except filelock.Timeout:
        holder = "another process"
        with contextlib.suppress(OSError):
            holder = beside.read_text() or holder
        raise FemtoError(f"{path} is being trained by {holder}: wait for it, stop it, or work on "
                         "another --model") from None
    except OSError as error:
        raise FemtoError(f"cannot write beside {path}: {error.strerror}") from None
    try:
        with contextlib.suppress(OSError):
            beside.write_text(f"process {os.getpid()}")
        yield
    finally:
        if not path.exists():  # there was nothing to protect
            with contextlib.suppress(OSError):
                beside.unlink()
        held.release()
