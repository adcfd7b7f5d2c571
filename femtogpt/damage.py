"""What can still be told of a model file that is damaged."""

import contextlib
import os

from .checkpoint import LARGEST_HEADER, parse_header
from .errors import FemtoError

SHOWN = ("vocab_size", "num_tokens", "embedding_degree", "num_layers", "num_heads", "recipe")


def what_can_be_told(path):
    """One sentence, without trust in any byte of the file."""
    told = []
    with contextlib.suppress(OSError, FemtoError, LookupError, TypeError, ValueError,
                             AttributeError, ArithmeticError):
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header, metadata = parse_header(path, file.read(min(length, LARGEST_HEADER)))
        told.append(f"step {metadata['step']!r:.20}")
        config = metadata["config"]
        told.append(", ".join(f"{name} {config[name]!r:.20}" for name in SHOWN))
        told.append(f"tokenizer {metadata['tokenizer']['kind']!r:.20}")
        whole = 8 + length + max(int(entry["data_offsets"][1]) for entry in header.values())
        if whole == size:
            told.append(f"all {size:,} bytes are there, but some were changed")
        else:
            told.append(f"{size:,} bytes are there, of {whole:,}")
    if not told:
        return "nothing can be read of its header"
    return "its header, which may be damaged too, tells: " + "; ".join(told)
