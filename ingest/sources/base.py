"""What every reader of a signal or of contacts offers.

A source stores a path, opens on demand, holds no handle across threads or processes, and pickles.
Coordinates are 0-based and half-open, contig names are the source's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from genostore.errors import SourceError, nearest


@runtime_checkable
class SignalSource(Protocol):
    """One value a base: a bigWig or a bedGraph."""

    path: Path

    @property
    def contigs(self) -> dict[str, int] | None:
        """Lengths by name in the source's order; None where the format states no lengths."""

    @property
    def extents(self) -> dict[str, int]:
        """The lengths, or the last end that is seen of each contig where the format states none."""

    def values(self, contig: str, start: int, end: int) -> NDArray[np.float32]:
        """Values of ``[start, end)``, ``(end - start,)`` float32; NaN where the source says nothing.

        Raises
        ------
        SourceError
            If the source lacks the contig, or cannot be decoded there.
        """

    def validate(self) -> None:
        """Raise :class:`~genostore.errors.SourceError` if the file is truncated or not of its format."""


class Weight(NamedTuple):
    """A balancing vector and how it applies.

    Attributes
    ----------
    values
        ``(n_bins,)`` float64 of all bins in the source's contig order; NaN for bins without one.
    divisive
        True if balanced = raw / (w_i * w_j), False if balanced = raw * w_i * w_j.
    """

    values: NDArray[np.float64]
    divisive: bool


@dataclass(frozen=True)
class Band:
    """Part of the upper diagonal band of one contig's contact matrix.

    Attributes
    ----------
    values
        ``(rows, n_offsets)`` in the source's dtype: ``[r, d]`` is ``M[bin_start + r, bin_start + r + d]``;
        an absent pixel is 0, and so is what lies past the contig's end.
    beyond_pixels, beyond_sum
        Of the same rows and within the contig, but ``n_offsets`` bins or more apart: how many pixels are not 0,
        and their sum.
    """

    values: NDArray[Any]
    beyond_pixels: int
    beyond_sum: float


@runtime_checkable
class ContactSource(Protocol):
    """Raw contacts of fixed bins that start at 0: a .cool, a level of an .mcool, a resolution of a .hic."""

    path: Path

    @property
    def bin_size(self) -> int:
        """Width of a bin in bases."""

    @property
    def contigs(self) -> dict[str, int]:
        """Lengths by name in the order in which the bins are numbered."""

    @property
    def extents(self) -> dict[str, int]:
        """The lengths, as for a signal."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the counts, as the source has them."""

    @property
    def weight_names(self) -> list[str]:
        """Balancing vectors whose convention is known."""

    def weights(
        self, names: Iterable[str] | None = None, divisive: Mapping[str, bool] | None = None
    ) -> dict[str, Weight]:
        """Balancing vectors by name.

        Parameters
        ----------
        names
            Which; None for :attr:`weight_names` and those of ``divisive``.
        divisive
            States the convention of a vector, which then goes before the source's own.

        Raises
        ------
        SourceError
            If one is absent, or its convention is neither known nor stated.
        """

    def band(self, contig: str, bin_start: int, bin_end: int, n_offsets: int) -> Band:
        """Raw contacts of the bins ``[bin_start, bin_end)`` of a contig up to ``n_offsets - 1`` bins apart.

        Raises
        ------
        SourceError
            If the source lacks the contig, cannot be decoded there, or stores a pixel twice.
        """

    def validate(self) -> None:
        """Raise :class:`~genostore.errors.SourceError` if the file is truncated or its index is wrong."""


def check_band(
    where: str, contigs: Mapping[str, int], contig: str, bin_start: int, bin_end: int, n_offsets: int
) -> None:
    """Refuse a contig that the source lacks and a range that is none."""
    if contig not in contigs:
        raise SourceError(f"{where}: has no contig {contig!r}; {nearest(contig, contigs)}")
    if not 0 <= bin_start <= bin_end or n_offsets < 1:
        raise ValueError(f"bins [{bin_start}, {bin_end}) and {n_offsets} offsets are no band of a matrix")


def refuse_twice(
    where: str, places: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64], remedy: str
) -> None:
    """Refuse pixels of which two have the same place, as stored by some writers: neither is known to be right.

    Parameters
    ----------
    where
        Names the source.
    places
        ``(pixels,)`` a number that is the same only for the same pixel; mostly ascending, which is checked first.
    rows, columns
        ``(pixels,)`` its bins, for the message.
    remedy
        Ends the message.
    """
    if places.size < 2 or np.diff(places).min() > 0:
        return
    order = np.argsort(places, kind="stable")
    twice = np.flatnonzero(np.diff(places[order]) == 0)
    if twice.size:
        at = order[twice[0]]
        raise SourceError(
            f"{where}: stores the pixel of bins {rows[at]} and {columns[at]} more than once, and so {twice.size:,} "
            f"pixels of the rows about it; {remedy}"
        )
