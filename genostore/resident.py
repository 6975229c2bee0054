"""Tracks, sequence and contacts held in memory: a batch of windows is one gather.

Each track is one array along the genome axis, in memory that all processes of the machine share: see
:mod:`genostore.shared`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from genostore import buffers, local, machine, shared
from genostore.arrays import Array, Reads, Spans
from genostore.batch import Batch
from genostore.batch_kernels import gather_sequence, gather_signal
from genostore.errors import QueryError
from genostore.sequence import SOFT_MASK
from genostore.shared import key
from genostore.windows import StoreReader, contact_bins

if TYPE_CHECKING:
    from genostore.windows import Windows

log = logging.getLogger("genostore")
Ints = NDArray[np.int64]
ResidentDtype = Literal["float32", "float16", "bfloat16"]
DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_KINDS = {"float32": machine.FLOAT32, "float16": machine.FLOAT16, "bfloat16": machine.BFLOAT16}
_TASK_BYTES = 2**20  # of output, below which a gather is not shared out to threads
_CONTACT_ROWS = 256  # genes whose contacts are read at once


def check_resident(windows: Windows, dtype: str) -> None:
    """Refuse what cannot be resident.

    Raises
    ------
    QueryError
        For an unknown type, or windows of a pack.
    """
    if dtype not in DTYPES:
        raise QueryError(f"resident_dtype is {dtype!r}; it is one of {', '.join(map(repr, DTYPES))}")
    if not isinstance(windows.reader, StoreReader):
        raise QueryError(
            f"resident= holds whole tracks, and {windows.store.path} is a pack of windows; open the store it was cut "
            "from, or read the pack without resident="
        )


def nodes(windows: Windows) -> dict[str, int]:
    """Number the tracks that windows are cut from: path to place, cell-major; those the store lacks are left out."""
    paths = [f"tracks/{c}/{a}" for c in windows.cell_types for a in windows.assays]
    return {path: i for i, path in enumerate(p for p in dict.fromkeys(paths) if p in windows.store.entries)}


def blocks(array: Array) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Read an array along the genome axis shard by shard: start, stop and values, which are not to be kept."""
    length, size = array.schema.shape[0], array.schema.block[0]
    memory = np.empty(min(size, length), dtype=array.dtype)
    for number, start in enumerate(range(0, length, size)):
        stop = min(start + size, length)
        values = memory[: stop - start]
        values[:] = array.schema.fill
        if array.present[number]:
            with Reads() as reads:
                reads.spans(array, Spans(np.array([[0, start, stop, 0]])), values[None])
        yield start, stop, values


def cast(values: NDArray[np.float32], dtype: np.dtype[Any], node: str) -> NDArray[Any]:
    """Cast values of a track.

    Raises
    ------
    QueryError
        If a value does not fit into the type.
    """
    if dtype == np.float32:
        return values
    with np.errstate(over="ignore"):
        out = values.astype(dtype)
    over = np.isinf(out) & ~np.isinf(values)
    if over.any():
        raise QueryError(
            f"{node} holds {values[over][0]:g}, which {dtype.name} cannot; choose resident_dtype='bfloat16' or "
            "'float32'"
        )
    return out


