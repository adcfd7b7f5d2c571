"""The ways to cut text into chunks that byte-pair merges never cross.

'gpt2' and 'gpt4' are the patterns of GPT-2 and of GPT-4 (cl100k): a word with the
space before it, a number, a run of punctuation, a run of white space. 'none' takes
the whole text as one chunk. The patterns are for files; chunks.py does what they say.
"""

from __future__ import annotations

from femtogpt.errors import FemtoError

PATTERNS = {
    "gpt2": (
        r"'s|'t|'re|'ve|'m|'ll|'d"
        r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
        r"|\s+(?!\S)|\s+"
    ),
    "gpt4": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
SPLITS = (*PATTERNS, "none")


def check_split(split: str) -> None:
    """Raises FemtoError if `split` is none of SPLITS."""
    if split not in SPLITS:
        raise FemtoError(f"unknown pre-split {split!r}; choose one of {', '.join(SPLITS)}")


def lower(text: str) -> str:
    """Lower case, character by character.

    str.lower looks around a capital sigma and writes the final form at a word's end;
    Hugging Face's Lowercase does not, and ids must agree with it. What is a letter's lower
    case is as young as Python's Unicode (of 3.11: 55 letters that tokenizers 0.23 knows are
    left as they are).
    """
    return text.replace("Σ", "σ").lower()
