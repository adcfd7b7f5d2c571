"""The training loop: yields a record a step, prints nothing."""

import math
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from . import checkpoint
from .checkpoint import History
from .data import draw_batch, windows
from .errors import FemtoError
from .optimizer import OPTIMIZER, SCHEDULE, Schedule, fresh_state, learning_rate, update
from .parallel import Engine

VALIDATION_WINDOWS = 64
# Two validations in a row this much above the best: the text is being memorised. From
# then on Muon's matrices decay, which brings the loss on unseen text down again (on 56 KB
# of simple words, C 80, 400 steps: from 1.60 to 1.29) but from the start slows learning.
WORSE = 1.01
DECAY_WHEN_MEMORISING = 1.0
SAVE_SECONDS = 30  # between saves, where --save-every does not say
LONGEST_RUN = 100_000  # steps, where the user sets no end


class Diverged(FemtoError):
    """The loss or a gradient is not finite. The file keeps the last good state."""


@dataclass(frozen=True)
class Run:
    """One run's options and ends: everything that decides its numbers, beside the text.

    first_step, last_step: the model's steps it goes between. decay_steps None: the
    recipe's. data: the dataset's fingerprint. It is stored in the model file, so that
    a run that was cut off can be finished as it was begun.
    """

    first_step: int
    last_step: int
    data: str
    dropout: float = 0.0
    batch_size: int = 32
    learning_rate: float = 3e-3
    min_lr: float = 0.0
    warmup_steps: int = 20
    decay_steps: int | None = None
    optimizer: str = "muon"
    seed: int = 1
    val_fraction: float = 0.05

    @property
    def schedule(self):
        return Schedule(self.learning_rate, self.min_lr, self.warmup_steps, self.decay_steps)

    def to_json(self):
        return asdict(self)

    @classmethod
    def from_json(cls, values):
        if (not isinstance(values, dict) or set(values) != {f.name for f in fields(cls)}
                or not all(isinstance(values[f.name], f.type) for f in fields(cls))):
            raise FemtoError("the model's last run is not one this version of femtogpt writes; "
                             "give --steps to begin a new one")
        return cls(**values)


@dataclass(frozen=True)
class Record:
    """One step: its number, loss in nats, AdamW's rate, the gradient's norm, its time."""

    step: int
    loss: float
    lr: float
    norm: float
    ms: float
    tokens_per_second: float
    val_loss: float | None = None


def defaults(recipe):
    """What Run's options are for a recipe, where the user says nothing."""
    return {**SCHEDULE[recipe]._asdict(), "optimizer": OPTIMIZER[recipe]}


def plan(model, data, steps=None, until_step=None, **options):
    """The Run that `train` is asked for: an unfinished one, or a new one from here.

    data: the dataset's fingerprint. options: those the user gave. Raises FemtoError where
    they contradict the unfinished run, or where nothing is left to do.
    """
    unfinished = Run.from_json(model.run) if model.run else None
    if unfinished and model.step < unfinished.last_step and steps is None and until_step is None:
        for name, value in options.items():
            if getattr(unfinished, name) != value:
                raise FemtoError(
                    f"an unfinished run (step {model.step} of {unfinished.last_step}) has {name} "
                    f"{getattr(unfinished, name)}, not {value}: leave the option away to finish "
                    "it, or give --steps to begin a new run from here"
                )
        if unfinished.data != data:
            raise FemtoError(
                f"the dataset is not the one the unfinished run (step {model.step} of "
                f"{unfinished.last_step}) began with: bring that back, or give --steps to begin "
                "a new run on this one"
            )
        return unfinished
    last = until_step if until_step is not None else model.step + (steps or LONGEST_RUN)
    if last <= model.step:
        raise FemtoError(f"the model is at step {model.step} already: --until-step {last} leaves "
                         "nothing to do")
    return Run(model.step, last, data, **{**defaults(model.config.recipe), **options})


