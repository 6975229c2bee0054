"""A decoder of zstd frames for tracks, as a compiled function.

A track is runs of one value, and a run is one zstd *sequence*: a few literal bytes, then a copy of them over itself.
The general library makes such a copy eight bytes at a time, each waiting for the last, and always decodes a whole
chunk to a buffer of its own. This one stores the repeated value in vectors, writes straight to where the values go,
and stops where no more are wanted; docs/decisions.md has the figures. Frames that need a dictionary or are little but
literals are ``UNSUPPORTED``: the caller asks the library. Nothing in a frame is trusted, and values are proved equal
to the library's in the tests. The source of the format is RFC 8878.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genostore.entropy import (
    DAMAGED,
    SYMBOLS,
    TABLE,
    Ints,
    bits_of,
    build,
    build_huffman,
    decode_huffman,
    read_counts,
    read_weights,
    window,
)
from genostore.machine import call5, copy16, copy32, fill32, load8, load16, load32, load64, part, store8, top, word

UNSUPPORTED = -2
PADDING = 64  # bytes that may be read before and after a frame
_MAGIC = 0xFD2FB528

# The parts of a sequence: the number of literals, the offset of a match and its length.
_OFFSETS = 1
_MAX_LOG = (9, 8, 9)
_DEFAULT_LOG = (6, 5, 6)
_DEFAULTS = np.zeros((3, SYMBOLS), dtype=np.int64)
_DEFAULTS[0, :36] = [4, 3] + [2] * 11 + [1] * 3 + [2] * 9 + [3, 2] + [1] * 5 + [-1] * 4
_DEFAULTS[1, :29] = [1] * 6 + [2] * 3 + [1] * 15 + [-1] * 5
_DEFAULTS[2, :53] = [1, 4, 3] + [2] * 6 + [1] * 37 + [-1] * 7
_N_SYMBOLS = (36, 25, 53)  # an offset of more than 25 bits is none of a chunk

# What a symbol stands for: a base value, and how many bits are added to it.
_BASE = np.zeros((3, SYMBOLS), dtype=np.int64)
_BITS = np.zeros((3, SYMBOLS), dtype=np.int64)
_BASE[0, :36] = [*range(16), 16, 18, 20, 22, 24, 28, 32, 40, 48, *(1 << k for k in range(6, 17))]
_BITS[0, 16:36] = [1, 1, 1, 1, 2, 2, 3, 3, 4, *range(6, 17)]
_BASE[1, :29] = [1 << k for k in range(29)]
_BITS[1, :29] = range(29)
_BASE[2, :53] = [*range(3, 35), 35, 37, 39, 41, 43, 47, 51, 59, 67, 83, 99, *((1 << k) + 3 for k in range(7, 17))]
_BITS[2, 32:53] = [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, *range(7, 17)]


class Workspace(NamedTuple):
    """What :func:`decode` works with: tables, and the literals of a block."""

    tables: Ints  # (3, TABLE) of literals, offsets and matches; later blocks may use them again
    logs: Ints  # (4,) logarithms of their sizes, and of that of the Huffman codes; -1 = there is none
    offsets: Ints  # (3,) the last three
    codes: NDArray[np.uint16]
    literals: NDArray[np.uint8]
    counts: Ints
    spread: Ints
    weights: NDArray[np.uint8]
    weight_table: Ints
    starts: Ints


def workspace(size: int) -> Workspace:
    """Allocate a workspace for chunks of ``size`` bytes, to be used by one thread at a time."""
    return Workspace(
        np.zeros((3, TABLE), dtype=np.int64),
        np.zeros(4, dtype=np.int64),
        np.zeros(3, dtype=np.int64),
        np.zeros(2048, dtype=np.uint16),
        np.zeros(size + PADDING, dtype=np.uint8),
        np.zeros(SYMBOLS, dtype=np.int64),
        np.zeros(TABLE, dtype=np.int64),
        np.zeros(256, dtype=np.uint8),
        np.zeros(SYMBOLS, dtype=np.int64),
        np.zeros(16, dtype=np.int64),
    )


@part
def _header(frame: int, length: int, size: int) -> tuple[int, int]:
    """Read the header of a frame of ``size`` bytes; give where its blocks begin (or a fault) and end."""
    if length < 9 or load32(frame) != _MAGIC:
        return DAMAGED, 0
    flags = load8(frame + 4)
    if flags & 0x0B:  # a dictionary, or a bit that is reserved
        return UNSUPPORTED, 0
    single, kind = (flags >> 5) & 1, flags >> 6
    at = frame + 6 - single  # past the size of the window
    given = size
    if kind == 0 and single:
        given, at = load8(at), at + 1
    elif kind == 1:
        given, at = load16(at) + 256, at + 2
    elif kind == 2:
        given, at = load32(at), at + 4
    elif kind == 3:
        given, at = load64(at), at + 8
    return (at if given == size else word(DAMAGED)), frame + length - (flags & 4)


@part
def _repeat_byte(to: int, byte: int, n: int) -> None:
    for i in range(n):
        store8(to + i, byte)


@part
def _literals(at: int, end: int, size: int, work: Workspace) -> tuple[int, int, int]:
    """Read the literals of a block; give their address (or a fault), their number, and where the section ends."""
    first = load8(at)
    what, form = first & 3, (first >> 2) & 3
    if what < 2:
        if form == 1:
            n, at = load16(at) >> 4, at + 2
        elif form == 3:
            n, at = (load32(at) & 0xFFFFFF) >> 4, at + 3
        else:
            n, at = first >> 3, at + 1
        if what == 0:
            return (at, n, at + n) if at + n <= end else (DAMAGED, n, at)
        if n > size or at >= end:
            return DAMAGED, n, at
        to = word(work.literals.ctypes.data)
        _repeat_byte(to, load8(at), n)
        return to, n, at + 1
    width = (10, 10, 14, 18)[form]
    both = load64(at) >> 4
    n, packed = both & ((1 << width) - 1), (both >> width) & ((1 << width) - 1)
    at += (3, 3, 4, 5)[form]
    stop = at + packed
    if stop > end or n > size:
        return DAMAGED, n, at
    if 2 * n > size:  # little but literals, which the library decodes faster
        return UNSUPPORTED, n, at
    if what == 2:
        n_weights, at = read_weights(at, stop, work.weights, work.weight_table, work.spread, work.counts)
        work.logs[3] = build_huffman(work.weights, n_weights, work.codes, work.starts) if n_weights > 0 else DAMAGED
    log = work.logs[3]
    if log < 0:
        return DAMAGED, n, at
    to = word(work.literals.ctypes.data)
    if not decode_huffman(at, stop, 1 if form == 0 else 4, log, word(work.codes.ctypes.data), to, n):
        return DAMAGED, n, at
    return to, n, stop


@part
def _tables(at: int, end: int, work: Workspace) -> int:
    """Read or make the tables of a block's sequences; give where their descriptions end, or a fault."""
    modes = load8(at)
    at += 1
    if at > end or modes & 3:
        return DAMAGED
    for which in range(3):
        mode, fault = (modes >> (6 - 2 * which)) & 3, UNSUPPORTED if which == _OFFSETS else DAMAGED
        if mode == 0:
            work.logs[which] = _DEFAULT_LOG[which]
            for i in range(SYMBOLS):
                work.counts[i] = _DEFAULTS[which, i]
            build(
                _BASE[which], _BITS[which], work.counts, SYMBOLS, _DEFAULT_LOG[which], work.tables[which], work.spread
            )
        elif mode == 1:  # always the same symbol
            symbol = load8(at)
            at += 1
            if at > end or symbol >= _N_SYMBOLS[which]:
                return fault
            work.tables[which, 0] = _BASE[which, symbol] | _BITS[which, symbol] << 32
            work.logs[which] = 0
        elif mode == 2:
            log, n, at = read_counts(at, end, _MAX_LOG[which], _N_SYMBOLS[which], work.counts)
            if log < 0:
                return fault
            build(_BASE[which], _BITS[which], work.counts, n, log, work.tables[which], work.spread)
            work.logs[which] = log
        elif work.logs[which] < 0:  # as in the block before, and there is none
            return DAMAGED
    return at


