"""Packs: windows written out gene by gene, with a margin for jitter, to be read without the store.

A pack is a store of its own. It holds the genes, features, expression and regions of the store that it came from,
and instead of arrays along the genome the windows themselves: ``sequence`` (gene, position), ``signal`` (gene,
cell_type, assay, position) and ``contacts``, with their coordinates, so that ``xarray.open_zarr`` opens it whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genostore import index
from genostore.arrays import Array, Reads
from genostore.contacts import Contacts
from genostore.disk import lock, remove_tree, sync, write_file, writing
from genostore.errors import ConflictError, QueryError
from genostore.query import Ints, Query, Selection, select
from genostore.schema import KEY, ArraySchema, column_array, dumps
from genostore.seal import seal
from genostore.staging import Staging, create
from genostore.storage import Storage
from genostore.store import Store
from genostore.windows import PARTS, Windows, contact_bins

if TYPE_CHECKING:
    from genostore.schema import RootSchema

CHUNK_BYTES = 2**18  # of an inner chunk: what a read of one window decodes
SHARD_BYTES = 2**25
COPIED = ("genes", "feature", "expression", "regions")  # kinds of nodes that a pack takes along


def write_pack(windows: Windows, path: Path, overwrite: bool = False) -> Path:
    """Materialise windows; see :meth:`genostore.windows.Windows.pack`.

    Raises
    ------
    QueryError
        If the windows are about regions, binned, or oriented: a pack keeps bases on the forward strand, and the
        rest is done when it is read.
    ConflictError
        If something is at the path, or another process is writing it.
    """
    query = windows.query
    if query.regions is not None:
        raise QueryError("a pack is of windows about genes; regions cannot be packed")
    if path.exists() and not overwrite:
        raise ConflictError(f"{path} is already there; use overwrite (--overwrite) to replace it")
    partial = path.with_name(f".{path.name}.partial")
    with writing(path), lock(path.with_name(f".{path.name}.lock"), f"pack {path}"):
        remove_tree(partial)
        _write(Windows(windows.store, _packed_query(windows)), windows.store, partial, query.jitter)
        if path.exists():
            retired = path.with_name(f".{path.name}.retired")
            remove_tree(retired)
            path.rename(retired)
            partial.rename(path)
            remove_tree(retired)
        else:
            partial.rename(path)
        sync(path.absolute().parent)
    return path


def _packed_query(windows: Windows) -> Query:
    """Widen the query by its jitter, once a gene, with nothing done that can be done on reading."""
    query = windows.query
    return replace(
        query,
        genes=list(dict.fromkeys(windows.genes["id"])),
        split=None,
        fold=None,
        exclude=None,
        expression=None,
        features=None,
        width=query.width + 2 * query.jitter,
        resolution=1,
        jitter=0,
        orient="reference",
        cell_types=windows.cell_types,
        assays=windows.assays,
        contacts=windows.selection.contacts,
    )


def _write(windows: Windows, store: Store, path: Path, jitter: int) -> None:
    from genostore.lazy import windows_dataset

    storage = create(path, store.genome)
    rows = windows.selection.store_row
    for node, entry in store.entries.items():
        if entry["kind"] in COPIED:
            _copy(store, storage, node, entry, rows)
    dataset = windows_dataset(windows)
    schemas = {part: _schema(dataset[part]) for part in windows.parts}
    for part, schema in schemas.items():
        staging = Staging(storage, part, {"": schema}, "pack")
        staging.begin()
        grid = dataset[part].data
        for block in staging.todo():
            staging.write(block, np.asarray(grid[schema.slices(block)].compute(scheduler="sync"))).wait()
        staging.publish({"kind": "packed"})
    for name, values in dataset.coords.items():
        _column(storage, str(name), values.to_numpy(), str(values.dims[0]), {"kind": "coordinate"})
    nodes = {f"tracks/{c}/{a}" for c in windows.cell_types for a in windows.assays}
    asked = windows.selection.contacts
    if asked is not None:
        nodes |= {f"contacts/{c}/{asked.assay}/{asked.bin_size}" for c in windows.cell_types}
    description = {
        "width": windows.width - 2 * jitter,
        "jitter": jitter,
        "cell_types": windows.cell_types,
        "assays": windows.assays,
        "contacts": asdict(asked) if asked else None,
        "sources": {n: e for n, e in store.entries.items() if n in nodes},
    }
    description["digest"] = hashlib.sha256(dumps(description)).hexdigest()
    root = json.loads(storage.read("zarr.json") or b"{}")
    root["attributes"][KEY]["pack"] = description
    # By this, xarray takes the genes' columns for coordinates.
    root["attributes"]["coordinates"] = " ".join(str(c) for c in dataset.coords if c not in dataset.dims)
    write_file(storage.path("zarr.json"), seal(root, "zarr.json"))


def _schema(variable: Any) -> ArraySchema:
    """Chunk windows along genes alone, so that one gene of all tracks is one read."""
    per_gene = int(np.prod(variable.shape[1:])) * variable.dtype.itemsize
    genes = max(1, min(CHUNK_BYTES // per_gene, variable.shape[0]))
    chunks = max(1, min(SHARD_BYTES // (genes * per_gene), -(-variable.shape[0] // genes)))
    fill: float | int = 4 if variable.dtype == np.uint8 else float("nan")
    return ArraySchema(
        shape=variable.shape,
        dims=tuple(str(d) for d in variable.dims),
        dtype=str(variable.dtype),
        fill=fill,
        chunk=(genes, *variable.shape[1:]),
        shard=(genes * chunks, *variable.shape[1:]),
    )


def _column(storage: Storage, node: str, values: NDArray[Any], dim: str, attributes: dict[str, Any]) -> None:
    text = values.dtype.kind in "OTU"
    staging = Staging(
        storage, node, {"": column_array(len(values), dim, "string" if text else str(values.dtype))}, "pack"
    )
    staging.begin()
    staging.write_column(values.astype(object) if text else values)
    staging.publish(attributes)


def _copy(store: Store, storage: Storage, node: str, entry: dict[str, Any], rows: Ints) -> None:
    """Take a node along; what lies along the gene axis is cut to the genes of the pack."""
    attributes = {k: v for k, v in entry.items() if k not in ("generation", "crc32c", "statistics")}
    if entry["kind"] in ("feature", "expression"):
        _column(storage, node, store.array(node).read()[rows], "gene", attributes)
        return
    frame = store.genes.iloc[rows] if node == "genes" else store.regions(node.split("/")[1])
    dim = "gene" if node == "genes" else "interval"
    arrays, columns = {}, {}
    for name in frame:
        values = frame[name].to_numpy()
        text = values.dtype.kind not in "iufb"
        columns[name] = values.astype(object) if text else values
        arrays[name] = column_array(len(frame), dim, "string" if text else str(values.dtype))
    staging = Staging(storage, node, arrays, "pack")
    staging.begin()
    for name, values in columns.items():
        staging.write_column(values, name)
    staging.publish({**attributes, "n": len(frame)})


class Pack(Store):
    """A pack opened alone: a store whose windows are already cut."""

    def __init__(self, storage: Storage, root: RootSchema, description: dict[str, Any]) -> None:
        super().__init__(storage, root)
        self.description = description

    def __reduce__(self) -> tuple[Any, ...]:
        return Pack, (self.storage, self.root, self.description)

    def __repr__(self) -> str:
        what = self.description
        return (
            f"<genostore.Pack {self.path}: {len(self.genes):,} genes x {len(what['cell_types'])} cell types, "
            f"{', '.join(what['assays'])}, {what['width']:,} bases and {what['jitter']:,} of jitter>"
        )

    @cached_property
    def entries(self) -> index.Entries:
        """The pack's nodes, and what its windows were cut from."""
        return {**index.read(self.storage), **self.description["sources"]}

    @property
    def cell_types(self) -> list[str]:
        """Of the windows, in their order."""
        return list(self.description["cell_types"])

    @property
    def assays(self) -> list[str]:
        """Of the windows, in their order."""
        return list(self.description["assays"])

    def windows(self, genes: Any = None, **query: Any) -> Windows:
        """Cut windows out of those of the pack; the arguments are those of a store's."""
        asked = Query(genes=genes, **query)
        self._check(asked)
        packed = self.description["contacts"]
        contacts = asked.contacts
        if isinstance(contacts, Contacts) and packed is not None:
            contacts = replace(contacts, bin_size=contacts.bin_size or packed["bin_size"])
            if asdict(contacts) != packed:
                raise QueryError(f"the pack holds {Contacts(**packed)}, and {contacts} is asked for; ask the store")
        selection = replace(select(self, replace(asked, contacts=None)), contacts=contacts)  # type: ignore[arg-type]
        return Windows(self, asked, selection, PackReader(self, asked, selection))

    def _check(self, asked: Query) -> None:
        what = self.description
        have, want = what["width"] + 2 * what["jitter"], asked.width + 2 * asked.jitter
        reasons = {
            "windows about genes, and regions are asked for": asked.regions is not None,
            f"{have:,} bases a window, jitter included, and {want:,} are asked for": want > have,
            "no sequence": asked.sequence and "sequence" not in self.entries,
            "no contacts": asked.contacts is not None and what["contacts"] is None,
        }
        for reason, holds in reasons.items():
            if holds:
                raise QueryError(f"pack {self.path} holds {reason}; ask the store it was cut from, or pack again")


