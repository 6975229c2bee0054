"""An ingest whose native reader crashes in the workers."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

import ingest
from genostore.errors import GenostoreError
from ingest.nodes.track import TrackNode


class Crashing:
    """A signal whose reading ends the process."""

    def __init__(self, path: Path, died: str) -> None:
        self.path, self.died = path, died

    def values(self, contig: str, start: int, end: int) -> Any:
        Path(self.died).touch()
        return ctypes.string_at(0)


def run(catalogue: str, store: str, died: str) -> None:
    """Ingest with two workers, which die, and leave a file that says so."""
    plan = ingest.plan(catalogue, store)
    nodes = [replace(n, signal=Crashing(n.signal.path, died)) if isinstance(n, TrackNode) else n for n in plan.nodes]
    try:
        ingest.run(replace(plan, nodes=tuple(nodes)), workers=2)
    except GenostoreError as error:
        print(error)
