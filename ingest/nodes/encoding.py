"""Lossy encodings of a track: asked for in the catalogue, applied before it is written, their error measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genostore.errors import SourceError


class OverflowingError(SourceError):
    """A finite value that the encoding would turn into infinity; ``index`` says which."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True)
class Encoding:
    """How values are kept.

    Attributes
    ----------
    dtype
        ``float32`` or ``float16``.
    bitround
        Bits of the mantissa to keep, rounding to nearest even (Klöwer et al., Nature Computational Science 1:713,
        2021); None keeps all.
    """

    dtype: str = "float32"
    bitround: int | None = None

    @property
    def lossless(self) -> bool:
        """Whether every float32 value is kept as it is."""
        return self.dtype == "float32" and self.bitround is None

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for beyond the default, by the catalogue's keys."""
        out: dict[str, Any] = {} if self.dtype == "float32" else {"dtype": self.dtype}
        return out if self.bitround is None else out | {"bitround": self.bitround}

    def apply(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Encode values.

        Parameters
        ----------
        values
            ``(n,)`` float32; not changed.

        Returns
        -------
        numpy.ndarray
            ``(n,)`` of ``dtype``. NaN stays NaN and infinity infinity.

        Raises
        ------
        OverflowingError
            If a finite value would become infinite.
        """
        if self.lossless:
            return values
        rounded = values
        if self.bitround is not None:
            from numcodecs import BitRound

            finite = np.isfinite(values)
            rounded = values.copy()
            # The codec rounds in place, and would carry the bits of a NaN into its sign.
            rounded[finite] = BitRound(self.bitround).encode(values[finite]).view(np.float32)
        with np.errstate(over="ignore"):
            out = rounded.astype(self.dtype)
        lost = np.isinf(out) & np.isfinite(values)
        if lost.any():
            at = int(np.argmax(lost))
            raise OverflowingError(
                f"{values[at]!r} overflows {self.dtype}, whose greatest value is {np.finfo(self.dtype).max}", at
            )
        return out

    def errors(self, values: NDArray[np.float32], encoded: NDArray[Any]) -> dict[str, float]:
        """Measure what the encoding changed.

        Returns
        -------
        dict
            ``max_absolute_error`` and ``max_relative_error`` over the finite values; zeros have no relative error
            of their own, as every encoding keeps them.
        """
        finite = np.isfinite(values)
        exact = values[finite].astype(np.float64)
        error = np.abs(encoded[finite].astype(np.float64) - exact)
        size = np.abs(exact)
        relative = np.divide(error, size, out=np.zeros_like(error), where=size > 0)
        return {
            "max_absolute_error": float(error.max(initial=0.0)),
            "max_relative_error": float(relative.max(initial=0.0)),
        }
