"""An entry tried with one seed, in a folder of its own, where it goes on after a kill."""

import json
import time
from dataclasses import replace
from pathlib import Path

from .. import checkpoint, durable
from ..config import GPTConfig
from ..curve import Curve
from ..data import find_texts
from ..drawing import thinned
from ..errors import FemtoError
from ..machine import available_processors, give_back_memory, processor_name, resident_mb
from ..model import initial_parameters
from ..run import LONGEST_RUN, newest_run
from ..session import prepare
from ..tokenizer import ByteTokenizer, ReservedTokenizer, train_bpe, train_char
from ..trainer import Trainer
from .entries import find
from .measures import judge
from .sources import make_text

CURVE_POINTS = 150


class Attempt:
    """trainer = attempt.begin(); for record in attempt.train(trainer): ...; attempt.conclude(...)

    Whatever stops it in between, the same calls go on from the last save; result is not None
    once it is through. Equal but for the times it took whether it was stopped or not.
    """

    def __init__(self, entry, seed, folder, *, texts=("texts",), rust=None, threads=None,
                 seconds=None):
        """folder: holds all entries' folders, or that of a rival. texts, rust: as in
        sources.make_text. seconds: ends the training, where the entry does not."""
        self.entry, self.seed, self.threads = entry, seed, threads
        self.folder = Path(folder) / str(entry.number) / f"seed-{seed}"
        self.dataset = self.folder / "dataset.txt"
        self.model_path = self.folder / "model.safetensors"
        self._log, self._result = self.folder / "log.jsonl", self.folder / "result.json"
        self._where, self._other_text = (texts, rust), self.folder / "other-text"
        self._seconds = seconds or entry.train.get("seconds")

    @property
    def result(self):
        """What conclude found (a dict), None before."""
        try:
            return json.loads(self._result.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise FemtoError(f"{self._result} is damaged: remove it and run the experiment "
                             "again") from None

    def begin(self):
        """The Trainer, from where a run was cut off or from the beginning."""
        give_back_memory()  # what an attempt before this one took is not this one's
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.dataset.exists():
            text, other = make_text(self.entry.data, self.seed, *self._where)
            durable.replace(self._other_text, [(other or "").encode()], keep_previous=False)
            durable.replace(self.dataset, [text], keep_previous=False)
        if not self.model_path.exists():
            checkpoint.save(self._fresh_model(), self.model_path)
        model = checkpoint.load(self.model_path)
        options = {"seed": self.seed, "keep_best": False, **self.entry.train}
        options.pop("seconds", None)
        steps = options.pop("steps", LONGEST_RUN)
        run = newest_run(model)
        # Killed after its last step, but before it was judged?
        through = run if run and model.step >= run.last_step else None
        self._run, _, training, self._validation = prepare(
            model, find_texts([self.dataset]), through, steps=None if run else steps, **options)
        seconds = self._seconds and max(1.0, self._seconds - sum(self._times().values()))
        return Trainer(model, self._run, training, self._validation, self.model_path,
                       self.threads, seconds=seconds)

    def _fresh_model(self):
        text, kind = self.dataset.read_bytes(), self.entry.tokenizer
        if kind == "byte":
            tokenizer = ByteTokenizer()
        elif kind == "char":
            tokenizer = train_char(text.decode("utf-8"))
        elif "char" in kind:
            tokenizer = train_char(text.decode("utf-8"))
            tokenizer = ReservedTokenizer(tokenizer, kind["char"] - tokenizer.vocab_size)
        else:
            tokenizer = train_bpe([text], kind["bpe"])
        config = GPTConfig(tokenizer.vocab_size, **self.entry.shape)
        return checkpoint.Model(config, tokenizer, initial_parameters(config, self.seed),
                                lineage=[{"init": {"seed": self.seed}}])

    def train(self, trainer):
        """Yields the trainer's records to the run's end, writing each to log.jsonl."""
        with open(self._log, "a", encoding="utf-8") as log:
            log.write("\n" if self._log.stat().st_size else "")  # a kill may have cut the last line
            try:
                for record in trainer:
                    line = {"step": record.step, "ms": round(record.ms, 1), "mb": resident_mb()}
                    if record.notes:
                        line["notes"] = record.notes
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                    yield record
            finally:
                trainer.save()

    def _lines(self):
        """The log's lines by step: of one that was trained again after a kill, the last."""
        if not self._log.exists():
            return {}
        lines = {}
        for text in self._log.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # cut off by a kill
                continue
            lines[line["step"]] = line
        return lines

    def _times(self):
        """Seconds by step."""
        return {step: line["ms"] / 1000 for step, line in self._lines().items()}

    def conclude(self, trainer):
        """Judges the model, and keeps what comes out as result.json: a dict."""
        model, lines = trainer.model, self._lines()
        times = sorted(self._times().values())
        result = {
            "entry": self.entry.number, "seed": self.seed, "machine": processor_name(),
            "threads": trainer.threads or available_processors(),
            "date": time.strftime("%Y-%m-%d"), "parameters": int(model.parameters.size),
            "text_bytes": self.dataset.stat().st_size,
            "other_text": self._other_text.read_text(encoding="utf-8") or None,
            "steps": model.step, "minutes": sum(times) / 60,
            "seconds_a_step": times[len(times) // 2],
            "memory_mb": max((line["mb"] or 0 for line in lines.values()), default=0) or None,
            "loss": Curve(model.history, self._run.first_step, 0).smoothed,
            **judge(self.entry, model, self.dataset.read_bytes(), self._validation, self.seed,
                    self.threads),
            "notes": [f"step {step}: {note}" for step, line in sorted(lines.items())
                      for note in line.get("notes", ())],
            "curve": thinned(list(enumerate(model.history.losses, 1)), CURVE_POINTS),
            "validation": model.history.validation,
        }
        durable.replace(self._result, [json.dumps(result, indent=1).encode()],
                        keep_previous=False)
        return self.result

    def rival(self):
        """The Attempt of the entry that this one has to beat on its text in its time, or None."""
        for bound in self.entry.goal.values():
            if isinstance(bound, dict) and "rival" in bound:
                [other] = find([bound["rival"]])
                entry = replace(other, data=self.entry.data, train={})
                texts, rust = self._where
                return Attempt(entry, self.seed, self.folder / "rival", texts=texts, rust=rust,
                               threads=self.threads, seconds=60 * self.result["minutes"])
        return None
