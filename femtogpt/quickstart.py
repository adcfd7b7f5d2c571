"""What a text is like, and the tokenizer, shape and run that suit it and the time there is."""

import itertools
import math
from dataclasses import dataclass

from .config import GPTConfig
from .estimate import step_time
from .optimizer import OPTIMIZER
from .tensors import count_parameters

SAMPLE = 2**22  # bytes of a text that are looked at
RECIPE = "standard"
BATCH_TOKENS = 2560  # of a step
# (width, layers, heads), each two to three times the arithmetic of the one before.
LADDER = ((32, 4, 2), (48, 4, 4), (64, 4, 4), (80, 6, 4), (128, 6, 8), (160, 8, 8), (224, 8, 8),
          (320, 8, 10), (448, 8, 14), (640, 10, 20))
ENOUGH_STEPS = 250  # a larger shape must get as many
PARAMETERS_A_TOKEN = 6  # of the text, at most: larger ones learn it by heart at once
BPE_BYTES = 200_000  # a text of fewer leaves too few examples of each token
BYTES_A_TOKEN = 2500  # of the text, for each token of a vocabulary
SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 384, 4096
WIDE, MOST_CHARACTERS = 1.3, 1000  # bytes a character, and how many, for a vocabulary of them
NUM_TOKENS = 128
EPOCHS = ((2, 0.0), (5, 0.1), (24, 0.2))  # readings of the text up to which there is that dropout
MOST_DROPOUT = 0.3
FEW_EPOCHS, WEIGHT_DECAY = 2, 0.2  # the decay where there are more readings than that
MOST_HELD_BACK, ENOUGH_HELD_BACK = 0.1, 40_000  # of the text, or so many bytes if that is less
MOST_EPOCHS, FEWEST_STEPS = 24, 200  # readings of the text, unless they are fewer steps than these


@dataclass(frozen=True)
class Look:
    """A text's size in bytes; of its first SAMPLE bytes: how many a character takes, and how many
    characters there are."""

    size: int
    bytes_a_character: float
    characters: int


@dataclass(frozen=True)
class Plan:
    """What to do. tokenizer: "byte", "char", or "bpe" with vocab_size tokens. shape: width, layers,
    heads. steps: how many there is time for, or, if limited, fewer, at which to end. why: a
    sentence for each choice."""

    tokenizer: str
    vocab_size: int
    shape: tuple
    num_tokens: int
    dropout: float
    seconds: int
    weight_decay: float = 0.0
    steps: int | None = None
    limited: bool = False
    why: tuple = ()

    @property
    def batch_size(self):
        return BATCH_TOKENS // self.num_tokens


# Choices made beforehand, and the time that they are meant for.
PRESETS = {
    "tiny": Plan("byte", 256, (64, 4, 4), 64, 0.0, 60),
    "small": Plan("byte", 256, (128, 6, 8), 80, 0.0, 300),
    "medium": Plan("bpe", 1024, (192, 8, 8), 128, 0.1, 1800),
    "laptop-night": Plan("bpe", 4096, (384, 8, 12), 256, 0.1, 8 * 3600),
}


def look(texts):
    """A Look at what find_texts found."""
    sample = b""
    for block in itertools.chain.from_iterable(text.blocks() for text in texts):
        sample += block[: SAMPLE - len(sample)]
        if len(sample) == SAMPLE:
            break
    letters = sample.decode("utf-8", "surrogateescape")
    return Look(sum(text.size for text in texts), len(sample) / len(letters), len(set(letters)))


def choose(seen, seconds, timed=None):
    """The Plan for a text of a Look and so many seconds.

    timed: of a GPTConfig and a batch size, the seconds a step takes [default: measured, some
    tenths of a second for each shape that comes into question].
    """
    timed = timed or (lambda config, batch_size: step_time(
        config, batch_size, OPTIMIZER[RECIPE], seconds=0.2).seconds)
    tokenizer, vocab_size, tokens, why = _tokenizer(seen)
    batch_size, chosen = BATCH_TOKENS // NUM_TOKENS, None
    for shape in LADDER:
        config = GPTConfig(vocab_size, NUM_TOKENS, *shape)
        parameters = count_parameters(config)
        if chosen and parameters > PARAMETERS_A_TOKEN * tokens:
            limit = f"of more than {PARAMETERS_A_TOKEN} a token of the text it learns it by heart"
            break
        possible = round(seconds / timed(config, batch_size))
        if chosen and possible < ENOUGH_STEPS:
            limit = f"of more, there would be {possible} steps in the time there is"
            break
        chosen, size, steps = shape, parameters, max(1, possible)
    else:
        limit = "there is none larger to choose from"
    longest = max(FEWEST_STEPS, math.ceil(MOST_EPOCHS * tokens / BATCH_TOKENS))
    epochs = min(steps, longest) * BATCH_TOKENS / tokens
    dropout = next((rate for most, rate in EPOCHS if epochs <= most), MOST_DROPOUT)
    weight_decay = WEIGHT_DECAY if epochs > FEW_EPOCHS else 0.0
    why += (f"{size:,} parameters, width {shape_text(chosen)}: {limit}",
            f"dropout {dropout:g}, weight decay {weight_decay:g}: it reads the text {epochs:.1f} "
            "times")
    if longest < steps:
        why += (f"{longest:,} steps, not the {steps:,} there is time for: it would know the text "
                "by heart",)
    return Plan(tokenizer, vocab_size, chosen, NUM_TOKENS, dropout, seconds, weight_decay,
                min(steps, longest), longest < steps, why)


def held_back(size):
    """Which part of a text of so many bytes to keep for measuring: enough to tell how good a model
    is, and no more, for what is measured on is not learnt from."""
    return min(MOST_HELD_BACK, ENOUGH_HELD_BACK / max(1, size))


def shape_text(shape):
    """A shape for a person."""
    return "{}, {} layers, {} heads".format(*shape)


def _tokenizer(seen):
    """(name, vocab_size, about how many tokens the text is, why) for a Look."""
    size = f"{seen.size / 1e6:.1f} MB" if seen.size >= 1e6 else f"{seen.size / 1000:.0f} KB"
    if seen.size >= BPE_BYTES:
        possible = seen.size // BYTES_A_TOKEN // 64 * 64
        vocab_size = max(SMALLEST_VOCABULARY, min(LARGEST_VOCABULARY, possible))
        return "bpe", vocab_size, seen.size // 2, (
            f"bpe, {vocab_size} tokens: {size} of text show each often, and a step reads twice as "
            "much as of bytes",)
    if seen.bytes_a_character >= WIDE and seen.characters <= MOST_CHARACTERS:
        return "char", seen.characters, int(seen.size / seen.bytes_a_character), (
            f"characters, {seen.characters} of them: of {seen.bytes_a_character:.1f} bytes each, "
            "which it would have to learn to spell",)
    return "byte", 256, seen.size, (f"bytes: {size} of text are few for tokens of its own",)
