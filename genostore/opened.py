"""The shards of local arrays that are open: files, and where in them the chunks lie, as compiled loops look them up."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable

import google_crc32c
import numpy as np
from numpy.typing import NDArray

CLOSED, SILENT = -1, -2  # in the place of a descriptor

_FILES = 4_096  # that stay open, of all arrays, if the process may open four times as many
_INDEXES = 4_096  # shards whose index is kept, of all arrays: 16 KiB each


class Opened:
    """Which shards of an array are open; whoever reads holds it, so that they stay open.

    Attributes
    ----------
    descriptor
        ``(shards,)`` int64, of the open file, or ``CLOSED``, or ``SILENT`` for a shard that holds no data.
    index
        ``(shards,)`` int64, the address of its index, int64 offsets and lengths by chunk; 0 for a shard that is not
        open.
    lock
        Of who opens more.
    """

    def __init__(self, present: NDArray[np.bool_]) -> None:
        self.descriptor = np.where(present, np.int64(CLOSED), np.int64(SILENT))
        self.index = np.zeros(present.shape, dtype=np.int64)
        self.lock = threading.Lock()
        self._held: dict[int, tuple[_File, NDArray[np.int64]]] = {}

    def add(self, shard: int, file: _File, index: NDArray[np.int64]) -> None:
        """Add an open shard."""
        self._held[shard] = file, index
        self.index[shard] = index.ctypes.data
        self.descriptor[shard] = file.descriptor

    def holds(self, shard: int, chunk: int) -> bool:
        """Tell whether an open shard has a chunk, by its number in the shard."""
        return bool(self._held[shard][1][chunk, 0] >= 0)


class Shards:
    """The shard files of one local array.

    Parameters
    ----------
    folder
        Of the array.
    key
        Gives the path of a shard inside the folder, by its number.
    chunks
        Of a shard.
    version
        Tells this content of the array from another at the same path.
    present
        ``(shards,)`` whether each holds data.
    """

    def __init__(
        self, folder: str, key: Callable[[int], str], chunks: int, version: Hashable, present: NDArray[np.bool_]
    ) -> None:
        self.folder, self.key, self.chunks, self.version, self.present = folder, key, chunks, version, present
        self._of = folder, version

    def path(self, shard: int) -> str:
        """Where a shard lies."""
        return f"{self.folder}/{self.key(shard)}"

    def opened(self) -> Opened:
        """Give those that are open."""
        return _open.get(self._of) or _open.setdefault(self._of, Opened(self.present))

    def open(self, shards: Collection[int]) -> Opened:
        """Open shards, and give them and others that are.

        Raises
        ------
        ValueError
            If a file is absent or its index damaged.
        """
        opened = self.opened()
        with opened.lock:  # who opens shards of another array does not wait for these
            wanted = [shard for shard in shards if opened.descriptor[shard] == CLOSED]
            if _count(len(wanted)):
                for shard in wanted:
                    opened.add(shard, *self._open(self.path(shard)))
                return opened
        return self.open(shards)

    def _open(self, path: str) -> tuple[_File, NDArray[np.int64]]:
        try:
            file = _File(path)
        except FileNotFoundError as error:
            raise ValueError(f"NOT_FOUND: shard {path} is absent") from error
        with _lock:
            index = _indexes.pop((path, self.version), None)
        if index is None:
            index = _read_index(path, file.descriptor, self.chunks)
        with _lock:
            _indexes[path, self.version] = index  # the last to be dropped
            while len(_indexes) > _INDEXES:
                _indexes.popitem(last=False)
        return file, index


# By path and version of the array, so that what was read of an array is never taken for its successor's.
_open: dict[tuple[str, Hashable], Opened] = {}
_indexes: OrderedDict[tuple[str, Hashable], NDArray[np.int64]] = OrderedDict()
_n_open = 0
_lock = threading.Lock()


def _count(files: int) -> bool:
    """Count files as open; or, where they would be too many beside those that are, close all, and say no."""
    global _n_open
    with _lock:
        if _n_open and _n_open + files > _most():
            forget()
            return False
        _n_open += files
        return True


def forget() -> None:
    """Close what is open, but for what is being read."""
    global _n_open
    _open.clear()
    _n_open = 0


class _File:
    """A file open for reading at offsets; closed when nobody refers to it any more."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when Python ends
        if hasattr(self, "descriptor"):
            close(self.descriptor)


def _most() -> int:
    """Count the files that may stay open; others need some too."""
    import resource  # not everywhere, as is this path

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _FILES if allowed == resource.RLIM_INFINITY else min(_FILES, allowed // 4)


def _read_index(path: str, descriptor: int, chunks: int) -> NDArray[np.int64]:
    """Read where a shard's chunks lie, ``(chunks, 2)`` offsets and lengths; -1 for a chunk it does not hold."""
    size = 16 * chunks
    raw = os.pread(descriptor, size + 4, max(os.fstat(descriptor).st_size - size - 4, 0))
    if len(raw) != size + 4 or google_crc32c.value(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise ValueError(f"DATA_LOSS: the index of shard {path} does not match its checksum")
    return np.frombuffer(raw[:-4], dtype="<i8").reshape(-1, 2)
