"""A full training batch from a pack, against what reading the source files gene by gene costs.

The incumbent is written from what is known of the official Prism loader: per gene one pyfaidx fetch, one
``values(...)`` list a bigWig, missing = 0, and one HDF5 dataset a TSS of 200,000 float64, the profile of the TSS
expanded to bases, read whole and cut to the window. Its files stay open, its HDF5 is not compressed and its tables are
arrays in memory, all of which favours it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import BIN, CELL, CONTIG, FLANK, Bench, gene_id, warm
from benchmarks.harness import Contender, Result, Stream, compare, installed

WIDTH, BATCH, TRACKS = 2_000, 64, 3
WORK = "full batch, 2 kb: one-hot, 3 tracks, contacts a base, features, target"
Batches = Iterator[tuple[np.ndarray, Any]]


class Incumbent:
    """Makes both contenders; each gives sequence, signal, contacts, features and target, float32.

    Parameters
    ----------
    bench
        The inputs.
    """

    def __init__(self, bench: Bench) -> None:
        import genostore

        self.bench = bench
        size = bench.size
        chosen = bench.tss[: size.incumbent_genes * (size.incumbent_repeats + 1)]
        self.parts = np.split(np.arange(len(chosen)), size.incumbent_genes * np.arange(1, size.incumbent_repeats + 1))
        self.assays = bench.tracks[:TRACKS]
        self.query = {
            "genes": [gene_id(i) for i in range(len(chosen))],
            "cell_types": [CELL],
            "assays": self.assays,
            "contacts": genostore.Contacts("hic", BIN, weight=None),
            "features": "all",
            "expression": "CAGE",
            "width": WIDTH,
        }

    def packed(self) -> Contender:
        """The loader over a pack, contacts expanded to bases."""
        import genostore

        path = self.bench.once("incumbent.pack.zarr", lambda path: self.bench.store.windows(**self.query).pack(path))
        warm(path)
        pack = genostore.open(path)
        loaders = {}
        for part in self.parts:
            windows = pack.windows(**{**self.query, "genes": [gene_id(i) for i in part]})
            loaders[part[0]] = windows.loader(
                BATCH, shuffle="blocks", missing="zero", expand_contacts=True, threads=self.bench.threads
            )

        def batches(part: np.ndarray) -> Batches:
            for batch in loaders[part[0]]:
                parts = (batch.sequence, batch.signal, batch.contacts, batch.features, batch.target)
                yield part[batch.index.numpy()], parts

        return Stream("genostore, packed", batches)

    def incumbent(self) -> Contender:
        """The sources, gene by gene."""
        import h5py
        import pyBigWig
        import pyfaidx
        import torch

        fasta = pyfaidx.Fasta(str(self.bench.fasta), as_raw=True, sequence_always_upper=True)
        bigwigs = [pyBigWig.open(str(self.bench.bigwig(a))) for a in self.assays]
        profiles = h5py.File(self._profiles(), "r")
        windows = self.bench.store.windows(**{**self.query, "sequence": False, "assays": [], "contacts": None})
        tables = windows.read(np.arange(len(windows)))
        code = np.full(256, 4)
        code[np.frombuffer(b"ACGT", dtype=np.uint8)] = np.arange(4)
        one_hot = np.eye(5, 4, dtype=np.float32)

        def gene(number: int) -> tuple[np.ndarray, ...]:
            tss = int(self.bench.tss[number])
            start, end = tss - WIDTH // 2, tss - WIDTH // 2 + WIDTH
            bases = np.frombuffer(fasta[CONTIG][start:end].encode(), dtype=np.uint8)
            signal = np.nan_to_num(np.array([f.values(CONTIG, start, end) for f in bigwigs]))
            profile = profiles[f"{CONTIG}_{tss}"][:]
            middle = len(profile) // 2
            contacts = np.nan_to_num(profile[middle - WIDTH // 2 : middle - WIDTH // 2 + WIDTH])
            return one_hot[code[bases]], signal.T.astype(np.float32), contacts.astype(np.float32)

        def batches(part: np.ndarray) -> Batches:
            for low in range(0, len(part), BATCH):
                samples = part[low : low + BATCH]
                parts = zip(*(gene(i) for i in samples.tolist()), strict=True)
                sequence, signal, contacts = (torch.from_numpy(np.stack(p)) for p in parts)
                features = torch.from_numpy(tables.features[samples])
                target = torch.from_numpy(tables.target[samples])
                yield samples, (sequence, signal, contacts, features, target)

        return Stream("pyfaidx, pyBigWig lists, HDF5 a gene", batches)

    def _profiles(self) -> Path:
        """Write the profile of every TSS as the official files have it."""
        import h5py

        contacts = self.bench.store.contacts(CELL, "hic", BIN)

        def make(path: Path) -> None:
            with h5py.File(path, "w") as file:
                for tss in np.unique(self.bench.tss[: self.parts[-1][-1] + 1]).tolist():
                    bins = np.asarray(contacts.profile(CONTIG, tss, flank=FLANK), dtype=np.float64)
                    first = (tss - FLANK) // BIN * BIN
                    at = (np.arange(tss - FLANK, tss + FLANK) - first) // BIN
                    file[f"{CONTIG}_{tss}"] = bins[at]

        path = self.bench.once("incumbent.h5", make)
        warm(path)
        return path


def run(bench: Bench) -> Result:
    """Compare batches over the same genes."""
    result = Result("incumbent")
    incumbent = Incumbent(bench)
    contenders = installed({"genostore": incumbent.packed, "incumbent": incumbent.incumbent}, result, "incumbent")
    unit = "us a gene"
    result.rows += compare(WORK, contenders, incumbent.parts, bench.size.incumbent_genes, unit, bench.clock)
    result.bar(WORK, contenders[-1].name, 50)
    return result
