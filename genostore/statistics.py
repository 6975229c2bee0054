"""Statistics of a track, gathered shard by shard in one pass and merged exactly.

Counts and the histogram are integers, and sums are added in the order of the shards, so that the result does
not depend on who wrote which shard or when.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genostore.compiled import njit
from genostore.machine import word
from genostore.runs import edges

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
# The histogram's bins are the upper 16 bits of a float32 (sign, exponent, 7 bits of mantissa), so a quantile is
# known to within half a bin: 2**-8 of its value.
QUANTILE_RELATIVE_ERROR = 2.0**-8
_BINS = 1 << 16
_BLOCK = 4_096  # positions whose runs are found at once


@njit(cache=True, nogil=True)
def _scan(values: NDArray[np.float32], histogram: NDArray[np.int64]) -> tuple[int, int, float, float, float, float]:
    bits = values.view(np.uint32)
    count, infinite, total, squares = 0, 0, 0.0, 0.0
    low, high = np.inf, -np.inf
    edge = np.empty(_BLOCK + 4, np.int64)
    for block in range(0, values.size, _BLOCK):
        size = min(_BLOCK, values.size - block)
        n_edges = edges(word(values.ctypes.data) + 4 * block, size, 4, word(edge.ctypes.data))
        edge[n_edges] = size
        # A run at a time: tracks are full of them, and to count each base is to wait for the count of the one before.
        for k in range(n_edges):
            i, n = block + edge[k], edge[k + 1] - edge[k]
            v = np.float64(values[i])
            if v == v:
                if np.isinf(v):
                    infinite += n
                else:
                    count += n
                    total += n * v
                    squares += n * v * v
                    low = min(low, v)
                    high = max(high, v)
                    histogram[bits[i] >> np.uint32(16)] += n
    return count, infinite, total, squares, low, high


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments and a histogram of the finite values of some positions.

    Attributes
    ----------
    finite, infinite
        Positions with a finite value, and with an infinite one; the others are silent (NaN).
    total, squares
        Sum and sum of squares of the finite values.
    low, high
        Their extremes; infinite when there are none.
    histogram
        ``(65536,)`` int64 counts; a bin is the upper 16 bits of the value as a float32.
    """

    finite: int
    infinite: int
    total: float
    squares: float
    low: float
    high: float
    histogram: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Statistics:
        """Gather the statistics of an array of any shape."""
        flat = np.ascontiguousarray(values, dtype=np.float32).ravel()
        histogram = np.zeros(_BINS, dtype=np.int64)
        finite, infinite, total, squares, low, high = _scan(flat, histogram)
        return cls(finite, infinite, total, squares, low, high, histogram)

    @classmethod
    def merge(cls, parts: Iterable[Statistics]) -> Statistics:
        """Combine the statistics of disjoint positions, in the order given; one at a time is in memory."""
        histogram = np.zeros(_BINS, dtype=np.int64)
        finite, infinite, total, squares, low, high = 0, 0, 0.0, 0.0, math.inf, -math.inf
        for part in parts:
            finite, infinite = finite + part.finite, infinite + part.infinite
            total, squares = total + part.total, squares + part.squares
            low, high = min(low, part.low), max(high, part.high)
            histogram += part.histogram
        return cls(finite, infinite, total, squares, low, high, histogram)

    def to_record(self) -> dict[str, Any]:
        """Give what JSON keeps of a shard's; see :meth:`of_record`."""
        bins = np.flatnonzero(self.histogram)
        record = {**vars(self), "low": repr(self.low), "high": repr(self.high)}
        return record | {"histogram": [bins.tolist(), self.histogram[bins].tolist()]}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Statistics:
        """Read what :meth:`to_record` gave."""
        histogram = np.zeros(_BINS, dtype=np.int64)
        bins, counts = record["histogram"]
        histogram[bins] = counts
        return cls(**{**record, "low": float(record["low"]), "high": float(record["high"]), "histogram": histogram})

    def quantiles(self, q: Sequence[float]) -> list[float]:
        """Give quantiles of the finite values to within ``QUANTILE_RELATIVE_ERROR`` of each."""
        found = np.flatnonzero(self.histogram)
        bins = found.astype(np.uint32)
        edges = np.stack([bins << 16, (bins << 16) | np.uint32(0xFFFF)]).view(np.float32)
        middles = edges.astype(np.float64).mean(axis=0)
        order = np.argsort(middles, kind="stable")
        counts = self.histogram[found[order]]
        ranks = np.asarray(q) * (self.finite - 1)
        picked = middles[order][np.searchsorted(np.cumsum(counts), ranks, side="right")]
        return [float(v) for v in np.clip(picked, self.low, self.high)]

    def to_json(self, positions: int) -> dict[str, Any]:
        """Give what a track's attributes keep.

        Parameters
        ----------
        positions
            Bases of the assembly, of which the covered share is told.
        """
        covered = self.finite + self.infinite
        out: dict[str, Any] = {
            "coverage": covered / positions if positions else 0.0,
            "covered": covered,
            "infinite": self.infinite,
        }
        if self.finite:
            mean = self.total / self.finite
            out |= {
                "min": self.low,
                "max": self.high,
                "mean": mean,
                "sd": math.sqrt(max(self.squares / self.finite - mean * mean, 0.0)),
                "quantiles": dict(zip(map(str, QUANTILES), self.quantiles(QUANTILES), strict=True)),
                "quantile_relative_error": QUANTILE_RELATIVE_ERROR,
            }
        return out
