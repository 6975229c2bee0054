"""Memory for the outputs of reads, used again when nobody refers to it any more.

The first touch of fresh memory costs more than reading many a window into it (docs/decisions.md), so an array's memory
goes back to a pool when the array is garbage collected, together with every view, tensor or slice of it. Nobody frees
anything by hand, and memory that somebody keeps is never used again.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import os
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_SMALLEST = 1 << 16  # below, the allocator is as good
_KEPT = 512 * 2**20  # bytes that lie idle at most

_HUGE = 2 * 2**20  # a page of this size is worth asking for: fewer of them to touch and to look up
# A process's own: what is shared with forked children never lies in large pages, and two of them would write to it.
_OWN = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}

_idle: dict[int, deque[mmap.mmap]] = {}
_asked: dict[int, int] = {}  # when memory of a size was last wanted
_turn = itertools.count()
_leases: dict[int, weakref.ref[Any]] = {}


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Allocate an array whose values are whatever was there.

    Parameters
    ----------
    shape, dtype
        Of the array.

    Returns
    -------
    numpy.ndarray
        In C order, aligned to a page.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size < _SMALLEST:
        return np.empty(shape, kind)
    # Batches of jittered or last windows differ a little in size: a few sizes serve all, at most an eighth too large.
    step = 1 << max(size.bit_length() - 4, 12)
    room = -(-size // step) * step
    _asked[room] = next(_turn)
    try:
        memory = _idle[room].pop()
    except (KeyError, IndexError):
        memory = mmap.mmap(-1, room, **_OWN)
        if room >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel made without them
                memory.madvise(mmap.MADV_HUGEPAGE)
    # Every view of this array refers to it, not to what lies beneath, since that is no array.
    out: NDArray[Any] = np.ndarray(shape, kind, buffer=memory)
    key = id(out)

    def back(_: Any, memory: mmap.mmap = memory, process: int = os.getpid()) -> None:
        # Called when the array is freed, at any moment and in any thread: nothing here waits for a lock.
        _leases.pop(key, None)
        if len(memory) <= _KEPT and process == os.getpid():
            _idle.setdefault(len(memory), deque()).append(memory)
            if idle_bytes() > _KEPT:
                _drop()

    _leases[key] = weakref.ref(out, back)
    return out


def full(shape: tuple[int, ...], fill: Any, dtype: DTypeLike) -> NDArray[Any]:
    """Allocate an array of one value."""
    out = empty(shape, dtype)
    out[...] = fill
    return out


def _drop() -> None:
    """Drop memory of sizes that were wanted longest ago, until what lies idle is within its bound."""
    for size in sorted(_idle, key=lambda size: _asked.get(size, 0)):
        with contextlib.suppress(IndexError):  # another thread took the last
            while idle_bytes() > _KEPT:
                _idle[size].popleft()


def idle_bytes() -> int:
    """Count the bytes that are kept for the next array."""
    return sum(size * len(memories) for size, memories in list(_idle.items()))


def release() -> None:
    """Give the memory that lies idle back to the operating system."""
    for memories in list(_idle.values()):
        memories.clear()
