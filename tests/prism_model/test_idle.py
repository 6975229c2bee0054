"""The program prism lets OpenMP's idle threads sleep, in time for torch, unless the user wants otherwise."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, sys
from click.testing import CliRunner
from prism_model.cli import main
os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
CliRunner().invoke(main, ["evaluate", "--help"])
print(os.environ.pop("OMP_WAIT_POLICY"), "GOMP_SPINCOUNT" in os.environ)
assert "torch" not in sys.modules
CliRunner().invoke(main, ["evaluate", "nowhere"])
print(os.environ["OMP_WAIT_POLICY"], "GOMP_SPINCOUNT" in os.environ)
import torch
from prism_model.idle import let_idle_threads_sleep
print(let_idle_threads_sleep())
"""


def test_prism_sets_the_policy_before_torch_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ACTIVE", "False", "PASSIVE", "True", "False"]
