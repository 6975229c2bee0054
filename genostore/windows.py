"""Windows: an ordered set of samples, each an aligned cut through sequence, signals and contacts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from genostore import buffers
from genostore.arrays import Array, Reads, Spans
from genostore.batch import Batch
from genostore.errors import QueryError
from genostore.genome import window_starts
from genostore.local import kernels
from genostore.query import Query, Selection, select
from genostore.sequence import SOFT_MASK, UNKNOWN, complement

if TYPE_CHECKING:
    import xarray as xr

    from genostore.loader import Loader
    from genostore.store import Store

Ints = NDArray[np.int64]
PARTS = frozenset({"sequence", "signal", "contacts"})


class Reader(Protocol):
    """Brings the parts of windows from where they are stored, on the reference strand."""

    def apart(self, parts: frozenset[str]) -> bool:
        """Tell whether these parts of each window are stored apart, so that windows read together share no work."""
        ...

    def read(
        self, row: Ints, cell: Ints, shift: Ints, parts: frozenset[str], fill: float = math.nan
    ) -> dict[str, NDArray[Any]]:
        """Read windows.

        Parameters
        ----------
        row, cell
            ``(B,)`` rows of the selection and of its cell types.
        shift
            ``(B,)`` bases by which each window is moved.
        parts
            Which of sequence, signal and contacts.
        fill
            What takes the place of NaN in the signal.

        Returns
        -------
        dict
            ``sequence`` (B, W) uint8; ``signal`` (B, assay, W) float32; ``contacts`` (B, bins[, bins]) float32.
        """
        ...


class StoreReader:
    """Reads windows straight from the store's sharded arrays: one plan a batch, each chunk decoded once."""

    def __init__(self, store: Store, query: Query, selection: Selection) -> None:
        self.store, self.query, self.selection = store, query, selection
        self._tracks: dict[int, list[Array | None]] = {}  # by cell type

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tracks": {}}

    def apart(self, parts: frozenset[str]) -> bool:
        """Neighbouring windows share chunks; see :class:`Reader`."""
        return False

    def read(
        self, row: Ints, cell: Ints, shift: Ints, parts: frozenset[str], fill: float = math.nan
    ) -> dict[str, NDArray[Any]]:
        """Read windows; see :class:`Reader`."""
        chosen, width = self.selection, self.query.width
        where = chosen.anchor, chosen.contig_offset, chosen.contig_length
        within, past = kernels().clip(row, np.ascontiguousarray(shift), *where, width)
        spans = Spans(within)
        out: dict[str, NDArray[Any]] = {}
        cells = np.unique(cell).tolist() if len(chosen.cell_types) > 1 else [0]
        with Reads() as reads:
            if "signal" in parts:
                tracks = self._open(cells, "sequence" in parts)
                signal = out["signal"] = buffers.empty((len(row), len(chosen.assays), width), np.float32)
                if past.size:
                    signal[past] = np.nan
                for c in cells:
                    mine = spans.rows(cell == c) if len(cells) > 1 else spans
                    for a, track in enumerate(tracks[c]):
                        if track is None:
                            signal[cell == c, a] = np.nan
                        else:
                            reads.spans(track, mine, signal[:, a])
            if "sequence" in parts:
                out["sequence"] = buffers.empty((len(row), width), np.uint8)
                if past.size:
                    out["sequence"][past] = UNKNOWN
                reads.spans(self.store.array("sequence"), spans, out["sequence"])
        if "sequence" in out:
            out["sequence"] &= np.uint8(SOFT_MASK - 1)
        if "signal" in out:
            fill_gaps(out["signal"], fill)
        if "contacts" in parts:
            start = window_starts(chosen.anchor[row], width) + shift
            out["contacts"] = self._contacts(row, cell, start)
        return out

    def _open(self, cells: list[int], sequence: bool) -> dict[int, list[Array | None]]:
        """Give the tracks of some cell types, None for those that the store lacks; opened side by side with others."""
        new = [c for c in cells if c not in self._tracks]
        if new:
            chosen, entries = self.selection, self.store.entries
            nodes = {c: [f"tracks/{chosen.cell_types[c]}/{assay}" for assay in chosen.assays] for c in new}
            there = [node for some in nodes.values() for node in some if node in entries]
            self.store.open_arrays(["sequence"] * sequence + there)
            for c, some in nodes.items():
                self._tracks[c] = [self.store.array(node) if node in entries else None for node in some]
        return self._tracks

    def _contacts(self, row: Ints, cell: Ints, start: Ints) -> NDArray[np.float32]:
        chosen = self.selection
        asked = chosen.contacts
        assert asked is not None
        first, n = contact_bins(self.query, chosen, row, start)
        contigs = {c.offset: c for c in self.store.genome}
        shape = (len(row), n) if asked.kind == "profile" else (len(row), n, n)
        out = np.empty(shape, dtype=np.float32)
        for c in np.unique(cell):
            mine = np.flatnonzero(cell == c)
            contacts = self.store.contacts(chosen.cell_types[c], asked.assay, asked.bin_size)
            offset = chosen.contig_offset[row[mine]]
            if asked.kind == "profile":
                at = chosen.anchor[row[mine]]
                out[mine] = contacts.profiles(offset, at, first[mine], n, contigs, asked.weight)
            else:
                out[mine] = contacts.matrices(offset, first[mine], n, contigs, asked.weight)
        return out


