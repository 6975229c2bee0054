"""From a query to a table of samples: which genes, which cell types, where each window lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genostore.arrays import read_column
from genostore.bed import SHOWN, read_bed, where
from genostore.contacts import Contacts
from genostore.errors import NotFoundError, QueryError, RegionError, nearest

if TYPE_CHECKING:
    from genostore.store import Store

Ints = NDArray[np.int64]
TRANSFORMS: dict[str | None, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    None: lambda x: x,
    "none": lambda x: x,
    "log10p1": lambda x: np.log10(1.0 + x),
    "log2p1": lambda x: np.log2(1.0 + x),
    "log1p": np.log1p,
}
REGION_COLUMNS = {"chrom": "contig", "chr": "contig", "chromStart": "start", "chromEnd": "end", "stop": "end"}


@dataclass(frozen=True, kw_only=True)
class Query:
    """What to cut out of a store; the arguments of ``store.windows``.

    Attributes
    ----------
    genes
        Ids or names, in the order wanted, duplicates kept; None for all. An id may come without its version.
    regions
        Instead of genes: a DataFrame with ``contig`` (or ``chrom``), ``start``, ``end`` and perhaps ``strand``, or
        the path of a BED file. Windows are centred on ``(start + end) // 2``.
    split, fold
        Keep the genes of a split (``"train"``); ``fold`` names the column where there are several.
    exclude
        Name of a set of regions: a gene whose window overlaps one of them is left out.
    cell_types, assays
        In the order wanted; None for all. ``assays=[]`` for no signal. The name of a stranded pair (``"RNA"``)
        stands for its two tracks (``"RNA+", "RNA-"``).
    sequence
        Read the bases.
    contacts
        A :class:`genostore.Contacts`, or the name of an assay of contacts.
    expression
        Name of the assay to predict.
    features
        ``"all"``, or names of gene features in the order wanted; None for none.
    missing_target
        ``"drop"``: leave out samples that were not measured; ``"keep"``: their target is NaN.
    missing_tracks
        ``"error"``, or ``"nan"``: a cell type without an assay reads as silent.
    width
        Of the windows in bases, ``[tss - width // 2, tss - width // 2 + width)``. What lies off the contig is
        padded (N, NaN) and counted in ``left_pad`` and ``right_pad``; a window is never shifted.
    resolution, aggregate
        Bases a bin of the signal, a divisor of the width; ``"mean"`` or ``"sum"`` of the bases of a bin that have a
        value (NaN where none has).
    jitter
        The most bases by which a loader may shift a window at random, either way.
    orient
        ``"reference"``: the forward strand. ``"gene"``: windows of minus-strand genes are reverse-complemented and
        their stranded tracks swapped, so that ``RNA+`` is the sense strand.
    """

    genes: Sequence[str] | str | None = None
    regions: pd.DataFrame | str | Path | None = None
    split: str | None = None
    fold: str | None = None
    exclude: str | None = None
    cell_types: Sequence[str] | str | None = None
    assays: Sequence[str] | str | None = None
    sequence: bool = True
    contacts: Contacts | str | None = None
    expression: str | None = None
    features: Sequence[str] | Literal["all"] | None = None
    missing_target: Literal["drop", "keep"] = "drop"
    missing_tracks: Literal["error", "nan"] = "error"
    width: int = 2_000
    resolution: int = 1
    aggregate: Literal["mean", "sum"] = "mean"
    jitter: int = 0
    orient: Literal["reference", "gene"] = "reference"

    def __post_init__(self) -> None:
        choices = {
            "missing_target": ("drop", "keep"),
            "missing_tracks": ("error", "nan"),
            "aggregate": ("mean", "sum"),
            "orient": ("reference", "gene"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise QueryError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(map(repr, allowed))}")
        if self.width < 1:
            raise QueryError(f"width is {self.width}; a window is at least 1 base wide")
        if self.resolution < 1 or self.width % self.resolution:
            raise QueryError(f"resolution is {self.resolution}, which does not divide the width of {self.width}")
        if self.jitter < 0:
            raise QueryError(f"jitter is {self.jitter}; it is a number of bases, 0 or more")
        if self.genes is not None and self.regions is not None:
            raise QueryError("windows are about genes or about regions; give one of them")
        if self.regions is not None:
            for name in ("split", "fold", "expression", "features"):
                if getattr(self, name) is not None:
                    raise QueryError(f"{name} belongs to genes, and these windows are about regions; leave it out")
        if isinstance(self.contacts, str):
            object.__setattr__(self, "contacts", Contacts(self.contacts))


@dataclass(frozen=True)
class Selection:
    """The samples of a query and where they lie.

    Attributes
    ----------
    dim
        ``"gene"`` or ``"region"``.
    rows
        The selected genes or regions, one row each.
    store_row
        ``(n,)`` their rows in the store's table of genes (in the regions given).
    anchor
        ``(n,)`` the TSS or middle, on its contig.
    contig_offset, contig_length
        ``(n,)`` of the contig.
    minus
        ``(n,)`` bool, on the minus strand.
    cell_types, assays, roles, features
        Names along the axes of a batch; ``roles`` goes with ``assays``.
    gene, cell_type
        ``(samples,)`` rows of ``rows`` and ``cell_types``, gene-major.
    target
        ``(n, cell type)`` float32, or None.
    feature_values
        ``(n, cell type, feature)`` float32, or None.
    contacts
        With the bin size filled in, or None.
    excluded
        Genes left out because their window overlaps a region of ``exclude``.
    spare_bins
        Of contacts, after those of a window: a pack keeps one, since a narrower window cut from it may begin so late
        in its first bin that its last bin is the one after.
    """

    dim: str
    rows: pd.DataFrame
    store_row: Ints
    anchor: Ints
    contig_offset: Ints
    contig_length: Ints
    minus: NDArray[np.bool_]
    cell_types: list[str]
    assays: list[str]
    roles: list[str | None]
    features: list[str]
    gene: Ints
    cell_type: Ints
    target: NDArray[np.float32] | None
    feature_values: NDArray[np.float32] | None
    contacts: Contacts | None
    excluded: int
    spare_bins: int = 0


def select(store: Store, query: Query) -> Selection:
    """Resolve a query against a store.

    Raises
    ------
    NotFoundError
        For an unknown gene, cell type, assay, feature, fold, contacts or expression.
    QueryError
        If nothing is left, a window is wider than its contig, tracks are missing, or a cell type is named twice.
    RegionError
        For regions that cannot be read or do not lie on their contig.
    """
    cell_types = store._known(query.cell_types, store.cell_types, "cell type")
    twice = [c for c in dict.fromkeys(cell_types) if cell_types.count(c) > 1]
    if twice:
        raise QueryError(f"cell type {twice[0]!r} is named more than once in {', '.join(cell_types)}; once is enough")
    assays = resolve_assays(store, query.assays, cell_types, query.missing_tracks)
    contacts = _contacts(store, query.contacts, cell_types) if isinstance(query.contacts, Contacts) else None
    if query.regions is not None:
        dim, rows = "region", read_regions(query.regions)
        anchor = (rows["start"].to_numpy(np.int64) + rows["end"].to_numpy(np.int64)) // 2
        picked = np.arange(len(rows))
    else:
        dim, picked = "gene", _genes(store, query)
        rows = store.genes.iloc[picked].reset_index(drop=True)
        anchor = rows["tss"].to_numpy(np.int64)
    if dim == "region":
        _check_contigs(store, rows)
    offset, length = store.genome.columns(rows["contig"])
    kept = np.ones(len(rows), dtype=bool)
    if dim == "region":
        _check_regions(rows, length)
        rows.attrs = {}  # where they were read matters no more
    if query.exclude is not None:
        kept = ~_overlaps(store, query.exclude, rows, anchor, query.width)
    target = None
    if query.expression is not None:
        target = _targets(store, query.expression, cell_types)[picked]
        if query.missing_target == "drop":
            kept &= ~np.isnan(target).all(axis=1)
    if not kept.any() or not cell_types:
        raise QueryError(_nothing_left(store, query, len(rows), cell_types))
    rows, picked, anchor, offset, length = rows[kept], picked[kept], anchor[kept], offset[kept], length[kept]
    rows = rows.reset_index(drop=True)
    _check_width(rows, length, query.width)
    target = None if target is None else target[kept]
    measured = np.ones((len(rows), len(cell_types)), dtype=bool)
    if target is not None and query.missing_target == "drop":
        measured = ~np.isnan(target)
    gene, cell = np.nonzero(measured)
    features = _feature_names(store, query.features)
    strand = rows["strand"] if "strand" in rows else pd.Series(["+"] * len(rows))
    return Selection(
        dim=dim,
        rows=rows,
        store_row=picked,
        anchor=anchor,
        contig_offset=offset,
        contig_length=length,
        minus=(strand == "-").to_numpy(bool),
        cell_types=cell_types,
        assays=assays,
        roles=[_role(store, cell_types, a) for a in assays],
        features=features,
        gene=gene,
        cell_type=cell,
        target=target,
        feature_values=_features(store, features, cell_types)[picked] if features else None,
        contacts=contacts,
        excluded=int((~kept).sum()) if query.exclude is not None else 0,
    )


def resolve_assays(
    store: Store, assays: Sequence[str] | str | None, cell_types: Sequence[str], missing: str = "error"
) -> list[str]:
    """Resolve names of assays to the store's tracks; the name of a stranded pair stands for both strands."""
    wanted = store.assays if assays is None else [assays] if isinstance(assays, str) else list(assays)
    out: list[str] = []
    for name in wanted:
        pair = [f"{name}+", f"{name}-"]
        # A track of this name spares looking through all the tracks there are.
        if any(f"tracks/{c}/{name}" in store.entries for c in cell_types) or name in store.assays:
            out.append(name)
        elif all(p in store.assays for p in pair):
            out += pair
        else:
            raise NotFoundError(f"{store.path} has no assay {name!r}; {nearest(name, store.assays)}")
    absent = [(c, a) for c in cell_types for a in out if f"tracks/{c}/{a}" not in store.entries]
    if absent and missing == "error":
        shown = ", ".join(f"{c}/{a}" for c, a in absent[:8]) + (" ..." if len(absent) > 8 else "")
        raise QueryError(
            f"the store has no track {shown} ({len(absent)} of {len(cell_types) * len(out)} pairs); choose other "
            "cell_types or assays, or read them as silent with missing_tracks='nan'"
        )
    return out


def _role(store: Store, cell_types: Sequence[str], assay: str) -> str | None:
    entries = (store.entries.get(f"tracks/{c}/{assay}") for c in cell_types)
    return next((e["role"] for e in entries if e is not None and e.get("role")), None)


def _contacts(store: Store, contacts: Contacts, cell_types: Sequence[str]) -> Contacts:
    sizes = set()
    for cell_type in cell_types:
        found = store.contacts(cell_type, contacts.assay, contacts.bin_size)
        found.biases(contacts.weight)
        sizes.add(found.bin_size)
    if len(sizes) > 1:
        raise QueryError(f"the cell types' contacts {contacts.assay!r} have bin sizes {sorted(sizes)}; name one")
    return replace(contacts, bin_size=sizes.pop()) if sizes else contacts


def _genes(store: Store, query: Query) -> Ints:
    table = store.genes
    if query.genes is None:
        picked = np.arange(len(table))
    else:
        wanted = [query.genes] if isinstance(query.genes, str) else list(query.genes)
        found = [_gene(store, str(g)) for g in wanted]
        _check_genes(store, [str(g) for g, row in zip(wanted, found, strict=True) if row is None], len(wanted))
        picked = np.array(found, dtype=np.int64)
    if query.split is not None:
        column = _fold(store, query.fold)
        values = table[column].to_numpy()
        if query.split not in set(values):
            raise NotFoundError(
                f"no gene is in split {query.split!r} of {column!r}; {nearest(query.split, sorted(set(values) - {''}))}"
            )
        picked = picked[values[picked] == query.split]
    elif query.fold is not None:
        raise QueryError(f"fold={query.fold!r} says where to look for a split; give split= too")
    return picked


def _gene(store: Store, name: str) -> int | None:
    """The row of a gene, None where there is none."""
    for column, wanted in (("id", name), ("id", name.split(".")[0]), ("name", name)):
        rows = store.gene_rows[column].get(wanted, [])
        if len(rows) == 1:
            return rows[0]
        if rows:
            ids = ", ".join(store.genes["id"].iloc[rows])
            raise QueryError(f"gene name {name!r} is that of {len(rows)} genes; give the id of one of them: {ids}")
    return None


def _check_genes(store: Store, absent: list[str], n: int) -> None:
    if not absent:
        return
    known = [*store.gene_rows["id"], *(name for name in store.gene_rows["name"] if name)]
    first = f"there is no gene {absent[0]!r}; {nearest(absent[0], known, limit=3)}"
    others = ", ".join(map(repr, absent[1 : 1 + SHOWN])) + (", ..." if len(absent) > 1 + SHOWN else "")
    more = f" Nor are there {others}: {len(absent)} of the {n} genes are not in {store.path}" if others else ""
    raise NotFoundError(first + ("." if more and not first.endswith("?") else "") + more)


def _fold(store: Store, fold: str | None) -> str:
    if fold is None and len(store.splits) == 1:
        return store.splits[0]
    if fold not in store.splits:
        if not store.splits:
            raise QueryError("the store has no splits; name them in the catalogue, or give genes=")
        hint = nearest(fold, store.splits) if fold else f"there are {', '.join(store.splits)}"
        raise QueryError(f"split= wants the fold to look in, and it is {fold!r}; {hint}")
    return fold


def read_regions(regions: pd.DataFrame | str | Path) -> pd.DataFrame:
    """Read regions from a DataFrame or a BED file: contig, start, end, and strand and name where given."""
    if not isinstance(regions, pd.DataFrame):
        return read_bed(regions)
    frame = regions.rename(columns=REGION_COLUMNS).reset_index(drop=True)
    absent = [c for c in ("contig", "start", "end") if c not in frame]
    if absent:
        raise RegionError(f"regions lack the column {absent[0]!r}; they have {list(frame.columns)}")
    bad = [c for c in ("start", "end") if not pd.api.types.is_integer_dtype(frame[c])]
    if bad:
        raise RegionError(f"column {bad[0]!r} of the regions holds {frame[bad[0]].dtype}, not whole numbers")
    return frame


def _check_contigs(store: Store, rows: pd.DataFrame) -> None:
    names = rows["contig"]
    for name in dict.fromkeys(names):
        try:
            store.genome.resolve(name)
        except NotFoundError as error:
            unknown = (names == name).to_numpy()
            more = f" ({unknown.sum()} such regions)" if unknown.sum() > 1 else ""
            raise NotFoundError(f"{where(rows, int(unknown.argmax()))}{more}: {error}") from error


def _check_regions(rows: pd.DataFrame, length: Ints) -> None:
    start, end = rows["start"].to_numpy(), rows["end"].to_numpy()
    bad = np.flatnonzero((start < 0) | (start >= end) | (end > length))
    if bad.size:
        first = (
            f"{where(rows, i)}: {r.contig}:{r.start}-{r.end}, of a contig of {length[i]}"
            for i, r in zip(bad[:SHOWN], rows.iloc[bad[:SHOWN]].itertuples(), strict=True)
        )
        raise RegionError(
            f"{bad.size} of {len(rows)} regions are empty, reversed or pass an end of their contig; expected is "
            "0 <= start < end <= length. The first are:\n" + "\n".join(first)
        )


def _overlaps(store: Store, name: str, rows: pd.DataFrame, anchor: Ints, width: int) -> NDArray[np.bool_]:
    """Tell which windows overlap an interval of a set of regions."""
    intervals = store.regions(name)
    out = np.zeros(len(rows), dtype=bool)
    contigs = rows["contig"].to_numpy()
    for contig, group in intervals.groupby("contig"):
        here = np.flatnonzero(contigs == contig)
        starts, ends = np.sort(group["start"].to_numpy()), np.sort(group["end"].to_numpy())
        low = anchor[here] - width // 2
        # Intervals that begin before the window ends, less those that end before it begins.
        out[here] = np.searchsorted(starts, low + width, "left") > np.searchsorted(ends, low, "right")
    return out


def _check_width(rows: pd.DataFrame, length: Ints, width: int) -> None:
    short = np.flatnonzero(length < width)
    if short.size:
        contigs = sorted(set(rows["contig"].iloc[short]))
        raise QueryError(
            f"{short.size} windows of {width:,} bases are wider than their contig ({', '.join(contigs[:5])}, from "
            f"{length[short].min():,} bases); choose a smaller width or leave those genes out"
        )


def _targets(store: Store, assay: str, cell_types: Sequence[str]) -> NDArray[np.float32]:
    nodes = {c: f"expression/{assay}/{c}" for c in cell_types}
    absent = [c for c, node in nodes.items() if node not in store.entries]
    if absent:
        table = store.expression
        known = [f"{a}/{c}" for a, c in zip(table["assay"], table["cell_type"], strict=True)]
        raise NotFoundError(f"there is no expression {assay}/{absent[0]}; {nearest(f'{assay}/{absent[0]}', known)}")
    columns = []
    for node in nodes.values():
        transform = TRANSFORMS[store.entries[node].get("transform")]
        columns.append(transform(store.array(node).read().astype(np.float64)))
    return np.stack(columns, axis=1).astype(np.float32)


def _feature_names(store: Store, features: Sequence[str] | str | None) -> list[str]:
    if features is None:
        return []
    if features == "all":
        return store.features
    names = [features] if isinstance(features, str) else list(features)
    for name in names:
        if name not in store.features:
            raise NotFoundError(f"{store.path} has no gene feature {name!r}; {nearest(name, store.features)}")
    return names


def _features(store: Store, names: Sequence[str], cell_types: Sequence[str]) -> NDArray[np.float32]:
    """Give ``(gene, cell type, feature)``; a cell type's own feature goes before one that all share."""
    out = np.empty((len(store.genes), len(cell_types), len(names)), dtype=np.float32)
    for f, name in enumerate(names):
        for c, cell_type in enumerate(cell_types):
            node = next((n for n in (f"features/{cell_type}/{name}", f"features/{name}") if n in store.entries), None)
            if node is None:
                raise NotFoundError(f"gene feature {name!r} is not there for cell type {cell_type}")
            out[:, c, f] = read_column(store.storage, node)
    return out


def _nothing_left(store: Store, query: Query, n: int, cell_types: Sequence[str]) -> str:
    steps = [f"{len(store.genes):,} genes in the store" if query.regions is None else f"{n:,} regions"]
    if query.genes is not None:
        steps.append("those named by genes=")
    if query.split is not None:
        steps.append(f"those of split {query.split!r}")
    if query.regions is None:
        steps.append(f"{n:,} so far")
    if query.exclude is not None:
        steps.append(f"those whose window is clear of {query.exclude!r}")
    if query.expression is not None:
        steps.append(f"those measured for {query.expression!r} in {', '.join(cell_types)}")
    return f"no sample is left: {' > '.join(steps)}" if cell_types else "no cell type is selected"
