"""Where train puts its records, beside the model: JSON lines, CSV, TensorBoard's files."""

import csv
import io
import json
import os
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec

from ..errors import FemtoError

COLUMNS = ("step", "loss", "lr", "norm", "ms", "tokens_per_second", "val_loss")


def require_tensorboardx():
    """Raises FemtoError where it is not installed."""
    if find_spec("tensorboardX") is None:
        raise FemtoError("--tensorboard needs tensorboardX, which writes its files: "
                         "pip install 'femtogpt[tensorboard]'")


@contextmanager
def logs(json_lines=None, table=None, tensorboard=None):
    """Yields a function that is called with each Record. json_lines, table: files that are appended
    to; tensorboard: a folder that gets a file. None: not wanted.

    Raises FemtoError, then or later, for what cannot be written.
    """
    with ExitStack() as stack:
        writers = [make(place, stack) for make, place in (
            (_json_lines, json_lines), (_table, table), (_tensorboard, tensorboard)) if place]

        def write(record):
            for writer in writers:
                writer(record)

        yield write


def _appending(path, option, stack):
    """A function that appends text to a file; whether it is empty yet."""
    def failed(error, more=""):
        return FemtoError(f"{option} {path} cannot be written: {error.strerror}{more}")

    try:
        file = open(path, "ab", buffering=0)  # noqa: SIM115  (the stack closes it)
        stack.enter_context(file)
        empty = os.fstat(file.fileno()).st_size == 0
    except OSError as error:
        raise failed(error) from None

    def append(text, step):
        try:
            file.write(text.encode())
        except OSError as error:
            raise failed(error, f". The model was saved at step {step}") from None

    return append, empty


def _json_lines(path, stack):
    append, _ = _appending(path, "--log", stack)

    def write(record):
        values = {"step": record.step, "loss": record.loss, "lr": record.lr, "ms": record.ms,
                  "tokens_per_second": record.tokens_per_second}
        if record.val_loss is not None:
            values["val_loss"] = record.val_loss
        if record.notes:
            values["notes"] = record.notes
        append(json.dumps(values) + "\n", record.step)

    return write


def _table(path, stack):
    append, empty = _appending(path, "--csv", stack)
    rows = [COLUMNS] if empty else []

    def write(record):
        lines = io.StringIO()
        rows.append([getattr(record, column) for column in COLUMNS])
        csv.writer(lines).writerows(rows)
        rows.clear()
        append(lines.getvalue(), record.step)

    return write


def _tensorboard(folder, stack):
    require_tensorboardx()
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar, text

    def failed(error, more=""):
        return FemtoError(f"--tensorboard {folder} cannot be written: {error.strerror}{more}")

    # SummaryWriter's own thread would keep a full disk to itself, and then wait for ever.
    try:
        os.makedirs(folder, exist_ok=True)
        file = EventsWriter(os.path.join(folder, "events"))
        file.flush()
    except OSError as error:
        raise failed(error) from None
    stack.callback(file.close)

    def write(record):
        summaries = [scalar(tag, value) for tag, value in (
            ("loss/train", record.loss), ("loss/held_back", record.val_loss),
            ("learning_rate", record.lr), ("gradient_norm", record.norm),
            ("tokens_per_second", record.tokens_per_second)) if value is not None]
        summaries += [text("notes", note) for note in record.notes]
        try:
            for summary in summaries:
                file.write_event(Event(wall_time=time.time(), step=record.step, summary=summary))
            file.flush()
        except OSError as error:
            raise failed(error, f". The model was saved at step {record.step}") from None

    return write
