"""femtogpt: train a small language model on an ordinary computer.

What stands in api.py can be had from here: femtogpt.load, new, train, GPT, Record, tokenizer.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import GPT, FemtoError, Record, load, new, tokenizer, train

__all__ = ["GPT", "FemtoError", "Record", "load", "new", "tokenizer", "train"]


def __getattr__(name):
    # Late: the command line imports this file too, and must answer before numba is there.
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(".api", __name__), name)
    raise AttributeError(f"module 'femtogpt' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
