"""What the products of a training step multiply: float32, or numbers rounded to bfloat16.

Kernels take it as `bfloat16`, None or True: two types, so that each is compiled when first used.
"""

from . import numeric
from .vectors import HAS_BFLOAT16

PRECISIONS = {"float32": None, "bf16": True}


def has(precision):
    """Whether this processor has such products."""
    return not PRECISIONS[precision] or HAS_BFLOAT16


def use(precision):
    """What kernels take for a precision that this processor has.

    To be called before any kernel that is compiled for bfloat16: it brings what these call.
    """
    if PRECISIONS[precision]:
        from . import bfloat16  # noqa: F401
    return PRECISIONS[precision]


def is_compiled(kernels, precision="float32"):
    """numeric.is_compiled of kernels that are compiled for each precision."""
    pairs = numeric.is_compiled("layers_*/bfloat16.*")
    return pairs if PRECISIONS[precision] else numeric.is_compiled(kernels, versions=1 + pairs)
