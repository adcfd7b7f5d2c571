"""femtogpt: train a small language model on an ordinary computer."""

__version__ = "0.1.0"
