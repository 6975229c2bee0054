from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from prism_model.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
for _ in range(20):
    torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16_000_000)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again() -> None:
    def faults(argument: str) -> tuple[str, int]:
        output = subprocess.check_output([sys.executable, "-c", SCRIPT, argument], text=True).split()
        return output[0], int(output[1])

    kept, few = faults("keep")
    _, many = faults("leave")
    assert kept == "True"
    assert few < many / 10
