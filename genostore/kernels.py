"""The compiled loops of the lean path: windows to spans, spans to pieces of chunks, and chunks to values."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from genostore.compiled import njit
from genostore.machine import call4, crc32c, get, load32, move, word
from genostore.opened import SILENT
from genostore.sequences import spread
from genostore.zstd import PADDING, unpack

ROW, START, STOP, COLUMN = range(4)  # of spans
SPAN = 32  # bits of a piece that tell its span; those above tell its chunk

_READ_AT_ONCE = 1 << 17  # bytes of neighbouring chunks


@register_jitable
def _greatest(chunk_bytes: int) -> int:
    """Bound the stored length of a chunk: an honest one is never much larger than what it decodes to."""
    return 2 * chunk_bytes + 1024


def room(chunk_bytes: int) -> int:
    """Give the bytes that :func:`gather` wants for what it reads."""
    return max(_READ_AT_ONCE, _greatest(chunk_bytes)) + 2 * PADDING


@register_jitable
def _start(anchor: int, width: int, shift: int) -> int:
    """Give the first position of a moved window, as :func:`genostore.genome.window_starts` has it."""
    return anchor - width // 2 + shift


@njit(cache=True, nogil=True)
def place(
    row: NDArray[np.int64],
    shift: NDArray[np.int64],
    reverse: NDArray[np.bool_],
    anchor: NDArray[np.int64],
    contig_length: NDArray[np.int64],
    width: int,
) -> NDArray[np.int64]:
    """Say where windows lie.

    Parameters
    ----------
    row, shift, reverse
        ``(B,)``: which anchors, by how much the windows about them are moved, and whether they are read backwards.
    anchor, contig_length
        ``(rows,)``: position of the anchor on its contig, and length of that.
    width
        Of a window.

    Returns
    -------
    numpy.ndarray
        ``(4, B)`` start on the contig; and as the window is read: where in it its anchor lies, and how many positions
        of it lie off the contig to the left and to the right.
    """
    out = np.empty((4, row.size), dtype=np.int64)
    for b in range(row.size):
        at = anchor[row[b]]
        start = _start(at, width, shift[b])
        left = min(max(-start, 0), width)
        right = min(max(start + width - contig_length[row[b]], 0), width)
        out[0, b] = start
        if reverse[b]:
            out[1, b], out[2, b], out[3, b] = width - 1 - at + start, right, left
        else:
            out[1, b], out[2, b], out[3, b] = at - start, left, right
    return out


@njit(cache=True, nogil=True)
def clip(
    row: NDArray[np.int64],
    shift: NDArray[np.int64],
    anchor: NDArray[np.int64],
    contig_offset: NDArray[np.int64],
    contig_length: NDArray[np.int64],
    width: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut windows to their contigs.

    Parameters
    ----------
    row, shift
        ``(B,)``: which anchors, and by how much the windows about them are moved.
    anchor, contig_offset, contig_length
        ``(rows,)``: positions of the anchors on their contigs, and where these begin on the genome axis and how long
        they are, bases.
    width
        Of a window.

    Returns
    -------
    spans
        ``(n, 4)``, as of :class:`genostore.arrays.Spans`; windows that lie off their contig are left out.
    past
        ``(m,)`` windows that pass an end of their contig.
    """
    spans, past = np.empty((row.size, 4), dtype=np.int64), np.empty(row.size, dtype=np.int64)
    n = m = 0
    for b in range(row.size):
        low = contig_offset[row[b]]
        high = low + contig_length[row[b]]
        start = low + _start(anchor[row[b]], width, shift[b])
        first, last = max(start, low), min(start + width, high)
        if last - first < width:
            past[m] = b
            m += 1
        if first < last:
            spans[n, ROW], spans[n, START], spans[n, STOP], spans[n, COLUMN] = b, first, last, first - start
            n += 1
    return spans[:n], past[:m]


