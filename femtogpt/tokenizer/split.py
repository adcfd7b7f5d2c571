"""Cutting text into chunks that byte-pair merges never cross.

'gpt2' and 'gpt4' are the patterns of GPT-2 and of GPT-4 (cl100k): a word with the
space before it, a number, a run of punctuation, a run of white space. 'none' takes
the whole text as one chunk.

Which characters are letters is the `regex` module's Unicode version to say; for a
character younger than another program's Unicode, that program may cut elsewhere.
"""

from __future__ import annotations

from functools import cache

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

# Where a text may be cut between two chunks, whatever else it holds: what is left of the
# place splits alone as it does with more behind it (what is right of a chunk's end never
# looks back). A mark is all but white space here; "(?r)" finds the last place first.
#   Between a mark and white space: a run of marks ends there as it does at a text's end.
#   Only gpt4's punctuation takes white space, newlines, along. And (?!\S), which looks
#   ahead, is asked behind white space only, and that is not what ends here.
#   gpt4, between a newline and a mark: of the white space that ends here, what punctuation
#   has not taken along goes whole to \s*[\r\n]+, whether a mark or the text's end follows.
CUTS = {
    "gpt2": r"(?r)(?<=\S)(?=\s)",
    "gpt4": r"(?r)(?<=\S)(?=[^\S\r\n])|(?<=[\r\n])(?=\S)",
}


def check_split(split: str) -> None:
    """Raises FemtoError if `split` is none of SPLITS."""
    if split not in SPLITS:
        raise FemtoError(f"unknown pre-split {split!r}; choose one of {', '.join(SPLITS)}")


def split_chunks(data: bytes, split: str, case_sensitive: bool = True) -> list[str]:
    """The chunks of `data`; joined they are `data` again (lower-cased if asked).

    Bytes that are no UTF-8 travel as surrogate escapes: `chunk.encode("utf-8",
    "surrogateescape")` gives a chunk's bytes.
    """
    text = data.decode("utf-8", "surrogateescape")
    if not case_sensitive:
        text = lower(text)
    if split == "none":
        return [text] if text else []
    return _compiled(PATTERNS[split]).findall(text)


def last_cut(text: str, split: str) -> int:
    """The last place of `text` where CUTS allows to cut it, or 0; `split` is not 'none'."""
    found = _compiled(CUTS[split]).search(text)
    return found.start() if found else 0


def lower(text: str) -> str:
    """Lower case, character by character.

    str.lower looks around a capital sigma and writes the final form at a word's end;
    Hugging Face's Lowercase does not, and ids must agree with it.
    """
    return text.replace("Σ", "σ").lower()


@cache
def _compiled(pattern: str):
    import regex  # here, so that the other tokenizers start without it

    return regex.compile(pattern)