class PackReader:
    """Reads windows out of a pack."""

    def __init__(self, pack: Pack, query: Query, selection: Selection) -> None:
        self.pack, self.query, self.selection = pack, query, selection

    def read(self, row: Ints, cell: Ints, shift: Ints, parts: frozenset[str] = PARTS) -> dict[str, NDArray[Any]]:
        """Read windows; see :class:`genostore.windows.Reader`."""
        what, chosen, width = self.pack.description, self.selection, self.query.width
        gene = chosen.store_row[row]
        place = np.array([what["cell_types"].index(c) for c in chosen.cell_types])[cell]
        low = (what["width"] + 2 * what["jitter"]) // 2 - width // 2 + shift
        cut = list(zip(gene.tolist(), place.tolist(), low.tolist(), strict=True))
        out: dict[str, NDArray[Any]] = {}
        with Reads() as reads:
            if "sequence" in parts:
                array = self.pack.array("sequence")
                out["sequence"] = array.empty((len(row), width))
                for i, (g, _, start) in enumerate(cut):
                    reads.block(array, (slice(g, g + 1), slice(start, start + width)), out["sequence"][i : i + 1])
            if "signal" in parts:
                array = self.pack.array("signal")
                out["signal"] = array.empty((len(row), len(chosen.assays), width))
                for run, into in self._channels():
                    for i, (g, c, start) in enumerate(cut):
                        where = (slice(g, g + 1), slice(c, c + 1), run, slice(start, start + width))
                        reads.block(array, where, out["signal"][None, i : i + 1, into])
            if "contacts" in parts:
                self._contacts(self.pack.array("contacts"), row, cut, shift, reads, out)
        return out

    def _channels(self) -> Iterator[tuple[slice, slice]]:
        """Give runs of assays that follow each other in the pack, and where they go in the output."""
        have = {a: i for i, a in enumerate(self.pack.assays)}
        wanted = [have[a] for a in self.selection.assays]
        start = 0
        for i in range(1, len(wanted) + 1):
            if i == len(wanted) or wanted[i] != wanted[i - 1] + 1:
                yield slice(wanted[start], wanted[i - 1] + 1), slice(start, i)
                start = i

    def _contacts(
        self, array: Array, row: Ints, cut: list[tuple[int, int, int]], shift: Ints, reads: Reads, out: dict[str, Any]
    ) -> None:
        what, chosen, width = self.pack.description, self.selection, self.query.width
        start = chosen.anchor[row] - width // 2 + shift
        first, n = contact_bins(self.query, chosen, row, start)
        packed = replace(self.query, width=what["width"] + 2 * what["jitter"])
        there, _ = contact_bins(packed, chosen, row, chosen.anchor[row] - packed.width // 2)
        square = len(array.schema.shape) == 4
        out["contacts"] = np.full((len(row), n, n) if square else (len(row), n), np.nan, dtype=np.float32)
        for i, ((g, c, _), skip) in enumerate(zip(cut, (first - there).tolist(), strict=True)):
            stop = min(skip + n, array.schema.shape[2])
            axes = (slice(skip, stop),) * (2 if square else 1)
            into = out["contacts"][None, i : i + 1, : stop - skip]
            into = into[..., : stop - skip]
            reads.block(array, (slice(g, g + 1), slice(c, c + 1), *axes), into)
