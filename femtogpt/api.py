"""The library for Python: what `import femtogpt` gives.

    import femtogpt

    model = femtogpt.new(embedding_degree=64)
    for record in femtogpt.train(model, "dataset.txt", steps=600):
        if record.step % 100 == 0:
            print(record.step, record.loss)
    print(model.generate("13 + 29 = ", temperature=0))
    model.save("model.safetensors")
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np

from . import checkpoint, inspection, tokenizer
from .config import GPTConfig
from .data import find_texts
from .durable import lock
from .errors import FemtoError, short
from .model import initial_parameters
from .sampler import generate_together, prompt_ids, random_seed
from .scoring import evaluate
from .session import prepare
from .tensors import named
from .tokenizer import ByteTokenizer
from .trainer import Record, Trainer

__all__ = ["GPT", "FemtoError", "Record", "load", "new", "tokenizer", "train"]


class GPT:
    """A model with its tokenizer and its history. Made by new() or load().

    model.state is the checkpoint.Model underneath: parameters (flat), optimizer, run, lineage.

        >>> model = new(num_tokens=8, embedding_degree=16, num_layers=1, num_heads=2)
        >>> model.logits(model.tokenizer.encode("abc")).shape
        (3, 256)
        >>> [piece for piece, _ in model.probabilities("abc")]
        [b'b', b'c']
        >>> model.attention("abc").shape
        (1, 2, 3, 3)
        >>> len(model.generate("a", 5, seed=1).encode("utf-8", "replace")) >= 5
        True
    """

    def __init__(self, state: checkpoint.Model):
        self.state = state

    @property
    def config(self) -> GPTConfig:
        """The shape."""
        return self.state.config

    @property
    def tokenizer(self) -> Any:
        """encode(text) -> ids, decode(ids) -> bytes, piece(id) -> bytes."""
        return self.state.tokenizer

    @property
    def step(self) -> int:
        """How many steps it was trained."""
        return self.state.step

    @property
    def losses(self) -> list[float]:
        """The loss of each step, in nats a token."""
        return self.state.history.losses

    @property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """Every parameter by its name, as views: what is written into them changes the model."""
        return named(self.state.parameters, self.config)

    def save(self, path: str | PathLike) -> None:
        """Writes the model file; one that is there becomes path.previous.

        Raises FemtoError, which names the file, where that can't be.
        """
        with lock(path):
            checkpoint.save(self.state, path)

    def stream(self, prompt: str | None = None, count: int = 100, *, temperature: float = 0.5,
               top_k: int | None = None, top_p: float | None = None,
               seed: int | None = None) -> Iterator[bytes]:
        """Yields what continues the prompt, token by token, as bytes.

        prompt: None begins with a line. temperature: 0 takes the likeliest each time. seed: None
        draws one. Raises FemtoError for a prompt it cannot spell or see at once.
        """
        if seed is None:
            seed = random_seed()
        ids = prompt_ids(self.tokenizer, self.config.num_tokens, prompt)
        for _, token in generate_together(self.config, self.state.parameters, [ids], count, [seed],
                                          temperature, top_k, top_p):
            yield self.tokenizer.piece(token)

    def generate(self, prompt: str | None = None, count: int = 100, *, stop: str | None = None,
                 temperature: float = 0.5, top_k: int | None = None, top_p: float | None = None,
                 seed: int | None = None) -> str:
        """What continues the prompt, up to `count` tokens or the text `stop`, without either.

        Bytes that are no UTF-8 become the replacement character. Otherwise as stream().
        """
        made, end = b"", stop.encode() if stop else None
        for piece in self.stream(prompt, count, temperature=temperature, top_k=top_k, top_p=top_p,
                                 seed=seed):
            made += piece
            if end and end in made:
                made = made.split(end)[0]
                break
        return made.decode("utf-8", "replace")

    def loss(self, text: str | bytes) -> float:
        """The mean loss on a text, in nats a token, over windows of num_tokens; of a shorter
        text, over all its tokens but the first."""
        ids = self.tokenizer.encode(text)
        if len(ids) > self.config.num_tokens:
            return evaluate(self.state, ids)["loss"]
        if len(ids) < 2:
            raise FemtoError("a loss needs a text of two tokens: the second is what is guessed")
        return float(-np.log(self._probabilities(ids)).mean())

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """(n, V) float32: row i is of the token that follows ids[: i + 1]. ids: (n,), at most
        num_tokens."""
        return self.activations(ids)["logits"]

    def probabilities(self, text: str | bytes) -> list[tuple[bytes, float]]:
        """(piece, how likely the model found it, given those before it) of a text's tokens but
        the first, which at most num_tokens + 1 may be."""
        ids = self.tokenizer.encode(text)
        return [(self.tokenizer.piece(token), float(p))
                for token, p in zip(ids[1:].tolist(), self._probabilities(ids), strict=True)]

    def _probabilities(self, ids):
        return inspection.probabilities(self.config, self.state.parameters, ids)

    def attention(self, text: str | bytes) -> np.ndarray:
        """(L, NH, n, n): where each head of each layer looks; row i is the i-th token's, and adds
        up to 1."""
        found = self.activations(self.tokenizer.encode(text))
        return np.stack([found[f"layers.{l}.attention_weights"]
                         for l in range(self.config.num_layers)])

    def activations(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Everything a forward computes, by name: see inspection.activations."""
        return inspection.activations(self.config, self.state.parameters, ids)


