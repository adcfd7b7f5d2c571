"""BPE vocabularies as Hugging Face's `tokenizer.json`."""

from __future__ import annotations

from typing import NamedTuple

from femtogpt.errors import FemtoError, short
from femtogpt.tokenizer.split import PATTERNS


class BPEData(NamedTuple):
    """All that defines a byte-level BPE tokenizer.

    pieces          id -> bytes, special tokens included; maybe not every byte is one
    merges          (left id, right id, id of the two joined), first come first merged
    special_tokens  spelling -> id; their pieces are the spellings in UTF-8
    split           'gpt2', 'gpt4' or 'none'
    case_sensitive  False: text is lower-cased first
    """

    pieces: list[bytes]
    merges: list[tuple[int, int, int]]
    special_tokens: dict[str, int]
    split: str
    case_sensitive: bool


def bytes_without_token(data: BPEData) -> list[int]:
    """The bytes that no ordinary token is: a text that has one cannot be encoded."""
    special = set(data.special_tokens.values())
    ordinary = {piece for id, piece in enumerate(data.pieces) if id not in special}
    return [byte for byte in range(256) if bytes([byte]) not in ordinary]


def byte_alphabet() -> list[str]:
    """The 256 characters by which byte-level files spell bytes 0..255.

    Latin-1's visible characters spell themselves; the others, in order, U+0100 on.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    alphabet, free = [], 0x100
    for byte in range(256):
        alphabet.append(chr(byte if byte in visible else free))
        free += byte not in visible
    return alphabet


_ALPHABET = byte_alphabet()
_BYTE_OF = {character: byte for byte, character in enumerate(_ALPHABET)}


def spell(piece: bytes) -> str:
    """`piece` in the byte alphabet."""
    return "".join([_ALPHABET[byte] for byte in piece])


def _pre_tokenizer(split: str) -> dict:
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": split == "gpt2",
    }
    if split != "gpt4":
        return byte_level
    pattern = {
        "type": "Split",
        "pattern": {"Regex": PATTERNS[split]},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [pattern, byte_level]}


def to_huggingface(data: BPEData) -> dict:
    """The content of a `tokenizer.json` that Hugging Face's `tokenizers` loads.

    It gives the same ids for the same text, with two exceptions that are its own
    habits: it takes the letters of a special token in a text for that token, which
    we do only when asked; and it drops, without a word, bytes that have no token,
    where we refuse the text.
    """
    spelling = [spell(piece) for piece in data.pieces]
    for name, id in data.special_tokens.items():
        spelling[id] = name
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, id in data.special_tokens.items()
        ],
        "normalizer": None if data.case_sensitive else {"type": "Lowercase"},
        "pre_tokenizer": _pre_tokenizer(data.split),
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: id for id, name in enumerate(spelling)},
            # "a b" and not ["a", "b"]: older versions of `tokenizers` read only this.
            "merges": [f"{spelling[left]} {spelling[right]}" for left, right, _ in data.merges],
        },
    }


def from_huggingface(obj: object) -> BPEData:
    """The tokenizer in a parsed `tokenizer.json`.

    Any byte-level BPE file can be read whose pre-split is one of ours: GPT-2's, for
    instance. Raises FemtoError, in one line, for a damaged file and for one that uses
    what we cannot do; nothing that would change ids is passed over.
    """
    if not isinstance(obj, dict) or not isinstance(obj.get("model"), dict):
        raise FemtoError('not a tokenizer.json: it has no "model" object')
    model = obj["model"]
    if model.get("type", "BPE") != "BPE":
        raise FemtoError(f"its model is {short(model['type'])}; only byte-level BPE can be read")
    for where, keys in (
        (obj, ("truncation", "padding")),
        (
            model,
            ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
            + ("byte_fallback", "ignore_merges"),
        ),
    ):
        for key in keys:
            if where.get(key):
                raise FemtoError(f'it sets "{key}", which femtogpt cannot do; unset it')
    if _type(obj.get("post_processor")) not in (None, "ByteLevel"):
        raise FemtoError("its post_processor adds tokens, which femtogpt cannot do; set it to null")
    if _type(obj.get("normalizer")) not in (None, "Lowercase"):
        raise FemtoError("its normalizer is neither null nor Lowercase; no other can be read")
    lowered = obj.get("normalizer") is not None
    special_tokens = _read_added_tokens(obj.get("added_tokens") or [], lowered)
    pieces, id_of = _read_vocab(model.get("vocab"), special_tokens)
    data = BPEData(
        pieces=pieces,
        merges=_read_merges(model.get("merges"), id_of),
        special_tokens=special_tokens,
        split=_read_split(obj.get("pre_tokenizer")),
        case_sensitive=not lowered,
    )
    missing = len(bytes_without_token(data))
    if missing == 256:
        raise FemtoError("no single byte has a token; only byte-level BPE can be read")
    if missing and model.get("unk_token") is not None:
        raise FemtoError(
            f'it has "unk_token" for the {missing} bytes without a token, which femtogpt cannot '
            "do; set it to null, and a text with such a byte is refused"
        )
    return data


def _type(component: object) -> object:
    if component is None:
        return None
    return component.get("type", "?") if isinstance(component, dict) else "?"


def _read_split(component: object) -> str:
    steps = [component]
    if _type(component) == "Sequence":
        steps = component.get("pretokenizers")
    if not isinstance(steps, list) or not steps or _type(steps[-1]) != "ByteLevel":
        raise FemtoError("its pre_tokenizer is not ByteLevel; only byte-level BPE can be read")
    *before, byte_level = steps
    if byte_level.get("add_prefix_space", True):
        raise FemtoError("its ByteLevel adds a space in front, which femtogpt cannot do")
    use_regex = byte_level.get("use_regex", True)
    if not before:
        return "gpt2" if use_regex else "none"
    pattern = None
    if len(before) == 1 and _type(before[0]) == "Split" and not use_regex:
        step = before[0]
        pattern = step.get("pattern")
        # Both patterns match every character, so these two ways to cut are one.
        cut = (step.get("behavior"), bool(step.get("invert")))
        if isinstance(pattern, dict) and cut in (("Isolated", False), ("Removed", True)):
            for split, known in PATTERNS.items():
                if pattern.get("Regex") == known:
                    return split
    what = f" {short(pattern)}" if pattern is not None else ""
    raise FemtoError(
        f"its pre_tokenizer cuts text by a pattern{what}; only GPT-2's and GPT-4's can be read"
    )


def _read_added_tokens(tokens: object, lowered: bool) -> dict[str, int]:
    if not isinstance(tokens, list):
        raise FemtoError('"added_tokens" must be a list')
    special_tokens: dict[str, int] = {}
    for token in tokens:
        name, id = (token.get("content"), token.get("id")) if isinstance(token, dict) else (0, 0)
        if not isinstance(name, str) or not name or type(id) is not int:
            raise FemtoError('each of "added_tokens" needs a "content" string and an "id" number')
        if name in special_tokens:
            raise FemtoError(f"the added token {short(name)} is listed twice")
        # What makes others find it in places, or by ways, where we would not.
        for key in ("single_word", "lstrip", "rstrip", *(("normalized",) if lowered else ())):
            if token.get(key):
                raise FemtoError(
                    f'the added token {short(name)} sets "{key}", which femtogpt cannot do; '
                    "unset it"
                )
        if not token.get("special", True):
            raise FemtoError(
                f"the added token {short(name)} is not special: it is cut out of every text, which "
                'femtogpt does with special tokens alone, and when asked; set its "special"'
            )
        special_tokens[name] = id
    return dict(sorted(special_tokens.items(), key=lambda item: item[1]))


def _read_vocab(
    vocab: object, special_tokens: dict[str, int]
) -> tuple[list[bytes], dict[str, int]]:
    """id -> bytes of all tokens, and spelling -> id of those that are not special."""
    if not isinstance(vocab, dict) or not all(type(id) is int for id in vocab.values()):
        raise FemtoError('"vocab" must be an object of token -> id')
    by_id: dict[int, tuple[str, bytes]] = {}
    for name, id in [*vocab.items(), *special_tokens.items()]:
        if name in special_tokens:
            if vocab.get(name, special_tokens[name]) != special_tokens[name]:
                raise FemtoError(f"the added token {short(name)} has two ids")
            try:
                piece = name.encode()
            except UnicodeEncodeError:
                raise FemtoError(f"the added token {short(name)} is no valid UTF-8") from None
        else:
            try:
                piece = bytes([_BYTE_OF[character] for character in name])
            except KeyError:
                raise FemtoError(
                    f"the token {short(name)} is not spelled in byte-level BPE"
                ) from None
        if by_id.setdefault(id, (name, piece))[0] != name:
            raise FemtoError(
                f"{short(by_id[id][0])} and {short(name)} have the same id {short(id)}"
            )
    missing = next((id for id in range(len(by_id)) if id not in by_id), None)
    if missing is not None:
        raise FemtoError(f"id {missing} is missing; {len(by_id)} tokens need ids from 0 on")
    id_of = {name: id for name, id in vocab.items() if name not in special_tokens}
    if "" in id_of:
        raise FemtoError(f"the token with id {id_of['']} is empty")
    return [by_id[id][1] for id in range(len(by_id))], id_of


def _read_merges(merges: object, id_of: dict[str, int]) -> list[tuple[int, int, int]]:
    if not isinstance(merges, list):
        raise FemtoError('"merges" must be a list')
    out: dict[tuple[int, int], int] = {}
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(side, str) for side in pair)
        ):
            raise FemtoError(f"merge {number} is not a pair of tokens")
        left, right = pair
        for name in (left, right, left + right):
            if name not in id_of:
                raise FemtoError(
                    f"merge {number} needs the token {short(name)}, which is not in vocab"
                )
        key = id_of[left], id_of[right]
        if key in out:
            raise FemtoError(f"merge {number} is listed twice")
        out[key] = id_of[left + right]
    return [(left, right, new) for (left, right), new in out.items()]
