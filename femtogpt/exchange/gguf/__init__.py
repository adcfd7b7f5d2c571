"""A model as one GGUF file for llama.cpp.

layout.py says which architecture computes what a model does, hf/widening.py how its head's bias
goes where there is none, vocabulary.py how tokenizers are spelled, format.py what the bytes are.
"""

from .checking import missing
from .writing import DTYPES, write

__all__ = ["DTYPES", "missing", "write"]
