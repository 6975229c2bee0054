"""The sequences of a zstd block: literals and matches are copied to where they belong. See :mod:`genostore.zstd`.

Their bits are read from the end of the block, each sequence's by the states that the one before leaves. So that nothing
in this chain waits for memory, the bits of a sequence are loaded before it is known how many the one before takes.
"""

from __future__ import annotations

from genostore.entropy import DAMAGED, LITERALS, MATCHES, OFFSETS, TABLE, UNSUPPORTED, bits_of, window
from genostore.machine import (
    copy16,
    copy32,
    fill32,
    get,
    load8,
    load16,
    load32,
    load64,
    part,
    put,
    shift_right,
    store8,
    store64,
    top,
    word,
)

_MOST_AT_ONCE = 192  # bytes of a run
_AHEAD = 56  # bits of a window that are sure to be valid


@part
def copy(to: int, source: int, n: int, limit: int) -> None:
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
def spread(to: int, pattern: int, n: int, limit: int) -> None:
    """Store n bytes of a pattern of eight; up to 127 more where that does not pass ``limit``."""
    end = to + n
    last = end if end + 128 <= limit else end - 127
    while to < last:
        for k in range(0, 128, 32):
            fill32(to + k, pattern)
        to += 128
    while to + 8 <= end:
        store64(to, pattern)
        to += 8
    while to < end:
        store8(to, pattern)
        pattern = shift_right(pattern, 8)
        to += 1


@part
def _repeat(to: int, offset: int, n: int, limit: int) -> None:
    """Copy n bytes from ``offset`` bytes before, over themselves where they overlap."""
    if offset == 4 or offset == 8 or offset == 2 or offset == 1:
        spread(to, _eight(to - offset, offset), n, limit)
        return
    end = to + n
    if offset >= 32:
        last = end if end + 32 <= limit else end - 31
        while to < last:
            copy32(to, to - offset)
            to += 32
    while to < end:
        store8(to, load8(to - offset))
        to += 1


