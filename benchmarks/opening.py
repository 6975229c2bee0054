"""``genostore.open`` of a store with many tracks, and a read of one of them, against a store of ten."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks.data import CELL, CONTIG, Bench, make_fasta
from benchmarks.harness import Bar, Result, Row
from benchmarks.ingest_track import make_track

FEW, LENGTH, INTERVALS, REPEATS = 10, 100_000, 4_000, 21


def make_store(path: Path, tracks: int) -> None:
    """Ingest one track, and copy it under other names: what is measured is how many there are, not what they hold."""
    import genostore
    import ingest
    from genostore import index
    from genostore.seal import seal

    folder = path.with_name(f"{path.name}.sources")
    folder.mkdir(exist_ok=True)
    make_fasta(folder / "genome.fa", LENGTH)
    make_track(folder / "t0.bw", 0, LENGTH, INTERVALS)
    catalogue = folder / "catalog.yaml"
    entry = f"  - {{cell_type: {CELL}, assay: t0, source: t0.bw}}\n"
    catalogue.write_text(f"version: 1\nassembly: {{name: bench, fasta: genome.fa}}\ntracks:\n{entry}")
    ingest.run(ingest.plan(catalogue, path), workers=1)
    first = path / "tracks" / CELL / "t0"
    metadata = json.loads((first / "zarr.json").read_bytes())
    for k in range(1, tracks):
        copy = shutil.copytree(first, first.with_name(f"t{k}"))
        (copy / "zarr.json").write_bytes(seal(metadata, f"tracks/{CELL}/t{k}/zarr.json"))
    index.rebuild(genostore.open(path).storage)


def run(bench: Bench) -> Result:
    """Take turns; every turn opens anew."""
    import pandas as pd

    import genostore

    result = Result("open")
    stores = {n: bench.once(f"open{n}.zarr", lambda path, n=n: make_store(path, n)) for n in (FEW, bench.size.many)}
    regions = pd.DataFrame(
        {"contig": CONTIG, "start": np.arange(0, 64_000, 1_000), "end": np.arange(2_000, 66_000, 1_000)}
    )
    opened: dict[int, list[float]] = {n: [] for n in stores}
    read: dict[int, list[float]] = {n: [] for n in stores}
    for turn in range(REPEATS + 1):
        sums = set()
        for n, path in stores.items():
            began = time.perf_counter()
            store = genostore.open(path)
            assert len(store.entries) == n + 1
            middle = time.perf_counter()
            windows = store.windows(regions=regions, sequence=False, cell_types=[CELL], assays=["t7"])
            signal = windows.read(np.arange(len(windows))).signal
            end = time.perf_counter()
            sums.add(float(np.nansum(signal, dtype=np.float64)))
            if turn:  # the first loads what is imported or compiled when it is first used
                opened[n].append(middle - began)
                read[n].append(end - middle)
        assert len(sums) == 1, "the stores hold other values"
    for work, times in (("open, and list the tracks", opened), ("choose one track, read 64 windows", read)):
        base = times[FEW]
        for n, seconds in times.items():
            ratio = statistics.median(s / b for s, b in zip(seconds, base, strict=True))
            median = statistics.median(seconds) * 1e3
            result.rows.append(Row(work, f"{n:,} tracks", median, "ms", ratio, REPEATS, seconds=seconds))
    many = bench.size.many
    median = statistics.median(opened[many])
    result.bars.append(Bar(f"genostore.open, {many:,} tracks", "the clock", "at most", 0.3, median, "s"))
    ratio = statistics.median(s / b for s, b in zip(read[many], read[FEW], strict=True))
    result.bars.append(Bar(f"one-track read, {many:,} tracks", f"{FEW} tracks", "at most", 1.1, ratio))
    return result
