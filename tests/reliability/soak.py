"""Hours compressed into minutes, and genomes of billions of bases into seconds."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

import genostore
from genostore.genome import Genome
from genostore.local import processors
from genostore.schema import position_array
from genostore.staging import Staging, create
from tests.objects.server import BUCKET, environment, serve, upload
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
    return epochs_of(str(path), "a loader", epochs, warm)


def loader_on_s3(folder: Path, epochs: int, warm: int = 20) -> Row:
    """The same of a store in a bucket."""
    _, path = build(folder)
    with serve() as place, mock.patch.dict(os.environ, environment("http://{}:{}".format(*place))):
        upload(os.environ["AWS_ENDPOINT_URL"], path, "s.zarr")
        # A connection that was closed for being idle, or opened as several were busy, is no leak.
        return epochs_of(f"s3://{BUCKET}/s.zarr", "a loader from S3", epochs, warm, more_files=8)


def epochs_of(store: str, what: str, epochs: int, warm: int, more_files: int = 0) -> Row:
    """Compare what the process holds after the first epochs and at the end."""
    row = Row("soak", f"{what} over {epochs:,} epochs: threads, open files and memory at the start and the end")
    windows = genostore.open(store).windows(
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
    row.lost = int(end["threads"] > start["threads"] + processors() or end["files"] > start["files"] + more_files)
    row.wrong = int(end["MiB"] > 1.05 * start["MiB"] + 8)
    return row


def straddle(folder: Path) -> Row:
    """A track over a genome axis of 4.4 billion positions, with values about 2^31 and 2^32 alone."""
    genome = Genome.build("wheat", {f"c{i}": 740_000_000 for i in range(6)}, 16_384)
    row = Row("properties", "values at positions about 2^31 and 2^32 of the genome axis, as an array and as windows")
    edges, path = (1 << 31, 1 << 32), folder / "s.zarr"
    known = {at: float(at % 1_000) for edge in edges for at in range(edge - 3, edge + 3)}
    sparse_track(path, genome, known)
    store = genostore.open(path)
    rows = [(c.name, e - c.offset, e - c.offset + 1) for e in edges for c in genome if 0 <= e - c.offset < c.length]
    windows = store.windows(
        regions=pd.DataFrame(rows, columns=["contig", "start", "end"]),
        cell_types=["A"],
        assays=["x"],
        width=20,
        sequence=False,
    )
    expected = np.array([[known.get(at, np.nan) for at in range(edge - 10, edge + 10)] for edge in edges], np.float32)
    seen = {
        "array": np.stack([store.track("A", "x").read(slice(edge - 10, edge + 10)) for edge in edges]),
        "windows": windows.read([0, 1]).signal[:, :, 0],
        "loader": next(iter(windows.loader(2, missing="nan"))).signal.numpy()[:, :, 0],
    }
    for name, got in seen.items():
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        row.tried += same.size
        row.seen["equal to the model"] += int(same.sum())
        row.wrong += int((~same).sum())
        row.notes += [] if same.all() else [f"{name}: {got.tolist()}"]
    return row


def sparse_track(path: Path, genome: Genome, known: dict[int, float]) -> None:
    """Write a track that has values at a few positions of the genome axis and is silent elsewhere."""
    storage, schema = create(path, genome), position_array(genome.length, genome.alignment, "float32", float("nan"))
    staging = Staging(storage, "tracks/A/x", {"": schema}, "sparse")
    staging.begin()
    silent = np.full(schema.block[0], np.nan, dtype=np.float32)
    for number in range(schema.n_blocks):
        where = schema.slices(number)[0]
        values = silent[: where.stop - where.start]
        here = [at for at in known if where.start <= at < where.stop]
        if here:
            values = values.copy()
            values[[at - where.start for at in here]] = [known[at] for at in here]
        staging.write(number, values).wait()
    staging.publish({"kind": "track", "cell_type": "A", "assay": "x"})
