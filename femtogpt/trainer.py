"""The training loop: yields a record a step, prints nothing."""

import contextlib
import functools
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import checkpoint, compiling
from .batches import Batches, spread_windows
from .checkpoint import History
from .curve import Curve
from .data import count_tokens, unigram_entropy
from .divergence import UNKNOWN_PLACE, Diverged, first_bad_place
from .errors import FemtoError
from .layers import precision
from .looks import Look, changes, gradient_norms, matrices, with_look
from .optimizer import DECAY, fresh_state, keep_own, learning_rate, ownership
from .parallel import Engine
from .ranks import ALONE
from .run import begin, comparable_from
from .tokenizer.protocol import newline_id
from .update import Update
from .writing import Writing, sample_of

VALIDATION_WINDOWS = 64
# Once the text is being memorised Muon's matrices decay, which brings the loss on unseen text
# down again (on 56 KB of simple words, C 80, 400 steps: from 1.60 to 1.29) but from the start
# slows learning.
DECAY_WHEN_MEMORISING = 1.0
SAVE_SECONDS = 30  # between saves, where --save-every does not say
ROLLBACKS = 10  # in one session: a rate a thousand times lower that diverges won't be mended


@dataclass(frozen=True)
class Record:
    """One step: its number, loss in nats, AdamW's rate, the gradient's norm, its time, and
    sentences on what happened at it."""

    step: int
    loss: float
    lr: float
    norm: float
    ms: float
    tokens_per_second: float
    val_loss: float | None = None
    notes: tuple = ()