@part
def _copy(to: int, source: int, n: int, limit: int) -> None:
    """Copy n bytes that do not overlap; up to 31 more where that does not pass ``limit``."""
    end = to + n
    if end + 32 <= limit:
        while to < end:
            copy32(to, source)
            to += 32
            source += 32
    else:
        while to < end:
            store8(to, load8(source))
            to += 1
            source += 1


@part
def _eight(source: int, n: int) -> int:
    """Give eight bytes of a pattern of n, which divides eight."""
    if n == 8:
        return load64(source)
    if n == 4:
        pattern = load32(source)
        return pattern | pattern << 32
    pattern = load16(source) if n == 2 else load8(source) | load8(source) << 8
    pattern |= pattern << 16
    return pattern | pattern << 32


@part
def _repeat(to: int, offset: int, n: int, limit: int) -> None:
    """Copy n bytes from ``offset`` bytes before, over themselves where they overlap."""
    end = to + n
    # Near the limit, as many whole steps as fit, and the rest byte by byte.
    if offset >= 32:
        last = end if end + 32 <= limit else end - 31
        while to < last:
            copy32(to, to - offset)
            to += 32
    elif offset == 4 or offset == 8 or offset == 2 or offset == 1:
        pattern = _eight(to - offset, offset)
        last = end if end + 128 <= limit else end - 127
        # Most runs are short: storing four vectors at once costs less than asking how many are wanted.
        while to < last:
            fill32(to, pattern)
            fill32(to + 32, pattern)
            fill32(to + 64, pattern)
            fill32(to + 96, pattern)
            to += 128
    while to < end:
        store8(to, load8(to - offset))
        to += 1


