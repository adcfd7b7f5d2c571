"""A run: the options and ends that decide its numbers, and how a run that was cut off goes on."""

import contextlib
import math
from dataclasses import MISSING, asdict, dataclass, fields, replace

from .errors import FemtoError
from .layers import precision as precisions
from .optimizer import OPTIMIZER, OPTIMIZERS, SCHEDULE, Schedule

LONGEST_RUN = 100_000  # steps, where the user sets no end
VAL_FRACTION = 0.1  # of the text is held back
SMALL_TEXT = 100_000  # bytes: of so little, all is trained on
ON_NAN = ("stop", "rollback")
# What decides when a run ends or what is kept beside it may change before it is finished.
CHANGEABLE = ("patience", "on_nan", "keep_best")
LARGEST_BATCH = 65536  # sequences of one step
HELD_BACK = ("val_fraction", "val_begin", "val_end")


@dataclass(frozen=True)
class Run:
    """One run's options and ends: everything that decides its numbers, beside the text.

    first_step, last_step: the model's steps it goes between. data: the dataset's
    fingerprint. decay_steps None: the recipe's. val_begin, val_end: the tokens that are
    held back, known once the text is tokenized. eval_every: steps, None: by the run's length.
    patience: validations without a best one after which the run ends, None: never. It is
    stored in the model file, so that a run that was cut off can be finished as it was begun.
    A step's batch is of accumulate times batch_size sequences. weight_decay: of Muon's matrices,
    by as much times its rate in a step; None: once the text is being memorised. precision: of
    products, one of layers/precision.py.
    """

    first_step: int
    last_step: int
    data: str
    dropout: float = 0.0
    batch_size: int = 32
    learning_rate: float = 4.5e-3
    min_lr: float = 0.0
    warmup_steps: int = 20
    decay_steps: int | None = None
    optimizer: str = "muon"
    seed: int = 1
    val_fraction: float = 0.0
    val_begin: int | None = None
    val_end: int | None = None
    eval_every: int | None = None
    patience: int | None = None
    on_nan: str = "stop"
    keep_best: bool = True
    accumulate: int = 1
    weight_decay: float | None = None
    precision: str = "float32"

    @property
    def total_batch_size(self):
        """The sequences of a step."""
        return self.accumulate * self.batch_size

    @property
    def schedule(self):
        return Schedule(self.learning_rate, self.min_lr, self.warmup_steps, self.decay_steps)

    @property
    def validation_interval(self):
        """Steps between validations: by default often enough to draw a curve, seldom enough to
        cost a few percent at most."""
        return self.eval_every or min(250, max(20, (self.last_step - self.first_step) // 20))

    def to_json(self):
        return asdict(self)

    @classmethod
    def from_json(cls, values):
        """Raises FemtoError for what no femtogpt of this version, or before, has written."""
        known = {f.name: f for f in fields(cls)}
        needed = {name for name, f in known.items() if f.default is MISSING}
        if (not isinstance(values, dict) or not needed <= set(values) <= set(known)
                or not all(_is(value, known[name].type) and _sane(value)
                           for name, value in values.items())):
            raise FemtoError("the model's last run is not one this version of femtogpt writes; "
                             "give --steps to begin a new one")
        run = cls(**values)
        if (run.optimizer not in OPTIMIZERS or run.on_nan not in ON_NAN or run.dropout >= 1
                or run.precision not in precisions.PRECISIONS
                or not 1 <= run.total_batch_size <= LARGEST_BATCH
                or 0 in (run.eval_every, run.patience)):
            raise FemtoError("the model's last run has options that cannot be; "
                             "give --steps to begin a new one")
        return run

    def with_held_back(self, count, num_tokens):
        """The run once its text is known to have `count` tokens: the end of it is held back,
        if that makes a window of num_tokens.

        What a run held back at first it keeps, though its text be changed under it.
        """
        if self.val_begin is not None:
            return self
        held = int(count * self.val_fraction)
        return replace(self, val_begin=count - held if held > num_tokens else count, val_end=count)


def _is(value, kind):
    """isinstance; from Python a whole number may have come for any, such as dropout=0."""
    return isinstance(value, kind) or (isinstance(value, int) and isinstance(0.5, kind))


def _sane(value):
    return isinstance(value, str | None) or (math.isfinite(value) and 0 <= value < 2**63)


def defaults(recipe):
    """What Run's options are for a recipe, where the user says nothing."""
    return {**SCHEDULE[recipe]._asdict(), "optimizer": OPTIMIZER[recipe]}


def plan(model, data, steps=None, until_step=None, size=0, changed_data=False, **options):
    """The Run that `train` is asked for: an unfinished one, or a new one from here.

    data: the dataset's fingerprint, size: its bytes. changed_data: another dataset may take
    the place of the unfinished run's. options: those the user gave. Raises FemtoError where
    they contradict the unfinished run, or where nothing is left to do.
    """
    if steps is None and until_step is None and model.run:
        unfinished = Run.from_json(model.run)
        if model.step < unfinished.last_step:
            return _resumed(unfinished, model.step, data, changed_data, options)
    last = until_step if until_step is not None else model.step + (steps or LONGEST_RUN)
    if last <= model.step:
        raise FemtoError(f"the model is at step {model.step} already: --until-step {last} leaves "
                         "nothing to do")
    chosen = {"val_fraction": VAL_FRACTION if size > SMALL_TEXT else 0.0}
    before = next((run for run in reversed(earlier_runs(model))
                   if run.data == data and run.val_begin is not None), None)
    if before and options.get("val_fraction", before.val_fraction) == before.val_fraction:
        # What was held back of this very text, by whatever fraction, stays so.
        chosen = {name: getattr(before, name) for name in HELD_BACK}
    run = Run(model.step, last, data, **defaults(model.config.recipe) | chosen | options)
    if run.weight_decay and run.optimizer != "muon":
        raise FemtoError(f"--weight-decay is that of Muon's matrices, and the optimizer is "
                         f"{run.optimizer}, whose decay its recipe fixes: leave one of them away")
    require_precision(run.precision)
    if run.total_batch_size > LARGEST_BATCH:
        raise FemtoError(f"--accumulate {run.accumulate} times --batch-size {run.batch_size} are "
                         f"{run.total_batch_size:,} sequences a step, more than {LARGEST_BATCH:,}: "
                         "give a smaller one of them")
    return run


def require_precision(precision):
    """Raises FemtoError where this processor has no such products."""
    if not precisions.has(precision):
        raise FemtoError("--precision bf16 needs a processor that multiplies bfloat16 (AVX-512 "
                         "with BF16), which this one does not: leave it away, or, to go on with a "
                         "run that was begun so, give --steps and --precision float32")


def _resumed(run, step, data, changed_data, options):
    require_precision(run.precision)
    where = f"(step {step} of {run.last_step})"
    for name, value in options.items():
        if getattr(run, name) != value and name not in CHANGEABLE:
            raise FemtoError(
                f"an unfinished run {where} has {name} {getattr(run, name)}, not {value}: leave "
                "the option away to finish it, or give --steps to begin a new run from here"
            )
    if run.data != data and not changed_data:
        raise FemtoError(
            f"the dataset is not the one the unfinished run {where} began with: bring that back, "
            "give --changed-dataset to go on with this one, or --steps to begin a new run on it"
        )
    return replace(run, data=data, **{n: v for n, v in options.items() if n in CHANGEABLE})


def begin(model, run):
    """Makes run the model's newest; the one before it, if it trained, goes to the lineage."""
    if model.run and model.run.get("first_step") != run.first_step:
        model.lineage.append({"run": model.run})
    model.run = run.to_json()


def newest_run(model):
    """The model's newest Run, None where there is none that can be read."""
    try:
        return Run.from_json(model.run) if model.run else None
    except FemtoError:
        return None


def earlier_runs(model):
    """The model's Runs, oldest first, as far as its lineage tells and its tokens are the same."""
    found = []
    for entry in [*model.lineage, {"run": model.run}]:
        with contextlib.suppress(FemtoError, AttributeError, TypeError):
            if "init_with" in entry and "tokenizer" in entry["init_with"]["changes"]:
                found.clear()  # what they held back was counted in other tokens
            found.append(Run.from_json(entry.get("run")))
    return found


def chronicle(model):
    """What was done to the model, oldest first: its lineage and its newest run, as entries.

    A run goes to the lineage when the next begins; here it stands where it began itself, before
    what was done while or after it ran.
    """
    found, generation, step = [], 0, -1
    for entry in [*model.lineage, *([{"run": model.run}] if model.run else [])]:
        what, values = next(iter(entry.items())) if isinstance(entry, dict) and entry else ("", {})
        if what == "init_with":  # a child counts from 0 again
            generation, step = generation + 1, -1
        elif isinstance(values, dict):
            at = values.get("first_step", values.get("from_step", values.get("step", step)))
            step = at if isinstance(at, int) else step
        found.append((generation, step, entry))
    return [entry for _, _, entry in sorted(found, key=lambda item: item[:2])]


def counted_runs(model):
    """[(Run, the step it went to)] since the model counts its steps from 0, oldest first."""
    runs = []
    for entry in chronicle(model):
        with contextlib.suppress(FemtoError, AttributeError, TypeError):
            if "init_with" in entry:
                runs.clear()
            runs.append(Run.from_json(entry.get("run")))
    ends = [*(run.first_step for run in runs[1:]), model.step]
    return list(zip(runs, ends, strict=False))


def comparable_from(model, run):
    """The step since which the model's validations are all of what `run` holds back."""
    first = run.first_step
    for earlier in reversed(earlier_runs(model)):
        if any(getattr(earlier, name) != getattr(run, name) for name in ("data", *HELD_BACK)):
            break
        first = min(first, earlier.first_step)
    return first