def contact_bins(query: Query, chosen: Selection, row: Ints, start: Ints) -> tuple[Ints, int]:
    """Give the first bin of each window's contacts, and how many bins each has.

    They cover the window wherever it lies in its bins, or ``flank`` bases on either side of the anchor.
    """
    asked = chosen.contacts
    assert asked is not None
    assert asked.bin_size is not None
    width = query.width
    if asked.flank is not None:
        start, width = chosen.anchor[row] - asked.flank, 2 * asked.flank
    return start // asked.bin_size, (width - 1) // asked.bin_size + 2 + chosen.spare_bins


class Windows:
    """Samples, one a (gene or region, cell type) pair, gene-major; made by ``store.windows``.

    Parameters
    ----------
    store, query
        Where to cut, and what.
    selection, reader
        Resolved from the query when left out; a pack brings its own.
    """

    def __init__(
        self, store: Store, query: Query, selection: Selection | None = None, reader: Reader | None = None
    ) -> None:
        self.store, self.query = store, query
        self.selection = selection or select(store, query)
        self.reader: Reader = reader or StoreReader(store, query, self.selection)

    def __len__(self) -> int:
        return len(self.selection.gene)

    def __repr__(self) -> str:
        chosen = self.selection
        what = [f"{self.width:,} bases"]
        what += ["sequence"] if self.query.sequence else []
        what += [f"{len(chosen.assays)} tracks ({', '.join(chosen.assays)})"] if chosen.assays else []
        what += [f"contacts {chosen.contacts.assay} at {self.bin_size:,}"] if chosen.contacts else []
        what += [f"{len(chosen.features)} features"] if chosen.features else []
        what += [f"target {self.query.expression}"] if self.query.expression else []
        left_out = f", {chosen.excluded} excluded by {self.query.exclude!r}" if chosen.excluded else ""
        return (
            f"<Windows: {len(self):,} samples of {len(chosen.rows):,} {chosen.dim}s in "
            f"{', '.join(chosen.cell_types)}{left_out}; {', '.join(what)}>"
        )

    @property
    def width(self) -> int:
        """Of a window, in bases."""
        return self.query.width

    @property
    def genes(self) -> pd.DataFrame:
        """The selected genes (or regions), in the order of the query."""
        return self.selection.rows

    regions = genes

    @property
    def cell_types(self) -> list[str]:
        """Names, in the order of the query."""
        return self.selection.cell_types

    @property
    def assays(self) -> list[str]:
        """Names of the channels of ``signal``."""
        return self.selection.assays

    @property
    def roles(self) -> list[str | None]:
        """``foreground``, ``background`` or None for each channel of ``signal``."""
        return self.selection.roles

    @property
    def features(self) -> list[str]:
        """Names along the last axis of ``features``."""
        return self.selection.features

    @property
    def expression(self) -> str | None:
        """Name of the assay that ``target`` holds."""
        return self.query.expression

    @property
    def bin_size(self) -> int | None:
        """Of the contacts, in bases."""
        return self.selection.contacts.bin_size if self.selection.contacts else None

    @cached_property
    def parts(self) -> frozenset[str]:
        """Which of sequence, signal and contacts a read brings."""
        chosen = self.selection
        asked = {"sequence": self.query.sequence, "signal": chosen.assays, "contacts": chosen.contacts}
        return frozenset(part for part, wanted in asked.items() if wanted)

    def read(
        self, indices: ArrayLike, shift: ArrayLike = 0, flip: ArrayLike = False, *, fill: float = math.nan
    ) -> Batch:
        """Read samples into a batch of numpy arrays.

        Parameters
        ----------
        indices
            ``(B,)`` numbers of samples, ``0 <= i < len(windows)``; in any order, repeats allowed.
        shift
            Bases by which each window is moved along the reference strand, ``(B,)`` or one for all.
        flip
            Whether each window is reverse-complemented, stranded tracks swapped, after ``orient`` had its say; ``(B,)``
            or one for all.
        fill
            What the signal is where it has no value: where the source is silent, and off the contig.

        Returns
        -------
        Batch
            In the order of ``indices``.

        Raises
        ------
        QueryError
            For an index out of range.
        CorruptionError, StaleError
            If the storage is damaged, or a track was replaced while it was read.
        """
        index = np.array(indices, dtype=np.int64, ndmin=1)
        chosen = self.selection
        self.check(index)
        row, cell = chosen.gene[index], chosen.cell_type[index]
        moved = np.empty(index.shape, dtype=np.int64)
        moved[...] = shift
        batch = self.read_pairs(row, cell, moved, flip=flip, fill=fill)
        batch.index = index
        return batch

    def check(self, index: Ints) -> None:
        """Check that all of these are numbers of samples."""
        outside = index.view(np.uint64) >= len(self)  # those below 0 are large then
        if outside.any():
            raise QueryError(f"sample {index[outside][0]} is not among the {len(self):,} of these windows (from 0)")

    def read_pairs(
        self,
        row: Ints,
        cell: Ints,
        shift: Ints,
        parts: frozenset[str] = PARTS,
        flip: ArrayLike = False,
        fill: float = math.nan,
    ) -> Batch:
        """Read windows by (gene, cell type), whether or not they are samples; see :meth:`read`."""
        batch = self.frame(row, cell, shift, flip)
        fill_bases = fill if self.query.resolution == 1 else math.nan  # a bin is of the bases that have a value
        for part, values in self.reader.read(row, cell, shift, parts & self.parts, fill_bases).items():
            setattr(batch, part, values)
        if batch.contacts is None:
            batch.bin_size = batch.contact_origin = None
        if batch.reverse.any():
            self._orient(batch)
        if batch.signal is not None:
            batch.signal = self.bin(batch.signal, fill)
        return batch

    def frame(self, row: Ints, cell: Ints, shift: Ints, flip: ArrayLike = False) -> Batch:
        """Give what is known of windows without reading: where they lie, which way round, features and target."""
        chosen, width = self.selection, self.width
        reverse = np.empty(row.shape, dtype=bool)
        reverse[...] = flip
        if self.query.orient == "gene":
            reverse ^= chosen.minus[row]
        moved = np.ascontiguousarray(shift)
        start, anchor, left, right = kernels().place(row, moved, reverse, chosen.anchor, chosen.contig_length, width)
        index = np.empty(row.shape, dtype=np.int64)
        index[...] = -1
        batch = Batch(
            index=index,
            gene=row,
            cell_type=cell,
            start=start,
            anchor=anchor,
            left_pad=left,
            right_pad=right,
            reverse=reverse,
            bin_size=self.bin_size,
        )
        if self.bin_size is not None:
            first, n = contact_bins(self.query, chosen, row, start)
            origin = start - first * self.bin_size
            batch.contact_origin = np.where(reverse, n * self.bin_size - origin - width, origin)
        if chosen.feature_values is not None:
            batch.features = chosen.feature_values[row, cell]
        if chosen.target is not None:
            batch.target = chosen.target[row, cell]
        return batch

    def _orient(self, batch: Batch) -> None:
        """Reverse-complement what was read of the windows whose ``reverse`` is set."""
        minus = batch.reverse
        if batch.sequence is not None:
            batch.sequence[minus] = complement(batch.sequence[minus][:, ::-1])
        if batch.signal is not None:
            batch.signal[minus] = batch.signal[minus][:, self.swapped][:, :, ::-1]
        if batch.contacts is not None:
            every = tuple(slice(None, None, -1) for _ in batch.contacts.shape[1:])
            batch.contacts[minus] = batch.contacts[minus][(slice(None), *every)]

    def bin(self, signal: NDArray[np.float32], fill: float = math.nan) -> NDArray[np.float32]:
        """Bin ``(B, assay, W)`` signals as asked, to ``(B, bins, assay)``; bins without a value are ``fill``."""
        binned = bin_signal(signal, self.query.resolution, self.query.aggregate)
        if self.query.resolution > 1:
            fill_gaps(binned, fill)
        return binned.transpose(0, 2, 1)

    @cached_property
    def swapped(self) -> list[int]:
        """For each channel, the channel of its other strand (itself where it has none)."""
        partner = {a: a[:-1] + {"+": "-", "-": "+"}.get(a[-1], a[-1]) for a in self.assays}
        return [self.assays.index(partner[a]) if partner[a] in self.assays else i for i, a in enumerate(self.assays)]

    def xarray(self) -> xr.Dataset:
        """Give all windows as a lazy dataset.

        Returns
        -------
        xarray.Dataset
            Dask-backed variables ``sequence`` (gene, position), ``signal`` (gene, cell_type, assay, position or bin),
            ``contacts`` (gene, cell_type, contact_bin[, contact_bin2]), and in memory ``features`` and ``target``
            (gene, cell_type[, feature]), with the genes' table as coordinates. NaN is kept. Pairs that were dropped
            as samples have a NaN target.
        """
        from genostore.lazy import windows_dataset

        return windows_dataset(self)

    def loader(self, batch_size: int = 64, **options: Any) -> Loader:
        """Stream batches to a device; see :class:`genostore.loader.Loader` for the options."""
        from genostore.loader import Loader

        return Loader(self, batch_size, **options)

    def pack(
        self,
        path: str | Path,
        *,
        dtype: str = "float32",
        compress: bool = False,
        workers: int | None = None,
        overwrite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Path | str:
        """Materialise the windows, with their jitter margin, as a store of their own.

        Bases are kept on the forward strand, one by one, for all samples that the query's genes and cell types could
        give: bins, orientation, splits and targets are applied when the pack is read. A run that was killed goes on
        where it stopped when it is run again.

        Parameters
        ----------
        path
            Of its folder, anywhere or ``STORE/packs/NAME``; :func:`genostore.open` opens it, and so do zarr-python and
            ``xarray.open_zarr``. A pack of the same query and the same tracks that is there already is left as it is.
        dtype
            Of the signal: ``"float32"``, or ``"float16"`` for half the bytes; what that loses is measured, and written
            into the attributes of ``signal``.
        compress
            Compress with zstd: several times smaller where tracks are runs of one value, and slower to read unless the
            disk is what one waits for.
        workers
            Shards that are written at once, in threads; as many as there are processors when left out.
        overwrite
            Replace another pack that is there.
        progress
            Called with the number of shards that are done, and of all.

        Returns
        -------
        pathlib.Path or str
            The path, or the URL. A pack for an object store is built in a temporary folder first.

        Raises
        ------
        QueryError
            If the windows are about regions, or a value overflows float16.
        ConflictError, StaleError
            If something else is at the path (a pack of another query; one of the same query whose tracks have changed
            since), or another process is writing it. A track that changes during the run is a StaleError too.
        """
        from genostore.packing import write_pack

        return write_pack(
            self,
            path,
            dtype=dtype,
            compress=compress,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )


def fill_gaps(values: NDArray[np.float32], fill: float) -> int:
    """Replace NaN in place, and count how many there were; 0 where NaN is the fill."""
    if math.isnan(fill):
        return 0
    if values.flags.c_contiguous:
        from genostore.batch_kernels import fill_missing

        return int(fill_missing(values.reshape(-1), np.float32(fill)))
    silent = np.isnan(values)
    values[silent] = fill
    return int(silent.sum())


def bin_signal(signal: NDArray[np.float32], resolution: int, aggregate: str) -> NDArray[np.float32]:
    """Bin ``(..., W)`` signals to ``(..., W // resolution)`` over the bases that have a value; NaN where none has."""
    if resolution == 1:
        return signal
    bins = signal.reshape(*signal.shape[:-1], -1, resolution)
    seen = ~np.isnan(bins)
    n = seen.sum(axis=-1)
    total = np.where(seen, bins, 0).sum(axis=-1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        values = total / n if aggregate == "mean" else np.where(n > 0, total, np.nan)
    return values.astype(np.float32)
