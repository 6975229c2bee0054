"""Limits of memory that the system itself keeps, for tests of what happens there."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_most(more: int, limit: int = resource.RLIMIT_DATA) -> Iterator[None]:
    """Let this process, and those it starts, have so many bytes beyond what it has now."""
    name = {resource.RLIMIT_DATA: "VmData", resource.RLIMIT_AS: "VmSize"}[limit]
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (used + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))
