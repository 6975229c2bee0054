"""An encoder of zstd frames for tracks, as a compiled function.

A track is runs of one value. The library looks for repeats of any kind, and describes every chunk by tables of its
own; making those is much of what a short chunk then costs to decode. Here a run is one *sequence*: literal bytes (its
value), and a match that copies them over themselves. Literals are stored as they are, the offset of a match is never
spelled out, and lengths are coded by one of two tables that are always the same, so that a reader who has just met them
keeps them. Any zstd decoder reads the frames; docs/decisions.md has the figures. The source of the format is RFC 8878.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from genostore.entropy import BASE, BITS, LITERALS, MATCHES, SYMBOLS
from genostore.machine import (
    copy16,
    count_bits,
    differing2,
    differing4,
    get,
    highest_bit,
    load16,
    load32,
    lowest_bit,
    move,
    part,
    put,
    shift_right,
    store8,
    store16,
    store32,
    store64,
    word,
)
from genostore.zstd import MAGIC

Ints = NDArray[np.int64]
REFUSED = 0
SIZES = range(256, 1 << 16)  # bytes of a chunk; fewer are not worth it, and two bytes of the header tell how many
_SHORTEST = 16  # bytes of a run, on average, below which the library does better

_OFFSET = 4  # bytes of every match; one of the three last offsets that a frame begins with
_LEAST_MATCH = 4  # bytes
_MOST_LITERALS = 1024  # bytes before a match
_LOG_LITERALS, _LOG_MATCHES = 5, 6  # of the tables' sizes

# Codes of numbers of literals below 64, and of lengths of a match below 128 (less 3).
_LITERAL_CODES = np.searchsorted(BASE[LITERALS, :36], np.arange(64), side="right") - 1
_MATCH_CODES = np.searchsorted(BASE[MATCHES, :53], np.arange(128) + 3, side="right") - 1

# What a coding holds, in words: the bytes of the description of its tables, and they; of literals and of matches the
# state after each state, and by symbol what gives the bits to write of a state and the place of the next one.
_N_SECTION, _SECTION = 0, 1
_PARTS = _SECTION + 16
_STATES, _FEW, _FIND = 0, SYMBOLS, 2 * SYMBOLS
_PART = 3 * SYMBOLS


def _literal_weights(grain: int) -> NDArray[np.float64]:
    """Weigh the codes of literals before a run: most often the bytes of one value, or the half of it that is new."""
    out = np.zeros(SYMBOLS)
    out[np.searchsorted(BASE[LITERALS, :36], np.arange(0, _MOST_LITERALS, grain), side="right") - 1] = 0.5
    out[[4, 8]] = 2
    out[grain] = 50
    return out


def _match_weights(grain: int) -> NDArray[np.float64]:
    """Weigh the codes of lengths: each octave as often as the next up to 1,024 bytes, then half as often."""
    out, n = np.zeros(SYMBOLS), np.arange(_LEAST_MATCH, SIZES.stop, grain)
    often = np.where(n <= 1024, 1.0, 0.5) / n * np.where(n % 4, 0.4, 1.0)
    np.add.at(out, np.searchsorted(BASE[MATCHES, :53], n, side="right") - 1, often)
    return out


def _share(weights: NDArray[np.float64], log: int) -> Ints:
    """Share out ``2**log`` states by weight, at least one to each symbol that may occur."""
    size = 1 << log
    wanted = weights / weights.sum() * size
    given = np.where(weights > 0, np.maximum(1, np.round(wanted)), 0).astype(np.int64)
    while given.sum() != size:
        if given.sum() > size:
            given[np.argmax(np.where(given > 1, given / np.maximum(wanted, 1e-9), 0))] -= 1
        else:
            given[np.argmax(wanted / np.maximum(given, 1))] += 1
    return given


def _describe(counts: Ints, log: int) -> bytes:
    """Write the description of a table, which :func:`genostore.entropy.read_counts` reads."""
    bits, n_bits = log - 5, 4
    remaining, symbol = 1 << log, 0
    while remaining > 0:
        count = int(counts[symbol])
        value, n = count + 1, (remaining + 1).bit_length()
        half = 1 << (n - 1)
        threshold = 2 * half - 2 - remaining
        if value < threshold:
            n -= 1
        elif value >= half:
            value += threshold
        bits |= value << n_bits
        n_bits += n
        remaining -= count
        symbol += 1
        if count == 0:
            zeros = int(np.argmax(counts[symbol:] > 0))
            symbol += zeros
            for step in [3] * (zeros // 3) + [zeros % 3]:
                bits |= step << n_bits
                n_bits += 2
    return bits.to_bytes((n_bits + 7) // 8, "little")


def _transitions(counts: Ints, log: int) -> list[Ints]:
    """Turn around what :func:`genostore.entropy.build` makes: from a state and a symbol to the state before."""
    size = 1 << log
    spread = np.empty(size, np.int64)
    spread[np.arange(size) * ((size >> 1) + (size >> 3) + 3) & (size - 1)] = np.repeat(np.arange(SYMBOLS), counts)
    states = np.zeros(SYMBOLS, np.int64)
    states[:size] = size + np.argsort(spread, kind="stable")
    most = log - np.floor(np.log2(np.maximum(counts - 1, 1))).astype(np.int64)
    most[counts == 1] = log
    return [states, (most << 16) - (counts << most), np.cumsum(counts) - 2 * counts]


@cache
def coding(grain: int) -> Ints:
    """Make what :func:`encode` writes lengths by that are multiples of a grain, 2 or 4 bytes."""
    literals, matches = _share(_literal_weights(grain), _LOG_LITERALS), _share(_match_weights(grain), _LOG_MATCHES)
    # Tables for literals and matches, and of offsets always the first code: the last offset again.
    section = b"\x98" + _describe(literals, _LOG_LITERALS) + b"\0" + _describe(matches, _LOG_MATCHES)
    described = np.frombuffer(section.ljust(8 * (_PARTS - _SECTION), b"\0"), np.int64)
    parts = [*_transitions(literals, _LOG_LITERALS), *_transitions(matches, _LOG_MATCHES)]
    return np.concatenate([[len(section)], described, *parts])


@part
def edges(values: int, n: int, itemsize: int, to: int) -> int:
    """Find the values that differ from what lies four bytes before them.

    Parameters
    ----------
    values, n, itemsize
        Address and number of values of 2 or 4 bytes. The first four bytes count as differing.
    to
        Where the numbers of those values go, in ascending order: room for n words and four more.

    Returns
    -------
    int
        How many there are.
    """
    found, i = to, 4 // itemsize
    for k in range(i):
        store64(found, k)
        found += 8
    at = values + 4
    while i + 64 <= n:
        if itemsize == 4:
            mask = differing4(at) | differing4(at + 64) << 16 | differing4(at + 128) << 32 | differing4(at + 192) << 48
        else:
            mask = differing2(at) | differing2(at + 64) << 32
        # Four at once, whether there are as many or not: asking costs more.
        end = found + (count_bits(mask) << 3)
        while True:
            for k in range(4):
                store64(found + 8 * k, i + lowest_bit(mask))
                mask &= mask - 1
            found += 32
            if found >= end:
                break
        found = end
        i += 64
        at += 64 * itemsize
    while i < n:
        if load32(at) != load32(at - 4) if itemsize == 4 else load16(at) != load16(at - 4):
            store64(found, i)
            found += 8
        i += 1
        at += itemsize
    return (found - to) >> 3


@part
def _parse(values: int, size: int, itemsize: int, runs: int, most: int) -> tuple[int, int]:
    """Find what repeats the four bytes before it.

    Returns
    -------
    tuple of int
        How often that is so (``REFUSED`` if more than ``most`` times), and how often it ends within a float32.
    """
    edge = runs + 16 * most
    n_edges = edges(values, size // itemsize, itemsize, edge)
    n, halves = 0, 0
    for k in range(n_edges):
        at = (get(edge, k) + 1) * itemsize
        after = get(edge, k + 1) * itemsize if k + 1 < n_edges else size
        length = after - at
        if length < _LEAST_MATCH:
            continue
        if n == most:
            return REFUSED, 0
        if itemsize == 4 and after < size:  # some bytes of the next value may be the same
            length += lowest_bit(load32(values + after) ^ load32(values + after - 4)) >> 3
        put(runs, 2 * n, at)
        put(runs, 2 * n + 1, length)
        n += 1
        halves += (length >> 1) & 1
    return n, halves


@part
def encode(values: int, size: int, itemsize: int, to: int, work: int, fine: int, coarse: int) -> int:
    """Encode a chunk of runs as a frame.

    Parameters
    ----------
    values, size, itemsize
        Address and bytes of the chunk, in ``SIZES``, and bytes of a value: 2 or 4.
    to
        Where the frame goes: room for ``size`` bytes.
    work
        :func:`room` words to work in.
    fine, coarse
        Addresses of the :func:`coding` of grains 2 and 4.

    Returns
    -------
    int
        Bytes of the frame, or ``REFUSED`` for a chunk that is not of runs.
    """
    n, halves = _parse(values, size, itemsize, work, size // _SHORTEST)
    if n == REFUSED or get(work, 0) >= _MOST_LITERALS or 2 * get(work, 0) > size:
        return REFUSED
    if itemsize == 2 or 2 * halves > n:
        return _encode(values, size, to, work, n, 2, fine)
    return _encode(values, size, to, work, n, 4, coarse)


def room(size: int) -> int:
    """Count the words that :func:`encode` works in for chunks of ``size`` bytes."""
    return 2 * (size // _SHORTEST) + size // 2 + 4


@part
def _encode(values: int, size: int, to: int, runs: int, n: int, grain: int, coding: int) -> int:
    store32(to, MAGIC)
    store8(to + 4, 0x60)  # one segment; its size follows in two bytes
    store16(to + 5, size - 256)
    # What goes before the first run is a block of its own. So the first sequence has no literals, which makes it mean
    # the second of the last offsets, and that is 4; all others have some, which makes them mean the last one.
    done = get(runs, 0)
    store32(to + 7, done << 3)
    move(to + 10, values, done)
    block = to + 10 + done + 3
    out = block + 3
    for i in range(n):
        at, length = get(runs, 2 * i), get(runs, 2 * i + 1)
        length -= length % grain
        fresh = at - done
        if fresh >= _MOST_LITERALS or 2 * (out + fresh - to) > size:
            return REFUSED
        if fresh <= 16 and done + 16 <= size:  # mostly; nothing is read past the chunk
            copy16(out, values + done)
        else:
            move(out, values + done, fresh)
        out += fresh
        done = at + length
        length -= 3
        put(runs, 2 * i, fresh | (_LITERAL_CODES[fresh] if fresh < 64 else highest_bit(fresh) + 19) << 32)
        put(runs, 2 * i + 1, length | (_MATCH_CODES[length] if length < 128 else highest_bit(length) + 36) << 32)
    if 2 * (out + size - done - to) > size:
        return REFUSED
    move(out, values + done, size - done)
    out += size - done
    literals = out - block - 3
    store16(block, 0xC | literals << 4)  # as they are, their number in 20 bits
    store8(block + 2, literals >> 12)
    if n < 128:
        store8(out, n)
        out += 1
    else:
        store8(out, 128 + (n >> 8))
        store8(out + 1, n)
        out += 2
    move(out, coding + 8 * _SECTION, get(coding, _N_SECTION))
    out = _write(out + get(coding, _N_SECTION), runs, n, coding + 8 * _PARTS, coding + 8 * (_PARTS + _PART))
    store16(block - 3, 1 | 2 << 1 | (out - block) << 3)  # the last block, compressed
    store8(block - 1, (out - block) >> 13)
    return out - to


@part
def _first(table: int, symbol: int) -> int:
    """Choose the state that the last symbol leaves."""
    few = get(table, _FEW + symbol)
    n = (few + (1 << 15)) >> 16
    return get(table, _STATES + (((n << 16) - few) >> n) + get(table, _FIND + symbol))


@part
def _write(out: int, runs: int, n: int, literals: int, matches: int) -> int:
    """Write the bits of the sequences, the last one first; give where they end."""
    last = n - 1
    state_l = _first(literals, get(runs, 2 * last) >> 32)
    state_m = _first(matches, get(runs, 2 * last + 1) >> 32)
    bits, n_bits = word(0), word(0)
    for i in range(last, -1, -1):
        fresh, length = get(runs, 2 * i), get(runs, 2 * i + 1)
        code_l, code_m = fresh >> 32, length >> 32
        if i < last:
            few = (state_m + get(matches, _FEW + code_m)) >> 16
            bits |= (state_m & ((1 << few) - 1)) << n_bits
            n_bits += few
            state_m = get(matches, _STATES + (state_m >> few) + get(matches, _FIND + code_m))
            few = (state_l + get(literals, _FEW + code_l)) >> 16
            bits |= (state_l & ((1 << few) - 1)) << n_bits
            n_bits += few
            state_l = get(literals, _STATES + (state_l >> few) + get(literals, _FIND + code_l))
        few = BITS[LITERALS, code_l]
        bits |= (fresh & ((1 << few) - 1)) << n_bits
        n_bits += few
        few = BITS[MATCHES, code_m]
        bits |= (length & ((1 << few) - 1)) << n_bits
        n_bits += few
        store64(out, bits)  # at most 7 of before, 11 of the states, 9 and 15 of the values
        out += n_bits >> 3
        bits = shift_right(bits, n_bits & 56)
        n_bits &= 7
    bits |= (state_m & ((1 << _LOG_MATCHES) - 1)) << n_bits
    n_bits += _LOG_MATCHES
    bits |= (state_l & ((1 << _LOG_LITERALS) - 1)) << n_bits
    n_bits += _LOG_LITERALS
    store64(out, bits | 1 << n_bits)  # the highest bit says where they end
    return out + (n_bits >> 3) + 1
