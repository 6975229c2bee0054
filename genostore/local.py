"""The lean path: spans of one-dimensional arrays straight from local shards, without the interpreter.

One compiled loop reads each chunk (``pread``), checks its CRC-32C, decodes it (zstd's own library, the one inside
numcodecs) and copies what is wanted; it holds no lock, so a batch is shared out to threads. Values equal
TensorStore's, which reads everything that this path does not (a test compares them); docs/decisions.md has the
figures. Files are read, not mapped: a mapped file that someone cuts short kills the process.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any, Generic, TypeVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from genostore import library
from genostore.schema import ArraySchema

ABSENT, SILENT = -1, -2  # as in genostore.kernels, which is not imported before it is needed

Ints = NDArray[np.int64]
_MAX_INDEXES = 4_096  # shards whose index is kept, of all arrays: 16 KiB each
_MAX_FILES = 128
_CHUNKS_A_THREAD = 64  # about half a millisecond; less is not worth a second thread

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Pieces:
    """Spans cut at the edges of chunks, sorted by chunk.

    Attributes
    ----------
    chunk
        ``(n,)`` number of the inner chunk.
    low, high
        ``(n,)`` the positions wanted of it, from its start.
    row, column
        ``(n,)`` where they go.
    """

    chunk: Ints
    low: Ints
    high: Ints
    row: Ints
    column: Ints

    @classmethod
    def cut(cls, row: Ints, start: Ints, stop: Ints, column: Ints, size: int) -> Pieces:
        """Cut spans ``[start, stop)`` at multiples of ``size``."""
        first = start // size
        n = (stop - 1) // size - first + 1
        span = np.repeat(np.arange(len(row)), n)
        chunk = np.arange(len(span)) - np.repeat(np.cumsum(n) - n, n) + first[span]
        order = np.argsort(chunk, kind="stable")
        span, chunk = span[order], chunk[order]
        base = chunk * size
        low, high = np.maximum(start[span], base), np.minimum(stop[span], base + size)
        return cls(chunk, low - base, high - base, row[span], column[span] + low - start[span])

    def __len__(self) -> int:
        return len(self.chunk)

    def keep(self, which: NDArray[np.bool_] | slice) -> Pieces:
        """Keep some pieces."""
        return Pieces(*(getattr(self, name)[which] for name in ("chunk", "low", "high", "row", "column")))

    def split(self, parts: int) -> list[Pieces]:
        """Share out the pieces in runs; all pieces of a chunk stay together."""
        edges = np.linspace(0, len(self), parts + 1).astype(int)
        edges[1:-1] = np.searchsorted(self.chunk, self.chunk[np.minimum(edges[1:-1], len(self) - 1)])
        return [self.keep(slice(a, b)) for a, b in pairwise(edges.tolist()) if a < b]


class _Recent(Generic[K, V]):
    """The most recently used values of a function, by key."""

    def __init__(self, size: int, make: Callable[[K], V]) -> None:
        self.size, self.make = size, make
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: K) -> V:
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
                return value
        value = self.make(key)
        with self._lock:
            self._values[key] = value
            while len(self._values) > self.size:
                self._values.popitem(last=False)
        return value


class _File:
    """A file open for reading at offsets; closed when nobody refers to it any more."""

    def __init__(self, key: tuple[str, Hashable]) -> None:
        self.descriptor = os.open(key[0], os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when Python ends
        if hasattr(self, "descriptor"):
            close(self.descriptor)


def _read_index(key: tuple[str, Hashable, int]) -> NDArray[np.int64]:
    """Read where a shard's chunks lie, ``(chunks, 2)`` offsets and lengths; -1 for a chunk it does not hold."""
    path, version, chunks = key
    file, size = _file(path, version), 16 * chunks  # held, since another thread may put its own in the cache
    raw = os.pread(file.descriptor, size + 4, max(os.fstat(file.descriptor).st_size - size - 4, 0))
    if len(raw) != size + 4 or google_crc32c.value(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise ValueError(f"DATA_LOSS: the index of shard {path} does not match its checksum")
    return np.frombuffer(raw[:-4], dtype="<i8").reshape(-1, 2)


def _file(path: str, version: Hashable) -> _File:
    try:
        return _files((path, version))
    except FileNotFoundError as error:
        raise ValueError(f"NOT_FOUND: shard {path} is absent") from error


# By path and version of the array, so that what was read of an array is never taken for its successor's.
_files: _Recent[tuple[str, Hashable], _File] = _Recent(_MAX_FILES, _File)
_indexes: _Recent[tuple[str, Hashable, int], NDArray[np.int64]] = _Recent(_MAX_INDEXES, _read_index)


class LocalShards:
    """The shards of one local one-dimensional array.

    Parameters
    ----------
    folder
        Of the array.
    schema
        Of the array; see :meth:`supports`.
    version
        Tells this content of the array from another at the same path.
    """

    def __init__(self, folder: str, schema: ArraySchema, version: Hashable) -> None:
        self.folder, self.schema, self.version = folder, schema, version
        self.dtype = np.dtype(schema.dtype)
        self.chunk = schema.chunk[0]
        self.per_shard = schema.block[0] // self.chunk
        self._fill = int.from_bytes(
            np.full(8 // self.dtype.itemsize, schema.fill, self.dtype).tobytes(), "little", signed=True
        )

    @staticmethod
    def supports(schema: ArraySchema) -> bool:
        """Tell whether an array is of the kind that this path reads, and this machine has what it needs."""
        kind = len(schema.shape) == 1 and schema.shard is not None and schema.dtype != "string" and schema.compressed
        return kind and library.available()

    def _path(self, shard: int) -> str:
        return f"{self.folder}/c/{shard}"  # as the schema's key, which takes its time for any number of dimensions

    def read(self, pieces: Pieces, present: NDArray[np.bool_], out: NDArray[Any]) -> list[Callable[[], None]]:
        """Plan the reading of pieces into the rows of ``out``.

        Parameters
        ----------
        pieces
            Cut at this array's chunks.
        present
            By number of shard, whether it holds data; what lies in others becomes the fill value.
        out
            ``(row, column)``, each row contiguous.

        Returns
        -------
        list of callables
            To be called, in any order and in parallel; each raises ValueError where bytes are absent or do not
            match their checksum.
        """
        if not len(pieces):
            return []
        parts = pieces.split(min(threads(), max(1, len(pieces) // _CHUNKS_A_THREAD)))
        return [partial(self._gather, part, present, out) for part in parts]

    def _gather(self, pieces: Pieces, present: NDArray[np.bool_], out: NDArray[Any]) -> None:
        shard, number = np.divmod(pieces.chunk, self.per_shard)
        where = np.empty((len(pieces), 3), dtype=np.int64)  # descriptor, offset, length
        held = []  # keeps the files open
        edges = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(pieces)]
        for a, b in pairwise(edges):
            if not present[shard[a]]:
                where[a:b, 1] = SILENT
                continue
            path = self._path(int(shard[a]))
            index, file = _indexes((path, self.version, self.per_shard)), _file(path, self.version)
            held.append(file)
            where[a:b, 0] = file.descriptor
            where[a:b, 1:] = index[number[a:b]]
        failed = _kernel()(
            library.pread(),
            library.decompress(),
            library.decoder(),
            pieces.chunk,
            where,
            pieces.low,
            pieces.high,
            pieces.row,
            pieces.column,
            self.chunk * self.dtype.itemsize,
            self.dtype.itemsize,
            out.ctypes.data,
            out.strides[0],
            self._fill,
            *_buffers(self.chunk * self.dtype.itemsize),
        )
        del held
        if failed >= 0:
            path = self._path(int(shard[failed]))
            if where[failed, 1] == ABSENT:
                raise ValueError(f"NOT_FOUND: chunk {number[failed]} of shard {path} is absent")
            raise ValueError(f"DATA_LOSS: chunk {number[failed]} of shard {path} does not match its checksum")


@cache
def _kernel() -> Callable[..., int]:
    from genostore.kernels import gather

    return gather


_local = threading.local()


def _buffers(chunk_bytes: int) -> tuple[Any, ...]:
    """Give this thread's memory for reading and decoding chunks of a size."""
    from genostore.kernels import room
    from genostore.zstd import workspace

    mine: dict[int, tuple[Any, ...]] = _local.__dict__.setdefault("buffers", {})
    if chunk_bytes not in mine:
        mine[chunk_bytes] = (
            np.empty(room(chunk_bytes), np.uint8),
            np.empty(chunk_bytes, np.uint8),
            workspace(chunk_bytes),
        )
    return mine[chunk_bytes]


@cache
def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Count the threads that a read of this thread is worth: all processors, or its share; see :func:`share`."""
    return max(1, processors() // getattr(_local, "readers", 1))


def share(readers: int) -> None:
    """Tell that this thread is one of several that read at the same time, and so leave the others their processors."""
    _local.readers = readers


@contextlib.contextmanager
def sharing(readers: int) -> Iterator[None]:
    """Be one of several for a while; see :func:`share`."""
    before = getattr(_local, "readers", 1)
    share(readers)
    try:
        yield
    finally:
        share(before)


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(processors(), thread_name_prefix="genostore-decode")


def run(tasks: list[Callable[[], None]]) -> None:
    """Run what :meth:`LocalShards.read` planned, in parallel where there is more than one.

    The caller works too, and waits for no thread that has not begun: small tasks are done before one wakes.
    """
    todo = deque(tasks)

    def work() -> None:
        while True:
            try:
                task = todo.popleft()
            except IndexError:
                return
            try:
                task()
            except BaseException:
                todo.clear()
                raise

    helpers = [_pool(os.getpid()).submit(work) for _ in range(min(threads(), len(tasks)) - 1)]
    try:
        work()
    finally:  # they write to the caller's arrays
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()
