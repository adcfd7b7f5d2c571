"""The code's shape, read with ast: which file may import which, and a few house rules."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest

import femtogpt
from femtogpt.cli import COMMANDS

PACKAGE = Path(femtogpt.__file__).resolve().parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Imports run down this list, never up.
LEVELS = [
    {"__main__"},
    {"cli"},
    {"api", "playground"},
    {"report"},
    {"experiment", "trainer", "session", "compiling", "divergence", "sampler", "decoder", "scoring",
     "diagnosis", "estimate", "network", "quickstart", "writing",
     "inspection", "search", "surgery", "exchange"},
    {"about", "checkpoint", "damage", "durable", "looks", "run", "curve", "data", "batches",
     "cache", "token_files", "activations", "matrices", "model", "passes",
     "parallel", "shards", "crew", "reduction", "ranks", "optimizer", "muon", "update"},
    {"config", "tensors", "layers", "tokenizer", "drawing", "machine", "launch", "watchdog",
     "webpage", "errors"},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
LONGEST = 330  # lines of a file


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path):
    """femtogpt/cli/train.py -> ("femtogpt", "cli", "train"); a folder's __init__ is the folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def is_module(parts):
    place = PACKAGE.parent.joinpath(*parts)
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def imports(path):
    """Every imported module as a tuple of its parts, wherever in the file the import stands."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    found, whole = set(), tree(path)
    for_types_alone = "if TYPE_CHECKING:"
    whole.body = [n for n in whole.body if not ast.unparse(n).startswith(for_types_alone)]
    for node in ast.walk(whole):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                inner = (*base, alias.name)
                found.add(inner if base[0] == "femtogpt" and is_module(inner) else base)
    return found


def ours(path):
    return {parts for parts in imports(path) if parts[0] == "femtogpt"}


def names(paths):
    return [path.relative_to(PACKAGE).as_posix() for path in paths]


every_file = pytest.mark.parametrize("path", FILES, ids=names(FILES))


def test_the_reader_of_imports_sees_them():
    assert ("femtogpt", "layers", "norm") in imports(PACKAGE / "model.py")
    assert ("femtogpt", "checkpoint") in imports(PACKAGE / "trainer.py")
    assert ("femtogpt", "sampler") in imports(PACKAGE / "cli" / "generate.py")
    assert ("femtogpt", "layers", "matmul") in imports(PACKAGE / "parallel.py")
    assert ("numpy",) in imports(PACKAGE / "model.py")


@every_file
def test_imports_run_one_way(path):
    here = module_of(path)
    if here == ("femtogpt",):
        assert not ours(path)
        return
    assert here[1] in LEVEL, f"{here[1]} has no level yet: give it one in LEVELS"
    for parts in ours(path):
        if parts == ("femtogpt",):  # __version__
            continue
        assert LEVEL[parts[1]] >= LEVEL[here[1]], f"{'.'.join(here)} imports {'.'.join(parts)}"


def test_no_imports_go_in_circles():
    graph = {module_of(path): ours(path) - {module_of(path)} for path in FILES}
    # A folder's __init__ may import its files, and they the folder's other files by name.
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, " -> ".join(".".join(m) for m in [*open_, module])
        if module in done:
            return
        open_.append(module)
        for other in sorted(graph.get(module, ())):
            visit(other)
        open_.pop()
        done.add(module)

    for module in graph:
        visit(module)
    assert len(done) >= len(FILES)


def test_layers_import_layers_alone():
    files = sorted((PACKAGE / "layers").glob("*.py"))
    assert len(files) > 8
    for path in files:
        for parts in ours(path):
            assert parts[:2] == ("femtogpt", "layers") or parts == ("femtogpt",), path
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module is None:
                assert [alias.name for alias in node.names] == ["__version__"], path


@every_file
def test_only_the_command_line_knows_click_and_prints(path):
    if module_of(path)[1:2] == ("cli",):
        return
    assert not {"click", "tqdm"} & {parts[0] for parts in imports(path)}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id in ("print", "input"))
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("stdout", "stderr"), f"line {node.lineno}"


@every_file
def test_no_file_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@every_file
def test_nothing_unpickles_or_runs_text(path):
    assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & {m[0] for m in imports(path)}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert node.value.value is False


def test_every_folder_is_installed():
    listed = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    for path in FILES:
        assert f'"{".".join(module_of(path.parent / "__init__.py"))}"' in listed


def test_every_command_has_its_file_and_every_file_its_command():
    shared = {"__init__", "colours", "interactive", "logs", "options", "progress", "ranks",
              "signals", "streaming", "witness"}
    commands = {path.stem for path in (PACKAGE / "cli").glob("*.py")} - shared
    assert set(COMMANDS.values()) == commands
    for name, module in COMMANDS.items():
        # import is a word of Python's: its file is import_.py.
        assert module.removesuffix("_") == name.replace("-", "_") or name == "infer"


def is_overload(node):
    """numba's overloads and intrinsics say what they are in the function they stand for."""
    return any("overload" in ast.unparse(d) for d in node.decorator_list)


def public_things(path):
    """(node, its name) of all functions and classes that another file may use."""
    for node in tree(path).body:
        if (isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
                and not is_overload(node)):
            yield node, node.name


@every_file
def test_public_functions_and_classes_have_a_docstring(path):
    lacking = [name for node, name in public_things(path) if not ast.get_docstring(node)]
    assert not lacking


@every_file
def test_files_begin_with_a_docstring(path):
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree(path))


def test_each_layers_backward_stands_right_under_its_forward():
    pairs = 0
    for path in sorted((PACKAGE / "layers").glob("*.py")) + [PACKAGE / "model.py"]:
        functions = [n.name for n in tree(path).body if isinstance(n, ast.FunctionDef)]
        for before, name in pairwise(functions):
            pair = before.removesuffix("_forward") + "_backward"
            if before.endswith("_forward") and pair in functions:
                assert name == pair, path
                pairs += 1
    assert pairs >= 10
