"""Intervals: over seeds by Student's t, over genes by a paired bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2_000
LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate and its 95% interval; NaN bounds where there is nothing to base one on."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.4f} [{self.low:.4f}, {self.high:.4f}]"


def over_seeds(values: ArrayLike) -> Interval:
    """Mean of one value a seed, with Student's t interval: what another seed might have given, on these genes."""
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return Interval(float(x.mean()) if len(x) else math.nan, math.nan, math.nan)
    half = float(t.ppf(0.5 + LEVEL / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def over_genes(
    values: ArrayLike,
    groups: Sequence[Any] | NDArray[Any] | pd.Series,
    statistic: Callable[[NDArray[np.float64], NDArray[np.float64]], float] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile bootstrap that draws whole groups (genes, neighbourhoods): what other genes might have given.

    Parameters
    ----------
    values
        ``(n,)`` or ``(n, k)``, a row a sample; of a paired comparison the differences.
    groups
        ``(n,)`` what is drawn together.
    statistic
        Of weights ``(n,)`` and values; the weighted mean when left out.
    seed
        Of the draws.
    resamples
        How many.

    Returns
    -------
    Interval
        The statistic on the samples as they are, and its 2.5th and 97.5th percentiles over the draws.
    """
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return Interval(math.nan, math.nan, math.nan)
    which = pd.factorize(np.asarray(groups))[0]
    n = int(which.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)  # times each group
    if statistic is None:
        sums, sizes = np.bincount(which, x), np.bincount(which)
        estimate, draws = float(x.mean()), (drawn @ sums) / (drawn @ sizes)
    else:
        estimate, draws = statistic(np.ones(len(x)), x), np.array([statistic(times[which], x) for times in drawn])
    low, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Interval(estimate, float(low), float(high))


def columns(prefix: str, interval: Interval) -> dict[str, float]:
    """An interval as columns of a table: ``prefix_low``, ``prefix_high``."""
    return {f"{prefix}_low": interval.low, f"{prefix}_high": interval.high}
