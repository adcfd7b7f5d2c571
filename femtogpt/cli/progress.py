"""How far a run is."""

import contextlib
import math
import sys
import time

from .options import PLAIN_LINE_SECONDS, say


class Progress:
    """One tqdm line on a terminal; elsewhere a plain line now and then."""

    def __init__(self, trainer):
        from tqdm import tqdm

        self.trainer, self.began, self.first = trainer, None, None
        self.bar = tqdm(
            total=trainer.run.last_step, initial=trainer.model.step,
            disable=not sys.stderr.isatty(),
            bar_format="step {n_fmt}/{total_fmt} |{bar}| {remaining} left, {desc}",
        )
        self.last_line = -math.inf

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def show(self, record):
        smoothed, last = self.trainer.curve.smoothed, self.trainer.run.last_step
        numbers = (f"loss {record.loss:.3f}, smoothed {smoothed:.3f}, "
                   f"{record.tokens_per_second:,.0f} tokens/s")
        if record.val_loss is not None:
            self.validation = f", held back {record.val_loss:.3f}"
        numbers += getattr(self, "validation", "")
        if not self.bar.disable:
            self.bar.total = last
            self.bar.set_description_str(numbers, refresh=False)
            self.bar.update(record.step - self.bar.n)  # backwards too, after a rollback
            return
        now = time.monotonic()
        if self.began is None:
            self.began, self.first = now, record.step
        if now - self.last_line >= PLAIN_LINE_SECONDS or record.step == last:
            self.last_line = now
            done = record.step - self.first
            if not done:  # the first step, which may have compiled: nothing to judge by
                say(f"step {record.step}/{last}: {numbers}")
                return
            left = (now - self.began) / done * (last - record.step)
            say(f"step {record.step}/{last}: {numbers}, {left / 60:.1f} min left")

    def say(self, line):
        if self.bar.disable:
            say(line)
            return
        with contextlib.suppress(OSError):  # as in say
            self.bar.write(line, file=sys.stderr)
