"""A search, in a folder of its own, where it goes on after a kill.

Round 1 gives each candidate `steps` steps, each other round those that are left twice as many as
the round before, so that rounds cost about the same. A candidate is one run, planned to the end
of all rounds and stopped at the end of each: the best is, bit for bit, what `train` makes of its
options, and while there is a choice all rates are flat. They fall in the last round, when one is
left. That favours low rates, for what a high one's noise hides shows when it falls. A run of its
own for each round, at whose end the rate is 0, would not; but tried on Shakespeare with eight
rates, all eight came out worse for it at the end of four rounds.
"""

import hashlib
import json
import math
from contextlib import nullcontext, suppress
from pathlib import Path

from .. import checkpoint, durable
from ..batches import spread_windows
from ..data import encode_texts, fingerprint, split
from ..divergence import Diverged
from ..errors import FemtoError
from ..machine import give_back_memory
from ..model import initial_parameters
from ..parallel import Engine
from ..run import VAL_FRACTION, Run, defaults, newest_run, plan
from ..trainer import Trainer
from .candidates import VARIED, Candidate, arithmetic, draw, spent

CHOOSING_WINDOWS = 512  # of the text that candidates are chosen by
TELLING_TOKENS = 2**18  # of the text that the end is measured on


class Search:
    """search = Search(...); for candidate, record in search.train(): ...; conclude(search, output)

    Whatever stops it in between, the same calls go on from the last save, and come to the same.
    One process at a time: its caller holds durable.lock(search.path).

    What is held back of the text is halved: `choosing` ranks candidates, and `telling` is for
    what nobody was chosen by. Both are there once train() has begun.
    """

    def __init__(self, texts, tokenizer, config, folder, *, candidates=8, rounds=None, steps=100,
                 vary=(), seed=1, val_fraction=VAL_FRACTION, threads=None, warn=None,
                 watch=lambda what: nullcontext(), **options):
        """texts: what find_texts found. config: the shape. folder: for search.json and the
        candidates' models. rounds: None is as many as leave one for the last. steps: of round 1.
        vary, seed: as in draw. options: learning_rate, dropout, batch_size. warn, watch: as in
        session.prepare. Raises FemtoError where the folder holds a search with other options."""
        self.folder, self.threads = Path(folder), threads
        self.path = self.folder / "search.json"
        self._texts, self._tokenizer, self._warn, self._watch = texts, tokenizer, warn, watch
        with watch("reading") as progress:
            self._data = fingerprint(texts, progress)
        self.rounds = rounds or (candidates - 1).bit_length() + 1
        values = {"dropout": Run.dropout, "batch_size": Run.batch_size,
                  **defaults(config.recipe), **options}
        self._batch_size, self._val_fraction = values["batch_size"], val_fraction
        # The rival: candidate 1 once more, alone.
        self.rival = Candidate(0, seed, values["learning_rate"], values["dropout"], config)
        self.candidates = draw(self.rival, candidates, vary, steps, self.rounds)
        tokens = hashlib.sha256(json.dumps(tokenizer.to_json()).encode()).hexdigest()
        self._options = {
            "dataset": self._data, "tokenizer": tokenizer.name, "tokenizer_data": tokens,
            **config.to_json(), "candidates": candidates, "rounds": self.rounds, "steps": steps,
            "vary": ",".join(name for name in VARIED if name in vary), "seed": seed,
            **{name: values[name] for name in ("learning_rate", "dropout", "batch_size")},
            "val_fraction": val_fraction}
        self._load()

    def _load(self):
        """Takes up what search.json holds, if there is one."""
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
            self._check_same(state["options"])
            for one, told in zip([*self.candidates, self.rival],
                                 [*state["candidates"], state["rival"]], strict=True):
                one.rounds = [{name: entry[name] for name in ("loss", "step", "seconds", "note")}
                              for entry in told["rounds"]]
        except FileNotFoundError:
            pass
        except FemtoError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError):
            raise FemtoError(f"{self.path} is damaged: remove {self.folder} to begin the search "
                             "again, or give another --folder") from None

    def _check_same(self, began):
        for name, value in self._options.items():
            if began[name] == value:
                continue
            option = f"--{name.replace('_', '-')}"
            was, now = ("nothing" if v == "" else v for v in (began[name], value))
            differs = f"{option} {was}, not {now}"
            if name in ("dataset", "tokenizer_data"):  # of which a hash is all that is known
                differs = f"another {option}"
            raise FemtoError(f"the search in {self.folder} was begun with {differs}: give what it "
                             "was begun with to go on, another --folder to search anew, or remove "
                             "that folder")

    def _save(self):
        state = {"options": self._options, "rival": self.rival.to_json(),
                 "candidates": [one.to_json() for one in self.candidates]}
        durable.replace(self.path, [json.dumps(state, indent=1).encode()], keep_previous=False)

    def path_of(self, candidate):
        """Its model file."""
        return self.folder / f"{candidate.name}.safetensors"

    def standing(self, number):
        """The candidates that take part in round `number`, from 1; the one after the last: who is
        left at the end. From round 2 on the best comes first. The rounds before must be over.

        Of n that were in a round, those that did best go on, n / 2 of them, rounded up; of equals,
        the first. Raises FemtoError where all diverged.
        """
        left = self.candidates
        for r in range(number - 1):
            finite = [one for one in left if one.rounds[r]["loss"] is not None]
            finite.sort(key=lambda one: one.rounds[r]["loss"])
            left = finite[: (len(left) + 1) // 2]
        if not left:
            raise FemtoError("every candidate diverged: search with a lower --learning-rate, in "
                             f"another --folder (or remove {self.folder})")
        return left

    @property
    def round(self):
        """The round that is on, from 1; self.rounds + 1 when all are over."""
        return next((r for r in range(1, self.rounds + 1)
                     if any(len(one.rounds) < r for one in self.standing(r))), self.rounds + 1)

    @property
    def through(self):
        """Is every round over?"""
        return self.round > self.rounds

    @property
    def length(self):
        """What all rounds take, in runs from the first round to the end of the last."""
        total, left = 0, len(self.candidates)
        for r in range(self.rounds):
            total, left = total + left * 2**r, (left + 1) // 2
        return total / (2**self.rounds - 1)

    @property
    def winner(self):
        """The Candidate that did best in the last round."""
        return self.standing(self.rounds + 1)[0]

    def train(self, compare=False):
        """Yields (Candidate, Record) for each step, and (Candidate, None) at the end of its round.

        compare: the rival too, at the end: candidate 1's options, in one run of rival_steps().
        """
        self._read()
        if not self.path.exists():
            self._save()
        for r in range(1, self.rounds + 1):
            for one in sorted(self.standing(r), key=lambda one: one.number):
                yield from self._through_round(one, r)
        if compare:
            self.rival.ends = [self.rival_steps()]
            yield from self._through_round(self.rival, 1)

    def rival_steps(self):
        """As many steps of the rival as are the arithmetic of all that the candidates took."""
        return max(1, round(spent(self.candidates) / arithmetic(self.rival.config)))

    def _read(self):
        with self._watch("tokenizing") as progress:
            tokens = encode_texts(self._tokenizer, self._texts, self._data, progress, self._warn)
        config = self.rival.config
        held = int(len(tokens) * self._val_fraction)
        if held // 2 < config.num_tokens + 1:
            raise FemtoError(
                f"a search halves what is held back, and half of {held} tokens (--val-fraction "
                f"{self._val_fraction:g} of {len(tokens)}) is less than a window, num_tokens + 1 = "
                f"{config.num_tokens + 1}: use more text, hold more back, or a smaller "
                "--num-tokens")
        self._count, begin = len(tokens), len(tokens) - held
        self._training, self._validation = split(tokens, begin, len(tokens), config.num_tokens)
        self.choosing = self._validation[: held // 2]
        self.telling = self._validation[held // 2 :][:TELLING_TOKENS]

    def _through_round(self, one, number):
        """Trains a candidate to the end of a round, from wherever it is, and measures it."""
        if len(one.rounds) >= number:
            return
        give_back_memory()  # what the candidate before it took is not this one's
        path, end = self.path_of(one), one.ends[number - 1]
        with durable.lock(path):
            model = self._model_of(one, path, end)
            loss, note, seconds = None, None, []
            try:
                if model.step < end:
                    trainer = Trainer(model, self._run_of(one, model), self._training,
                                      self._validation, path, self.threads)
                    for record in trainer:
                        seconds.append(record.ms / 1000)
                        yield one, record
                        if record.step == end:
                            break
                    trainer.save()
                loss = self._measured(model)
            except Diverged as error:
                note = str(error).split(" The model file")[0]
            except GeneratorExit:  # left by the caller
                with suppress(Diverged):
                    trainer.save()
                raise
        steps = model.step - (one.rounds[-1]["step"] if one.rounds else 0)
        one.rounds.append({
            "loss": loss, "step": model.step, "note": note,
            # By the middle one: some may have been before a kill, the first may have compiled.
            "seconds": sorted(seconds)[len(seconds) // 2] * steps if seconds else None})
        self._save()
        yield one, None

    def _model_of(self, one, path, end):
        if not path.exists():
            checkpoint.save(checkpoint.Model(
                one.config, self._tokenizer, initial_parameters(one.config, one.seed),
                lineage=[{"init": {"seed": one.seed}}]), path)
        model = checkpoint.load(path)
        if model.recovered and self._warn:
            self._warn(f"warning: {model.recovered}")
        if model.step > end:
            raise FemtoError(f"{path} is at step {model.step}, but its round ends at {end}: it was "
                             "trained by another command; remove it to have it trained again")
        return model

    def _run_of(self, one, model):
        run = newest_run(model) or plan(
            model, self._data, one.ends[-1], seed=one.seed, dropout=one.dropout,
            learning_rate=one.learning_rate, batch_size=self._batch_size,
            val_fraction=self._val_fraction, keep_best=False)
        return run.with_held_back(self._count, model.config.num_tokens)

    def _measured(self, model):
        windows = spread_windows(self.choosing, model.config.num_tokens, CHOOSING_WINDOWS)
        with Engine(model.config, self._batch_size, self.threads) as engine:
            loss = float(engine.mean_loss(model.parameters, windows))
        return loss if math.isfinite(loss) else None
