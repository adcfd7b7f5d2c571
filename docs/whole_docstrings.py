"""For mkdocs: module docstrings as they stand in the file."""

import ast

import griffe


class WholeDocstrings(griffe.Extension):
    """Griffe takes off what all lines but the first are indented by, as of a function's docstring.
    A module's is not indented: a formula that fills it would lose what makes it code."""

    def on_module(self, *, mod, **_):
        if mod.docstring:
            text = mod.filepath.read_text(encoding="utf-8")
            mod.docstring.value = ast.get_docstring(ast.parse(text), clean=False)
