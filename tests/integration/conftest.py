"""Stores made from the public files, once a session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

import genostore
import ingest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "real"


@dataclass(frozen=True)
class RealSet:
    """A catalogue of public files, the store made from it, and the folder of the files themselves."""

    catalogue: Path
    store: Path
    data: Path

    def open(self) -> genostore.Store:
        return genostore.open(self.store)


@pytest.fixture(scope="session")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RealSet]]:
    """Give a set by the name of its catalogue (``yeast``), ingested when it is first asked for."""
    base = tmp_path_factory.getbasetemp()
    together = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # workers of one session share the stores
    folders = {"yeast": "yeast", "k562_hg38": "k562_chr22_hg38", "k562_hg19": "k562_chr22_hg19"}

    def give(name: str) -> RealSet:
        found = RealSet(EXAMPLES / f"{name}.yaml", together / f"{name}.zarr", shared / "data" / folders[name])
        done = together / f"{name}.done"
        with FileLock(together / f"{name}.lock"):
            if not done.exists():
                ingest.run(ingest.plan(found.catalogue, found.store))
                done.touch()
        return found

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GENOSTORE_SHARED", str(shared))
        environment.setenv("GENOSTORE_CACHE", str(base / "cache"))
        yield give