@part
def _sequences(
    base: int,
    end: int,
    n: int,
    literal: int,
    literals: int,
    op: int,
    to: int,
    limit: int,
    stop: int,
    work: Workspace,
) -> tuple[int, int]:
    """Carry out the n sequences of a block.

    Parameters
    ----------
    base, end
        Where their bits lie, which are read from the end.
    literal, literals
        Where the literals lie, and end.
    op, to, limit
        Where the next value goes, the first went, and the last may go.
    stop
        Where no more values are wanted.

    Returns
    -------
    tuple of int
        The next ``op`` (or a fault) and the next literal.
    """
    table_l = word(work.tables.ctypes.data)
    table_o, table_m = table_l + 8 * TABLE, table_l + 16 * TABLE
    log_l, log_o, log_m = work.logs[0], work.logs[1], work.logs[2]
    rep1, rep2, rep3 = work.offsets[0], work.offsets[1], work.offsets[2]
    left = bits_of(base, end)
    if left < log_l + log_o + log_m:
        return DAMAGED, literal
    bits = window(base, left)
    state_l = top(bits, log_l)
    bits <<= log_l
    state_o = top(bits, log_o)
    bits <<= log_o
    state_m = top(bits, log_m)
    left -= log_l + log_o + log_m
    for i in range(n):
        if op >= stop:
            return op, literal
        entry_l = load64(table_l + (state_l << 3))
        entry_o = load64(table_o + (state_o << 3))
        entry_m = load64(table_m + (state_m << 3))
        bits = window(base, left)
        n_o, n_m, n_l = (entry_o >> 32) & 255, (entry_m >> 32) & 255, (entry_l >> 32) & 255
        value = (entry_o & 0xFFFFFFFF) + top(bits, n_o)
        bits <<= n_o
        n_match = (entry_m & 0xFFFFFFFF) + top(bits, n_m)
        bits <<= n_m
        n_literal = (entry_l & 0xFFFFFFFF) + top(bits, n_l)
        n_bits = n_o + n_m + n_l
        left -= n_bits
        if i + 1 < n:
            # 26 bits more may be wanted, of the 56 that were there.
            bits = bits << n_l if n_bits <= 30 else window(base, left)
            n_l, n_m, n_o = (entry_l >> 40) & 255, (entry_m >> 40) & 255, (entry_o >> 40) & 255
            state_l = ((entry_l >> 48) & 0xFFFF) + top(bits, n_l)
            bits <<= n_l
            state_m = ((entry_m >> 48) & 0xFFFF) + top(bits, n_m)
            bits <<= n_m
            state_o = ((entry_o >> 48) & 0xFFFF) + top(bits, n_o)
            left -= n_l + n_m + n_o
        if left < 0:
            return DAMAGED, literal
        # Which offset: a new one, or one of the last three.
        if value == 1 and n_literal > 0:
            offset = rep1
        elif value > 3:
            offset = value - 3
            rep3 = rep2
            rep2 = rep1
            rep1 = offset
        else:
            turn = value + (1 if n_literal == 0 else 0)
            if turn == 1:
                offset = rep1
            elif turn == 2:
                offset = rep2
                rep2 = rep1
            else:
                offset = rep3 if turn == 3 else rep1 - 1
                rep3 = rep2
                rep2 = rep1
            rep1 = offset
        if literal + n_literal > literals or op + n_literal + n_match > limit:
            return DAMAGED, literal
        if n_literal <= 16 and op + 16 <= limit:
            copy16(op, literal)
        else:
            _copy(op, literal, n_literal, limit)
        op += n_literal
        literal += n_literal
        if offset <= 0 or op - offset < to:
            return DAMAGED, literal
        _repeat(op, offset, n_match, limit)
        op += n_match
    work.offsets[0], work.offsets[1], work.offsets[2] = rep1, rep2, rep3
    return (op if left == 0 else word(DAMAGED)), literal


