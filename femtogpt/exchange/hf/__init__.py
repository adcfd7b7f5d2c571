"""A folder that transformers loads with AutoModelForCausalLM and AutoTokenizer, and back.

layout.py says which architecture computes what a model does, widening.py how a head's bias goes
where there is none, vocabulary.py how tokenizers are spelled. What a model has no place for there
is in the header of model.safetensors, which other programs pass over: config, tokenizer, step,
run, lineage, losses, and a bit for each number that was rounded on the way, so that the model
comes back to the bit.
"""

from .reading import read
from .writing import FILES, refuse_place, write

__all__ = ["FILES", "read", "refuse_place", "write"]