@njit(cache=True, nogil=True)
def cut(spans: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Cut spans at the edges of chunks of ``size`` values.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` one number a piece, made of its chunk and its span; sorting them sorts by chunk.
    """
    n = 0
    for i in range(spans.shape[0]):
        n += (spans[i, STOP] - 1) // size - spans[i, START] // size + 1
    pieces, k = np.empty(n, dtype=np.int64), 0
    for i in range(spans.shape[0]):
        for chunk in range(spans[i, START] // size, (spans[i, STOP] - 1) // size + 1):
            pieces[k] = (chunk << SPAN) + i
            k += 1
    return pieces


@register_jitable
def _place(piece: int, spans: NDArray[np.int64], size: int) -> tuple[int, int, int, int]:
    """Give the positions wanted of a piece's chunk, from its start, and the row and the column where they go."""
    chunk, i = piece >> SPAN, piece & ((1 << SPAN) - 1)
    base = chunk * size
    low, high = max(spans[i, START], base), min(spans[i, STOP], base + size)
    return low - base, high - base, spans[i, ROW], spans[i, COLUMN] + low - spans[i, START]


@njit(cache=True, nogil=True)
def gather(
    tools: NDArray[np.int64],
    about: NDArray[np.int64],
    descriptor: NDArray[np.int64],
    index: NDArray[np.int64],
    spans: NDArray[np.int64],
    pieces: NDArray[np.int64],
    out: int,
    stride: int,
) -> int:
    """Read, check, decode and place pieces that are sorted by chunk.

    Parameters
    ----------
    tools
        Of :func:`genostore.local.tools`.
    about
        ``(4,)`` of the array: values of a chunk, bytes of a value, chunks of a shard, and eight bytes of the value
        that stands for no data, repeated.
    descriptor, index
        As of :class:`genostore.opened.Opened`.
    spans, pieces
        As of :class:`genostore.arrays.Spans`.
    out, stride
        Address of the output and bytes from row to row.

    Returns
    -------
    int
        -1, or the place of the first piece that could not be read: of one whose chunk is absent or damaged, or -2 less
        that of one whose shard was not open. The pieces before it are done.
    """
    pread, decompress, decoder, space = tools[0], tools[1], tools[2], tools[6]
    buffer, limit, decoded = tools[3] + PADDING, tools[4] - 2 * PADDING, tools[5]
    size, itemsize, per_shard, fill = about[0], about[1], about[2], about[3]
    chunk_bytes, greatest = size * itemsize, _greatest(size * itemsize)
    n, i = pieces.size, 0
    file, begin, end = word(-1), word(0), word(0)  # what of which file the buffer holds
    while i < n:
        chunk = pieces[i] >> SPAN
        shard, first = chunk // per_shard, chunk // per_shard * per_shard
        low, last, row, column = _place(pieces[i], spans, size)
        after = i + 1
        while after < n and pieces[after] >> SPAN == chunk:
            last = max(last, _place(pieces[after], spans, size)[1])
            after += 1
        if descriptor[shard] == SILENT:
            for k in range(i, after):
                low, high, row, column = _place(pieces[k], spans, size)
                target, length = out + row * stride + column * itemsize, (high - low) * itemsize
                spread(target, fill, length, target + length)
            i = after
            continue
        table = index[shard]
        if table == 0 or descriptor[shard] < 0:
            return -2 - i
        offset, length = get(table, 2 * (chunk - first)), get(table, 2 * (chunk - first) + 1)
        if offset < 0 or length < 4 or length > greatest:
            return i
        if shard != file or offset < begin or offset + length > end:
            # Read on as long as the chunks wanted are neighbours.
            file, begin, end = shard, offset, offset + length
            k = after
            while k < n and pieces[k] >> SPAN < first + per_shard:
                at = 2 * ((pieces[k] >> SPAN) - first)
                start, more = get(table, at), get(table, at + 1)
                if start == end and more >= 4 and start + more - begin <= limit:
                    end = start + more
                elif start + more != end:
                    break
                k += 1
            if call4(pread, (descriptor[shard], buffer, end - begin, begin)) != end - begin:
                return i
        frame = buffer + offset - begin
        if crc32c(frame, length - 4) != load32(frame + length - 4):
            return i
        whole = after == i + 1 and low == 0 and last == size
        to = out + row * stride + column * itemsize if whole else decoded
        if not unpack(frame, length - 4, to, chunk_bytes, last * itemsize, itemsize, decompress, decoder, space):
            return i
        if not whole:
            for k in range(i, after):
                low, high, row, column = _place(pieces[k], spans, size)
                target = out + row * stride + column * itemsize
                move(target, decoded + low * itemsize, (high - low) * itemsize)
        i = after
    return -1
