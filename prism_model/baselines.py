"""What a model must beat: the mean, and ridge regression on the mean of each signal of a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prism_model.data import Data
from prism_model.models.ridge import RidgeConfig, summaries

if TYPE_CHECKING:
    from genostore.windows import Windows


def baseline_predictions(data: Data, train: Windows, test: Windows) -> dict[str, NDArray[np.float64]]:
    """Predict a split by both baselines.

    Parameters
    ----------
    data
        Whose channels and features are used.
    train, test
        Measured samples.

    Returns
    -------
    dict
        ``mean`` (of the training targets) and ``ridge``, each ``(len(test),)``. Ridge takes the logarithm of the
        mean of each signal over the window, the gene features and the GC content, standardised; its penalty is
        chosen by leave-one-out on the training samples.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _collect(data, train)
    ridge = make_pipeline(StandardScaler(), RidgeCV(RidgeConfig().penalties)).fit(x, y)
    other, _ = _collect(data, test)
    return {"mean": np.full(len(other), y.mean()), "ridge": ridge.predict(other).astype(np.float64)}


def _collect(data: Data, windows: Windows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The summaries of all samples ``(n, numbers)``, and their targets ``(n,)``."""
    rows: list[NDArray[np.float64]] = []
    targets: list[NDArray[np.float64]] = []
    for batch in data.loader(windows, 64, rank=0, world=1):  # all samples, in a group of processes too
        rows.append(summaries(*data.inputs(batch)).numpy())
        targets.append(batch.target.double().numpy())
    return np.concatenate(rows), np.concatenate(targets)
