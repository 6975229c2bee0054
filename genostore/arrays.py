"""Reading arrays: checked, so that bad storage is an error and never a value.

TensorStore reads everything; spans of local arrays along the genome go through :mod:`genostore.local` where they can.
TensorStore is used here, and in :mod:`genostore.staging` to write; nowhere else.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NoReturn

import google_crc32c
import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from genostore import local, text
from genostore.access import tensorstore_resources
from genostore.errors import CorruptionError, ForkError, StaleError
from genostore.schema import KEY, ArraySchema, check_node
from genostore.seal import broken
from genostore.storage import METADATA, Storage

# Shard indexes stay in a bounded cache; without it each read fetches its shard's index again.
_CACHE_BYTES = 16 * 2**20
_lock = threading.Lock()
_context: ts.Context | None = None
_owner: int | None = None  # the process that started TensorStore's threads


def context() -> ts.Context:
    """Return the process's TensorStore context.

    Raises
    ------
    ForkError
        In a process forked from one that had used TensorStore: its threads are gone, and the first read would
        kill the process.
    """
    global _context, _owner
    if _owner is not None and _owner != os.getpid():
        raise ForkError(
            "this process was forked from one that had already read from a store, and TensorStore does not survive "
            "a fork; start workers with spawn: DataLoader(..., multiprocessing_context='spawn'), or "
            "multiprocessing.get_context('spawn')"
        )
    if _context is None:
        with _lock:
            if _context is None:
                _context = ts.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}, **tensorstore_resources()})
                _owner = os.getpid()
    return _context


def checksum(values: NDArray[Any]) -> int:
    """CRC-32C of the values as little-endian bytes, of text as UTF-8 lines."""
    if values.dtype.kind in "OTU":
        return int(google_crc32c.value("\n".join(values.tolist()).encode()))
    flat = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
    flat = flat.view()
    flat.flags.writeable = False
    return int(google_crc32c.value(flat))


def combine(checksums: Sequence[int]) -> int:
    """CRC-32C of the checksums of an array's shards in order, as little-endian uint32: the whole array's."""
    return int(google_crc32c.value(np.asarray(checksums, dtype="<u4").tobytes()))


Part = tuple[NDArray[Any], Any]  # where the values go, and the future that brings them


class Spans:
    """Pieces of a one-dimensional array and where they go in a ``(row, column)`` output.

    Parameters
    ----------
    values
        ``(n, 4)`` int64, row, start, stop and column of each: array positions ``[start, stop)`` go to
        ``out[row, column:column + stop - start]``.
    """

    def __init__(self, values: NDArray[np.int64]) -> None:
        self.values = values
        self._pieces: dict[int, NDArray[np.int64]] = {}

    def pieces(self, chunk: int) -> NDArray[np.int64]:
        """Cut the spans at multiples of ``chunk``, once for all arrays that are chunked so.

        Returns
        -------
        numpy.ndarray
            ``(n,)`` int64, sorted: number of the chunk times 2^32, and number of the span.
        """
        if chunk not in self._pieces:
            pieces = local.kernels().cut(self.values, chunk)
            pieces.sort()
            self._pieces[chunk] = pieces
        return self._pieces[chunk]

    def rows(self, keep: NDArray[np.bool_]) -> Spans:
        """Keep the spans of some rows of the output, ``(rows,)`` bool."""
        return Spans(self.values[keep[self.values[:, 0]]])


@dataclass(frozen=True)
class Group:
    """A node of several arrays, as it was when the first was opened.

    Attributes
    ----------
    node
        Its path.
    stamp
        Of its metadata.
    """

    node: str
    stamp: Hashable

    @classmethod
    def of(cls, storage: Storage, node: str) -> Group:
        """Look at a node."""
        return cls(node, storage.stamp(f"{node}/zarr.json"))

    def check(self, storage: Storage) -> None:
        """Raise StaleError if the node was overwritten or removed since."""
        now = storage.stamp(f"{self.node}/zarr.json")
        if now != self.stamp:
            raise StaleError(
                f"{self.node} of {storage.root} was {'removed' if now is None else 'overwritten'} while it was open; "
                "open the store again to read what is there now"
            )


class Array:
    """One array of a store: schema and attributes at once, values when asked for.

    It keeps a path, and opens on demand, so that it pickles.

    Parameters
    ----------
    storage, path
        Where the store lies and the array in it.
    group
        Stamp of the node that the array is a part of, taken before it was opened: the parts of a group that is
        replaced meanwhile are then never mixed.
    """

    def __init__(self, storage: Storage, path: str, group: Group | None = None) -> None:
        self.storage, self.path, self._group = storage, check_node(path), group
        found = storage.fetch(f"{path}/{METADATA}")
        if found is None:
            raise CorruptionError(
                f"array {path} of {storage.root} is listed but not there; run `genostore reindex {storage.root}`"
            )
        raw, self._stamp = found
        try:
            metadata = json.loads(raw)
            why = broken(raw, f"{path}/zarr.json")
            if why is not None:
                raise ValueError(why)
        except (ValueError, RecursionError) as error:
            raise CorruptionError(f"the metadata of array {path} of {storage.root} are damaged: {error}") from error
        self.schema = ArraySchema.from_json(metadata, f"{storage.root}/{path}")
        self.attributes: Mapping[str, Any] = metadata["attributes"].get(KEY, {})
        shards = self.attributes.get("shards")
        self.present = np.zeros(self.schema.n_blocks, dtype=bool)
        if shards is None:
            self.present[:] = True
        else:
            self.present[shards["index"]] = True
        self.metadata: Mapping[str, Any] = metadata
        self._handle: ts.TensorStore | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self.storage, self.path, self._group)

    def __repr__(self) -> str:
        return f"<Array {self.path} {self.schema.shape} {self.schema.dtype}>"

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Numpy type of the values."""
        return np.dtype(self.schema.dtype)

    @property
    def stamp(self) -> Hashable:
        """Tells this content of the array from its successors."""
        return self._stamp

    @property
    def handle(self) -> ts.TensorStore:
        """The open TensorStore array."""
        shared = context()
        if self._handle is None:
            spec: dict[str, Any] = {
                "driver": "zarr3",
                "kvstore": self.storage.kvstore(self.path),
                "open": True,
                # An absent chunk is an error; whole shards known to be empty are never asked for.
                "fill_missing_data_reads": False,
                "recheck_cached_data": "open",
            }
            if not self.storage.local:  # spares a request
                known = {k: v for k, v in self.metadata.items() if k != "attributes"}
                spec |= {"metadata": known, "assume_metadata": True}
            try:
                self._handle = ts.open(spec, read=True, context=shared).result()
            except ValueError as error:
                self.fail(error)
        return self._handle

    @cached_property
    def shards(self) -> local.LocalShards | None:
        """The lean path to the values, where there is one."""
        if not self.storage.local or not local.LocalShards.supports(self.schema):
            return None
        return local.LocalShards(str(self.storage.path(self.path)), self.schema, self._stamp, self.present)

    def empty(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Allocate values that stand for the absence of data."""
        return np.full(shape, self.schema.fill, dtype=self.dtype)

    def read(self, *slices: slice) -> NDArray[Any]:
        """Read a block.

        Parameters
        ----------
        slices
            One a dimension, each with a start and a stop inside the shape; none for the whole array.

        Returns
        -------
        numpy.ndarray
            Of the extent of the slices.

        Raises
        ------
        CorruptionError
            If bytes fail their checksum or a listed shard is absent.
        StaleError
            If the array was overwritten or removed since it was opened.
        """
        where = slices or tuple(slice(0, n) for n in self.schema.shape)
        out = self.empty(tuple(s.stop - s.start for s in where))
        with Reads() as reads:
            reads.block(self, where, out)
        return out

    def submit_block(self, where: Sequence[slice], out: NDArray[Any], batch: ts.Batch) -> Iterator[Part]:
        """Ask for a block, as part of a batch of reads; what lies in empty shards is left out."""
        for block in self._blocks(where):
            cut = tuple(
                slice(max(a.start, b.start), min(a.stop, b.stop))
                for a, b in zip(where, self.schema.slices(block), strict=True)
            )
            into = tuple(slice(c.start - a.start, c.stop - a.start) for a, c in zip(where, cut, strict=True))
            yield out[into], self.handle[cut].read(batch=batch)

    def _blocks(self, where: Sequence[slice]) -> NDArray[np.int64]:
        """Number the non-empty shards that a block touches."""
        axes = [np.arange(s.start // b, -(-s.stop // b)) for s, b in zip(where, self.schema.block, strict=True)]
        blocks = np.ravel_multi_index(np.meshgrid(*axes, indexing="ij"), self.schema.grid).ravel()
        return blocks[self.present[blocks]]

    def submit_spans(self, spans: Spans, out: NDArray[Any], batch: ts.Batch) -> Iterator[Part]:
        """Ask for spans of a one-dimensional array, as part of a batch; what lies in empty shards is filled."""
        handle, shard = self.handle, self.schema.block[0]
        for row, start, stop, column in spans.values.tolist():
            for block in range(start // shard, (stop - 1) // shard + 1):
                lo, hi = max(start, block * shard), min(stop, (block + 1) * shard)
                into = out[row, column + lo - start : column + hi - start]
                if self.present[block]:
                    yield into, handle[lo:hi].read(batch=batch)
                else:
                    into[...] = self.schema.fill

    def check_fresh(self) -> None:
        """Check, after a read, that the array is still the one that was opened.

        Raises
        ------
        StaleError
            If it was overwritten or removed, so that what was read may be a mixture.
        """
        now = self.storage.stamp(f"{self.path}/zarr.json")
        if now == self._stamp and self._group is not None:
            self._group.check(self.storage)
        if now != self._stamp:
            what = "removed" if now is None else "overwritten"
            raise StaleError(
                f"array {self.path} of {self.storage.root} was {what} while it was open (it was generation "
                f"{self.attributes.get('generation')}); open the store again to read what is there now"
            )

    def fail(self, error: Exception) -> NoReturn:
        """Say what is wrong with the stored bytes, given the error of a read."""
        unreachable = self.storage.refusal(error)
        if unreachable is not None:
            raise unreachable from None
        self.check_fresh()
        reason = str(error).split(" [")[0]
        what = "a shard that should be there is absent" if "NOT_FOUND" in reason else "its bytes are damaged"
        raise CorruptionError(
            f"array {self.path} of {self.storage.root}: {what} ({reason}); "
            "ingest it again with --overwrite, or restore the store from a copy"
        ) from error


class Reads:
    """A batch of reads of any arrays: each chunk is fetched and decoded once.

    Use it as a context; what was asked for is there when it closes.

    Raises
    ------
    CorruptionError, StaleError
        When it closes, as :meth:`Array.read`.
    """

    def __init__(self) -> None:
        context()  # refuses a forked child
        self._arrays: list[Array] = []
        self._batch: ts.Batch | None = None
        self._pending: list[tuple[Array, list[Part]]] = []
        self._local: list[Callable[[], None]] = []

    def __enter__(self) -> Reads:
        return self

    def block(self, array: Array, where: Sequence[slice], out: NDArray[Any]) -> None:
        """Read a block of an array into ``out``, which comes filled with what stands for no data."""
        self._submit(array, array.submit_block(where, out, self._requests()))

    def spans(self, array: Array, spans: Spans, out: NDArray[Any]) -> None:
        """Read spans of a one-dimensional array into the rows of ``out``, each of which is contiguous.

        Every span is set, where its shard holds no data to the fill value; the rest of ``out`` is left alone.
        """
        shards = array.shards
        if shards is None or out.dtype != array.dtype:  # assigning a part converts it
            self._submit(array, array.submit_spans(spans, out, self._requests()))
        else:
            self.tasks(array, shards.read(spans.pieces(shards.chunk), spans.values, out))

    def tasks(self, array: Array, tasks: list[Callable[[], None]]) -> None:
        """Read by the tasks of a lean path of the array's own."""
        self._arrays.append(array)
        self._local += [partial(self._gather, array, task) for task in tasks]

    def _requests(self) -> ts.Batch:
        self._batch = self._batch or ts.Batch()
        return self._batch

    def _submit(self, array: Array, parts: Iterator[Part]) -> None:
        self._arrays.append(array)
        self._pending.append((array, list(parts)))

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._batch is not None:
            self._batch.submit()
        if kind is not None:
            return
        local.run(self._local)
        for array, parts in self._pending:
            try:
                for into, future in parts:
                    into[...] = future.result()
            except ValueError as error:
                array.fail(error)
        if self._arrays:
            self._arrays[0].storage.map(Array.check_fresh, dict.fromkeys(self._arrays))

    @staticmethod
    def _gather(array: Array, task: Callable[[], None]) -> None:
        try:
            task()
        except ValueError as error:
            array.fail(error)


def read_column(storage: Storage, path: str, group: Group | None = None) -> NDArray[Any]:
    """Read a whole column, of numbers or of text, and check it; ``group`` as of :class:`Array`.

    Returns
    -------
    numpy.ndarray
        ``(n,)``; text as objects of type ``str``.
    """
    array = Array(storage, path, group)
    if array.schema.dtype != "string":
        return array.read()
    try:
        values = text.decode(storage.read(f"{path}/{array.schema.key(0)}"), array.schema.shape[0])
    except (OSError, ValueError) as error:
        array.fail(error)
    if checksum(values) != array.attributes["shards"]["crc32c"][0]:
        array.fail(ValueError("DATA_LOSS: text that does not match its checksum"))
    array.check_fresh()
    return values
