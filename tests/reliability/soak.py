"""Hours compressed into minutes: a loader over many epochs, and stores of many tracks and many contigs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import genostore
from genostore.genome import Genome
from genostore.local import threads
from genostore.schema import position_array
from genostore.staging import Staging, create
from tests.reliability.record import Row
from tests.reliability.world import build


def resources() -> dict[str, float]:
    """Threads, open files and resident memory (MiB) of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208 - of the process itself
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "MiB": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    }


def loader(folder: Path, epochs: int, warm: int = 20) -> Row:
    """Read epochs; what the process holds after the first few must be what it holds at the end."""
    _, path = build(folder)
    row = Row("soak", f"a loader over {epochs:,} epochs: threads, open files and memory at the start and the end")
    windows = genostore.open(path).windows(
        cell_types=["K562"], assays=["DNase"], expression="CAGE", width=500, jitter=9
    )
    batches = windows.loader(batch_size=2, shuffle=True, seed=1, threads=2)
    start: dict[str, float] = {}
    for epoch in range(epochs):
        for batch in batches:
            assert batch.signal is not None
        if epoch == warm:
            start = resources()
    end = resources()
    row.tried = epochs
    for name, value in end.items():
        row.notes.append(f"{name}: {start[name]:.0f} -> {value:.0f}")
    row.seen.update(dict.fromkeys(row.notes, 1))
    # Pools start their last workers when they are first busy; a leak would be one an epoch.
    row.lost = int(end["threads"] > start["threads"] + threads() or end["files"] > start["files"])
    row.wrong = int(end["MiB"] > 1.05 * start["MiB"] + 8)
    return row


def add_tracks(path: Path, genome: Genome, numbers: range) -> None:
    """Write tracks of one value on the first contig."""
    storage = create(path, genome)
    schema = position_array(genome.length, genome.alignment, "float32", float("nan"))
    first = genome.contigs[0]
    for number in numbers:
        staging = Staging(storage, f"tracks/C{number}/x", {"": schema}, f"{number}")
        staging.begin()
        for block in staging.todo():
            where = schema.slices(block)[0]
            values = np.full(where.stop - where.start, np.nan, dtype=np.float32)
            if block == 0:
                values[: min(first.length, len(values))] = number
            staging.write(block, values).wait()
        staging.publish({"kind": "track", "cell_type": f"C{number}", "assay": "x", "provenance": {"source": "x" * 60}})


def timed(task: Callable[[], Any], times: int = 5) -> float:
    """Median processor time of a task, in milliseconds."""
    seen = []
    for _ in range(times):
        began = time.process_time()
        task()
        seen.append(time.process_time() - began)
    return 1_000 * median(seen)


def measure(path: Path) -> dict[str, float]:
    """What asking a store costs."""
    node = next(n for n, e in genostore.open(path).entries.items() if e["kind"] == "track")
    store = genostore.open(path)
    contig = next(iter(store.contigs))
    array = store.array(node)
    return {
        "open": timed(lambda: genostore.open(path)),
        "list": timed(lambda: genostore.open(path).tracks),
        "window": timed(lambda: array.read(slice(0, 500)), 50),
        "region": timed(lambda: store.genome.region((contig, 0, 500)), 50),
        "size_mb": sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 1e6,
    }


def growth(folder: Path, tracks: tuple[int, ...], contigs: tuple[int, ...]) -> dict[str, Any]:
    """Measure stores of ever more tracks, and of ever more contigs."""
    out: dict[str, Any] = {"tracks": {}, "contigs": {}}
    small, path, done, spent = Genome.build("g", {"c1": 20_000}, 16_384), folder / "tracks.zarr", 0, 0.0
    for n in tracks:
        began = time.process_time()
        add_tracks(path, small, range(done, n))
        spent, done = spent + time.process_time() - began, n
        out["tracks"][n] = {"ingest_s": spent, **measure(path)}
    for n in contigs:
        genome, path = Genome.build("g", {f"s{i}": 1_000 for i in range(n)}, 256), folder / f"contigs{n}.zarr"
        began = time.process_time()
        add_tracks(path, genome, range(1))
        out["contigs"][n] = {"ingest_s": time.process_time() - began, **measure(path)}
    return out


def straddle(folder: Path) -> Row:
    """A track over a genome axis of 4.4 billion positions, with values about 2^31 and 2^32 alone."""
    genome = Genome.build("wheat", {f"c{i}": 740_000_000 for i in range(6)}, 16_384)
    row = Row("properties", "values at positions about 2^31 and 2^32 of the genome axis")
    storage, schema = create(folder, genome), position_array(genome.length, genome.alignment, "float32", float("nan"))
    staging = Staging(storage, "tracks/A/x", {"": schema}, "wheat")
    staging.begin()
    block = schema.block[0]
    known: dict[int, float] = {}
    silent = np.full(block, np.nan, dtype=np.float32)
    for number in range(schema.n_blocks):
        where = schema.slices(number)[0]
        values = silent[: where.stop - where.start]
        for edge in (1 << 31, 1 << 32):
            for at in range(edge - 3, edge + 3):
                if where.start <= at < where.stop:
                    values = values.copy()
                    values[at - where.start] = known[at] = float(at % 1_000)
        staging.write(number, values).wait()
    staging.publish({"kind": "track", "cell_type": "A", "assay": "x"})
    assert len(known) == 12
    array = genostore.open(folder).track("A", "x")
    for edge in (1 << 31, 1 << 32):
        got = array.read(slice(edge - 10, edge + 10))
        for i, value in enumerate(got.tolist()):
            expected = known.get(edge - 10 + i)
            row.add(
                "equal to the model" if (expected is None) == np.isnan(value) and expected in (None, value) else "wrong"
            )
    row.wrong = row.seen["wrong"]
    return row