class Trainer:
    """Trains a model along a run.

    for record in trainer: ... trains to the end, saving as it goes; trainer.save()
    saves what there is. Stop at any record: the state is whole between steps.
    """

    def __init__(self, model, run, training, validation, path=None, threads=None,
                 save_every=None, seconds=None, until_loss=None, ranks=ALONE):
        """training, validation: tokens, as arrays or Stretches (validation may be empty).

        path: where to save (None: nowhere), each save_every steps, else each 30 s.
        seconds: end the run after about this long: its end is set, for the schedule's
        sake, when it is time for the rate to fall. until_loss: stop once the smoothed
        loss is at or below. ranks: those that train together, each with a Trainer of the same
        model, run and texts; the first one saves.
        """
        self.model, self.run, self.ranks = model, run, ranks
        self.path = None if path is None else Path(path).absolute()
        self.training, self.validation = training, validation
        self.save_every, self.seconds, self.until_loss = save_every, seconds, until_loss
        self.threads = threads
        if model.optimizer is None or model.optimizer.kind != run.optimizer:
            model.optimizer = fresh_state(model.config, run.optimizer)
        self._owners = ownership(model.config, run.optimizer, ranks.size)
        begin(model, run)
        self._newline = newline_id(model.tokenizer)
        # Counted only if the loss should stick: a long text takes seconds.
        self._guessing = functools.cache(
            lambda: unigram_entropy(count_tokens(training, model.config.vocab_size)))
        self._start_from_here()
        self._rollbacks, self._notes, self.writing = 0, [], Writing()
        if len(validation):
            self._validation_windows = spread_windows(validation, model.config.num_tokens,
                                                      VALIDATION_WINDOWS)

    def _start_from_here(self):
        """Everything that follows from the model's history."""
        model, run = self.model, self.run
        self.curve = Curve(model.history, run.first_step, comparable_from(model, run),
                           self._guessing)
        self._whole = True  # not in the middle of an update
        self._best, self._best_saved = None, True  # the best of this session; of others, on disk
        self._saved_step = self._batches = None
        self._keep_own()

    def _keep_own(self):
        """The moments of parameters that other ranks update need not take memory here."""
        self._update = None  # which holds the moments, made when first needed
        if self.ranks.size > 1:
            keep_own(self.model.optimizer, self._owners[self.ranks.rank])

    def __iter__(self):
        model = self.model
        if self.run.on_nan == "rollback":
            self.save()  # so that there is something to go back to
        start, began = time.monotonic(), model.step
        saved_at = start
        first = (self.ranks.size == 1
                 and compiling.compile_training(self.run.precision, self.run.optimizer))
        with (compiling.process("text") if first else contextlib.nullcontext()
              as self.writing.compiling,
              Engine(model.config, self.run.batch_size, self.threads, self.ranks,
                     self._owners, accumulate=self.run.accumulate,
                     bfloat16=precision.use(self.run.precision)) as engine):
            while model.step < self.run.last_step:
                before = time.perf_counter()
                try:
                    loss, lr, norm = self._step(engine)
                    val_loss = self._validate(engine)
                    self.writing.go_on()
                    # One clock for all ranks: else one would save or end without the others.
                    elapsed, unsaved = self.ranks.decided(
                        [time.monotonic() - start, time.monotonic() - saved_at])
                    self._end_on_time(elapsed, model.step - began)
                    due = self.save_every and model.step % self.save_every == 0
                    if due or (not self.save_every and unsaved > SAVE_SECONDS):
                        self.save()
                        saved_at = time.monotonic()
                except Diverged as error:
                    self._roll_back(error)
                    continue
                seconds = time.perf_counter() - before
                notes, self._notes = tuple(self._notes), []
                yield Record(model.step, loss, lr, norm, 1000 * seconds,
                             self.run.total_batch_size * model.config.num_tokens / seconds,
                             val_loss, notes)
                if self.until_loss is not None and self.curve.smoothed <= self.until_loss:
                    break
            self.writing.go_on(wait=True)

    def _step(self, engine):
        model, run = self.model, self.run
        if self._batches is None:
            self._batches = Batches(self.training, model.config.num_tokens, run.total_batch_size,
                                    run.seed, self._newline, engine.part)
        batch, keys = self._batches.draw(model.step)
        lr = learning_rate(run.schedule, model.config.recipe, model.step,
                           run.first_step, run.last_step)
        looking = (model.step + 1 - run.first_step) % run.validation_interval == 0
        if looking:
            before = matrices(model.parameters, model.config)
        if self._update is None:
            self._update = Update(model.config, model.parameters, model.optimizer,
                                  self._owners[self.ranks.rank])
        decay = run.weight_decay
        if decay is None:
            decay = DECAY_WHEN_MEMORISING if self.curve.memorising else 0.0
        self._update.set_rate(lr, decay)
        loss, gradient, squares = engine.loss_and_gradient(
            model.parameters, batch, run.dropout, keys, self._update
        )
        if not math.isfinite(loss) or not np.isfinite(squares).all():
            where = first_bad_place(model.config, model.parameters, batch, run.dropout, keys,
                                    gradient)
            # Another rank's sequences, or its part of the gradient, may be the bad ones.
            known = [told["where"] for told in self.ranks.told({"where": where})
                     if told["where"] != UNKNOWN_PLACE]
            self._diverge(f"at step {model.step + 1}", (known or [where])[0])
        self._whole = False  # should memory run out, this state is none to save
        norm = self._update.finish()
        if looking:
            self.ranks.share(gradient, self._owners)
        self.ranks.share(model.parameters, self._owners)
        model.step += 1
        model.history.losses.append(float(np.float32(loss)))
        if looking:
            model.history.looks = with_look(model.history.looks, Look(
                model.step, gradient_norms(gradient, model.config),
                changes(before, matrices(model.parameters, model.config)), ""))
            self.writing.ask(model, self._sample)
        self._whole = True
        self._note(self.curve.add(model.history.losses[-1]))
        return loss, lr, norm

    def _sample(self, model):
        """Puts what a model of a look wrote into that look."""
        text = sample_of(model, self.run.seed)
        for kept in filter(None, (self.model, self._best)):
            kept.history.looks = [look._replace(sample=text) if look.step == model.step else look
                                  for look in kept.history.looks]

    def _note(self, sentence):
        if sentence:
            self._notes.append(sentence)

    def _diverge(self, when, where):
        self._whole = False
        model, run = self.model, self.run
        rate = learning_rate(run.schedule, model.config.recipe, model.step, run.first_step,
                             run.last_step)
        last = ", ".join(f"{x:.3f}" for x in model.history.losses[-3:])
        raise Diverged(
            f"diverged {when}, learning rate {rate:.3g}: NaN or infinity is first in {where} "
            f"(last losses: {last or 'none'}). The model file keeps the last good save: go on from "
            f"it with --on-nan rollback, or --steps N and --learning-rate {run.learning_rate / 2:g}"
        )

    def _roll_back(self, error):
        """Goes back to the last save with other batches and half the rate, or raises error."""
        if self.run.on_nan != "rollback" or self.path is None or self._rollbacks == ROLLBACKS:
            raise error
        self._rollbacks += 1
        self.ranks.told({})  # all wait here until the first one has saved
        model, run, reached = self.model, self.run, self.model.step
        good = checkpoint.load(self.path)
        steps = {told["step"] for told in self.ranks.told({"step": good.step})}
        if len(steps) > 1:
            raise FemtoError(f"{self.path} is not the same file for all processes: --on-nan "
                             "rollback needs a folder that they share")
        model.parameters, model.step, model.history = good.parameters, good.step, good.history
        model.optimizer, model.recovered = good.optimizer, good.recovered
        self.run = replace(run, learning_rate=run.learning_rate / 2, min_lr=run.min_lr / 2,
                           seed=(run.seed + 1) % 2**63)
        model.run = self.run.to_json()
        model.lineage.append({"rollback": {
            "from_step": reached, "to_step": model.step, "seed": self.run.seed,
            "learning_rate": self.run.learning_rate}})
        self._start_from_here()
        self.writing.forget()
        self._note(f"{error}".split(" The model file")[0] + f" Went back to step {model.step}, "
                   f"with --seed {self.run.seed} --learning-rate {self.run.learning_rate:g}")

    def _validate(self, engine):
        model, run = self.model, self.run
        done = model.step - run.first_step
        last = model.step == run.last_step
        if not len(self.validation) or (done % run.validation_interval and not last):
            return None
        loss = engine.mean_loss(model.parameters, self._validation_windows)
        if not math.isfinite(loss):
            self._diverge(f"when validated after step {model.step}", first_bad_place(
                model.config, model.parameters, self._validation_windows, 0.0,
                np.zeros(len(self._validation_windows), np.uint64)))
        model.history.validation.append((model.step, float(np.float32(loss))))
        note = self.curve.validated(*model.history.validation[-1])
        if note and run.weight_decay is None and run.optimizer == "muon":
            note += "; weight decay is on"
        self._note(note)
        if self.curve.best_step == model.step and run.keep_best and self.ranks.first:
            self._best = replace(
                model, parameters=model.parameters.copy(), optimizer=None, run=None,
                lineage=[*model.lineage, {"run": model.run}],
                history=History(list(model.history.losses), list(model.history.validation),
                                model.history.looks))
            self._best_saved = False
        if run.patience is not None and self.curve.since_best >= run.patience and not last:
            self._end_run(model.step)
            self._note(f"stopped early: {run.patience} validations without a better one than at "
                       f"step {self.curve.best_step}")
        return loss

    def _end_on_time(self, elapsed, done):
        """With --for: fixes the run's end when it is time for the rate to fall."""
        if self.seconds is not None and elapsed >= (1 - DECAY) * self.seconds:
            self._end_run(self.model.step + max(1, round(done * DECAY / (1 - DECAY))))
            self.seconds = None

    def _end_run(self, step):
        self.run = replace(self.run, last_step=min(self.run.last_step, step))
        self.model.run = self.run.to_json()

    def save(self):
        """Saves the model, and beside it what it was at its best validation, if that is newer
        than what is there. A state that is not whole (out of memory, diverged) is not saved.
        All ranks call it; the first one writes."""
        if self.path is None or not self._whole or (self._update and self._update.begun):
            return
        self.writing.go_on(wait=True)
        if self._saved_step != self.model.step:
            state = self.model.optimizer
            for moment in (state.m, state.v):
                self.ranks.collect(moment, [(min(start, moment.size), min(stop, moment.size))
                                            for start, stop in self._owners])
        # All hear of a model that is none to save: they go back together, or end together.
        bad, = self.ranks.decided([self._write() if self.ranks.first else None])
        if bad:
            self._diverge(f"at step {self.model.step}", f"the tensor {bad}")
        self._saved_step = self.model.step
        self._keep_own()

    def _write(self):
        """Writes what save() is to write; the name of a tensor that is not finite, if one is."""
        try:
            if not self._best_saved:  # first: its step is not trained again if we die in between
                checkpoint.save(self._best, best_path(self.path))
                self._best_saved = True
            if self._saved_step != self.model.step:
                checkpoint.save(self.model, self.path)
        except checkpoint.NotFinite as error:
            return error.name
        return None


def best_path(path):
    """Where the state of the best validation is kept."""
    path = Path(path)
    return path.with_name(f"{path.stem}.best{path.suffix}")
