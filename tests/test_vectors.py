"""Kernels for other processors, and the folder that compiled kernels are kept in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

HERE = Path(__file__).parent
FEATURES = llvm.get_host_cpu_features()
KINDS = {"none": True, "avx2": FEATURES.get("avx2") and FEATURES.get("fma")}
# Whole steps are compiled for the kind that most processors have, which takes half a minute.
TESTS = {"none": ("rows", "matmul"), "avx2": ("rows", "matmul", "golden")}
FOLDER = "from femtogpt.layers.numeric import CACHE_FOLDER; print(CACHE_FOLDER)"
KERNEL = """
import numpy as np
from femtogpt.layers.sampling import weigh
logits = np.arange(8, dtype=np.float32).reshape(2, 4)
weights = np.empty_like(logits)
weigh(weights, logits, 1.0)
print(weights.tolist(), sum(weigh.stats.cache_hits.values()))
"""


def start(*arguments, root=HERE.parent, cwd=None, **variables):
    """A Python process with these environment variables, its output in a pipe."""
    environment = os.environ | {"PYTHONPATH": str(root)} | variables
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.Popen([sys.executable, *arguments], cwd=cwd or root, env=environment,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def printed(process):
    """What the process printed; it must have ended well."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    return output


@pytest.mark.parametrize("kind", KINDS)
def test_products_rows_and_whole_steps_are_right_with_other_vectors(kind):
    if not KINDS[kind]:
        pytest.skip(f"this processor has no {kind}")
    tests = [str(HERE / f"test_{name}.py") for name in TESTS[kind]]
    output = printed(start("-m", "pytest", "-x", "-p", "no:cacheprovider", *tests,
                           "-k", "not float64", FEMTOGPT_VECTORS=kind))
    assert "100%" in output


def test_an_unknown_kind_of_vectors_is_refused():
    process = start("-c", FOLDER, FEMTOGPT_VECTORS="sse")
    assert "FEMTOGPT_VECTORS=sse is not one of" in process.communicate()[0]
    assert process.returncode != 0


def test_vectors_versions_and_edited_kernels_have_kernel_folders_of_their_own(tmp_path):
    shutil.copytree(HERE.parent / "femtogpt", tmp_path / "femtogpt")
    folders = [printed(start("-c", FOLDER, root=tmp_path, FEMTOGPT_VECTORS=kind))
               for kind in ("avx2", "neon", "none")]
    for name, old, new in (("__init__.py", "__version__ = ", "__version__ = '9' + "),
                           ("layers/norm.py", "EPS = 1e-5", "EPS = 1e-3")):
        file = tmp_path / "femtogpt" / name
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
        folders.append(printed(start("-c", FOLDER, root=tmp_path, FEMTOGPT_VECTORS="none")))
    assert len(set(folders)) == len(folders)


def test_kernels_work_where_no_folder_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    nowhere = {"XDG_CACHE_HOME": str(tmp_path / "file"), "HOME": str(tmp_path / "file"),
               "LOCALAPPDATA": str(tmp_path / "file")}
    assert printed(start("-c", FOLDER, **nowhere)) == "None\n"
    numbers, hits = printed(start("-c", KERNEL, **nowhere)).rsplit(maxsplit=1)
    assert hits == "0" and numbers.startswith("[[0.0497")


def test_two_processes_compile_at_once_and_a_third_finds_it_done(tmp_path):
    folder = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path),
              "LOCALAPPDATA": str(tmp_path)}
    first, second = (start("-c", KERNEL, **folder) for _ in range(2))
    numbers = {printed(process).rsplit(maxsplit=1)[0] for process in (first, second)}
    third, hits = printed(start("-c", KERNEL, **folder)).rsplit(maxsplit=1)
    assert numbers == {third} and hits == "1"
