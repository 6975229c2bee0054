"""Packs: windows written out gene by gene, with a margin for jitter, to be read without the store.

A pack is a store of its own. It holds the genes, features, expression and regions of the store that it came from,
and instead of arrays along the genome the windows themselves: ``sequence`` (gene, position), ``signal`` (gene,
cell_type, assay, position) and ``contacts``, with their coordinates, so that ``xarray.open_zarr`` opens it whole.
:mod:`genostore.packing` writes it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genostore import buffers, index
from genostore.arrays import Reads
from genostore.contacts import Contacts
from genostore.errors import QueryError, StaleError
from genostore.query import Ints, Query, Selection, select
from genostore.storage import Storage
from genostore.store import Store, open
from genostore.tiles import Tiles
from genostore.windows import PARTS, Windows, contact_bins, fill_gaps

if TYPE_CHECKING:
    from genostore.schema import RootSchema

COPIED = ("genes", "feature", "expression", "regions")  # kinds of nodes that a pack takes along


def changes(have: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which of the nodes that a pack was cut from are not what they were.

    Content counts: a node that was written anew from the same source is the same.
    """
    out = []
    for node, entry in have.items():
        other = now.get(node)
        if other is None:
            out.append(f"{node} is not there")
        elif _content(entry) != _content(other):
            before, after = entry.get("generation"), other.get("generation")
            generations = f" (generation {before}, now {after})" if before != after else ""
            out.append(f"{node} has other content{generations}")
    return out


