"""Readers of random windows: ours, those of bigWigs, and those of raw arrays.

Each gives ``(windows, tracks, width)`` float32, NaN where the source is silent, for the numbers of windows whose
starts are given beforehand. None keeps decoded values between calls.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.data import CELL, CONTIG, Bench, warm
from benchmarks.harness import Contender, Read


class Readers:
    """Makes the contenders for one set of windows.

    Parameters
    ----------
    bench
        The inputs.
    assays
        Tracks to read.
    starts, width
        Of all windows.
    """

    def __init__(self, bench: Bench, assays: list[str], starts: np.ndarray, width: int) -> None:
        self.bench, self.assays, self.starts, self.width = bench, assays, starts, width
        self.paths = [bench.bigwig(a) for a in assays]
        for path in self.paths:
            warm(path)

    def empty(self, n: int) -> np.ndarray:
        return np.empty((n, len(self.assays), self.width), dtype=np.float32)

    def genostore(self) -> Contender:
        """``windows.read``, signal alone."""
        import pandas as pd

        regions = pd.DataFrame({"contig": CONTIG, "start": self.starts, "end": self.starts + self.width})
        windows = self.bench.store.windows(
            regions=regions, sequence=False, cell_types=[CELL], assays=self.assays, width=self.width
        )
        return Read("genostore", lambda which: windows.read(which).signal.transpose(0, 2, 1))

    def figwig(self) -> Contender:
        """Read the bigWigs with figwig, all windows in one call."""
        import figwig

        readers = [figwig.BigWigReader(str(p)) for p in self.paths]
        threads = self.bench.threads

        def read(which: np.ndarray) -> np.ndarray:
            return figwig.read_bigwig(readers, CONTIG, self.starts[which], self.width, missing=np.nan, n_jobs=threads)

        return Read(f"figwig, {threads} threads", read)

    def pybigwig(self) -> Contender:
        """Loop over the bigWigs with pyBigWig."""
        import pyBigWig

        files = [pyBigWig.open(str(p)) for p in self.paths]

        def read(which: np.ndarray) -> np.ndarray:
            out = self.empty(len(which))
            for i, start in enumerate(self.starts[which].tolist()):
                for k, file in enumerate(files):
                    out[i, k] = file.values(CONTIG, start, start + self.width, numpy=True)
            return out

        return Read("pyBigWig loop", read)

    def pybigtools(self) -> Contender:
        """Loop over the bigWigs with pybigtools."""
        import pybigtools

        files = [pybigtools.open(str(p)) for p in self.paths]

        def read(which: np.ndarray) -> np.ndarray:
            out = self.empty(len(which))
            for i, start in enumerate(self.starts[which].tolist()):
                for k, file in enumerate(files):
                    out[i, k] = file.values(CONTIG, start, start + self.width, fillna=None)
            return out

        return Read("pybigtools loop", read)

    def tensorstore(self) -> Contender:
        """Read the store's arrays with TensorStore, one batch of reads; shard indexes cached, chunks not."""
        import tensorstore as ts

        context = ts.Context({"data_copy_concurrency": {"limit": self.bench.threads}})

        def open_array(assay: str) -> ts.TensorStore:
            kvstore = {"driver": "file", "path": f"{self.bench.store_path}/tracks/{CELL}/{assay}/"}
            return ts.open({"driver": "zarr3", "kvstore": kvstore}, open=True, read=True, context=context).result()

        arrays = [open_array(a) for a in self.assays]

        def read(which: np.ndarray) -> np.ndarray:
            out = self.empty(len(which))
            with ts.Batch() as batch:
                futures = [a[s : s + self.width].read(batch=batch) for s in self.starts[which].tolist() for a in arrays]
            for row, future in zip(out.reshape(-1, self.width), futures, strict=True):
                row[:] = future.result()
            return out

        return Read("TensorStore, one batch", read)

    def _zarr(self, name: str, pipeline: str) -> Contender:
        import zarr

        with zarr.config.set({"codec_pipeline.path": pipeline, "threading.max_workers": self.bench.threads}):
            arrays = [zarr.open_array(f"{self.bench.store_path}/tracks/{CELL}/{a}", mode="r") for a in self.assays]

        def read(which: np.ndarray) -> np.ndarray:
            out = self.empty(len(which))
            for i, start in enumerate(self.starts[which].tolist()):
                for k, array in enumerate(arrays):
                    out[i, k] = array[start : start + self.width]
            return out

        return Read(name, read)

    def zarr_python(self) -> Contender:
        """Loop over the store's arrays with zarr-python."""
        return self._zarr("zarr-python loop", "zarr.core.codec_pipeline.BatchedCodecPipeline")

    def zarrs(self) -> Contender:
        """Loop over the store's arrays with zarr-python on zarrs."""
        import zarrs  # noqa: F401

        return self._zarr("zarrs loop", "zarrs.ZarrsCodecPipeline")

    def memmap(self) -> Contender:
        """Copy out of uncompressed arrays: no reader that gives an array of its own can be faster."""
        maps = [np.memmap(_raw(self.bench, a), dtype=np.float32, mode="r") for a in self.assays]

        def read(which: np.ndarray) -> np.ndarray:
            out = self.empty(len(which))
            for i, start in enumerate(self.starts[which].tolist()):
                for k, values in enumerate(maps):
                    out[i, k] = values[start : start + self.width]
            return out

        return Read("numpy.memmap, uncompressed", read)


def _raw(bench: Bench, assay: str) -> Path:
    def make(path: Path) -> None:
        import pyBigWig

        values = np.full(bench.size.length, np.nan, dtype=np.float32)
        file = pyBigWig.open(str(bench.bigwig(assay)))
        for low in range(0, len(values), 10_000_000):
            high = min(low + 10_000_000, len(values))
            values[low:high] = file.values(CONTIG, low, high, numpy=True)
        file.close()
        values.tofile(path)

    path = bench.once(f"{assay}.f32", make)
    warm(path)
    return path
