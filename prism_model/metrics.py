"""Scores of predictions over a whole split."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

SCORES = ("mse", "mae", "pearson", "spearman")


def scores(observed: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Mean squared and absolute error, Pearson's and Spearman's correlation.

    Parameters
    ----------
    observed, predicted
        ``(n,)``, n > 0.

    Returns
    -------
    dict
        ``mse``, ``mae``, ``pearson``, ``spearman`` and ``n``; a correlation with a constant is NaN.

    Raises
    ------
    ValueError
        When the lengths differ, or there are no samples.
    """
    x, y = np.asarray(observed, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"expected two vectors of one length > 0, got {x.shape} and {y.shape}")
    error = y - x
    return {
        "mse": float(np.mean(error**2)),
        "mae": float(np.mean(np.abs(error))),
        "pearson": correlation(x, y),
        "spearman": correlation(rankdata(x), rankdata(y)),
        "n": len(x),
    }


def correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson's correlation; NaN when either side is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
