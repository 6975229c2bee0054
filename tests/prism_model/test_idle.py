"""The program prism lets OpenMP's idle threads sleep, in time for torch, unless the user wants otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from click.testing import CliRunner
from prism_model.cli import main
assert "torch" not in sys.modules
CliRunner().invoke(main, ["evaluate", "nowhere"])
print(os.environ["OMP_WAIT_POLICY"])
import torch
from prism_model.idle import let_idle_threads_sleep
print(let_idle_threads_sleep())
"""


@pytest.mark.parametrize(("chosen", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_prism_sets_the_policy_before_torch_is_loaded(chosen: dict[str, str], policy: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | chosen
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [policy, "False"]
