"""Random windows, straight from the store: ``windows.read`` against readers of bigWigs and of raw arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.data import Bench, Size, disjoint
from benchmarks.harness import Result, compare, installed, split
from benchmarks.readers import Readers

SLOW = {"zarr-python loop": 200_000, "zarrs loop": 400_000, "pybigtools loop": 4_000_000, "pyBigWig loop": 40_000_000}
"""Bases that a batch may have for a slow reader to take part."""
MAPPED = 3  # tracks that are written out uncompressed, 4 bytes a base


@dataclass(frozen=True)
class Work:
    """Batches of random windows."""

    kind: str  # run-length, dense or sparse
    width: int
    batch: int
    tracks: int
    repeats: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.width // 1000} kb, batch {self.batch}, {self.tracks} track{'s'[: self.tracks > 1]}"


RANDOM_2KB = Work("run-length", 2_000, 64, 1, 21)
RANDOM_200KB = Work("run-length", 200_000, 16, 1, 9)
OTHERS = [
    Work("run-length", 2_000, 64, 3, 9),
    Work("dense", 2_000, 64, 1, 9),
    Work("sparse", 2_000, 64, 1, 9),
]
FULL = [
    *(Work("run-length", 2_000, 1, tracks, 51) for tracks in (1, 3, 30)),
    *(Work("run-length", 2_000, batch, tracks, 9) for batch in (64, 512) for tracks in (1, 3, 30)),
    *(Work("run-length", 20_000, 1, tracks, 51) for tracks in (1, 3, 30)),
    *(Work("run-length", 20_000, 64, tracks, 7) for tracks in (1, 3, 30)),
    *(Work("run-length", 20_000, 512, tracks, 3) for tracks in (1, 3)),
    *(Work("run-length", 200_000, 1, tracks, 31) for tracks in (1, 3)),
    *(Work("run-length", 200_000, 16, tracks, 7) for tracks in (1, 3)),
    Work("run-length", 200_000, 16, 30, 3),
    Work("run-length", 200_000, 64, 1, 2),
    *(Work(kind, 2_000, batch, 1, 8) for kind in ("dense", "sparse") for batch in (64, 512)),
    *(Work(kind, 20_000, 64, 1, 5) for kind in ("dense", "sparse")),
    *(Work(kind, 200_000, 8, 1, 4) for kind in ("dense", "sparse")),
]
TINY = [Work("run-length", 2_000, 8, 3, 2), Work("dense", 2_000, 8, 1, 2), Work("sparse", 20_000, 4, 1, 2)]


def run(bench: Bench) -> Result:
    """Compare on every piece of work of the run's size."""
    result = Result("lazy")
    works = {"tiny": TINY, "quick": [RANDOM_2KB, RANDOM_200KB, *OTHERS]}.get(bench.size.name)
    if works is None:
        works = list(dict.fromkeys([RANDOM_2KB, RANDOM_200KB, *FULL]))
    for i, work in enumerate(works):
        rows = _compare(bench, work, result if i == 0 else Result("lazy"))
        result.rows += rows
    for work, contender, bar in (
        (RANDOM_2KB, f"figwig, {bench.threads} threads", 5),
        (RANDOM_2KB, "pyBigWig loop", 5),
        (RANDOM_200KB, f"figwig, {bench.threads} threads", 4.5),
    ):
        result.bar(str(work), contender, bar)
    return result


def draw(work: Work, size: Size) -> np.ndarray:
    """Draw the starts of the windows of all repeats, and of the first, which is not timed."""
    return disjoint(np.random.default_rng(1), size.extent(work.kind), work.width, work.batch * (work.repeats + 1))


def _compare(bench: Bench, work: Work, result: Result) -> list:
    assays = [work.kind] if work.kind in ("dense", "sparse") else bench.tracks[: work.tracks]
    starts = draw(work, bench.size)
    readers = Readers(bench, assays, starts, work.width)
    makers = {
        "genostore": readers.genostore,
        "figwig": readers.figwig,
        "pyBigWig": readers.pybigwig,
        "pybigtools": readers.pybigtools,
        "TensorStore": readers.tensorstore,
        "zarr-python": readers.zarr_python,
        "zarrs": readers.zarrs,
    }
    if work.tracks <= MAPPED:
        makers["memmap"] = readers.memmap
    bases = work.batch * work.tracks * work.width
    contenders = [c for c in installed(makers, result, "lazy") if SLOW.get(c.name, bases) >= bases]
    return compare(
        str(work),
        contenders,
        split(len(starts), work.repeats + 1),
        work.batch * work.tracks,
        "us a window and track",
        bench.clock,
    )
