"""Damage to files, drawn from a seed: the kinds that disks, networks and editors make."""

from __future__ import annotations

import gzip
import random

_WORDS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
_TOKENS = (
    b"nan",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"\t\t",
    b"\n\n",
    b"\x00",
    b"\xff",
    b'"',
    b"#",
    b"\r",
    b" ",
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage some bytes.

    Parameters
    ----------
    data
        Of a file; one that is gzip is, half of the time, damaged inside and compressed anew.
    rng
        Decides everything.
    """
    if data.startswith(b"\x1f\x8b") and rng.random() < 0.5:
        return gzip.compress(mutate(gzip.decompress(data), rng), 1, mtime=0)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        data = rng.choice(_WAYS)(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    """A position, more often near the start, where headers are."""
    at = rng.randrange(max(len(data), 1))
    return at % 512 if rng.random() < 0.4 else at


def _flip(data: bytes, rng: random.Random) -> bytes:
    at, out = _place(data, rng), bytearray(data)
    if at < len(out):
        out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def _number(data: bytes, rng: random.Random) -> bytes:
    at, width = _place(data, rng), rng.choice((1, 2, 4, 8))
    value = rng.choice(_WORDS) if rng.random() < 0.7 else rng.getrandbits(8 * width)
    return data[:at] + (value & (1 << 8 * width) - 1).to_bytes(width, "little") + data[at + width :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 8, 100, 4096)) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    at, size = _place(data, rng), rng.choice((1, 8, 100, 4096))
    return data[:at] + data[at : at + size] * rng.choice((2, 3, 50)) + data[at + size :]


def _zeros(data: bytes, rng: random.Random) -> bytes:
    at, size = _place(data, rng), rng.choice((8, 512, 4096))
    return data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]


def _swap(data: bytes, rng: random.Random) -> bytes:
    one, other, size = *sorted((_place(data, rng), _place(data, rng))), rng.choice((1, 16, 512))
    if other - one < size:
        return data
    out = bytearray(data)
    out[one : one + size], out[other : other + size] = data[other : other + size], data[one : one + size]
    return bytes(out)


def _token(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.choice(_TOKENS) + data[at + rng.choice((0, 1, 4)) :]


_WAYS = (_flip, _flip, _number, _number, _cut, _remove, _repeat, _zeros, _swap, _token)
