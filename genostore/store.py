"""Opening a store, and asking what is in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genostore import index
from genostore.arrays import Array, Group, read_column
from genostore.contacts import ContactMap
from genostore.errors import CorruptionError, FormatError, NotFoundError, QueryError, StaleError, nearest
from genostore.genome import Genome, RegionLike
from genostore.schema import KEY, RootSchema, summary
from genostore.seal import read_root
from genostore.sequence import SOFT_MASK
from genostore.storage import Storage

if TYPE_CHECKING:
    import xarray as xr

    from genostore.windows import Windows

TRACK_COLUMNS = ("cell_type", "assay", "strand", "replicate", "role", "unit", "generation")
STATISTIC_COLUMNS = ("coverage", "min", "max", "mean", "sd")
PROVENANCE_COLUMNS = ("source", "accession", "sha256", "size")


def open(path: str | os.PathLike[str], source: Store | str | os.PathLike[str] | None = None) -> Store:
    """Open a store, or a pack, for reading.

    Parameters
    ----------
    path
        Of the store's folder, of a pack's, or of ``STORE/packs/NAME``.
    source
        Of a pack: the store that it was cut from, or its path, to be compared with what the pack was cut from. A pack
        that lies in the ``packs`` of a store is compared with that store.

    Returns
    -------
    Store
        Read-only; it keeps the path and opens arrays on demand, so that it pickles and survives spawn.

    Raises
    ------
    FormatError
        If there is no store at the path, or one of another version.
    StaleError
        If the source of a pack has changed since.
    QueryError
        If a source is given for a store.
    """
    storage = Storage.of(path)
    raw = storage.read("zarr.json")
    if raw is None:
        absent = storage.local and not storage.path("").exists()
        there = "there is no such folder" if absent else "it holds no zarr.json"
        raise FormatError(f"{storage.root} is not a genostore store: {there}; `genostore ingest` makes one")
    root, metadata = read_root(raw, storage.root)
    if "pack" not in metadata["attributes"][KEY]:
        if source is not None:
            raise QueryError(f"source= goes with a pack, and {storage.root} is a store")
        return Store(storage, root)
    from genostore.pack import Pack

    pack = Pack(storage, root, metadata["attributes"][KEY]["pack"])
    source = pack.enclosing if source is None else source
    if source is not None:
        pack.check(source)
    return pack


class Store:
    """A genome, its tracks, contacts, genes and expression; made by :func:`genostore.open`."""

    def __init__(self, storage: Storage, root: RootSchema) -> None:
        self.storage, self.root = storage, root
        self.genome: Genome = root.genome
        self._arrays: dict[str, Array] = {}
        self._maps: dict[str, ContactMap] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # What was seen goes along, so that a worker process has the same view.
        seen = {k: v for k, v in self.__dict__.items() if k == "entries"}
        return Store, (self.storage, self.root), seen or None

    def __repr__(self) -> str:
        tracks = sum(e["kind"] == "track" for e in self.entries.values())
        genes = self.entries.get("genes", {}).get("n", 0)
        return (
            f"<genostore.Store {self.storage.root}: {self.genome.name}, {len(self.genome)} contigs, {genes:,} genes, "
            f"{len(self.cell_types)} cell types, {tracks} tracks>"
        )

    @cached_property
    def entries(self) -> index.Entries:
        """What the store held when it was opened: node path to attributes, from the index."""
        return index.read(self.storage)

    def _kind(self, kind: str) -> dict[str, dict[str, Any]]:
        return {node: e for node, e in self.entries.items() if e["kind"] == kind}

    @property
    def path(self) -> str:
        """Where the store lies."""
        return self.storage.root

    @property
    def contigs(self) -> dict[str, int]:
        """Lengths in bases by name, in the order of the genome axis."""
        return {c.name: c.length for c in self.genome}

    @cached_property
    def cell_types(self) -> list[str]:
        """Cell types of tracks and contacts, in alphabetical order."""
        return sorted({e["cell_type"] for e in self.entries.values() if e["kind"] in ("track", "contacts")})

    @cached_property
    def assays(self) -> list[str]:
        """Names of the tracks' assays (a stranded pair gives two), in alphabetical order."""
        return sorted({node.rsplit("/", 1)[1] for node in self._kind("track")})

    @cached_property
    def tracks(self) -> pd.DataFrame:
        """One row a track: cell type, assay, role, unit, provenance and statistics."""
        rows = []
        for node, entry in self._kind("track").items():
            row = {c: entry.get(c) for c in TRACK_COLUMNS} | {"assay": node.rsplit("/", 1)[1]}
            row |= {c: entry.get("statistics", {}).get(c, np.nan) for c in STATISTIC_COLUMNS}
            row |= {c: entry.get("provenance", {}).get(c) for c in PROVENANCE_COLUMNS}
            rows.append(row)
        frame = pd.DataFrame(rows, columns=[*TRACK_COLUMNS, *STATISTIC_COLUMNS, *PROVENANCE_COLUMNS])
        return frame.sort_values(["cell_type", "assay"], ignore_index=True)

    @cached_property
    def genes(self) -> pd.DataFrame:
        """One row a gene: id, name, contig, start, end, tss (0-based, half-open), strand, biotype, splits."""
        entry = self.entries.get("genes")
        if entry is None:
            raise NotFoundError(f"{self.path} has no genes; its catalogue named none")
        return self._frame("genes", entry["columns"])

    @cached_property
    def gene_rows(self) -> dict[str, dict[str, list[int]]]:
        """Rows of ``genes`` by ``id`` and by ``name``; several genes may have one name."""
        found: dict[str, dict[str, list[int]]] = {"id": {}, "name": {}}
        for column, rows in found.items():
            for row, value in enumerate(self.genes[column]):
                rows.setdefault(value, []).append(row)
        return found

    @property
    def splits(self) -> list[str]:
        """Columns of ``genes`` that hold a split (train, valid, test)."""
        return list(self.entries.get("genes", {}).get("splits", ()))

    def regions(self, name: str) -> pd.DataFrame:
        """Give a set of intervals, such as the blacklist: contig, start, end, name."""
        entry = self._entry(f"regions/{name}", "set of regions", name, "regions/")
        return self._frame(f"regions/{name}", entry["columns"])

    def _frame(self, node: str, columns: Sequence[str]) -> pd.DataFrame:
        group = Group.of(self.storage, node)
        self._check_seen(node, index.node_attributes(self.storage, node))
        values = self.storage.map(lambda c: read_column(self.storage, f"{node}/{c}", group), columns)
        return pd.DataFrame(dict(zip(columns, values, strict=True)))

    def _entry(self, node: str, what: str, name: str, prefix: str) -> dict[str, Any]:
        entry = self.entries.get(node)
        if entry is None:
            known = [n.removeprefix(prefix) for n in self.entries if n.startswith(prefix)]
            raise NotFoundError(f"{self.path} has no {what} {name!r}; {nearest(name, known)}")
        return entry

    def array(self, node: str) -> Array:
        """Open an array of the store by its path, once.

        Raises
        ------
        StaleError
            If it is another one than when the store was opened.
        CorruptionError
            If it lies along the genome and does not cover it.
        """
        if node not in self._arrays:
            array = Array(self.storage, node)
            self._check_seen(node, array.attributes)
            if array.schema.dims == ("position",) and array.schema.shape != (self.genome.length,):
                raise CorruptionError(
                    f"array {node} of {self.path} has {array.schema.shape[0]:,} positions, and the genome of the store "
                    f"{self.genome.length:,}: it was made for another genome; ingest it again with --overwrite"
                )
            self._arrays[node] = array
        return self._arrays[node]

    def open_arrays(self, nodes: Sequence[str]) -> None:
        """Open arrays side by side, where that spares waiting."""
        self.storage.map(self.array, [node for node in nodes if node not in self._arrays])

    def _check_seen(self, node: str, attributes: Mapping[str, Any] | None) -> None:
        """Refuse a node that is not the one that the index had when the store was opened."""
        seen = self.entries.get(node)
        if seen is None or (attributes is not None and summary(attributes) == seen):
            return
        if attributes is not None and attributes.get("generation") == seen.get("generation"):
            raise CorruptionError(
                f"{node} of {self.path} is not what the index says of it; `genostore verify {self.path}` tells more, "
                f"and `genostore reindex {self.path}` makes the index anew"
            )
        what = "removed" if attributes is None else "overwritten"
        raise StaleError(
            f"{node} of {self.path} was {what} after the store was opened (then it was generation "
            f"{seen.get('generation')}); open the store again to read what is there now. If this stays, the run that "
            f"replaced it was interrupted: run it again, or `genostore reindex {self.path}`"
        )

    def track(self, cell_type: str, assay: str) -> Array:
        """Open the array of one track.

        Raises
        ------
        NotFoundError
            Naming the assays that the cell type has.
        """
        node = f"tracks/{cell_type}/{assay}"
        if node not in self.entries:
            if cell_type not in self.cell_types:
                raise NotFoundError(
                    f"{self.path} has no cell type {cell_type!r}; {nearest(cell_type, self.cell_types)}"
                )
            known = [n.rsplit("/", 1)[1] for n in self._kind("track") if n.split("/")[1] == cell_type]
            raise NotFoundError(f"cell type {cell_type} has no track {assay!r}; {nearest(assay, known)}")
        return self.array(node)

    def sequence(self, region: RegionLike, soft_mask: bool = False) -> NDArray[np.uint8]:
        """Read the bases of a region.

        Parameters
        ----------
        region
            ``"chr1:1,000-2,000"``, ``"chr1"`` or a tuple ``(contig, start, end)``; 0-based, half-open.
        soft_mask
            Add 8 to the code of each soft-masked base.

        Returns
        -------
        numpy.ndarray
            ``(end - start,)`` uint8 codes, 0-3 = A C G T, 4 = other. :func:`genostore.decode` spells them.

        Raises
        ------
        RegionError
            If the region passes an end of its contig.
        """
        codes: NDArray[np.uint8] = self.array("sequence").read(slice(*self.genome.region(region).span))
        return codes if soft_mask else codes & np.uint8(SOFT_MASK - 1)

    def signal(
        self,
        region: RegionLike,
        cell_types: Sequence[str] | None = None,
        assays: Sequence[str] | None = None,
    ) -> xr.DataArray:
        """Give the tracks over a region, lazily.

        Parameters
        ----------
        region
            As for :meth:`sequence`.
        cell_types, assays
            In the order wanted; None for all.

        Returns
        -------
        xarray.DataArray
            ``(cell_type, assay, position)`` float32, backed by Dask; ``position`` is the 0-based position on the
            contig. NaN where a track's source is silent, and for pairs that the store does not have.

        Raises
        ------
        NotFoundError
            For a cell type or assay that no track has.
        """
        from genostore.lazy import signal

        cell_types = self._known(cell_types, self.cell_types, "cell type")
        assays = self._known(assays, self.assays, "assay")
        return signal(self, self.genome.region(region), cell_types, assays)

    def _known(self, names: Sequence[str] | None, known: Sequence[str], what: str) -> list[str]:
        if names is None:
            return list(known)
        for name in [names] if isinstance(names, str) else names:
            if name not in known:
                raise NotFoundError(f"{self.path} has no {what} {name!r}; {nearest(name, known)}")
        return [names] if isinstance(names, str) else list(names)

    def contacts(self, cell_type: str, assay: str, bin_size: int | None = None) -> ContactMap:
        """Open the contacts of a cell type.

        Parameters
        ----------
        cell_type, assay
            Such as ``"K562"``, ``"hic"``.
        bin_size
            In bases; may be left out where there is one.

        Raises
        ------
        NotFoundError
            Naming what there is.
        """
        prefix = f"contacts/{cell_type}/{assay}/"
        sizes = sorted(int(n.removeprefix(prefix)) for n in self.entries if n.startswith(prefix))
        if bin_size is None and len(sizes) == 1:
            bin_size = sizes[0]
        if bin_size not in sizes:
            known = ["/".join(n.split("/")[1:]) for n in self._kind("contacts")]
            wanted = f"{cell_type}/{assay}" + (f"/{bin_size}" if bin_size else "")
            raise NotFoundError(f"{self.path} has no contacts {wanted!r}; {nearest(wanted, known)}")
        node = f"{prefix}{bin_size}"
        if node not in self._maps:
            found = ContactMap(self.storage, node, self.genome)
            self._check_seen(node, index.node_attributes(self.storage, node))
            self._maps[node] = found
        return self._maps[node]

    @property
    def features(self) -> list[str]:
        """Names of the gene features; those of a cell type are named once."""
        return list(dict.fromkeys(node.rsplit("/", 1)[1] for node in self._kind("feature")))

    @property
    def expression(self) -> pd.DataFrame:
        """One row a column of expression: assay, cell type, unit, transform on read, measured genes."""
        columns = ["assay", "cell_type", "unit", "transform", "measured"]
        rows = [{c: e.get(c) for c in columns} for e in self._kind("expression").values()]
        return pd.DataFrame(rows, columns=columns)

    def windows(self, genes: Any = None, **query: Any) -> Windows:
        """Cut aligned windows about TSSs or regions; see :class:`genostore.windows.Query` for the arguments."""
        from genostore.query import Query
        from genostore.windows import Windows

        return Windows(self, Query(genes=genes, **query))
