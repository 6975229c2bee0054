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
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genostore import library
from genostore.opened import Shards
from genostore.schema import ArraySchema

Ints = NDArray[np.int64]
_CHUNKS_A_THREAD = 64  # about half a millisecond; less is not worth a second thread


@cache
def kernels() -> Any:
    """Import the compiled loops when they are first wanted: numba takes its time."""
    import genostore.kernels

    return genostore.kernels


class LocalShards:
    """The shards of one local one-dimensional array.

    Parameters
    ----------
    folder
        Of the array.
    schema
        Of the array; see :meth:`supports`.
    version, present
        As of :class:`genostore.opened.Shards`.
    """

    def __init__(self, folder: str, schema: ArraySchema, version: Hashable, present: NDArray[np.bool_]) -> None:
        self.chunk = schema.chunk[0]
        self.per_shard = schema.block[0] // self.chunk
        # The schema's key takes its time for any number of dimensions.
        self.files = Shards(folder, "c/{}".format, self.per_shard, version, present)
        dtype = np.dtype(schema.dtype)
        self._chunk_bytes = self.chunk * dtype.itemsize
        fill = np.full(8 // dtype.itemsize, schema.fill, dtype).view(np.int64)[0]
        self._about = np.array([self.chunk, dtype.itemsize, self.per_shard, fill])

    @staticmethod
    def supports(schema: ArraySchema) -> bool:
        """Tell whether an array is of the kind that this path reads, and this machine has what it needs."""
        kind = len(schema.shape) == 1 and schema.shard is not None and schema.dtype != "string" and schema.compressed
        return kind and library.available()

    def read(self, pieces: Ints, spans: Ints, out: NDArray[Any]) -> list[Callable[[], None]]:
        """Plan the reading of pieces into the rows of ``out``.

        Parameters
        ----------
        pieces, spans
            Values of :class:`genostore.arrays.Spans`, cut at this array's chunks.
        out
            ``(row, column)``, each row contiguous.

        Returns
        -------
        list of callables
            To be called, in any order and in parallel; each raises ValueError where bytes are absent or do not
            match their checksum.
        """
        n = len(pieces)
        parts = min(threads(), max(1, n // _CHUNKS_A_THREAD))
        if parts == 1:
            return [partial(self._gather, pieces, spans, out)] if n else []
        return [partial(self._gather, part, spans, out) for part in split(pieces, parts)]

    def _gather(self, pieces: Ints, spans: Ints, out: NDArray[Any]) -> None:
        loops = kernels()
        gather = loops.gather
        mine, to, stride = tools(self._chunk_bytes), out.ctypes.data, out.strides[0]
        opened = self.files.opened()
        # Whether a shard was open is for the loop to say: another thread may have opened it since.
        while (at := gather(mine, self._about, opened.descriptor, opened.index, spans, pieces, to, stride)) < -1:
            pieces = pieces[-2 - at :]
            opened = self.files.open(np.unique((pieces >> loops.SPAN) // self.per_shard).tolist())
        if at < 0:
            return
        shard, chunk = divmod(int(pieces[at] >> loops.SPAN), self.per_shard)
        what = f"chunk {chunk} of shard {self.files.path(shard)}"
        if opened.holds(shard, chunk):
            raise ValueError(f"DATA_LOSS: {what} does not match its checksum")
        raise ValueError(f"NOT_FOUND: {what} is absent")


def split(pieces: Ints, parts: int) -> list[Ints]:
    """Share out pieces in runs; all pieces of a chunk stay together."""
    span = kernels().SPAN
    edges = np.linspace(0, len(pieces), parts + 1).astype(int)
    edges[1:-1] = np.searchsorted(pieces, pieces[edges[1:-1]] >> span << span)
    return [pieces[a:b] for a, b in pairwise(edges.tolist()) if a < b]


_local = threading.local()


def tools(chunk_bytes: int) -> Ints:
    """Give what this thread's compiled loops read and decode chunks of a size with.

    Returns
    -------
    numpy.ndarray
        ``(7,)`` int64: addresses of ``pread``, of zstd's decoder and of its state, for the frames that ours does not
        take; address and size of room for what is read (:func:`genostore.kernels.room`); addresses of room for a
        decoded chunk and of a :func:`genostore.zstd.workspace`.
    """
    mine: dict[int, tuple[Ints, Any]] = _local.__dict__.setdefault("tools", {})
    if chunk_bytes not in mine:
        from genostore.zstd import workspace

        stored, plain = np.empty(kernels().room(chunk_bytes), np.uint8), np.empty(chunk_bytes, np.uint8)
        held = stored, plain, workspace(chunk_bytes)
        at, *others = (memory.ctypes.data for memory in held)
        functions = library.pread(), library.decompress(), library.decoder()
        mine[chunk_bytes] = np.array([*functions, at, stored.size, *others]), held
    return mine[chunk_bytes][0]


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
    if len(tasks) == 1:
        tasks[0]()
        return
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
