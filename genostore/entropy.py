"""The entropy coding of zstd, as compiled functions: FSE tables and Huffman literals. See :mod:`genostore.zstd`.

Functions take addresses (arrays would be counted whenever they are handed on, which costs more than what some of these
functions do); whatever they read lies between ``genostore.zstd.PADDING`` bytes that can be read too.
"""

from __future__ import annotations

import numpy as np

from genostore.machine import (
    get,
    highest_bit,
    load8,
    load16,
    load32,
    load64,
    part,
    put,
    shift_right,
    store8,
    store16,
    store32,
    store64,
    top,
)

DAMAGED, UNSUPPORTED = -1, -2
TABLE = 512  # entries that an FSE table may have
SYMBOLS = 64  # of an FSE table; at most 53 are used
_MAX_HUFFMAN = 11  # bits of a code
_MAX_WEIGHT_LOG = 6
_AT_ONCE = 5  # codes of 11 bits in a word of which 56 are valid

# What symbols stand for: the number of literals, the offset and the length of a match, and themselves.
LITERALS, OFFSETS, MATCHES, _WEIGHTS = range(4)
N_SYMBOLS = (36, 25, 53)  # an offset of more than 25 bits is none of a chunk
# A base value, and how many bits are added to it.
BASE = np.zeros((4, SYMBOLS), dtype=np.int64)
BITS = np.zeros((4, SYMBOLS), dtype=np.int64)
BASE[LITERALS, :36] = [*range(16), 16, 18, 20, 22, 24, 28, 32, 40, 48, *(1 << k for k in range(6, 17))]
BITS[LITERALS, 16:36] = [1, 1, 1, 1, 2, 2, 3, 3, 4, *range(6, 17)]
BASE[OFFSETS, :29] = [1 << k for k in range(29)]
BITS[OFFSETS, :29] = range(29)
BASE[MATCHES, :53] = [*range(3, 35), 35, 37, 39, 41, 43, 47, 51, 59, 67, 83, 99, *((1 << k) + 3 for k in range(7, 17))]
BITS[MATCHES, 32:53] = [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, *range(7, 17)]
BASE[_WEIGHTS] = range(SYMBOLS)


@part
def window(base: int, left: int) -> int:
    """Give the 56 or more bits below bit number ``left`` of a stream that is read from its end, highest first."""
    return load64(base + (left >> 3) - 7) << (8 - (left & 7))


@part
def bits_of(start: int, end: int) -> int:
    """Count the bits of a stream that is read from its end; the highest bit of its last byte marks it. -1 if none."""
    if end <= start:
        return DAMAGED
    marker = load8(end - 1)
    return ((end - 1 - start) << 3) + highest_bit(marker) if marker else DAMAGED


@part
def read_counts(at: int, end: int, max_log: int, n_symbols: int, counts: int) -> tuple[int, int, int]:
    """Read the counts of an FSE table, ``SYMBOLS`` words.

    Returns
    -------
    tuple of int
        Logarithm of the table's size or ``DAMAGED``, symbols, and where the counts end.
    """
    log = (load8(at) & 15) + 5
    if log > max_log:
        return DAMAGED, 0, at
    bit, remaining, symbol = 4, 1 << log, 0
    for i in range(SYMBOLS):
        put(counts, i, 0)
    while remaining > 0:
        if symbol >= n_symbols or at + (bit >> 3) > end:
            return DAMAGED, 0, at
        n = highest_bit(remaining + 1) + 1
        value = (load32(at + (bit >> 3)) >> (bit & 7)) & ((1 << n) - 1)
        half = 1 << (n - 1)
        threshold = 2 * half - 2 - remaining
        if value & (half - 1) < threshold:
            value &= half - 1
            bit += n - 1
        else:
            if value >= half:
                value -= threshold
            bit += n
        count = value - 1
        put(counts, symbol, count)
        symbol += 1
        remaining -= abs(count)
        repeat = 3 if count == 0 else 0
        while repeat == 3:  # symbols that do not occur
            repeat = (load16(at + (bit >> 3)) >> (bit & 7)) & 3
            bit += 2
            symbol += repeat
            if symbol > n_symbols or at + (bit >> 3) > end:
                return DAMAGED, 0, at
    at += (bit + 7) >> 3
    if remaining != 0 or at > end:
        return DAMAGED, 0, at
    return log, symbol, at


@part
def build(which: int, counts: int, n_symbols: int, log: int, table: int, spread: int) -> None:
    """Make a decoding table, of ``2**log`` words.

    Parameters
    ----------
    which
        What its symbols stand for: a row of ``BASE`` and ``BITS``.
    counts, n_symbols, log
        As of :func:`read_counts`; the counts are changed.
    table
        Where it goes: base | bits << 32 | bits of the next state << 40 | base of the next state << 48.
    spread
        ``TABLE`` bytes to work in.
    """
    size = 1 << log
    high = size
    for symbol in range(n_symbols):
        if get(counts, symbol) == -1:
            high -= 1
            store8(spread + high, symbol)
    step, position = (size >> 1) + (size >> 3) + 3, 0
    for symbol in range(n_symbols):
        for _ in range(get(counts, symbol)):
            store8(spread + position, symbol)
            position = (position + step) & (size - 1)
            while position >= high:
                position = (position + step) & (size - 1)
        put(counts, symbol, abs(get(counts, symbol)))
    for state in range(size):
        symbol = load8(spread + state)
        following = get(counts, symbol)
        put(counts, symbol, following + 1)
        n = log - highest_bit(following)
        entry = BASE[which, symbol] | BITS[which, symbol] << 32 | n << 40 | ((following << n) - size) << 48
        put(table, state, entry)


