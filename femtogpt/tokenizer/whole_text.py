"""Bytes of tokens to text, as they come: whole characters, and nothing of what ends the text."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter


class WholeText:
    """Takes token after token, and gives their text as soon as it is certain.

    Bytes that are no UTF-8 become the replacement character. ended: the stop text was met.

        >>> text = WholeText(stop="END")
        >>> text.take(b"a\\xe2", 1), text.take(b"\\x82\\xacE", 2), text.take(b"ND.", 3), text.ended
        ([('a', (1,))], [('€', (1, 2))], [], True)
    """

    def __init__(self, stop: str | None = None):
        self.ended = False
        self._stop = stop or ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting: list[tuple[str, tuple]] = []  # characters, and what was told of each
        self._begun: tuple = ()  # what was told of the tokens of a character that is not whole yet

    def take(self, piece: bytes, told: object = None) -> list[tuple[str, tuple]]:
        """The next token's bytes, and anything that is to be told with its text. Returns parts of
        the text: each with what was told of the tokens that made it."""
        self._decode(piece, told)
        text, keep = "".join(map(itemgetter(0), self._waiting)), 0
        if self._stop:
            if self._stop in text:
                certain = self._waiting[: text.index(self._stop)]
                self._waiting, self._begun, self.ended = [], (), True
                self._decoder.reset()  # of what is behind it
                return _parts(certain)
            keep = next((n for n in range(min(len(self._stop), len(text)), 0, -1)
                         if self._stop.startswith(text[-n:])), 0)
        held = len(text) - keep
        certain, self._waiting = self._waiting[:held], self._waiting[held:]
        return _parts(certain)

    def rest(self) -> list[tuple[str, tuple]]:
        """What is left when no token comes any more, as take gives it."""
        if text := self._decoder.decode(b"", final=True):
            self._waiting.append((text, self._begun))
        certain, self._waiting = self._waiting, []
        return _parts(certain)

    def _decode(self, piece, told):
        first, *more = self._decoder.decode(piece) or ("",)
        self._begun += (told,)
        if first:
            self._waiting += [(first, self._begun), *((c, (told,)) for c in more)]
            self._begun = (told,) if self._decoder.getstate()[0] else ()


def _parts(characters: Iterable[tuple[str, tuple]]) -> list[tuple[str, tuple]]:
    """Characters as text, side by side where the same was told of them."""
    return [("".join(map(itemgetter(0), group)), told)
            for told, group in groupby(characters, itemgetter(1))]
