"""``python -m benchmarks.chunks``: what inner chunks of several sizes cost to store and to read.

The same values, a run-length, a dense and a sparse track and the sequence, are written with each size; then random
windows of several widths are read, by one thread, the sizes in turns. Warm figures are processor time; before a cold
read the files are dropped from the page cache, and the time is the clock's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

import genostore
from benchmarks.data import CELL, CONTIG, QUICK, Bench, disjoint
from genostore import local
from genostore.schema import ALIGNMENT, position_array
from genostore.staging import Staging, create

SIZES = (1_024, 2_048, 4_096, 8_192, 16_384)
ABOUT = ("kind", "cell_type", "assay")  # what a reader needs to know of a node
SHAPES = ((2_000, 64), (2_000, 512), (20_000, 64), (200_000, 16))
NODES = {
    "run-length": f"tracks/{CELL}/t0",
    "dense": f"tracks/{CELL}/dense",
    "sparse": f"tracks/{CELL}/sparse",
    "sequence": "sequence",
}


def write(folder: Path, bench: Bench, chunk: int) -> None:
    """Write the values with chunks of a size."""
    source = bench.store
    storage = create(folder, source.genome)
    with patch("genostore.schema.POSITION_CHUNK", chunk):
        for node in NODES.values():
            values = source.array(node)
            schema = position_array(source.genome.length, ALIGNMENT, values.schema.dtype, values.schema.fill)
            staging = Staging(storage, node, {"": schema}, "chunks")
            staging.begin()
            for block in staging.todo():
                staging.write(block, values.read(*schema.slices(block))).wait()
            staging.publish({key: source.entries[node][key] for key in ABOUT if key in source.entries[node]})


def megabytes(array: Path) -> float:
    """Size of an array on disk."""
    return sum(f.stat().st_size for f in array.rglob("*") if f.is_file()) / 1e6


def drop(folder: Path) -> None:
    """Drop a store's files from the page cache."""
    for file in folder.rglob("c/*"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(folders: dict[int, Path], kind: str, starts: np.ndarray, width: int, batch: int) -> list[str]:
    """Give a row's cells: warm and cold, us a window; the first batch is not counted."""
    regions = pd.DataFrame({"contig": CONTIG, "start": starts, "end": starts + width})
    sequence = kind == "sequence"
    assays = [] if sequence else [NODES[kind].rpartition("/")[2]]
    windows = {
        chunk: genostore.open(folder).windows(
            regions=regions, cell_types=[CELL], assays=assays, sequence=sequence, width=width
        )
        for chunk, folder in folders.items()
    }
    times: dict[tuple[int, str], list[float]] = {(c, how): [] for c in folders for how in ("warm", "cold")}
    for number, rows in enumerate(np.split(np.arange(len(starts)), len(starts) // batch)):
        for how, clock in (("cold", time.perf_counter), ("warm", time.process_time)):
            for chunk, some in windows.items():
                if how == "cold":
                    drop(folders[chunk])
                began = clock()
                some.read(rows)
                if number:
                    times[chunk, how].append((clock() - began) / batch * 1e6)
    return [f"{statistics.median(times[c, 'warm']):.1f} / {statistics.median(times[c, 'cold']):.0f}" for c in folders]


def table(bench: Bench, scratch: Path, repeats: int) -> Iterator[str]:
    """Give the lines of a table in Markdown."""
    folders = {chunk: scratch / f"{chunk}.zarr" for chunk in SIZES}
    for chunk, folder in folders.items():
        write(folder, bench, chunk)
    yield "| values | work | " + " | ".join(f"{chunk:,}" for chunk in SIZES) + " |"
    yield "|---" * (2 + len(SIZES)) + "|"
    rng = np.random.default_rng(0)
    for kind, node in NODES.items():
        extent = bench.size.extent(kind)
        sizes = " | ".join(f"{megabytes(folder / node):.1f} MB" for folder in folders.values())
        yield f"| {kind} | on disk | {sizes} |"
        for width, batch in SHAPES:
            n = min(repeats, extent // (2 * width * batch))  # windows that overlap no others
            if n:
                cells = measure(folders, kind, disjoint(rng, extent, width, batch * (n + 1)), width, batch)
                yield f"| | {width // 1000} kb, batch {batch} | {' | '.join(cells)} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="where the inputs are kept for the next run")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, local.sharing(local.processors()):
        for line in table(Bench(options.data or Path(scratch, "data"), QUICK), Path(scratch), options.repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
