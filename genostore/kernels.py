"""The compiled inner loop of the lean path."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

_WORD = ir.IntType(64)


def _caller(n: int) -> Any:
    """Make a compiled function that calls the C function at an address with n words and gives a word."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_WORD, [_WORD] * n)
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.call(function, [builder.extract_value(arguments[1], i) for i in range(n)])

    @intrinsic
    def call(typing: Any, address: Any, words: Any) -> Any:
        return types.int64(types.int64, types.UniTuple(types.int64, n)), codegen

    return call


_call4, _call5 = _caller(4), _caller(5)


@intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    """Take an integer for the address of bytes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.int64), codegen


def crc_table() -> NDArray[np.uint32]:
    """Tables of CRC-32C (polynomial 0x1EDC6F41, reflected) for eight bytes at a time, ``(8, 256)`` uint32."""
    table = np.zeros((8, 256), dtype=np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table[0, byte] = value
    for slice_ in range(1, 8):
        previous = table[slice_ - 1]
        table[slice_] = table[0, previous & 0xFF] ^ (previous >> 8)
    return table


@numba.njit(cache=True, nogil=True)
def crc32c(data: NDArray[np.uint8], n: int, table: NDArray[np.uint32]) -> np.uint32:
    """CRC-32C of the first ``n`` bytes, eight at a time."""
    crc = np.uint32(0xFFFFFFFF)
    i = 0
    while i + 8 <= n:
        low = crc ^ (
            np.uint32(data[i])
            | np.uint32(data[i + 1]) << np.uint32(8)
            | np.uint32(data[i + 2]) << np.uint32(16)
            | np.uint32(data[i + 3]) << np.uint32(24)
        )
        crc = (
            table[7, low & np.uint32(0xFF)]
            ^ table[6, (low >> np.uint32(8)) & np.uint32(0xFF)]
            ^ table[5, (low >> np.uint32(16)) & np.uint32(0xFF)]
            ^ table[4, low >> np.uint32(24)]
            ^ table[3, data[i + 4]]
            ^ table[2, data[i + 5]]
            ^ table[1, data[i + 6]]
            ^ table[0, data[i + 7]]
        )
        i += 8
    while i < n:
        crc = table[0, (crc ^ np.uint32(data[i])) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        i += 1
    return crc ^ np.uint32(0xFFFFFFFF)


@numba.njit(cache=True, nogil=True)
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
    table: NDArray[np.uint32],
) -> int:
    """Read, check, decode and copy pieces that are sorted by chunk.

    Parameters
    ----------
    pread, decompress, decoder
        Addresses of the C functions and of zstd's state.
    chunk, low, high, row, column
        ``(n,)``, as of :class:`genostore.local.Pieces`.
    where
        ``(n, 3)`` descriptor, offset and length of the stored chunk, its checksum included.
    chunk_bytes, itemsize
        Of a decoded chunk and of a value.
    out, stride
        Address of the output and bytes from row to row.
    table
        Of :func:`crc_table`.

    Returns
    -------
    int
        -1, or the number of the first piece whose chunk is absent or damaged.
    """
    stored = np.empty(1 << 16, dtype=np.uint8)
    scratch = np.empty(chunk_bytes, dtype=np.uint8)
    decoded = np.int64(-1)
    for i in range(chunk.size):
        if chunk[i] != decoded:
            descriptor, offset, length = where[i, 0], where[i, 1], where[i, 2]
            if offset < 0 or length < 4:
                return i
            if length > stored.size:
                # An honest chunk is never much larger than what it decodes to.
                if length > 2 * chunk_bytes + 1024:
                    return i
                stored = np.empty(length, dtype=np.uint8)
            if _call4(pread, (descriptor, stored.ctypes.data, length, offset)) != length:
                return i
            n = length - 4
            expected = (
                np.uint32(stored[n])
                | np.uint32(stored[n + 1]) << np.uint32(8)
                | np.uint32(stored[n + 2]) << np.uint32(16)
                | np.uint32(stored[n + 3]) << np.uint32(24)
            )
            if crc32c(stored, n, table) != expected:
                return i
            # zstd writes no more than it is allowed to, and says how much it wrote.
            if _call5(decompress, (decoder, scratch.ctypes.data, chunk_bytes, stored.ctypes.data, n)) != chunk_bytes:
                return i
            decoded = chunk[i]
        size = (high[i] - low[i]) * itemsize
        target = numba.carray(_pointer(out + row[i] * stride + column[i] * itemsize), (size,), np.uint8)
        target[:] = scratch[low[i] * itemsize : high[i] * itemsize]
    return -1
