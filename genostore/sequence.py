"""Codes of bases: 0-3 are A C G T, 4 is anything else; 8 is added where a base is soft-masked."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNKNOWN = 4
SOFT_MASK = 8
_LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)
_COMPLEMENT = np.array([3, 2, 1, 0, 4], dtype=np.uint8)


def decode(codes: ArrayLike) -> str:
    """Spell codes as letters, soft-masked bases in lower case.

    Parameters
    ----------
    codes
        ``(n,)`` uint8: 0-3 are A C G T, 4 is N, and 8 is added where a base is soft-masked.

    Examples
    --------
    >>> decode([0, 1, 2, 3, 4, 8])
    'ACGTNa'
    """
    array = np.asarray(codes, dtype=np.uint8)
    letters = _LETTERS[array & 7] + np.where(array & SOFT_MASK, np.uint8(32), np.uint8(0))
    return letters.astype(np.uint8).tobytes().decode("ascii")


def complement(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Complement codes 0-4, of any shape."""
    return _COMPLEMENT[codes]