def new(tokenizer: Any = None, *, seed: int = 1, **shape: Any) -> GPT:
    """A fresh model.

    tokenizer: femtogpt.tokenizer's ByteTokenizer() [default], AsciiTokenizer(), train_char(text),
    train_bpe([text], vocab_size), load_tokenizer(path). shape: GPTConfig's fields but vocab_size:
    num_tokens, embedding_degree, num_layers, num_heads, recipe, positional_encoding. Raises
    FemtoError for a shape that cannot be, and for a tokenizer's mere name.
    """
    if isinstance(tokenizer, str):
        raise FemtoError(f"tokenizer={short(tokenizer)} is a name: give an object such as "
                         "femtogpt.tokenizer.ByteTokenizer()")
    tokens = tokenizer if tokenizer is not None else ByteTokenizer()
    config = GPTConfig(tokens.vocab_size, **shape)
    return GPT(checkpoint.Model(config, tokens, initial_parameters(config, seed),
                                lineage=[{"init": {"seed": seed}}]))


def load(path: str | PathLike) -> GPT:
    """The model of a file; where that is damaged, of the one before, and model.state.recovered
    says so. Raises FemtoError where neither can be read."""
    return GPT(checkpoint.load(path))


def train(model: GPT, dataset: str | PathLike | list, steps: int | None = None, *,
          path: str | PathLike | None = None, threads: int | None = None,
          save_every: int | None = None, seconds: float | None = None,
          until_loss: float | None = None, changed_dataset: bool = False,
          **options: Any) -> Iterator[Record]:
    """Trains a model, yielding a Record a step.

    dataset: a text file, a folder of them, or a list of those; or files of tokens. steps: of a new
    run; None finishes the run that was cut off, else 100,000. path: where to save, every
    save_every steps or 30 seconds, and at the end; None: nowhere. seconds: end after about this
    long. options: those of `femtogpt train`: dropout, batch_size, accumulate, learning_rate,
    min_lr, warmup_steps, decay_steps, optimizer, precision, weight_decay, seed, val_fraction,
    eval_every, patience, on_nan, keep_best.

    It may be left at any record: the model is whole between steps. A KeyboardInterrupt waits for
    the step to end, so that it is whole then too, and train() without steps goes on from there.
    Raises FemtoError for a dataset or options that cannot be, and where training diverges.
    """
    paths = dataset if isinstance(dataset, list) else [dataset]
    run, _, training, validation = prepare(model.state, find_texts(paths), steps=steps,
                                           changed_data=changed_dataset, **options)
    trainer = Trainer(model.state, run, training, validation, path, threads, save_every, seconds,
                      until_loss)
    return _steps(trainer)


def _steps(trainer):
    records = iter(trainer)
    try:
        while True:
            with _interrupts_wait():
                record = next(records, None)
            if record is None:
                return
            yield record
    finally:
        trainer.save()


@contextmanager
def _interrupts_wait():
    """Within, Ctrl-C is put off to the end. Signals are the main thread's alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt
