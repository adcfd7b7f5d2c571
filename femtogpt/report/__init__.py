"""A page on one model or several: how they learnt, what they know, what is wrong with them.

measuring.py measures; curves.py, samples.py, tokens_map.py, attention.py and hardest.py each draw a
part; writing.py puts them on one page, with report.css and report.js. What it shows works without
its script, which tells values where one points or moves by keys.
"""

from .measuring import Measured, measure
from .writing import write

__all__ = ["Measured", "measure", "write"]
