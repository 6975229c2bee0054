"""The compiled loop that cuts windows out of the tiles of a pack.

A *tile* is an inner chunk ``(gene, cell_type, channel, position)``. The loop reads neighbouring tiles at once
(``pread``), checks the CRC-32C of each, decompresses it where it is compressed, and copies or widens what is wanted to
where it is wanted, gaps filled on the way. It holds no lock.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genostore.compiled import njit
from genostore.machine import FLOAT16, FLOAT32, call3, call4, crc32c, load32, load64, move, word, write_values
from genostore.zstd import PADDING, unpack

Ints = NDArray[np.int64]
GAP = 1 << 12  # bytes between tiles that are read rather than skipped


@njit(cache=True, nogil=True)
def gather(
    tools: Ints,
    checksum: int,
    compressed: bool,
    order: Ints,
    shard: Ints,
    descriptor: Ints,
    index: Ints,
    gene: Ints,
    cell: Ints,
    channel: Ints,
    low: Ints,
    shape: Ints,
    tile: Ints,
    grid: Ints,
    itemsize: int,
    widening: bool,
    fill: np.float32,
    out: int,
    strides: Ints,
    width: int,
) -> int:
    """Read windows.

    Parameters
    ----------
    tools
        Of :func:`genostore.local.tools`.
    checksum
        Address of ``crc32c_extend``; 0 for our own.
    compressed
        Whether tiles are.
    order
        ``(n,)`` the samples to read, sorted by where they lie.
    shard
        ``(n,)`` rows of ``descriptor`` and ``index``.
    descriptor, index
        ``(shards,)`` open files, and addresses of their tables of int64 offsets and lengths.
    gene, cell, low
        ``(B,)``, the last being the first position of each window.
    channel
        ``(B, A)`` channels of each sample; one that does not exist is left out.
    shape, tile, grid
        ``(4,)`` extents of the array and of a tile, and tiles of a shard along each axis.
    itemsize, widening
        Of a stored value, 1 for bytes; and whether it is float16 to be written as float32.
    fill
        What is written in the place of NaN.
    out, strides, width
        Address of the ``(B, A, width)`` output, bytes from sample to sample and from channel to channel, and positions.

    Returns
    -------
    int
        -1, or the place in ``order`` of the first sample of which a tile is damaged; -2 - place if one is absent.
    """
    pread, decompress, decoder, space = tools[0], tools[1], tools[2], tools[6]
    buffer, most, decoded = tools[3] + PADDING, tools[4] - 2 * PADDING, tools[5]
    outsize = 4 if widening else itemsize
    size = tile[0] * tile[1] * tile[2] * tile[3] * itemsize
    # What is to be read: a tile for each sample, channel and position.
    per_sample = min(grid[2], channel.shape[1]) * min(grid[3], (width - 1) // tile[3] + 2)
    item = np.empty((order.size * per_sample, 5), dtype=np.int64)  # place, tile of channel, of position, offset, length
    n = 0
    for place in range(order.size):
        i = order[place]
        first, last = low[i] // tile[3], min((low[i] + width - 1) // tile[3], grid[3] - 1)
        row = (gene[i] // tile[0] % grid[0]) * grid[1] + cell[i] // tile[1] % grid[1]
        for tc in range(grid[2]):
            wanted = False
            for a in range(channel.shape[1]):
                wanted |= channel[i, a] // tile[2] == tc and channel[i, a] < shape[2]
            if not wanted:
                continue
            for tp in range(first, last + 1):
                at = index[shard[place]] + 16 * ((row * grid[2] + tc) * grid[3] + tp)
                item[n, 0], item[n, 1], item[n, 2] = place, tc, tp
                item[n, 3], item[n, 4] = load64(at), load64(at + 8)
                if item[n, 3] < 0:
                    return -2 - place
                if item[n, 4] < 4 or item[n, 4] > most or (not compressed and item[n, 4] != size + 4):
                    return place
                n += 1
    k = 0
    while k < n:
        start, file = item[k, 3], shard[item[k, 0]]
        end, m = start + item[k, 4], k + 1
        while m < n and shard[item[m, 0]] == file and start <= item[m, 3] <= end + GAP:
            stop = item[m, 3] + item[m, 4]
            if stop - start > most:
                break
            end = max(end, stop)
            m += 1
        if call4(pread, (descriptor[file], buffer, end - start, start)) != end - start:
            return item[k, 0]
        ready = source = word(-1)
        for j in range(k, m):
            i = order[item[j, 0]]
            if item[j, 3] != ready:
                ready = item[j, 3]
                source, length = buffer + ready - start, item[j, 4] - 4
                found = call3(checksum, (0, source, length)) & 0xFFFFFFFF if checksum else crc32c(source, length)
                if found != load32(source + length):
                    return item[j, 0]
                if compressed:
                    if not unpack(source, length, decoded, size, size, itemsize, decompress, decoder, space):
                        return item[j, 0]
                    source = decoded
            begin = item[j, 2] * tile[3]
            p, q = max(low[i], begin), min(low[i] + width, begin + tile[3], shape[3])
            if p >= q:
                continue
            row = ((gene[i] % tile[0]) * tile[1] + cell[i] % tile[1]) * tile[2]
            for a in range(channel.shape[1]):
                c = channel[i, a]
                if c // tile[2] != item[j, 1] or c >= shape[2]:
                    continue
                to = out + i * strides[0] + a * strides[1] + (p - low[i]) * outsize
                origin = source + ((row + c % tile[2]) * tile[3] + p - begin) * itemsize
                if itemsize == 1:
                    move(to, origin, q - p)
                else:
                    write_values(to, origin, q - p, FLOAT16 if widening else FLOAT32, False, fill, origin)
        k = m
    return -1
