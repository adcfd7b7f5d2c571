"""Benchmarks that reach into the package, run for a moment: what they call is still there."""

import json
import os
import subprocess
import sys

import pytest
from small import ROOT


@pytest.mark.parametrize(("name", "optimizer"), [("A", "adamw"), ("C", "muon")])
def test_where_a_step_s_time_goes(name, optimizer):
    run = subprocess.run(
        [sys.executable, "benchmarks/layers.py", name, "--seconds=0", "--json", "--threads=2",
         f"--optimizer={optimizer}"], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    functions, parts = told["micro_batch"]["functions_ms"], told["step_ms"]
    assert {"linear_forward", "linear_backward", "attention_backward"} < set(functions)
    assert all(ms > 0 for ms in functions.values())
    assert list(parts)[:5] == ["step", "matrices transposed", "shards", "sum", optimizer]
    assert all(parts[part] > 0 for part in ("step", "shards", "sum", optimizer))
    assert (parts["matrices transposed"] > 0) == (name == "C") and min(parts.values()) >= 0
