"""Memory that a process frees and wants again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGE = 2**31 - 1  # bytes


def keep_freed_memory() -> bool:
    """Let the C library keep the memory that this process frees, for what it makes next.

    By default glibc gives each large array fresh pages and returns them at once, so training on a processor and
    ingest spend much of their time on page faults. The resident size stays at its peak instead of falling.

    Returns
    -------
    bool
        Whether the C library can do so (glibc can).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGE)) and bool(mallopt(_TRIM_THRESHOLD, LARGE))
