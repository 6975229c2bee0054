"""Encoding whole shards of one-dimensional arrays: the writer's side of :mod:`genostore.local`.

One compiled loop encodes the chunks of a shard (:mod:`genostore.runs` where they are runs, zstd's library otherwise),
adds the CRC-32C of each, and the table of where they lie. It holds no interpreter lock. Other arrays, and all of them
on a machine without the functions that this needs, are written by TensorStore.
"""

from __future__ import annotations

import threading
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from genostore import library
from genostore.compiled import njit
from genostore.machine import call5, crc32c, move, store32, word
from genostore.runs import REFUSED, SIZES, coding, encode
from genostore.runs import room as room_for_runs
from genostore.schema import ArraySchema

_SMALLEST, _LARGEST = SIZES.start, SIZES.stop
# Frames of ours are decoded in a third of the time, and that is worth a third more length. One chunk in so many is
# encoded by the library as well, and all that follow one of which it makes less than that.
_SAMPLE = 32
_SLACK = 64  # bytes that an encoder may write behind what it encodes
_mine = threading.local()


@njit(cache=True, nogil=True)
def _encode(
    values: NDArray[np.uint8],
    itemsize: int,
    chunk: int,
    compress: int,
    encoder: int,
    fine: NDArray[np.int64],
    coarse: NDArray[np.int64],
    work: NDArray[np.int64],
    other: NDArray[np.uint8],
    out: NDArray[np.uint8],
    index: NDArray[np.int64],
) -> int:
    """Encode chunks of ``chunk`` bytes one after the other; give where they end, or -1 if the library fails."""
    start, at = word(out.ctypes.data), word(out.ctypes.data)
    space, fine_at, coarse_at = word(work.ctypes.data), word(fine.ctypes.data), word(coarse.ctypes.data)
    theirs = word(other.ctypes.data)
    doubtful = False
    for i in range(values.size // chunk):
        source = word(values.ctypes.data) + i * chunk
        n = word(REFUSED)
        if (itemsize == 2 or itemsize == 4) and _SMALLEST <= chunk < _LARGEST:
            n = encode(source, chunk, itemsize, at, space, fine_at, coarse_at)
        if n == REFUSED:
            n = call5(compress, (encoder, at, out.size - (at - start), source, chunk))
            if n <= 0 or n > out.size - (at - start):
                return -1
        elif doubtful or i % _SAMPLE == 0:
            m = call5(compress, (encoder, theirs, other.size, source, chunk))
            doubtful = m > 0 and 4 * m < 3 * n
            if doubtful:
                move(at, theirs, m)
                n = m
        store32(at + n, crc32c(at, n))
        index[i, 0], index[i, 1] = at - start, n + 4
        at += n + 4
    return at - start


def encode_shard(values: NDArray[Any], schema: ArraySchema) -> bytes:
    """Encode the values of a shard as a stored object, its index at the end.

    Parameters
    ----------
    values
        ``(n,)`` of the array's type, at most a shard; the rest of the last chunk is filled.
    schema
        Of the array; see :meth:`genostore.local.LocalShards.supports`.
    """
    chunk, n_chunks = schema.chunk[0], schema.block[0] // schema.chunk[0]
    used = -(-len(values) // chunk)
    if len(values) % chunk:
        values = np.concatenate([values, np.full(used * chunk - len(values), schema.fill, values.dtype)])
    size = chunk * values.itemsize
    bound = size + (size >> 7) + 512  # what the library may make of a chunk, and more
    index = np.full((n_chunks, 2), -1, dtype="<i8")
    out = np.empty(used * (bound + 4) + _SLACK, dtype=np.uint8)
    end = _encode(
        np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).view(np.uint8),
        values.itemsize,
        size,
        library.compress(),
        library.encoder(schema.level or 0),
        coding(2),
        coding(4),
        *_room(size, bound),
        out,
        index,
    )
    if end < 0:
        raise ValueError("zstd's library could not encode a chunk")
    table = index.tobytes()
    return b"".join([out[:end].tobytes(), table, google_crc32c.value(table).to_bytes(4, "little")])


def _room(size: int, bound: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Give this thread's memory for encoding chunks of ``size`` bytes."""
    rooms: dict[int, tuple[NDArray[np.int64], NDArray[np.uint8]]] = _mine.__dict__.setdefault("rooms", {})
    if size not in rooms:
        rooms[size] = np.empty(room_for_runs(size), np.int64), np.empty(bound, np.uint8)
    return rooms[size]
