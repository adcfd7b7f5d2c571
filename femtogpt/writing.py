"""What a model writes while it is trained."""

from dataclasses import replace

from .errors import FemtoError
from .looks import LONGEST_SAMPLE

TOKENS = 80


class Writing:
    """What models are to write. Where another process still compiles what that takes, a copy of
    the model is kept and it writes later: to compile it here as well would hold up training."""

    def __init__(self):
        self.compiling = None  # that process, if there is one
        self._due = []

    def ask(self, model, write):
        """Calls write(model), now or later, with the model as it is now."""
        if self.compiling is None or self.compiling.poll() is not None:
            write(model)
        else:
            self._due.append((replace(model, parameters=model.parameters.copy()), write))

    def go_on(self, wait=False):
        """Has written what is due; unless it is to wait, only if that can be done at once."""
        if self._due and (wait or self.compiling.poll() is not None):
            self.compiling.wait()
            for model, write in self._due:
                write(model)
            self.forget()

    def forget(self):
        """Nothing is due: it was of steps that are gone back on."""
        self._due = []


def sample_of(model, seed):
    """A look's: the start of what it writes. By the run's seed, so that samples compare."""
    from .scoring import sample_text  # a second of compiling, the first time

    try:
        text = sample_text(model, "\n", TOKENS, seed)
    except FemtoError:  # a vocabulary without a newline; or it diverges, which is told next
        return ""
    return text.encode()[:LONGEST_SAMPLE].decode("utf-8", "ignore")
