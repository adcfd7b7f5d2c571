"""Two small changes to any tokenizer: lower-casing its text, and reserving unused ids."""

from ..errors import FemtoError, short
from .protocol import as_bytes, check_ids, pack_ids
from .split import lower
from .stream import lowered


class LowercaseTokenizer:
    """A tokenizer that lower-cases all text first. The one deliberate loss there is."""

    def __init__(self, inner):
        self.inner, self.name, self.vocab_size = inner, inner.name, inner.vocab_size

    def encode(self, text):
        return self.inner.encode(lower(as_bytes(text).decode("utf-8", "surrogateescape")))

    def encode_blocks(self, blocks):
        return self.inner.encode_blocks(lowered(blocks))

    def decode(self, ids):
        return self.inner.decode(ids)

    def piece(self, id):
        return self.inner.piece(id)

    def to_json(self):
        return {"kind": "lowercase", "inner": self.inner.to_json()}


class ReservedTokenizer:
    """A tokenizer with `count` ids more, `<|reserved_0|>` and on, that no text yields."""

    def __init__(self, inner, count):
        if type(count) is not int or not 1 <= count <= 2**20:
            raise FemtoError(f"--reserve-tokens must be from 0 to {2**20}, not {short(count)}")
        self.inner, self.name, self.count = inner, inner.name, count
        self.vocab_size = inner.vocab_size + count

    def encode(self, text):
        return pack_ids(self.inner.encode(text), self.vocab_size)

    def encode_blocks(self, blocks):
        return (pack_ids(ids, self.vocab_size) for ids in self.inner.encode_blocks(blocks))

    def decode(self, ids):
        return b"".join(self.piece(id) for id in check_ids(ids, self.vocab_size).tolist())

    def piece(self, id):
        if id < self.inner.vocab_size:
            return self.inner.piece(id)
        check_ids([id], self.vocab_size)
        return b"<|reserved_%d|>" % (id - self.inner.vocab_size)

    def to_json(self):
        return {"kind": "reserved", "count": self.count, "inner": self.inner.to_json()}
