"""Threads that have nothing to do."""

from __future__ import annotations

import os
import sys

SPINS = 3_000
"""How often an idle thread looks before it sleeps, some ten microseconds: one small operation of torch after the other
finds it awake, and nobody else misses the processor. Asleep, it takes longer to wake than most of them take."""


def let_idle_threads_sleep() -> bool:
    """Have OpenMP's threads, on which torch runs, sleep soon after a parallel loop: before torch is loaded.

    By default they spin for some milliseconds, on processors that the compiled loops, a loader or another program
    could use. What the user chose (``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``) stays.

    Returns
    -------
    bool
        Whether it came in time.
    """
    if "torch" in sys.modules:
        return False
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(SPINS)}
    return True
