"""Contenders that stream epochs of windows about genes: ours, genvarloader, and arrays in the page cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import CELL, CONTIG, Bench, gene_id, warm
from benchmarks.harness import Contender, Stream

WIDTH, BATCH, TRACKS = 2_000, 64, 3
Batches = Iterator[tuple[np.ndarray, Any]]


class Epochs:
    """Makes the contenders for 2 kb windows of three run-length tracks, as float32 tensors, NaN filled with zero.

    All but ours visit the samples in the order that ours does, so that none pays for another order; it is worked out
    before the clock starts for them, and by the loader, on the clock, for ours.

    Parameters
    ----------
    bench
        The inputs.
    shuffle
        As the loader's.
    """

    def __init__(self, bench: Bench, shuffle: bool | str) -> None:
        self.bench, self.shuffle = bench, shuffle
        self.assays = bench.tracks[:TRACKS]

    @property
    def query(self) -> dict[str, Any]:
        return {"cell_types": [CELL], "assays": self.assays, "sequence": False, "width": WIDTH}

    @property
    def pack_path(self) -> Path:
        """The windows of all genes, packed."""
        path = self.bench.once("epochs.pack.zarr", lambda path: self.bench.store.windows(**self.query).pack(path))
        warm(path)
        return path

    def batches(self, part: np.ndarray) -> list[np.ndarray]:
        """Give the batches of an epoch over some genes in the loader's order."""
        from genostore.order import Order

        order = Order(len(part), BATCH, self.shuffle)  # type: ignore[arg-type]
        samples = order.epoch(0)
        return [part[order.batch(samples, i)] for i in range(len(order))]

    def loader(self, name: str, source: Any, **options: Any) -> Contender:
        """Stream from a store or a pack through its loader."""
        loaders = {}
        for part in self.bench.epochs:
            windows = source.windows([gene_id(i) for i in part], **self.query)
            loaders[part[0]] = windows.loader(
                BATCH, shuffle=self.shuffle, missing="zero", threads=self.bench.threads, **options
            )

        def batches(part: np.ndarray) -> Batches:
            for batch in loaders[part[0]]:
                yield part[batch.index.numpy()], batch.signal.transpose(1, 2)

        return Stream(name, batches)

    def packed(self) -> Contender:
        """Stream from the pack."""
        import genostore

        return self.loader("genostore, packed", genostore.open(self.pack_path))

    def resident(self) -> Contender:
        """Stream from memory."""
        return self.loader("genostore, resident", self.bench.store, resident="ram")

    def genvarloader(self) -> Contender:
        """Index a dataset by batches.

        The tracks are written as three samples of one track: as three tracks of one sample, genvarloader 0.43.1 gives
        them in another order than its shape says. Both are equally fast.
        """
        import torch

        dataset = self._dataset()
        plans = {part[0]: self.batches(part) for part in self.bench.epochs}

        def batches(part: np.ndarray) -> Batches:
            for samples in plans[part[0]]:
                yield samples, torch.from_numpy(dataset[samples])[:, :, 0]

        return Stream("genvarloader", batches)

    def _dataset(self) -> Any:
        import genvarloader
        import polars
        from loguru import logger

        logger.disable("genvarloader")
        start = self.bench.tss - WIDTH // 2
        bed = polars.DataFrame({"chrom": [CONTIG] * len(start), "chromStart": start, "chromEnd": start + WIDTH})

        def write(path: Path) -> None:
            sources = {a: str(self.bench.bigwig(a)) for a in self.assays}
            genvarloader.write(path, bed, tracks=genvarloader.BigWigs("signal", sources), overwrite=True)

        path = self.bench.once("epochs.gvl", write)
        warm(path)
        return genvarloader.Dataset.open(path).with_tracks("signal").with_len(WIDTH)

    def memmap(self) -> Contender:
        """Gather out of an uncompressed array ``[gene, assay, position]`` of the pack's dtype, and cast."""
        import torch

        import genostore

        windows = genostore.open(self.pack_path).windows(**self.query)
        dtype = windows.store.array("signal").schema.dtype
        shape = (len(windows), TRACKS, WIDTH)

        def make(path: Path) -> None:
            out = np.memmap(path, dtype=dtype, mode="w+", shape=shape)
            for low in range(0, len(windows), 512):
                which = np.arange(low, min(low + 512, len(windows)))
                out[which] = np.nan_to_num(windows.read(which).signal.transpose(0, 2, 1))
            out.flush()

        path = self.bench.once(f"epochs.{dtype}", make)
        warm(path)
        mapped = np.memmap(path, dtype=dtype, mode="r", shape=shape)
        plans = {part[0]: self.batches(part) for part in self.bench.epochs}

        def batches(part: np.ndarray) -> Batches:
            for samples in plans[part[0]]:
                yield samples, torch.from_numpy(np.asarray(mapped[samples])).float()

        return Stream(f"memmap, {dtype}", batches)
