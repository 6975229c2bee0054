"""Values of a store against values read from their sources, contig by contig, without the code that wrote them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genostore import index
from genostore.arrays import Array, read_column
from genostore.errors import CorruptionError
from genostore.genome import Contig
from genostore.store import Store
from ingest.nodes.base import Node
from ingest.nodes.contacts import ContactsNode
from ingest.nodes.sequence import SequenceNode
from ingest.nodes.track import TrackNode
from ingest.run import difference

_TILE = 1 << 22  # positions compared at once
_WINDOW = 1_000  # positions of one window of a sample
_ROWS = 1_024  # bins compared at once
_SHOWN = 3  # differences that a message gives


class Tally(Protocol):
    """Counts what was compared."""

    compared: int


@dataclass
class _Differences:
    """Where two arrays differ: how often, and the first few places."""

    unit: str
    count: int = 0
    compared: int = 0
    first: list[str] = field(default_factory=list)

    def take(self, got: NDArray[Any], expected: NDArray[Any], place: Callable[[tuple[int, ...]], str]) -> None:
        """Compare two arrays of one shape; NaN equals NaN, and -0 is not 0."""
        self.compared += got.size
        same = _equal(got, expected)
        if same.all():
            return
        self.count += int(np.count_nonzero(~same))
        for where in np.argwhere(~same)[: _SHOWN - len(self.first)]:
            at = tuple(int(i) for i in where)
            self.first.append(f"{place(at)}: {got[at]} in the store, {expected[at]} in the source")

    def messages(self) -> Iterator[str]:
        """Give one message if anything differs."""
        if self.count:
            yield f"{self.count:,} of {self.compared:,} {self.unit} differ from the source; " + "; ".join(self.first)


def compare(store: Store, node: Node, sample: int | None, seed: int, tally: Tally) -> Iterator[str]:
    """Compare a node's values with its sources.

    Parameters
    ----------
    store
        The store.
    node
        As it was planned from the sources.
    sample
        Windows to compare of an array along the genome; None compares all of it. Columns are compared whole.
    seed
        Of the sample.
    tally
        Its ``compared`` grows by the values compared.

    Yields
    ------
    str
        What differs and where.
    """
    there = index.node_attributes(store.storage, node.path) or {}
    if there.get("digest") != node.digest:
        yield difference(there, node)
    rng = np.random.default_rng([seed, *node.path.encode()])
    for name in node.arrays:
        array = Array(store.storage, f"{node.path}/{name}" if name else node.path)
        if array.schema.shape != node.arrays[name].shape or array.schema.dtype != node.arrays[name].dtype:
            yield (
                f"{name or 'the array'} is {array.schema.dtype} {array.schema.shape}, where the source makes "
                f"{node.arrays[name].dtype} {node.arrays[name].shape}"
            )
            continue
        found = _Differences("values")
        try:
            if isinstance(node, SequenceNode | TrackNode):
                _positions(array, node, sample, rng, found)
            elif isinstance(node, ContactsNode) and name == "band":
                _band(array, node, sample, rng, found)
            else:
                got, expected = read_column(store.storage, array.path), node.read(name, 0).values
                found.take(got, expected, partial(_row, name))
        except CorruptionError as error:
            yield str(error)
        tally.compared += found.compared
        yield from found.messages()


def _positions(
    array: Array, node: SequenceNode | TrackNode, sample: int | None, rng: np.random.Generator, found: _Differences
) -> None:
    """Compare an array along the genome axis."""
    read = partial(_codes, node) if isinstance(node, SequenceNode) else partial(_signal, node)
    for contig, start, end in _windows(array, node, sample, rng):
        got = array.read(slice(contig.offset + start, contig.offset + end))
        found.take(got, read(contig, start, end), partial(_base, contig, start))
    if sample is None:  # what lies between contigs
        ends = [*(c.offset for c in node.genome.contigs[1:]), node.genome.length]
        for contig, end in zip(node.genome, ends, strict=True):
            start = contig.offset + contig.length
            if start < end:
                got = array.read(slice(start, end))
                found.take(got, array.empty(got.shape), partial(_base, contig, contig.length))


def _windows(
    array: Array, node: Node, sample: int | None, rng: np.random.Generator
) -> Iterator[tuple[Contig, int, int]]:
    """Yield windows of contigs: all of them, or a sample, half of it where the array says that it has data."""
    if sample is None:
        for contig in node.genome:
            for start in range(0, contig.length, _TILE):
                yield contig, start, min(start + _TILE, contig.length)
        return
    positions = rng.integers(0, node.genome.length, sample)
    shards = array.attributes["shards"]["index"]
    if shards:
        block = array.schema.block[0]
        half = rng.choice(shards, sample // 2) * block + rng.integers(0, block, sample // 2)
        positions[: sample // 2] = half
    for position in np.sort(positions).tolist():
        contig = next(c for c in reversed(node.genome.contigs) if c.offset <= position)
        start = max(min(position - contig.offset, contig.length - _WINDOW), 0)
        yield contig, start, min(start + _WINDOW, contig.length)


def _codes(node: SequenceNode, contig: Contig, start: int, end: int) -> NDArray[np.uint8]:
    return node.fasta.codes(contig.name, start, end)


def _signal(node: TrackNode, contig: Contig, start: int, end: int) -> NDArray[Any]:
    theirs = node.contigs.reverse.get(contig.name)
    if theirs is None:
        return np.full(end - start, np.nan, dtype=node.encoding.dtype)
    return node.encoding.apply(node.signal.values(theirs, start, end))


def _band(array: Array, node: ContactsNode, sample: int | None, rng: np.random.Generator, found: _Differences) -> None:
    """Compare a band of contacts, whole rows at a time."""
    size, (_, n_offsets) = node.matrix.bin_size, array.schema.shape
    first = node.genome.bin_offsets(size)
    tiles = [
        (contig, low, min(low + _ROWS, contig.n_bins(size)))
        for contig in node.genome
        for low in range(0, contig.n_bins(size), _ROWS)
    ]
    if sample is not None and len(tiles) > sample:
        tiles = [tiles[i] for i in np.sort(rng.choice(len(tiles), sample, replace=False))]
    for contig, low, high in tiles:
        theirs = node.contigs.reverse.get(contig.name)
        expected = array.empty((high - low, n_offsets))
        if theirs is not None:
            expected = node.matrix.band(theirs, low, high, n_offsets).values
            outside = np.arange(low, high)[:, None] + np.arange(n_offsets) >= contig.n_bins(size)
            expected = np.where(outside, 0, expected).astype(expected.dtype, copy=False)
        start = first[contig.name]
        got = array.read(slice(start + low, start + high), slice(0, n_offsets))
        found.take(got, expected, partial(_pixel, contig, low, size))


def _equal(got: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = got == expected
    if got.dtype.kind == "f":
        same &= np.signbit(got) == np.signbit(expected)
        same |= np.isnan(got) & np.isnan(expected)
    return same


def _base(contig: Contig, start: int, where: tuple[int, ...]) -> str:
    return f"{contig.name}:{start + where[0]:,}"


def _pixel(contig: Contig, low: int, size: int, where: tuple[int, ...]) -> str:
    row, column = low + where[0], low + where[0] + where[1]
    return f"{contig.name}:{row * size:,} with {column * size:,}"


def _row(name: str, where: tuple[int, ...]) -> str:
    return f"{name or 'row'}[{where[0]}]"
