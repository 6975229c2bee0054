"""A decoder of zstd frames for tracks, as a compiled function.

A track is runs of one value, and a run is one zstd *sequence*: a few literal bytes, then a copy of them over itself.
The general library makes such a copy eight bytes at a time, each waiting for the last, and always decodes a whole
chunk to a buffer of its own. This one stores the repeated value in vectors, writes straight to where the values go,
and stops where no more are wanted; docs/decisions.md has the figures. Frames that need a dictionary or are little but
literals are ``UNSUPPORTED``: the caller asks the library. Nothing in a frame is trusted, and values are proved equal
to the library's in the tests. The source of the format is RFC 8878.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genostore.entropy import (
    BASE,
    BITS,
    DAMAGED,
    LITERALS,
    MATCHES,
    N_SYMBOLS,
    OFFSETS,
    SYMBOLS,
    TABLE,
    UNSUPPORTED,
    build,
    build_huffman,
    decode_huffman,
    read_counts,
    read_weights,
)
from genostore.machine import (
    call5,
    get,
    load8,
    load16,
    load32,
    load64,
    part,
    put,
    store8,
    word,
)
from genostore.sequences import carry_out, carry_out_runs, copy

PADDING = 64  # bytes that may be read before and after a frame
MAGIC = 0xFD2FB528

_MAX_LOG = (9, 8, 9)
_DEFAULT_LOG = (6, 5, 6)
_DEFAULTS = np.zeros((3, SYMBOLS), dtype=np.int64)
_DEFAULTS[LITERALS, :36] = [4, 3] + [2] * 11 + [1] * 3 + [2] * 9 + [3, 2] + [1] * 5 + [-1] * 4
_DEFAULTS[OFFSETS, :29] = [1] * 6 + [2] * 3 + [1] * 15 + [-1] * 5
_DEFAULTS[MATCHES, :53] = [1, 4, 3] + [2] * 6 + [1] * 37 + [-1] * 7

# A workspace, in bytes from its beginning.
_TABLES = 0  # of literals, offsets and matches; later blocks may use them again
_LOGS = _TABLES + 3 * TABLE * 8  # logarithms of their sizes, and of that of the Huffman codes; -1 = there is none
_LAST = _LOGS + 4 * 8  # offsets
_KEPT = _LAST + 3 * 8  # bytes of the description that the tables were made from, 0 = none, and their logarithms
_SECTION = _KEPT + 4 * 8  # that description
_MOST_KEPT = 120
_COUNTS = _SECTION + 128
_SPREAD = _COUNTS + SYMBOLS * 8
_WEIGHTS = _SPREAD + TABLE
_WEIGHT_TABLE = _WEIGHTS + 256
_STARTS = _WEIGHT_TABLE + 64 * 8
_CODES = _STARTS + 16 * 8
_LITERALS = _CODES + 2048 * 2


def workspace(size: int) -> NDArray[np.uint8]:
    """Allocate what :func:`decode` works with for chunks of ``size`` bytes, to be used by one thread at a time."""
    return np.zeros(_LITERALS + size + PADDING, dtype=np.uint8)


@part
def _header(frame: int, length: int, size: int) -> tuple[int, int]:
    """Read the header of a frame of ``size`` bytes; give where its blocks begin (or a fault) and end."""
    if length < 9 or load32(frame) != MAGIC:
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
def _literals(at: int, end: int, size: int, work: int) -> tuple[int, int, int]:
    """Read the literals of a block; give their address (or a fault), their number, and where the section ends."""
    first = load8(at)
    what, form = first & 3, (first >> 2) & 3
    to = work + _LITERALS
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
        n_weights, at = read_weights(at, stop, work + _WEIGHTS, work + _WEIGHT_TABLE, work + _SPREAD, work + _COUNTS)
        log = word(DAMAGED)
        if n_weights > 0:
            log = build_huffman(work + _WEIGHTS, n_weights, work + _CODES, work + _STARTS)
        put(work + _LOGS, 3, log)
    log = get(work + _LOGS, 3)
    if log < 0:
        return DAMAGED, n, at
    if not decode_huffman(at, stop, 1 if form == 0 else 4, log, work + _CODES, to, n):
        return DAMAGED, n, at
    return to, n, stop


@part
def _same(one: int, other: int, n: int) -> bool:
    """Compare n bytes; up to 7 more are read."""
    while n >= 8:
        if load64(one) != load64(other):
            return False
        one, other, n = one + 8, other + 8, n - 8
    return (load64(one) ^ load64(other)) & ((1 << (n << 3)) - 1) == 0


@part
def _tables(at: int, end: int, work: int) -> int:
    """Have the tables of a block's sequences; give where their description ends, or a fault.

    The tables of the block before are kept where the description is the same: our own frames have one of two.
    """
    logs, kept = work + _LOGS, work + _KEPT
    n = get(kept, 0)
    if n == 0 or at + n > end or not _same(at, work + _SECTION, n):
        put(kept, 0, 0)
        modes = load8(at)
        after = _make_tables(at + 1, end, modes, work)
        n = after - at
        # A table of the block before (mode 3) says nothing by itself.
        if after < 0 or n > _MOST_KEPT or modes & (modes >> 1) & 0b01010100:
            return after
        put(kept, 0, n)
        for i in range(n):
            store8(work + _SECTION + i, load8(at + i))
        for which in range(3):
            put(kept, 1 + which, get(logs, which))
    else:
        for which in range(3):
            put(logs, which, get(kept, 1 + which))
    return at + n


@part
def _make_tables(at: int, end: int, modes: int, work: int) -> int:
    """Read or make the tables of a block's sequences; give where their descriptions end, or a fault."""
    logs, counts, spread = work + _LOGS, work + _COUNTS, work + _SPREAD
    if at > end or modes & 3:
        return DAMAGED
    for which in range(3):
        mode, fault = (modes >> (6 - 2 * which)) & 3, UNSUPPORTED if which == OFFSETS else DAMAGED
        table = work + _TABLES + which * TABLE * 8
        if mode == 0:
            for i in range(SYMBOLS):
                put(counts, i, _DEFAULTS[which, i])
            build(which, counts, SYMBOLS, _DEFAULT_LOG[which], table, spread)
            put(logs, which, _DEFAULT_LOG[which])
        elif mode == 1:  # always the same symbol
            symbol = load8(at)
            at += 1
            if at > end or symbol >= N_SYMBOLS[which]:
                return fault
            put(table, 0, BASE[which, symbol] | BITS[which, symbol] << 32)
            put(logs, which, 0)
        elif mode == 2:
            log, n, at = read_counts(at, end, _MAX_LOG[which], N_SYMBOLS[which], counts)
            if log < 0:
                return fault
            build(which, counts, n, log, table, spread)
            put(logs, which, log)
        elif get(logs, which) < 0:  # as in the block before, and there is none
            return DAMAGED
    return at


@part
def _block(at: int, end: int, size: int, op: int, to: int, limit: int, stop: int, work: int) -> int:
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
        tables, logs, last = work + _TABLES, work + _LOGS, work + _LAST
        if get(logs, OFFSETS) == 0 and get(tables, OFFSETS * TABLE) == 1 and get(last, 1) == 4 and op - to >= 4:
            op, literal = carry_out_runs(
                at, end, n_sequences, literal, end_literals, op, limit, stop, tables, logs, last
            )
        else:
            op, literal = carry_out(
                at, end, n_sequences, literal, end_literals, op, to, limit, stop, tables, logs, last
            )
        if op < 0 or op >= stop:
            return op
    rest = end_literals - literal
    if op + rest > limit:
        return DAMAGED
    copy(op, literal, rest, limit)
    return op + rest


@part
def decode(frame: int, length: int, to: int, size: int, wanted: int, work: int) -> int:
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
        Address of a :func:`workspace`.

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
        put(work + _LOGS, i, -1)
    put(work + _LAST, 0, 1)
    put(work + _LAST, 1, 4)
    put(work + _LAST, 2, 8)
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
            copy(op, at, n, limit)
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
    work: int,
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
