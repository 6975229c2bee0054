"""How a program of ours handles its memory; a library leaves that to who uses it."""

from __future__ import annotations

import ctypes
import gc
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


def collect_rarely() -> None:
    """Let Python look for cycles of garbage after 50,000 new objects rather than 700.

    Importing what a program needs makes a million objects that stay, and a sixth of a program's start went into looking
    through them.
    """
    gc.set_threshold(50_000, 20, 50)
