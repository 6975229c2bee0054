"""Columns of text, encoded and, within bounds, decoded: a chunk from a stranger may claim any size."""

from __future__ import annotations

import google_crc32c
import numcodecs.zstd
import numpy as np
from numpy.typing import NDArray

from genostore import library
from genostore.schema import ZSTD_LEVEL

_LONGEST = 1 << 16  # bytes a value on average, more than which no column of a genome has
_UNKNOWN = (1 << 64) - 2  # sizes from here on are zstd's way to say that it cannot tell


def encode(values: NDArray[np.object_]) -> bytes:
    """Encode a column of texts as one stored object (``vlen-utf8``, ``zstd``, ``crc32c``).

    Columns of empty texts are stored too, which zarr-python leaves out.
    """
    texts = [str(value).encode() for value in values]
    raw = b"".join([len(texts).to_bytes(4, "little"), *(len(t).to_bytes(4, "little") + t for t in texts)])
    body = bytes(numcodecs.zstd.compress(raw, ZSTD_LEVEL))
    return body + google_crc32c.value(body).to_bytes(4, "little")


def decode(chunk: bytes | None, n: int) -> NDArray[np.object_]:
    """Decode a stored column of ``n`` texts (``vlen-utf8``, ``zstd``, ``crc32c``).

    Parameters
    ----------
    chunk
        The stored object; None where there is none.
    n
        Number of values that its metadata state.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` objects of type ``str``.

    Raises
    ------
    ValueError
        If it is absent, does not match its checksum, or does not hold ``n`` texts. No more is allocated than a column
        of that length may take.
    """
    if chunk is None:
        raise ValueError("NOT_FOUND: the column is absent")
    body, stated = chunk[:-4], int.from_bytes(chunk[-4:], "little")
    if len(chunk) < 4 or google_crc32c.value(body) != stated:
        raise ValueError("DATA_LOSS: the column does not match its checksum")
    size = int(library.zstd().ZSTD_getFrameContentSize(body, len(body)))
    if size >= _UNKNOWN or size > n * _LONGEST + 4:
        raise ValueError(f"DATA_LOSS: the column claims {size:,} bytes for {n:,} texts")
    raw = numcodecs.zstd.decompress(body)
    if len(raw) < 4 or int.from_bytes(raw[:4], "little") != n:
        raise ValueError(f"DATA_LOSS: the column does not hold {n:,} texts")
    out, at = np.empty(n, dtype=object), 4
    for i in range(n):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if end > len(raw):
            raise ValueError("DATA_LOSS: the column's texts end early")
        out[i] = raw[at + 4 : end].decode()
        at = end
    return out
