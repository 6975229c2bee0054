"""The compiled inner loop of the lean path."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from genostore.compiled import njit
from genostore.machine import call4, crc32c, load32, move, word
from genostore.sequences import spread
from genostore.zstd import PADDING, unpack

ABSENT = -1  # where a chunk lies that should be there and is not
SILENT = -2  # where a chunk lies whose whole shard holds no data

_READ_AT_ONCE = 1 << 17  # bytes of neighbouring chunks


@register_jitable
def _greatest(chunk_bytes: int) -> int:
    """Bound the stored length of a chunk: an honest one is never much larger than what it decodes to."""
    return 2 * chunk_bytes + 1024


def room(chunk_bytes: int) -> int:
    """Give the bytes that :func:`gather` wants for what it reads."""
    return max(_READ_AT_ONCE, _greatest(chunk_bytes)) + 2 * PADDING


@njit(cache=True, nogil=True)
def gather(
    pread: int,
    decompress: int,
    decoder: int,
    chunk: NDArray[np.int64],
    where: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    chunk_bytes: int,
    itemsize: int,
    out: int,
    stride: int,
    fill: int,
    stored: NDArray[np.uint8],
    scratch: NDArray[np.uint8],
    work: NDArray[np.uint8],
) -> int:
    """Read, check, decode and place pieces that are sorted by chunk.

    Parameters
    ----------
    pread, decompress, decoder
        Addresses of the C functions and of the state of the zstd library, for the frames that ours does not take.
    chunk, low, high, row, column
        ``(n,)``, as of :class:`genostore.local.Pieces`.
    where
        ``(n, 3)`` descriptor, offset and length of the stored chunk, its checksum included; or an offset of ``ABSENT``
        or ``SILENT``.
    chunk_bytes, itemsize
        Of a decoded chunk and of a value.
    out, stride
        Address of the output and bytes from row to row.
    fill
        Eight bytes of the value that stands for no data, repeated.
    stored, scratch
        Room for what is read, of :func:`room` bytes, and for a decoded chunk.
    work
        Of :func:`genostore.zstd.workspace`.

    Returns
    -------
    int
        -1, or the number of the first piece whose chunk is absent or damaged.
    """
    limit, greatest = stored.size - 2 * PADDING, _greatest(chunk_bytes)
    buffer, decoded = word(stored.ctypes.data) + PADDING, word(scratch.ctypes.data)
    space = word(work.ctypes.data)
    n, i = chunk.size, 0
    file, begin, end = word(-1), word(0), word(0)  # what of which file the buffer holds
    while i < n:
        after, last = i + 1, high[i]
        while after < n and chunk[after] == chunk[i]:
            if high[after] > last:
                last = high[after]
            after += 1
        offset, length = where[i, 1], where[i, 2]
        if offset == SILENT:
            for k in range(i, after):
                target, size = out + row[k] * stride + column[k] * itemsize, (high[k] - low[k]) * itemsize
                spread(target, fill, size, target + size)
            i = after
            continue
        if offset < 0 or length < 4 or length > greatest:
            return i
        if where[i, 0] != file or offset < begin or offset + length > end:
            # Read on as long as the chunks wanted are neighbours.
            file, begin, end = where[i, 0], offset, offset + length
            k = after
            while k < n and where[k, 0] == file:
                if where[k, 1] == end and where[k, 2] >= 4 and where[k, 1] + where[k, 2] - begin <= limit:
                    end = where[k, 1] + where[k, 2]
                elif where[k, 1] + where[k, 2] != end:
                    break
                k += 1
            if call4(pread, (file, buffer, end - begin, begin)) != end - begin:
                return i
        frame = buffer + offset - begin
        if crc32c(frame, length - 4) != load32(frame + length - 4):
            return i
        whole = after == i + 1 and low[i] == 0 and last * itemsize == chunk_bytes
        to = out + row[i] * stride + column[i] * itemsize if whole else decoded
        wanted = last * itemsize
        if not unpack(frame, length - 4, to, chunk_bytes, wanted, itemsize, decompress, decoder, space):
            return i
        if not whole:
            for k in range(i, after):
                target = out + row[k] * stride + column[k] * itemsize
                move(target, decoded + low[k] * itemsize, (high[k] - low[k]) * itemsize)
        i = after
    return -1
