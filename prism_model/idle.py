"""Threads that have nothing to do."""

from __future__ import annotations

import os
import sys


def let_idle_threads_sleep() -> bool:
    """Have OpenMP's threads, on which torch runs, sleep between two parallel loops: before torch is loaded.

    By default they spin for some milliseconds, on processors that the compiled loops, a loader or another program
    could use. A policy that the user chose (``OMP_WAIT_POLICY``) stays.

    Returns
    -------
    bool
        Whether it came in time.
    """
    if "torch" in sys.modules:
        return False
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return True
