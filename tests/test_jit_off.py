"""The kernels are plain Python: tests of layers, model and crew pass without numba too.

That also makes a kernel's error debuggable, with an ordinary debugger and bounds checks.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_layers_model_and_crew_pass_with_the_jit_off():
    """But for a case of attention over 601 tokens, which takes 10 s so; shorter ones remain. And of
    whole steps, which are long as well, those that end with no update."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider",
               *(str(HERE / f"test_{name}.py")
                 for name in ("layers", "model", "crew", "precision", "parallel")),
               "-k", "not folder and not 601-0.3 and (not parallel or nothing_is_updated)"]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    run = subprocess.run(command, cwd=HERE.parent, env=environment, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout
