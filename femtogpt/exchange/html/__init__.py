"""A model as one static page: a browser runs it, alone and without a network.

page.html is the page's frame, page.css its looks; tokenizer.js, decoder.js, sampler.js and page.js,
joined in that order, are its one script. tokens.py and writing.py fill the frame; check.py tells
what rounding the weights to float16 changes.
"""

from .writing import write

__all__ = ["write"]
