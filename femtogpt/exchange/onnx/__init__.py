"""A model as one ONNX file, for onnxruntime and what else runs such files.

graph.py says what a model computes, in ONNX's operators, format.py what the bytes are.
"""

from .checking import missing
from .writing import write

__all__ = ["missing", "write"]