@part
def carry_out(
    base: int,
    end: int,
    n: int,
    literal: int,
    literals: int,
    op: int,
    to: int,
    limit: int,
    stop: int,
    tables: int,
    logs: int,
    last: int,
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
    tables, logs, last
        Addresses of the three tables of codes (``TABLE`` words each), of the logarithms of their sizes, and of the last
        three offsets.

    Returns
    -------
    tuple of int
        The next ``op`` (or a fault) and the next literal.
    """
    table_l = tables
    table_o, table_m = table_l + 8 * TABLE, table_l + 16 * TABLE
    log_l, log_o, log_m = get(logs, LITERALS), get(logs, OFFSETS), get(logs, MATCHES)
    rep1, rep2, rep3 = get(last, 0), get(last, 1), get(last, 2)
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
    taken, states = word(0), word(0)
    ahead = window(base, left)
    for _ in range(n):
        if op >= stop:
            return op, literal
        entry_l, entry_o, entry_m = get(table_l, state_l), get(table_o, state_o), get(table_m, state_m)
        few_o, few_m, few_l = (entry_o >> 32) & 63, (entry_m >> 32) & 63, (entry_l >> 32) & 63
        next_o, next_m, next_l = (entry_o >> 40) & 63, (entry_m >> 40) & 63, (entry_l >> 40) & 63
        values, states = few_o + few_m + few_l, next_o + next_m + next_l
        bits = ahead << taken if taken + values + states <= _AHEAD else window(base, left)
        ahead = window(base, left)
        taken = values + states
        value = (entry_o & 0xFFFFFFFF) + top(bits, few_o)
        bits <<= few_o
        n_match = (entry_m & 0xFFFFFFFF) + top(bits, few_m)
        bits <<= few_m
        n_literal = (entry_l & 0xFFFFFFFF) + top(bits, few_l)
        bits = bits << few_l if taken <= _AHEAD else window(base, left - values)
        left -= taken
        # The last sequence is followed by no states: what is taken for them is given back.
        state_l = shift_right(entry_l, 48) + top(bits, next_l)
        bits <<= next_l
        state_m = shift_right(entry_m, 48) + top(bits, next_m)
        bits <<= next_m
        state_o = shift_right(entry_o, 48) + top(bits, next_o)
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
        here = op + n_literal
        room = (literals - literal - n_literal) | (limit - here - n_match) | (here - offset - to) | (offset - 1)
        if (left + states) | room < 0:
            return DAMAGED, literal
        if n_literal <= 16 and op + 16 <= limit:
            copy16(op, literal)
        else:
            copy(op, literal, n_literal, limit)
        literal += n_literal
        _repeat(here, offset, n_match, limit)
        op = here + n_match
    put(last, 0, rep1)
    put(last, 1, rep2)
    put(last, 2, rep3)
    return (op if left + states == 0 else word(DAMAGED)), literal


@part
def carry_out_runs(
    base: int,
    end: int,
    n: int,
    literal: int,
    literals: int,
    op: int,
    limit: int,
    stop: int,
    tables: int,
    logs: int,
    last: int,
) -> tuple[int, int]:
    """Carry out the n sequences of a block of :mod:`genostore.runs`, which all repeat the last four bytes.

    Parameters and results are as of :func:`carry_out`. Four bytes or more lie before ``op``. The offset is never
    spelled out: the first sequence has no literals, so that it means the second of the last offsets, which was 4; and
    the others have some, so that they mean the last one.
    """
    table_l = tables
    table_m = table_l + 16 * TABLE
    log_l, log_m = get(logs, LITERALS), get(logs, MATCHES)
    left = bits_of(base, end)
    if left < log_l + log_m:
        return DAMAGED, literal
    bits = window(base, left)
    state_l, state_m = top(bits, log_l), top(bits << log_l, log_m)
    if get(table_l, state_l) & 0xFFFFFFFFFF:
        return UNSUPPORTED, literal
    left -= log_l + log_m
    taken, states, least = word(0), word(0), word(0)
    ahead = window(base, left)  # read before it is known how many of its bits the sequence before takes
    value = load32(op - 4)
    for _ in range(n):
        if op >= stop:
            return op, literal
        entry_l, entry_m = get(table_l, state_l), get(table_m, state_m)
        few_m, few_l = (entry_m >> 32) & 63, (entry_l >> 32) & 63
        next_l, next_m = (entry_l >> 40) & 63, (entry_m >> 40) & 63
        values, states = few_m + few_l, next_l + next_m
        bits = ahead << taken if taken + values + states <= _AHEAD else window(base, left)
        ahead = window(base, left)
        taken = values + states
        left -= taken
        n_match = (entry_m & 0xFFFFFFFF) + top(bits, few_m)
        n_literal = (entry_l & 0xFFFFFFFF) + top(bits << few_m, few_l)
        # The last sequence is followed by no states: what is taken for them is given back.
        bits <<= values
        state_l = shift_right(entry_l, 48) + top(bits, next_l)
        state_m = shift_right(entry_m, 48) + top(bits << next_l, next_m)
        here = op + n_literal
        if (left + states) | (literals - literal - n_literal) | (limit - here - n_match) | (n_literal - least) < 0:
            return DAMAGED if n_literal >= least else UNSUPPORTED, literal
        least = word(1)
        # The value is kept in a register: what has just been stored in parts is slow to load.
        few = shift_right(value | load32(literal) << 32, (n_literal << 3) & 63) & 0xFFFFFFFF
        many = load32(literal + n_literal - 4)
        value = few if n_literal < 4 else many
        value |= value << 32
        if (16 - n_literal) | (_MOST_AT_ONCE - n_match) | (limit - op - 16 - _MOST_AT_ONCE) >= 0:
            # Most runs are short: storing six vectors costs less than asking how many are wanted.
            copy16(op, literal)
            for k in range(0, _MOST_AT_ONCE, 32):
                fill32(here + k, value)
        else:
            copy(op, literal, n_literal, limit)
            spread(here, value, n_match, limit)
        literal += n_literal
        op = here + n_match
        value = shift_right(value, (n_match & 3) << 3) & 0xFFFFFFFF
    put(last, 0, 4)
    put(last, 1, 1)
    return (op if left + states == 0 else word(DAMAGED)), literal
