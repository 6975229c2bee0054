"""Compiled loops over batches: gather windows out of memory, fill gaps, spell bases as one-hot rows.

They hold no lock and start no threads: the loader's own threads call them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genostore import buffers
from genostore.compiled import njit
from genostore.machine import FLOAT32, word, write_values


@njit(cache=True, nogil=True)
def gather_signal(
    planes: NDArray[np.int64],
    kind: int,
    start: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    reverse: NDArray[np.bool_],
    fill: np.float32,
    out: NDArray[np.float32],
) -> None:
    """Cut windows out of tracks that lie in memory.

    Parameters
    ----------
    planes
        ``(B, channel)`` address of the track of each window and channel; 0 where there is none.
    kind
        ``FLOAT32``, ``FLOAT16`` or ``BFLOAT16`` of :mod:`genostore.machine`.
    start
        ``(B,)`` position of the window on the track, which may lie outside of it.
    low, high
        ``(B,)`` positions that exist.
    reverse
        ``(B,)`` whether to write the window backwards.
    fill
        What takes the place of NaN, and of positions that do not exist.
    out
        ``(B, channel, W)``.
    """
    width, size = out.shape[2], 4 if kind == FLOAT32 else 2
    for b in range(out.shape[0]):
        first = min(max(low[b] - start[b], 0), width)
        last = max(min(high[b] - start[b], width), first)
        to_row = word(out[b].ctypes.data)
        for c in range(out.shape[1]):
            row = out[b, c]
            if planes[b, c] == 0 or first == last:
                row[:] = fill
                continue
            n, at = last - first, start[b] + first
            a = width - last if reverse[b] else first
            row[:a] = fill
            row[a + n :] = fill
            to, source = to_row + 4 * (c * width + a), planes[b, c] + size * at
            soon = planes[b, c + 1] + size * at if c + 1 < out.shape[1] else source
            if c + 1 == out.shape[1] and b + 1 < out.shape[0]:
                soon = planes[b + 1, 0] + size * start[b + 1]
            write_values(to, source, n, kind, reverse[b], fill, soon)


@njit(cache=True, nogil=True)
def gather_sequence(
    codes: NDArray[np.uint8],
    start: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    reverse: NDArray[np.bool_],
    out: NDArray[np.uint8],
) -> None:
    """Cut windows out of a sequence that lies in memory, codes 0-4; see :func:`gather_signal`.

    What lies outside of a contig is 4, and the reverse strand is complemented.
    """
    width = out.shape[1]
    for b in range(out.shape[0]):
        first = min(max(low[b] - start[b], 0), width)
        last = max(min(high[b] - start[b], width), first)
        row = out[b]
        row[:] = 4
        if reverse[b]:
            for i in range(first, last):
                code = codes[start[b] + i]
                row[width - 1 - i] = code if code == 4 else code ^ np.uint8(3)
        else:
            row[first:last] = codes[start[b] + first : start[b] + last]


@njit(cache=True, nogil=True)
def fill_missing(values: NDArray[np.float32], fill: np.float32) -> int:
    """Replace NaN in place, and count how many there were."""
    filled = 0
    for i in range(values.size):
        silent = values[i] != values[i]
        filled += silent
        values[i] = fill if silent else values[i]
    return filled


_ROWS = np.eye(5, 4, dtype=np.float32).view(np.uint64)


@njit(cache=True, nogil=True)
def spell(codes: NDArray[np.uint8], rows: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """Look up the row of each code; a row of four floats is two words."""
    for i in range(codes.size):
        out[i, 0] = rows[codes[i], 0]
        out[i, 1] = rows[codes[i], 1]


def one_hot(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Make ``(..., 4)`` float32 of uint8 codes: A C G T, and zeros for code 4."""
    out = buffers.empty((*codes.shape, 4), np.float32)
    spell(codes.reshape(-1), _ROWS, out.reshape(-1, 4).view(np.uint64))
    return out


@njit(cache=True, nogil=True)
def spread_bins(
    bins: NDArray[np.float32], origin: NDArray[np.int64], bin_size: int, beyond: np.float32, out: NDArray[np.float32]
) -> None:
    """Give each base the value of its bin, ``(B, n)`` to ``(B, W)``; ``beyond`` where there is none.

    Base ``j`` of a window lies in bin ``(origin + j) // bin_size``.
    """
    width, n = out.shape[1], bins.shape[1]
    for b in range(out.shape[0]):
        out[b, : max(min(-origin[b], width), 0)] = beyond
        for k in range(n):
            first, last = max(k * bin_size - origin[b], 0), min((k + 1) * bin_size - origin[b], width)
            if first < last:
                out[b, first:last] = bins[b, k]
        out[b, max(n * bin_size - origin[b], 0) :] = beyond
