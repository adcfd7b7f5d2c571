"""What the losses of a run tell: a smoothed loss, spikes, a run that sticks, the best validation,
memorising."""

import math

SMOOTHING = 0.95
# A loss this many times its running spread above the smoothed one is a spike, but not in the
# first steps, when there is no spread to speak of.
SPIKE, SPIKE_FROM = 6.0, 50
# A smoothed loss that has not fallen by this share for so many steps, and is no lower than guessing
# by token frequency, or all but: the run is stuck. Healthy runs pass that place within 50 steps;
# on their second plateau, a good deal lower, they may stay long.
MOVED, STUCK_STEPS, NEAR_GUESSING = 0.01, 150, 0.97
# Two validations in a row this much above the best: the text is being memorised.
WORSE = 1.01


class Curve:
    """Rebuilt from a history, it is what it was when that was left: a resumed run sees no seam."""

    def __init__(self, history, first_step, comparable_from, guessing=None):
        """first_step: the run's. comparable_from: the step since which validations are of the
        same text. guessing: called, once a loss no longer falls, for what guessing by token
        frequency gives; None: what sticks is not told."""
        self.first_step, self.comparable_from = first_step, comparable_from
        self.smoothed, self.spread, self._count, self._spiking = None, 0.0, 0, False
        self.best_step, self.best_loss = None, math.inf
        self.since_best = 0  # validations
        self.memorising = False  # once true, it stays so
        self._own = []
        self._guessing, self._stuck = guessing, False  # once true, it stays so
        self._fallen_to, self._fallen_at = math.inf, first_step
        for loss in history.losses:
            self.add(loss)
        for step, loss in history.validation:
            self.validated(step, loss)

    def add(self, loss):
        """Takes a step's loss, in nats. Returns a sentence where it begins a spike, or shows first
        that the run is stuck, else None."""
        if self.smoothed is None:
            self.smoothed = loss
        before, above = self.smoothed, loss - self.smoothed
        limit = SPIKE * max(self.spread, 0.01 * before)
        spiking = self._count >= SPIKE_FROM and above > limit
        began = spiking and not self._spiking
        self._count, self._spiking = self._count + 1, spiking
        if spiking:
            above = limit  # one spike must not hide the next
        self.smoothed = SMOOTHING * before + (1 - SMOOTHING) * loss
        self.spread = math.sqrt(SMOOTHING * self.spread**2 + (1 - SMOOTHING) * above**2)
        if began:
            return (f"a spike: loss {loss:.3f}, of late {before:.3f} give or take "
                    f"{limit / SPIKE:.3f}")
        return self._sticks()

    def _sticks(self):
        if self._stuck or self._guessing is None or self._count <= self.first_step:
            return None
        if self.smoothed < (1 - MOVED) * self._fallen_to:
            self._fallen_to, self._fallen_at = self.smoothed, self._count
        if self._count - self._fallen_at < STUCK_STEPS:
            return None
        guessing = self._guessing()
        if self.smoothed < NEAR_GUESSING * guessing:
            return None
        self._stuck = True
        return (f"the loss has been stuck at {self.smoothed:.3f} for {STUCK_STEPS} steps, and "
                f"guessing by token frequency gives {guessing:.3f}: `femtogpt diagnose` looks for "
                "the reason")

    def validated(self, step, loss):
        """Takes a validation. Returns a sentence where it shows memorising first, else None."""
        if step <= self.comparable_from:
            return None
        if loss < self.best_loss:
            self.best_step, self.best_loss, self.since_best = step, loss, 0
        else:
            self.since_best += 1
        if step > self.first_step:
            self._own.append(loss)
        own = self._own
        if self.memorising or len(own) < 3 or min(own[-2:]) <= WORSE * min(own[:-2]):
            return None
        self.memorising = True
        return (f"the text is being memorised: validation has risen for {step - self.best_step} "
                f"steps, best at step {self.best_step} ({self.best_loss:.4f}, now {loss:.4f})")
