"""Tracks and slices of a store, given back as the files that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genostore.arrays import Array
from genostore.disk import writing
from genostore.errors import ConflictError, NotFoundError, QueryError, nearest
from genostore.genome import Genome, Region, RegionLike
from genostore.store import Store, open

Format = Literal["bigwig", "bedgraph", "bed", "npz"]

_SUFFIXES: dict[str, Format] = {
    ".bw": "bigwig",
    ".bigwig": "bigwig",
    ".bedgraph": "bedgraph",
    ".bdg": "bedgraph",
    ".bg": "bedgraph",
    ".bed": "bed",
    ".npz": "npz",
}
_FITS = {
    "track": ("bigwig", "bedgraph", "npz"),
    "sequence": ("npz",),
    "regions": ("bed",),
    "genes": ("bed",),
    "contacts": ("npz",),
}
_TILE = 1 << 22  # positions read at once
_ENTRIES = 1 << 18  # intervals handed to pyBigWig at once


class Runs(NamedTuple):
    """Runs of equal values of one contig; what is not covered is in no run.

    Attributes
    ----------
    start, end
        ``(n,)`` int64.
    value
        ``(n,)`` float32.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    value: NDArray[np.float32]


def export(
    store: Store | str | PathLike[str],
    node: str,
    output: str | PathLike[str],
    *,
    region: RegionLike | None = None,
    format: Format | None = None,
    weight: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a node of a store, or a slice of it, to a file of a common format.

    Parameters
    ----------
    store
        An open store, or its path.
    node
        Path in the store: ``tracks/K562/DNase`` (bigWig, bedGraph or npz), ``sequence`` (npz),
        ``contacts/K562/hic/5000`` (npz, of a region), ``regions/blacklist`` or ``genes`` (BED).
    output
        The file. It appears when it is complete.
    region
        What to keep, as ``chr22:17,000,000-17,002,000``; None for all. BED keeps what overlaps it.
    format
        None tells it from the file's name.
    weight
        Of contacts: the balancing weights to apply; None for raw counts.
    overwrite
        Replace a file that is there.

    Returns
    -------
    Path
        The file. bigWig and bedGraph hold the values as the store has them, and NaN is a gap. An npz holds ``values``
        (of a track float32, NaN kept; of the sequence codes with 8 added where soft-masked; of contacts the matrix),
        ``contig``, ``start`` and ``end``.

    Raises
    ------
    NotFoundError
        If the store has no such node.
    QueryError
        If the node cannot be written in that format, or the format cannot be told.
    ConflictError
        If the file is there and ``overwrite`` is not set.
    WriteError
        If it cannot be written.
    """
    opened = store if isinstance(store, Store) else open(store)
    entry = opened.entries.get(node)
    if entry is None:
        raise NotFoundError(f"{opened.path} has no {node!r}; {nearest(node, opened.entries)}")
    target = Path(output)
    chosen = format or _SUFFIXES.get(target.suffix.lower())
    fits = _FITS.get(entry["kind"], ())
    if chosen not in fits:
        what = f"as {chosen}" if chosen else f"to {target.name!r}, whose name does not say the format"
        allowed = f"it can be written as {', '.join(fits)}" if fits else "it has no such form"
        raise QueryError(f"{node} cannot be written {what}; {allowed}")
    if weight is not None and entry["kind"] != "contacts":
        raise QueryError(f"weight is for contacts, and {node} is a {entry['kind']}")
    where = opened.genome.region(region) if region is not None else None
    if target.exists() and not overwrite:
        raise ConflictError(f"{target} is there already; name another file, or ask to overwrite it")
    write: Callable[[Path], None]
    if chosen == "npz":
        write = partial(_npz, opened, node, where, weight)
    else:
        write = partial({"bigwig": _bigwig, "bedgraph": _bedgraph, "bed": _bed}[chosen], opened, node, where)
    unfinished = target.with_name(f".{target.name}.part{target.suffix}")
    with writing(target.parent):
        try:
            write(unfinished)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    return target


def runs(array: Array, genome: Genome, region: Region | None = None) -> Iterator[tuple[str, Runs]]:
    """Yield the runs of equal values of a track, contig by contig, some millions of positions at a time.

    Parameters
    ----------
    array
        Of the track.
    genome
        Of the store.
    region
        What to keep; None for all.

    Yields
    ------
    contig : str
        Its name.
    runs : Runs
        In order, in coordinates of the contig. A run that spans two stretches comes in two parts.
    """
    regions = [region] if region is not None else [Region(c, 0, c.length) for c in genome]
    for one in regions:
        for start in range(one.start, one.end, _TILE):
            end = min(start + _TILE, one.end)
            offset = one.contig.offset
            values = array.read(slice(offset + start, offset + end)).astype(np.float32, copy=False)
            bits = values.view(np.uint32)
            first = np.flatnonzero(np.diff(bits, prepend=~bits[:1]))  # bits, so that -0 and 0 are two runs
            last = np.append(first[1:], len(values))
            kept = ~np.isnan(values[first])
            if kept.any():
                yield one.contig.name, Runs(first[kept] + start, last[kept] + start, values[first[kept]])


def _bigwig(store: Store, node: str, region: Region | None, path: Path) -> None:
    import pyBigWig

    file = pyBigWig.open(str(path), "w")
    if file is None:
        raise PermissionError(13, "pyBigWig cannot create it", str(path))
    try:
        file.addHeader(list(store.contigs.items()))
        for contig, found in runs(store.array(node), store.genome, region):
            for low in range(0, len(found.start), _ENTRIES):
                part = slice(low, low + _ENTRIES)
                start, end, value = (column[part] for column in found)
                names = np.full(len(start), contig)
                file.addEntries(names, start, ends=end, values=value.astype(np.float64))
    finally:
        file.close()


def _bedgraph(store: Store, node: str, region: Region | None, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for contig, found in runs(store.array(node), store.genome, region):
            for start, end, value in zip(found.start.tolist(), found.end.tolist(), found.value, strict=True):
                file.write(f"{contig}\t{start}\t{end}\t{value!s}\n")  # the shortest text of the float32


def _bed(store: Store, node: str, region: Region | None, path: Path) -> None:
    genes = node == "genes"
    frame = store.genes if genes else store.regions(node.split("/", 1)[1])
    if region is not None:
        overlaps = (frame["start"] < region.end) & (frame["end"] > region.start)
        frame = frame[(frame["contig"] == region.contig.name) & overlaps]
    columns = ["contig", "start", "end"]
    if genes:
        frame = frame.assign(score=0)
        columns += ["id", "score", "strand"]
    elif "name" in frame and (frame["name"] != "").any():
        frame = frame.assign(name=frame["name"].where(frame["name"] != "", "."))
        columns.append("name")
    frame[columns].to_csv(path, sep="\t", header=False, index=False)


def _npz(store: Store, node: str, region: Region | None, weight: str | None, path: Path) -> None:
    if region is None:
        raise QueryError(f"an npz is of one region; say which part of {node} to keep")
    values: NDArray[Any]
    if node.startswith("contacts/"):
        cell_type, assay, bin_size = node.split("/")[1:]
        matrix = store.contacts(cell_type, assay, int(bin_size)).matrix(region, weight=weight)
        values = matrix.to_numpy()
    elif node == "sequence":
        values = store.sequence(region, soft_mask=True)
    else:
        values = store.array(node).read(slice(*region.span))
    np.savez_compressed(path, values=values, contig=region.contig.name, start=region.start, end=region.end)
