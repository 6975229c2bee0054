"""Memory of training on a processor."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGE = 2**31 - 1  # bytes


def keep_freed_memory() -> bool:
    """Let the C library keep the memory that this process frees, for its next tensors.

    By default glibc gives each large tensor fresh pages and returns them at once, so a training step on a processor
    spends most of its time on page faults. The resident size stays at its peak instead of falling between steps.

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
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, _LARGE))
