"""BPE vocabularies as a `.tiktoken` file: a line a token, base64 of its bytes and its rank.

tiktoken merges any two neighbours whose bytes together are a token, that of the lowest
rank first, and a rank is the id. That is what our merges do where each token is made by
one merge, in the order of ids, and from its own bytes comes out as itself. The last makes
the two agree: when tiktoken joins a pair, nothing has crossed the ends of what it makes,
so the bytes between them have gone the way they go alone, which ends with our merge.
"""

from __future__ import annotations

from base64 import b64encode
from itertools import pairwise

from femtogpt.errors import FemtoError
from femtogpt.tokenizer.bpe import BPETokenizer
from femtogpt.tokenizer.formats import bytes_without_token
from femtogpt.tokenizer.split import PATTERNS

INSTEAD = "write it as a .json file instead"
FEW = 4  # special tokens to name one by one


def to_tiktoken(tokenizer: BPETokenizer) -> tuple[str, list[str]]:
    """The content of a `.tiktoken` file, and what to tell the user that it does not hold.

    `tiktoken.Encoding` made of it, with the pre-split's pattern and the special tokens
    that the notes give, has the same ids for the same text. Raises FemtoError for what
    such a file cannot express.
    """
    data = tokenizer.data
    special_ids = set(data.special_tokens.values())
    ordinary = {id: piece for id, piece in enumerate(data.pieces) if id not in special_ids}
    if not data.case_sensitive:
        raise FemtoError(f"a .tiktoken file cannot say that text is lower-cased; {INSTEAD}")
    missing = len(bytes_without_token(data))
    if missing:
        raise FemtoError(
            f"a .tiktoken file needs a token for each byte, and {missing} have none; {INSTEAD}, "
            "or train with --base all"
        )
    in_order = all(one[2] < next[2] for one, next in pairwise(data.merges))
    if not (in_order and tokenizer.is_canonical()):
        raise FemtoError(
            "in a .tiktoken file the order of ids is that of merges, and each token what its own "
            f"bytes are merged to, which is not so here; {INSTEAD}"
        )
    lines = [f"{b64encode(piece).decode()} {id}\n" for id, piece in ordinary.items()]
    pattern = PATTERNS.get(data.split, r"(?s:.+)")
    notes = [f"the file holds no pre-split; tiktoken.Encoding needs pat_str=r\"{pattern}\""]
    if data.special_tokens:
        names = list(data.special_tokens.items())
        few = ", ".join(f"{name!r}: {id}" for name, id in names[:FEW])
        more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
        notes.append(f"the file holds no special tokens; tiktoken.Encoding needs "
                     f"special_tokens={{{few}}}{more}")
    return "".join(lines), notes
