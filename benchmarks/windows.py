"""Random windows of run-length tracks: genostore's engine against readers of bigWigs and of raw arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Read, Row, compare
from benchmarks.ingest_track import make_track

CONTIG = "chr22"


def make_store(folder: Path, length: int, intervals: int, tracks: int) -> tuple[Path, list[Path]]:
    """Write bigWigs of random intervals, and ingest them."""
    import ingest

    rng = np.random.default_rng(0)
    bases = np.frombuffer(b"ACGT", dtype=np.uint8)[rng.integers(0, 4, length)].tobytes().decode()
    (folder / "genome.fa").write_text(f">{CONTIG}\n{bases}\n")
    paths = [folder / f"t{k}.bw" for k in range(tracks)]
    for k, path in enumerate(paths):
        make_track(path, k, length, intervals)
    entries = "".join(f"  - {{cell_type: A, assay: {p.stem}, source: {p.name}}}\n" for p in paths)
    catalogue = folder / "catalog.yaml"
    catalogue.write_text(f"version: 1\nassembly: {{name: bench, fasta: genome.fa}}\ntracks:\n{entries}")
    ingest.run(ingest.plan(catalogue, folder / "bench.zarr"))
    return folder / "bench.zarr", paths


def contenders(store: Path, paths: list[Path], width: int, threads: int) -> Iterator[tuple[str, Read]]:
    """Give every reader that is installed, ours first; each returns ``(windows, tracks, width)``."""
    yield "genostore", ours(store, [p.stem for p in paths], width)
    for make in (figwig, pybigtools, pybigwig, tensorstore, zarr_python):
        try:
            name, read = make(store, paths, width, threads)
        except ImportError:
            continue
        yield name, read


def ours(store: Path, assays: list[str], width: int) -> Read:
    """The engine of ``windows.read``, signal alone."""
    import genostore
    from genostore.arrays import Reads, Spans

    arrays = [genostore.open(store).track("A", assay) for assay in assays]

    def read(starts: np.ndarray) -> np.ndarray:
        out = np.full((len(starts), len(arrays), width), np.nan, dtype=np.float32)
        zero = np.zeros_like(starts)
        spans = Spans.clipped(starts, width, zero, zero + arrays[0].schema.shape[0])
        with Reads() as reads:
            for k, array in enumerate(arrays):
                reads.spans(array, spans, out[:, k])
        return out

    return read


def figwig(store: Path, paths: list[Path], width: int, threads: int) -> tuple[str, Read]:
    """Read the bigWigs with figwig."""
    import figwig

    readers = [figwig.BigWigReader(str(p)) for p in paths]

    def read(starts: np.ndarray) -> np.ndarray:
        return figwig.read_bigwig(readers, CONTIG, starts, width, missing=np.nan, n_jobs=threads)

    return f"figwig, {threads} threads", read


def pybigtools(store: Path, paths: list[Path], width: int, threads: int) -> tuple[str, Read]:
    """Loop over the bigWigs with pybigtools."""
    import pybigtools

    files = [pybigtools.open(str(p)) for p in paths]

    def read(starts: np.ndarray) -> np.ndarray:
        out = np.empty((len(starts), len(files), width), dtype=np.float32)
        for i, start in enumerate(starts.tolist()):
            for k, file in enumerate(files):
                out[i, k] = file.values(CONTIG, start, start + width)
        return out

    return "pybigtools loop", read


def pybigwig(store: Path, paths: list[Path], width: int, threads: int) -> tuple[str, Read]:
    """Loop over the bigWigs with pyBigWig."""
    import pyBigWig

    files = [pyBigWig.open(str(p)) for p in paths]

    def read(starts: np.ndarray) -> np.ndarray:
        out = np.empty((len(starts), len(files), width), dtype=np.float32)
        for i, start in enumerate(starts.tolist()):
            for k, file in enumerate(files):
                out[i, k] = file.values(CONTIG, start, start + width, numpy=True)
        return out

    return "pyBigWig loop", read


def tensorstore(store: Path, paths: list[Path], width: int, threads: int) -> tuple[str, Read]:
    """Read the store's arrays with TensorStore, one batch of reads."""
    import tensorstore as ts

    def open_array(path: Path) -> ts.TensorStore:
        kvstore = {"driver": "file", "path": f"{store}/tracks/A/{path.stem}/"}
        return ts.open({"driver": "zarr3", "kvstore": kvstore}, open=True, read=True).result()

    arrays = [open_array(p) for p in paths]

    def read(starts: np.ndarray) -> np.ndarray:
        out = np.empty((len(starts), len(arrays), width), dtype=np.float32)
        with ts.Batch() as batch:
            futures = [a[s : s + width].read(batch=batch) for s in starts.tolist() for a in arrays]
        for row, future in zip(out.reshape(-1, width), futures, strict=True):
            row[:] = future.result()
        return out

    return "TensorStore, one batch", read


def zarr_python(store: Path, paths: list[Path], width: int, threads: int) -> tuple[str, Read]:
    """Loop over the store's arrays with zarr-python."""
    import zarr

    arrays = [zarr.open_array(f"{store}/tracks/A/{p.stem}", mode="r") for p in paths]

    def read(starts: np.ndarray) -> np.ndarray:
        out = np.empty((len(starts), len(arrays), width), dtype=np.float32)
        for i, start in enumerate(starts.tolist()):
            for k, array in enumerate(arrays):
                out[i, k] = array[start : start + width]
        return out

    return "zarr-python loop", read


def run(folder: Path, quick: bool, threads: int = 2) -> list[Row]:
    """Compare at several widths, batches and numbers of tracks."""
    length, intervals = 50_800_000, 2_200_000
    store, paths = make_store(folder, length, intervals, 3)
    rng = np.random.default_rng(1)
    # Slow contenders sit out the large work; which did is seen in the table.
    plan = [(2_000, 64, 1, 15), (2_000, 64, 3, 7), (200_000, 16, 1, 5)]
    if not quick:
        plan = [
            (width, batch, tracks, 9)
            for width, batches in ((2_000, (1, 64, 512)), (20_000, (64,)), (200_000, (16,)))
            for batch in batches
            for tracks in (1, 3)
        ]
    rows: list[Row] = []
    for width, batch, tracks, repeats in plan:
        readers = dict(contenders(store, paths[:tracks], width, threads))
        if batch * tracks > 200:
            readers.pop("zarr-python loop", None)

        def draw(width: int = width, batch: int = batch) -> np.ndarray:
            return rng.integers(0, length - width, batch)

        work = f"{width:,} bases, batch {batch}, {tracks} tracks"
        rows += compare(work, readers, draw, repeats, batch * tracks)
    return rows