@part
def _block(at: int, end: int, size: int, op: int, to: int, limit: int, stop: int, work: Workspace) -> int:
    """Decode a compressed block; give where the next value goes, or a fault."""
    literal, n, at = _literals(at, end, size, work)
    if literal < 0:
        return literal
    end_literals = literal + n
    n_sequences = load8(at)
    at += 1
    if n_sequences == 255:
        n_sequences, at = load16(at) + 0x7F00, at + 2
    elif n_sequences > 127:
        n_sequences, at = ((n_sequences - 128) << 8) + load8(at), at + 1
    if n_sequences == 0:
        if at != end:
            return DAMAGED
    else:
        at = _tables(at, end, work)
        if at < 0:
            return at
        op, literal = _sequences(at, end, n_sequences, literal, end_literals, op, to, limit, stop, work)
        if op < 0 or op >= stop:
            return op
    rest = end_literals - literal
    if op + rest > limit:
        return DAMAGED
    _copy(op, literal, rest, limit)
    return op + rest


@part
def decode(frame: int, length: int, to: int, size: int, wanted: int, work: Workspace) -> int:
    """Decode the beginning of a frame.

    Parameters
    ----------
    frame, length
        Address and bytes of the frame; ``PADDING`` bytes before and after it can be read.
    to, size
        Address where the values go and the bytes that all of them have. Up to ``size`` bytes are written.
    wanted
        Bytes after which decoding may stop.
    work
        Of :func:`workspace`.

    Returns
    -------
    int
        0, ``DAMAGED`` for a frame that is none or does not hold ``size`` bytes, or ``UNSUPPORTED``.
    """
    at, end = _header(frame, length, size)
    if at < 0:
        return at
    op, limit = to, to + size
    stop = to + wanted if wanted < size else limit + 1  # never: then the whole frame is checked
    for i in range(4):
        work.logs[i] = -1
    work.offsets[0], work.offsets[1], work.offsets[2] = 1, 4, 8
    last = word(0)
    while last == 0:
        block = load32(at) & 0xFFFFFF
        at += 3
        last, kind, n = block & 1, (block >> 1) & 3, block >> 3
        stored = 1 if kind == 1 else n
        if at + stored > end:
            return DAMAGED
        if kind >= 2:
            op = _block(at, at + n, size, op, to, limit, stop, work) if kind == 2 and n > 1 else word(DAMAGED)
            if op < 0:
                return op
        elif op + n > limit:
            return DAMAGED
        elif kind == 0:  # as it is
            _copy(op, at, n, limit)
            op += n
        else:  # one byte, n times
            _repeat_byte(op, load8(at), n)
            op += n
        at += stored
        if op >= stop:
            return 0
    return 0 if at == end and op == limit else DAMAGED


@part
def unpack(
    frame: int,
    length: int,
    to: int,
    size: int,
    wanted: int,
    itemsize: int,
    decompress: int,
    decoder: int,
    work: Workspace,
) -> bool:
    """Decode the beginning of a frame by whichever decoder is quicker; tell whether it was whole.

    Parameters
    ----------
    frame, length, to, size, wanted, work
        As of :func:`decode`.
    itemsize
        Bytes of a value.
    decompress, decoder
        Addresses of the library's function and of its state.
    """
    done = word(UNSUPPORTED)
    if itemsize > 1:  # bases are no runs, and the library decodes them faster
        done = decode(frame, length, to, size, wanted, work)
    if done == UNSUPPORTED:
        return call5(decompress, (decoder, to, size, frame, length)) == size
    return done == 0
