"""The lazy interface: xarray over Dask, for looking and for analysis (training goes through the loader)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from genostore.arrays import Array
from genostore.genome import Region

if TYPE_CHECKING:
    from genostore.store import Store
    from genostore.windows import Windows

BLOCK_BYTES = 32 * 2**20  # of one Dask block of windows


def bounds(key: int | slice, n: int) -> tuple[int, int, int | slice]:
    """Give the span that an index or slice touches of an axis, and the index to apply to that span."""
    if not isinstance(key, slice):
        return int(key), int(key) + 1, 0
    taken = range(n)[key]
    if not taken:
        return 0, 0, slice(0, 0)
    low, high = min(taken[0], taken[-1]), max(taken[0], taken[-1]) + 1
    return low, high, slice(None, None, taken.step)


class Stretch:
    """A stretch of a track, in the form that Dask makes an array of."""

    ndim = 1

    def __init__(self, array: Array, start: int, stop: int) -> None:
        self.array, self.start = array, start
        self.shape, self.dtype = (stop - start,), array.dtype

    def __getitem__(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        start, stop, take = bounds(key[0], self.shape[0])
        values: NDArray[Any] = self.array.read(slice(self.start + start, self.start + stop))[take]
        return values


def signal(store: Store, region: Region, cell_types: Sequence[str], assays: Sequence[str]) -> xr.DataArray:
    """Give tracks over a region as a lazy ``(cell_type, assay, position)`` array; see ``Store.signal``."""
    start, stop = region.span
    planes = []
    for cell_type in cell_types:
        lines = []
        for assay in assays:
            node = f"tracks/{cell_type}/{assay}"
            if node in store.entries:
                array = store.array(node)
                # One task a shard: an inner chunk costs less to decode than a task costs to schedule.
                line = da.from_array(Stretch(array, start, stop), chunks=array.schema.block, name=False, meta=_META)
            else:
                line = da.full(stop - start, np.nan, dtype=np.float32)
            lines.append(line)
        planes.append(da.stack(lines))
    return xr.DataArray(
        da.stack(planes),
        dims=("cell_type", "assay", "position"),
        coords={
            "cell_type": list(cell_types),
            "assay": list(assays),
            "position": np.arange(region.start, region.end),
        },
        name="signal",
        attrs={
            "contig": region.contig.name,
            "assembly": store.genome.name,
            "missing": "NaN: the source is silent",
        },
    )


_META = np.empty((0,), dtype=np.float32)


class Grid:
    """One part of all windows as a ``(gene, cell_type, ...)`` array that Dask cuts along genes."""

    def __init__(self, windows: Windows, part: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.windows, self.part, self.shape, self.dtype = windows, part, shape, np.dtype(dtype)
        self.ndim = len(shape)

    def __getitem__(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        start, stop, take = bounds(key[0], self.shape[0])
        cells = 1 if self.part == "sequence" else self.shape[1]
        row = np.repeat(np.arange(start, stop), cells)
        cell = np.tile(np.arange(cells), stop - start)
        batch = self.windows.read_pairs(row, cell, np.zeros(len(row), dtype=np.int64), frozenset({self.part}))
        values: NDArray[Any] = getattr(batch, self.part)
        if self.part == "signal":
            values = values.transpose(0, 2, 1)
        return values.reshape(stop - start, *self.shape[1:])[(take, *key[1:])]

    def dask(self) -> da.Array:
        """Cut it into blocks of many genes."""
        per_gene = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        genes = max(1, min(self.shape[0], BLOCK_BYTES // max(per_gene, 1)))
        meta = np.empty((0,) * self.ndim, dtype=self.dtype)
        return da.from_array(self, chunks=(genes, *self.shape[1:]), name=False, fancy=False, meta=meta)


def windows_dataset(windows: Windows) -> xr.Dataset:
    """Give windows as a lazy dataset; see ``Windows.xarray``."""
    chosen, query = windows.selection, windows.query
    n, cells = len(chosen.rows), len(chosen.cell_types)
    dim = chosen.dim
    label = chosen.rows["id"] if "id" in chosen.rows else np.arange(n)
    coords: dict[str, Any] = {
        dim: (dim, np.asarray(label, dtype=object) if "id" in chosen.rows else label),
        "cell_type": ("cell_type", np.array(chosen.cell_types, dtype=object)),
    }
    for column in chosen.rows.columns:
        if column != "id":
            coords[f"{dim}_{column}"] = (dim, chosen.rows[column].to_numpy())
    relative = np.arange(query.width) - query.width // 2
    data: dict[str, Any] = {}
    if "sequence" in windows.parts:
        coords["position"] = (
            "position",
            relative,
            {"long_name": "bases from the TSS on the genome's forward strand"},
        )
        data["sequence"] = ((dim, "position"), Grid(windows, "sequence", (n, query.width), np.uint8).dask())
    if "signal" in windows.parts:
        coords["assay"] = ("assay", np.array(chosen.assays, dtype=object))
        along = "position" if query.resolution == 1 else "bin"
        coords[along] = (along, relative[:: query.resolution])
        shape = (n, cells, len(chosen.assays), query.width // query.resolution)
        data["signal"] = (
            (dim, "cell_type", "assay", along),
            Grid(windows, "signal", shape, np.float32).dask(),
        )
    if "contacts" in windows.parts:
        data["contacts"] = _contacts(windows, (n, cells))
    if chosen.feature_values is not None:
        coords["feature"] = ("feature", np.array(chosen.features, dtype=object))
        data["features"] = ((dim, "cell_type", "feature"), chosen.feature_values)
    if chosen.target is not None:
        assert query.expression is not None
        entries = (windows.store.entries[f"expression/{query.expression}/{c}"] for c in chosen.cell_types)
        transforms = sorted({e.get("transform") or "none" for e in entries})
        about = {"assay": query.expression, "transform": ", ".join(transforms)}
        data["target"] = ((dim, "cell_type"), chosen.target, about)
    attributes: dict[str, Any] = {
        "assembly": windows.store.genome.name,
        "width": query.width,
        "resolution": query.resolution,
        "orient": query.orient,
    }
    return xr.Dataset(data, coords, attributes)


def _contacts(windows: Windows, grid: tuple[int, int]) -> tuple[tuple[str, ...], da.Array, dict[str, Any]]:
    from genostore.windows import contact_bins

    chosen = windows.selection
    assert chosen.contacts is not None
    zero = np.zeros(1, dtype=np.int64)
    _, bins = contact_bins(windows.query, chosen, zero, zero)
    square = chosen.contacts.kind == "matrix"
    shape = (*grid, bins, bins) if square else (*grid, bins)
    dims = (chosen.dim, "cell_type", "contact_bin", "contact_bin2")[: len(shape)]
    attributes = {
        "assay": chosen.contacts.assay,
        "bin_size": chosen.contacts.bin_size,
        "weight": chosen.contacts.weight or "none (raw)",
    }
    return dims, Grid(windows, "contacts", shape, np.float32).dask(), attributes
