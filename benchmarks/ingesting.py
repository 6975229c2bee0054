"""What one more track costs at ingest, start-up left out: against decoding it alone, and with two workers."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median

from benchmarks.data import CELL, Bench, warm
from benchmarks.harness import Bar, Result, Row
from benchmarks.ingest_track import measure

FEW = 2
MANY = {"tiny": 4, "quick": 8, "full": 12}  # tracks of two catalogues; both share out evenly to two workers
REPEATS = {"tiny": 1, "quick": 3, "full": 7}


def write_catalogue(bench: Bench, tracks: int) -> Path:
    """Write a catalogue of the sequence and some tracks."""
    sources = [bench.bigwig(f"t{k}") for k in range(tracks)]
    for path in [bench.fasta, *sources]:
        warm(path)
    entries = "".join(f"  - {{cell_type: {CELL}, assay: {p.stem}, source: {p.name}}}\n" for p in sources)
    path = bench.folder / f"ingest{tracks}.yaml"
    path.write_text(f"version: 1\nassembly: {{name: bench, fasta: {bench.fasta.name}}}\ntracks:\n{entries}")
    return path


def run(bench: Bench) -> Result:
    """Take turns, each in a process of its own; a track costs the difference of the medians, over the tracks."""
    result = Result("ingest")
    many, length = MANY[bench.size.name], bench.size.length
    catalogues = {n: write_catalogue(bench, n) for n in (FEW, many)}
    decoding: list[float] = []
    seconds: dict[tuple[int, int], list[float]] = {(n, w): [] for w in (1, 2) for n in catalogues}
    for _ in range(REPEATS[bench.size.name]):
        for k in range(FEW):
            path = str(bench.bigwig(f"t{k}"))
            decoding.append(measure("reference", path, str(length), folder=bench.folder)["seconds"])
        for (n, workers), found in seconds.items():
            store = bench.folder / "ingested.zarr"
            shutil.rmtree(store, ignore_errors=True)
            command = ("ingest", str(catalogues[n]), str(store), str(workers))
            found.append(measure(*command, folder=bench.folder)["seconds"])
    alone = median(decoding)
    one, two = ((median(seconds[many, w]) - median(seconds[FEW, w])) / (many - FEW) for w in (1, 2))
    work = f"one more track of {length / 1e6:g} Mb, {bench.size.intervals:,} intervals"
    for name, value, measured in (
        ("genostore, 1 worker", one, seconds[many, 1]),
        ("genostore, 2 workers", two, seconds[many, 2]),
        ("pyBigWig.values(numpy=True) alone", alone, decoding),
    ):
        result.rows.append(Row(work, name, value, "s a track", value / one, len(measured), seconds=measured))
    result.bars += [
        Bar("ingest of one more track, 1 worker", "pyBigWig.values(numpy=True)", "at most", 1.6, one / alone),
        Bar("ingest, 2 workers", "1 worker", "at least", 1.7, one / two),
    ]
    return result