class Trainer:
    """Trains a model along a run.

    for record in trainer: ... trains to the end, saving as it goes; trainer.save()
    saves what there is. Stop at any record: the state is whole between steps.
    """

    def __init__(self, model, run, training, validation, path=None, threads=None,
                 save_every=None, seconds=None, until_loss=None):
        """training, validation: tokens, as arrays or Stretches (validation may be empty).

        path: where to save (None: nowhere), each save_every steps, else each 30 s.
        seconds: end the run after about this long: its end is set, for the schedule's
        sake, when four fifths of the time are over. until_loss: stop once the smoothed
        loss is at or below.
        """
        self.model, self.run, self.path = model, run, path
        self.training, self.validation = training, validation
        self.save_every, self.seconds, self.until_loss = save_every, seconds, until_loss
        self.threads = threads
        self.smoothed = None
        for loss in model.history.losses:
            self._smooth(loss)
        self.best_loss = min((loss for _, loss in model.history.validation), default=math.inf)
        self._best = None  # the model as it was at its best validation in this session
        self._worse = self._best_saved = False
        self.memorising = False
        for step, _ in model.history.validation:
            self._notice_memorising(step)
        self._saved_step = None
        if model.optimizer is None or model.optimizer.kind != run.optimizer:
            model.optimizer = fresh_state(model.config, run.optimizer)
        model.run = run.to_json()
        T = model.config.num_tokens
        if len(validation):
            count = min(VALIDATION_WINDOWS, (len(validation) - 1) // T)
            starts = np.linspace(0, len(validation) - T - 1, count).astype(np.int64)
            self._validation_windows = windows(validation, starts, T)
        # Often enough to draw a curve, seldom enough to cost a few percent at most.
        self._validate_every = min(250, max(20, (run.last_step - run.first_step) // 20))

    def __iter__(self):
        model, run = self.model, self.run
        T, start = model.config.num_tokens, time.monotonic()
        began, saved_at = model.step, start
        with Engine(model.config, run.batch_size, self.threads) as engine:
            while model.step < self.run.last_step:
                before = time.perf_counter()
                loss, lr, norm = self._step(engine)
                val_loss = self._validate(engine)
                self._end_on_time(time.monotonic() - start, model.step - began)
                due = self.save_every and model.step % self.save_every == 0
                if due or (not self.save_every and time.monotonic() - saved_at > SAVE_SECONDS):
                    self.save()
                    saved_at = time.monotonic()
                seconds = time.perf_counter() - before
                yield Record(model.step, loss, lr, norm, 1000 * seconds,
                             run.batch_size * T / seconds, val_loss)
                if self.until_loss is not None and self.smoothed <= self.until_loss:
                    break

    def _step(self, engine):
        model, run = self.model, self.run
        batch, keys = draw_batch(
            self.training, model.config.num_tokens, run.batch_size, run.seed, model.step
        )
        lr = learning_rate(run.schedule, model.config.recipe, model.step,
                           run.first_step, run.last_step)
        loss, gradient, squares = engine.loss_and_gradient(
            model.parameters, batch, run.dropout, keys
        )
        if not math.isfinite(loss) or not np.isfinite(squares).all():
            self._diverge(f"at step {model.step + 1}: the loss or a gradient")
        norm = update(engine.map, model.config, model.parameters, gradient, squares,
                      model.optimizer, lr, DECAY_WHEN_MEMORISING if self.memorising else 0.0)
        model.step += 1
        model.history.losses.append(float(np.float32(loss)))
        self._smooth(model.history.losses[-1])
        return loss, lr, norm

    def _diverge(self, where):
        self._saved_step = self.model.step  # this state is not worth saving
        raise Diverged(
            f"diverged {where} is not finite "
            f"(last losses: {', '.join(f'{x:.3f}' for x in self.model.history.losses[-3:])}). "
            "The model file keeps the last good save; go on from it with a lower --learning-rate"
        )

    def _smooth(self, loss):
        self.smoothed = loss if self.smoothed is None else 0.95 * self.smoothed + 0.05 * loss

    def _validate(self, engine):
        model, run = self.model, self.run
        done = model.step - run.first_step
        last = model.step == run.last_step
        if not len(self.validation) or (done % self._validate_every and not last):
            return None
        loss = engine.mean_loss(model.parameters, self._validation_windows)
        if not math.isfinite(loss):
            self._diverge(f"after step {model.step}: the loss on held-back text")
        model.history.validation.append((model.step, float(np.float32(loss))))
        if loss < self.best_loss:
            self.best_loss = loss
            self._best = replace(model, parameters=model.parameters.copy(), optimizer=None,
                                 run=None, history=History(list(model.history.losses),
                                                           list(model.history.validation)))
            self._best_saved = False
        self._worse = loss > WORSE * self.best_loss
        self._notice_memorising(model.step)
        return loss

    def _notice_memorising(self, step):
        """Sets self.memorising for good once this run's validations up to `step` show it."""
        losses = [loss for at, loss in self.model.history.validation
                  if self.run.first_step < at <= step]
        if len(losses) > 2 and min(losses[-2:]) > WORSE * min(losses[:-2]):
            self.memorising = True

    def _end_on_time(self, elapsed, done):
        """With --for: fixes the run's end when four fifths of its time are over."""
        if self.seconds is None or elapsed < 0.8 * self.seconds:
            return
        end = self.model.step + max(1, round(done / 4))
        self.run = replace(self.run, last_step=min(self.run.last_step, end))
        self.model.run = self.run.to_json()
        self.seconds = None

    def save(self):
        """Saves the model; and its best state beside it, once the newest has become worse.

        Returns the path of the best, if there is one, else None.
        """
        if self.path is None:
            return None
        if self._saved_step != self.model.step:
            checkpoint.save(self.model, self.path)
            self._saved_step = self.model.step
        if not self._worse or self._best is None:
            return None
        if not self._best_saved:
            checkpoint.save(self._best, best_path(self.path))
            self._best_saved = True
        return best_path(self.path)


def best_path(path):
    """Where the state of the best validation is kept, once training has made it worse."""
    path = Path(path)
    return path.with_name(f"{path.stem}.best{path.suffix}")