@part
def read_weights(at: int, end: int, weights: int, table: int, spread: int, counts: int) -> tuple[int, int]:
    """Read the weights of a Huffman tree, but the last, as bytes; give their number (or ``DAMAGED``), and their end."""
    header = load8(at)
    at += 1
    if header >= 128:
        n = header - 127
        if at + ((n + 1) >> 1) > end:
            return DAMAGED, at
        for i in range(n):
            pair = load8(at + (i >> 1))
            store8(weights + i, pair & 15 if i & 1 else pair >> 4)
        return n, at + ((n + 1) >> 1)
    stop = at + header
    if stop > end:
        return DAMAGED, at
    log, n_symbols, at = read_counts(at, stop, _MAX_WEIGHT_LOG, 16, counts)
    if log < 0:
        return DAMAGED, at
    build(_WEIGHTS, counts, n_symbols, log, table, spread)
    left = bits_of(at, stop)
    if left < 2 * log:
        return DAMAGED, at
    one, other = top(window(at, left), log), top(window(at, left - log), log)
    left -= 2 * log
    n = 0
    while n < 254:
        entry = get(table, one)
        store8(weights + n, entry & 15)
        n += 1
        wanted = (entry >> 40) & 255
        if wanted > left:  # the last two: each state gives one more
            store8(weights + n, get(table, other) & 15)
            return n + 1, stop
        # Two states take turns.
        one, other = other, ((entry >> 48) & 0xFFFF) + top(window(at, left), wanted)
        left -= wanted
    return DAMAGED, at


@part
def build_huffman(weights: int, n: int, table: int, starts: int) -> int:
    """Make the table of a Huffman code: symbol | bits << 8 by the next bits; give its logarithm or ``DAMAGED``.

    ``weights`` are n bytes with room for one more, ``starts`` is room for 16 words.
    """
    total = 0
    for i in range(16):
        put(starts, i, 0)
    for i in range(n):
        weight = load8(weights + i)
        if weight > _MAX_HUFFMAN:
            return DAMAGED
        if weight:
            total += 1 << (weight - 1)
            put(starts, weight, get(starts, weight) + (1 << (weight - 1)))
    if total == 0:
        return DAMAGED
    log = highest_bit(total) + 1
    rest = (1 << log) - total
    if log > _MAX_HUFFMAN or rest & (rest - 1):
        return DAMAGED
    last = highest_bit(rest) + 1
    store8(weights + n, last)
    put(starts, last, get(starts, last) + rest)
    start = 0
    for weight in range(1, 13):
        size = get(starts, weight)
        put(starts, weight, start)
        start += size
    for symbol in range(n + 1):
        weight = load8(weights + symbol)
        if weight:
            start = get(starts, weight)
            at, entry = table + (start << 1), symbol | (log + 1 - weight) << 8
            put(starts, weight, start + (1 << (weight - 1)))
            if weight == 1:
                store16(at, entry)
            elif weight == 2:
                store32(at, entry * 0x10001)
            else:
                four = entry * 0x0001000100010001
                for _ in range(1 << (weight - 3)):
                    store64(at, four)
                    at += 8
    return log


@part
def _five(base: int, left: int, log: int, table: int, to: int) -> int:
    """Decode five symbols of a stream; give the bits that are left."""
    bits = window(base, left)
    for i in range(_AT_ONCE):
        entry = load16(table + (shift_right(bits, 64 - log) << 1))
        store8(to + i, entry)
        bits <<= entry >> 8
        left -= entry >> 8
    return left


@part
def _rest(base: int, left: int, log: int, table: int, to: int, end: int) -> bool:
    """Decode a stream to its end; tell whether it was of that length."""
    while to < end and left >= 0:
        entry = load16(table + (top(window(base, left), log) << 1))
        store8(to, entry)
        left -= entry >> 8
        to += 1
    return left == 0 and to == end


@part
def decode_huffman(at: int, end: int, streams: int, log: int, table: int, to: int, n: int) -> bool:
    """Decode n literals of one or four streams to ``to``; tell whether the streams were whole."""
    if streams == 1:
        left = bits_of(at, end)
        return left >= 0 and _rest(at, left, log, table, to, to + n)
    each = (n + 3) >> 2
    if end - at < 10 or n < 6 or 3 * each > n:
        return False
    a = at + 6
    b = a + load16(at)
    c = b + load16(at + 2)
    d = c + load16(at + 4)
    if d >= end:
        return False
    left_a, left_b, left_c, left_d = bits_of(a, b), bits_of(b, c), bits_of(c, d), bits_of(d, end)
    if left_a < 0 or left_b < 0 or left_c < 0 or left_d < 0:
        return False
    to_b, to_c, to_d, stop = to + each, to + 2 * each, to + 3 * each, to + n
    done = 0
    last = stop - to_d
    # The four do not wait for each other. None is longer than 55 bits before the beginning of its stream.
    while done + _AT_ONCE <= last and left_a >= 0 and left_b >= 0 and left_c >= 0 and left_d >= 0:
        left_a = _five(a, left_a, log, table, to + done)
        left_b = _five(b, left_b, log, table, to_b + done)
        left_c = _five(c, left_c, log, table, to_c + done)
        left_d = _five(d, left_d, log, table, to_d + done)
        done += _AT_ONCE
    whole = _rest(a, left_a, log, table, to + done, to_b)
    whole &= _rest(b, left_b, log, table, to_b + done, to_c)
    whole &= _rest(c, left_c, log, table, to_c + done, to_d)
    return whole and _rest(d, left_d, log, table, to_d + done, stop)
