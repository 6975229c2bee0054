"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from genostore.memory import collect_rarely

# What is computed here is small, and several tests run at once: further threads would wait for one another, and spin.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
if not Path("/dev/nvidiactl").exists():
    # Triton's kernels look at it when they are imported, which any test may be the first to do.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_finish() -> None:
    """Spare what is imported by now every search for garbage: it stays, and is most of what lives."""
    collect_rarely()
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Give it back, so that its end is as it would be."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public files to test on; tests that need it skip where it is absent.

    With ``GENOSTORE_SHARED`` set its absence is a failure, so that CI cannot skip by accident.
    """
    named = os.environ.get("GENOSTORE_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if (folder / "data" / "MANIFEST.md").is_file():
        return folder
    if named:
        pytest.fail(f"GENOSTORE_SHARED is {named!r}, which holds no data/MANIFEST.md")
    pytest.skip("the public test files are not here; set GENOSTORE_SHARED to their folder")