class ContactTable:
    """The contacts about each gene (or region), wide enough for any jitter.

    Attributes
    ----------
    shape
        ``(rows, cell types, bins[, bins])``.
    first
        ``(rows,)`` the first bin of each, on its contig.
    n
        Bins of a window.
    """

    def __init__(self, windows: Windows) -> None:
        chosen, query = windows.selection, windows.query
        assert chosen.contacts is not None
        assert windows.bin_size is not None
        self.windows = windows
        margin = query.jitter + windows.bin_size if query.jitter else 0
        wide = replace(query, width=query.width + 2 * margin, jitter=0, resolution=1)
        self.reader = StoreReader(windows.store, wide, chosen)
        rows = np.arange(len(chosen.rows))
        self.first, n = contact_bins(wide, chosen, rows, chosen.anchor - wide.width // 2)
        self.n = contact_bins(query, chosen, rows, chosen.anchor)[1]
        square = chosen.contacts.kind == "matrix"
        self.shape = (len(rows), len(chosen.cell_types), n, *((n,) if square else ()))

    def name(self) -> str:
        """Name the table by what decides its content."""
        chosen, store = self.windows.selection, self.windows.store
        asked = chosen.contacts
        assert asked is not None
        stamps = []
        for cell in chosen.cell_types:
            prefix = f"contacts/{cell}/{asked.assay}/{asked.bin_size}"
            parts = ["band"] + ([f"weights/{asked.weight}"] if asked.weight else [])
            stamps += [(f"{prefix}/{p}", store.storage.stamp(f"{prefix}/{p}/zarr.json")) for p in parts]
        where = [a.tobytes() for a in (chosen.contig_offset, chosen.anchor, self.first)]
        return key(store.path, asked, stamps, where, self.shape)

    def fill(self, out: NDArray[np.float32]) -> None:
        """Read all of it."""
        cells = self.shape[1]
        for start in range(0, self.shape[0], _CONTACT_ROWS):
            stop = min(start + _CONTACT_ROWS, self.shape[0])
            row, cell = np.repeat(np.arange(start, stop), cells), np.tile(np.arange(cells), stop - start)
            read = self.reader.read(row, cell, np.zeros(len(row), dtype=np.int64), frozenset({"contacts"}))
            out[start:stop] = read["contacts"].reshape(stop - start, *self.shape[1:])

    def bins(self, batch: Batch) -> Ints:
        """Number the bins of the table that make up each window, ``(B, n)``, in the window's direction.

        Raises
        ------
        QueryError
            If a window was shifted further than the jitter of the query.
        """
        first, _ = contact_bins(self.windows.query, self.windows.selection, batch.gene, batch.start)
        skip = first - self.first[batch.gene]
        if skip.min(initial=0) < 0 or (skip.max(initial=0) + self.n) > self.shape[2]:
            raise QueryError(f"a window was shifted by more than the jitter of {self.windows.query.jitter}")
        order = np.arange(self.n)
        places: Ints = skip[:, None] + np.where(batch.reverse[:, None], order[::-1], order)
        return places


@dataclass(frozen=True)
class _Item:
    """One array to hold: its name, what it is in words, and how it is made."""

    name: str
    label: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[NDArray[Any]], None]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Resident:
    """The data of windows in memory, shared by all processes of the machine.

    Parameters
    ----------
    windows
        Of a store.
    dtype
        In which tracks are held. ``"float16"`` and ``"bfloat16"`` round; batches are float32 whatever it is.

    Raises
    ------
    QueryError
        If it would not fit in the memory that is free, with the sizes named.
    """

    def __init__(self, windows: Windows, dtype: ResidentDtype = "float32") -> None:
        check_resident(windows, dtype)
        self.windows, self.dtype = windows, dtype
        chosen = windows.selection
        self._offset, self._high = chosen.contig_offset, chosen.contig_offset + chosen.contig_length
        self._contacts = ContactTable(windows) if "contacts" in windows.parts else None
        items = self._items()
        shared.sweep(item.name for item in items.values())
        absent = {i.label: i.nbytes for i in items.values() if not shared.complete(i.name, i.nbytes)}
        shared.check_room(absent, shared.free(), "memory")
        self._held = {}
        for node, item in items.items():
            self._held[node] = shared.shared(item.name, item.shape, item.dtype, item.make)
        found = nodes(windows)
        self._planes = np.zeros((len(chosen.cell_types), len(chosen.assays)), dtype=np.int64)
        for c, cell in enumerate(chosen.cell_types):
            for a, assay in enumerate(chosen.assays):
                node = f"tracks/{cell}/{assay}"
                if node in found:
                    self._planes[c, a] = self._held[node].values.ctypes.data

    def __reduce__(self) -> tuple[Any, ...]:
        return Resident, (self.windows, self.dtype)

    def __repr__(self) -> str:
        return f"<Resident: {self.nbytes / 2**30:.2f} GiB in memory, of {self.windows!r}>"

    @property
    def nbytes(self) -> int:
        """Of all that is held."""
        return sum(int(held.values.nbytes) for held in self._held.values())

    def _items(self) -> dict[str, _Item]:
        store, dtype = self.windows.store, DTYPES[self.dtype]
        items = {}
        for node in nodes(self.windows):
            array = store.array(node)
            name = key(store.path, node, array.storage.stamp(f"{node}/zarr.json"), self.dtype)
            items[node] = _Item(name, node, array.schema.shape, dtype, partial(_fill, array, node))
        if self.windows.query.sequence:
            array = store.array("sequence")
            name = key(store.path, "sequence", array.storage.stamp("sequence/zarr.json"))
            items["sequence"] = _Item(name, "sequence", array.schema.shape, np.dtype(np.uint8), partial(_codes, array))
        if self._contacts is not None:
            table = self._contacts
            items["contacts"] = _Item(table.name(), "contacts", table.shape, np.dtype(np.float32), table.fill)
        return items

    def read(
        self, indices: ArrayLike, shift: ArrayLike = 0, flip: ArrayLike = False, *, fill: float = math.nan
    ) -> Batch:
        """Read samples; see :meth:`genostore.windows.Windows.read`."""
        windows, chosen = self.windows, self.windows.selection
        index = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        windows.check(index)
        row, cell = chosen.gene[index], chosen.cell_type[index]
        batch = windows.frame(row, cell, np.broadcast_to(np.asarray(shift, dtype=np.int64), index.shape), flip)
        batch.index = index
        low, high = self._offset[row], self._high[row]
        where = (low + batch.start, low, high, batch.reverse)
        if windows.query.sequence:
            batch.sequence = buffers.empty((len(row), windows.width), np.uint8)
            gather_sequence(self._held["sequence"].values, *where, batch.sequence)
        if chosen.assays:
            planes = self._planes[cell]
            if batch.reverse.any():
                planes = np.where(batch.reverse[:, None], planes[:, windows.swapped], planes)
            signal = buffers.empty((len(row), len(chosen.assays), windows.width), np.float32)
            fill_bases = np.float32(fill if windows.query.resolution == 1 else math.nan)
            _in_threads(planes, _KINDS[self.dtype], where, fill_bases, signal)
            batch.signal = windows.bin(signal, fill)
        if self._contacts is not None:
            bins = self._contacts.bins(batch)
            values = self._held["contacts"].values[row, cell]
            if values.ndim == 2:
                batch.contacts = np.take_along_axis(values, bins, axis=1)
            else:
                batch.contacts = values[np.arange(len(row))[:, None, None], bins[:, :, None], bins[:, None, :]]
        return batch


def _in_threads(
    planes: Ints, kind: int, where: tuple[NDArray[Any], ...], fill: np.float32, out: NDArray[np.float32]
) -> None:
    parts = min(local.threads(), max(1, out.nbytes // _TASK_BYTES))
    edges = [len(out) * i // parts for i in range(parts + 1)]
    cuts = [slice(a, b) for a, b in pairwise(edges)]
    local.run([partial(gather_signal, planes[c], kind, *(w[c] for w in where), fill, out[c]) for c in cuts])


def _fill(array: Array, node: str, out: NDArray[Any]) -> None:
    log.info("reading %s into memory as %s", node, out.dtype.name)
    for start, stop, values in blocks(array):
        out[start:stop] = cast(values, out.dtype, node)


def _codes(array: Array, out: NDArray[np.uint8]) -> None:
    for start, stop, values in blocks(array):
        np.bitwise_and(values, np.uint8(SOFT_MASK - 1), out=out[start:stop])