def _content(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    known = entry.get("digest"), entry.get("crc32c")
    return known if any(known) else (entry.get("generation"),)


class Pack(Store):
    """A pack opened alone: a store whose windows are already cut."""

    def __init__(self, storage: Storage, root: RootSchema, description: dict[str, Any]) -> None:
        super().__init__(storage, root)
        self.description = description
        self._tiles: dict[str, Tiles | None] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Pack, (self.storage, self.root, self.description)

    @property
    def enclosing(self) -> str | None:
        """Path of the store in whose ``packs`` this one lies, if it lies in one."""
        folder, _, name = self.path.rpartition("/packs/")
        there = folder and "/" not in name and Storage.of(folder).read("zarr.json") is not None
        return folder if there else None

    def check(self, source: Store | str | os.PathLike[str]) -> None:
        """Check that a store still holds what the pack was cut from.

        Parameters
        ----------
        source
            The store, or its path, which is opened anew.

        Raises
        ------
        StaleError
            Naming what changed or is gone.
        """
        store = source if isinstance(source, Store) else open(source)
        changed = changes(self.description["sources"], store.entries)
        if self.root.assembly != store.root.assembly:
            changed.insert(0, f"the assembly is {store.root.assembly}, not {self.root.assembly}")
        if changed:
            more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise StaleError(
                f"pack {self.path} was not cut from what {store.path} holds: {'; '.join(changed[:5])}{more}. Pack "
                "again (with overwrite), or open the pack without source= to use it as it is"
            )

    def tiles(self, part: str) -> Tiles | None:
        """Give the lean path to the values of a part, where there is one."""
        if part not in self._tiles:
            array = self.array(part)
            lean = self.storage.local and Tiles.supports(array.schema)
            folder = str(self.storage.path(part)) if lean else ""
            self._tiles[part] = Tiles(folder, array.schema, array.stamp, array.present) if lean else None
        return self._tiles[part]

    def __repr__(self) -> str:
        what = self.description
        return (
            f"<genostore.Pack {self.path}: {len(self.genes):,} genes x {len(what['cell_types'])} cell types, "
            f"{', '.join(what['assays'])}, {what['width']:,} bases and {what['jitter']:,} of jitter>"
        )

    @cached_property
    def entries(self) -> index.Entries:
        """The pack's nodes, and what its windows were cut from."""
        tracks = {n: e for n, e in self.description["sources"].items() if e["kind"] in ("track", "contacts")}
        return {**tracks, **index.read(self.storage)}

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
        what = pack.description
        self._packed = what["width"] + 2 * what["jitter"]
        self._whole = replace(query, width=self._packed)
        self._cells = np.array([what["cell_types"].index(c) for c in selection.cell_types], dtype=np.int64)
        self._channels = np.array([what["assays"].index(a) for a in selection.assays], dtype=np.int64)

    def apart(self, parts: frozenset[str]) -> bool:
        """A tile holds a window or a few small ones, on the lean path; see :class:`genostore.windows.Reader`."""
        return all(self.pack.tiles(part) is not None for part in parts)

    def read(
        self, row: Ints, cell: Ints, shift: Ints, parts: frozenset[str] = PARTS, fill: float = math.nan
    ) -> dict[str, NDArray[Any]]:
        """Read windows; see :class:`genostore.windows.Reader`.

        Raises
        ------
        QueryError
            If a window is shifted out of the margin that was packed.
        """
        chosen, width = self.selection, self.query.width
        gene, place = chosen.store_row[row], self._cells[cell]
        low = self._packed // 2 - width // 2 + shift
        outside = (low < 0) | (low + width > self._packed)
        if outside.any():
            first, most = int(np.argmax(outside)), self._packed // 2 - width // 2
            raise QueryError(
                f"a window of {width:,} bases about {chosen.rows['id'].iloc[int(row[first])]} is shifted by "
                f"{int(shift[first])}, and pack {self.pack.path} holds {self._packed:,} bases a window, room for "
                f"{most} either way; ask the store, or pack with more jitter"
            )
        out: dict[str, NDArray[Any]] = {}
        with Reads() as reads:
            if "sequence" in parts:
                none = np.zeros((len(row), 1), dtype=np.int64)
                values = self._values("sequence", (len(row), 1, width), np.uint8)
                self._submit(reads, "sequence", gene, none[:, 0], none, low, values)
                out["sequence"] = values[:, 0]
            if "signal" in parts:
                channel = self._channels[None].repeat(len(row), axis=0)
                out["signal"] = self._values("signal", (len(row), len(self._channels), width), np.float32)
                self._submit(reads, "signal", gene, place, channel, low, out["signal"], fill)
            if "contacts" in parts:
                out["contacts"] = self._contacts(reads, row, gene, place, shift)
        # Fills what was not filled on the way: without the lean path, and where nothing is stored.
        if "signal" in out and not (self.pack.tiles("signal") and self.pack.array("signal").present.all()):
            fill_gaps(out["signal"], fill)
        return out

    def _values(self, part: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Allocate an output; filled, if shards are left out because they hold nothing."""
        array = self.pack.array(part)
        make = buffers.empty if array.present.all() else partial(buffers.full, fill=array.schema.fill)
        return make(shape, dtype=dtype)

    def _contacts(self, reads: Reads, row: Ints, gene: Ints, place: Ints, shift: Ints) -> NDArray[np.float32]:
        chosen, width = self.selection, self.query.width
        first, n = contact_bins(self.query, chosen, row, chosen.anchor[row] - width // 2 + shift)
        there, _ = contact_bins(self._whole, chosen, row, chosen.anchor[row] - self._packed // 2)
        skip, shape = first - there, self.pack.array("contacts").schema.shape
        beyond = np.flatnonzero(skip + n > shape[-1])
        if beyond.size:  # not so in a pack of windows, but in one that was cut from a wider pack
            raise QueryError(
                f"pack {self.pack.path} holds {shape[-1]} bins of contacts a window, and that of "
                f"{chosen.rows['id'].iloc[int(row[beyond[0]])]} wants {(skip + n).max()}; pack again from the store"
            )
        square = len(shape) == 4
        channel = skip[:, None] + np.arange(n) if square else np.zeros((len(row), 1), dtype=np.int64)
        out = buffers.full((len(row), channel.shape[1], n), np.nan, np.float32)
        self._submit(reads, "contacts", gene, place, channel, skip, out)
        return out if square else out[:, 0]

    def _submit(
        self,
        reads: Reads,
        part: str,
        gene: Ints,
        cell: Ints,
        channel: Ints,
        low: Ints,
        out: NDArray[Any],
        fill: float = math.nan,
    ) -> None:
        """Ask for windows of a part, by the lean path or else block by block."""
        array, tiles = self.pack.array(part), self.pack.tiles(part)
        if tiles is not None:
            reads.tasks(array, tiles.read(gene, cell, channel, low, out, fill))
            return
        shape = array.schema.shape
        for i, (g, c, start) in enumerate(zip(gene.tolist(), cell.tolist(), low.tolist(), strict=True)):
            stop = min(start + out.shape[2], shape[-1])
            span = slice(start, stop)
            lead = (slice(g, g + 1), slice(c, c + 1))[: len(shape) - 1]
            if len(shape) < 4:
                into = out[i, :, : stop - start]
                reads.block(array, (*lead, span), into if len(shape) == 2 else into[None])
                continue
            for run, at in runs(channel[i], shape[2]):
                reads.block(array, (*lead, run, span), out[None, i : i + 1, at, : stop - start])


def runs(channel: Ints, n: int) -> Iterator[tuple[slice, slice]]:
    """Give runs of channels that follow each other, and where they go; those past the ``n`` there are are left out."""
    wanted = channel.tolist()
    start = 0
    for i in range(1, len(wanted) + 1):
        if i == len(wanted) or wanted[i] != wanted[i - 1] + 1:
            stop = min(wanted[i - 1] + 1, n)
            if wanted[start] < stop:
                yield slice(wanted[start], stop), slice(start, start + stop - wanted[start])
            start = i
