"""What a model must beat: the mean, and ridge regression on the mean of each signal of a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from prism_model.data import Data

if TYPE_CHECKING:
    from genostore.windows import Windows

PENALTIES = np.logspace(-3, 4, 15)


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

    x, y = summaries(data, train)
    ridge = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(x, y)
    other, _ = summaries(data, test)
    return {"mean": np.full(len(other), y.mean()), "ridge": ridge.predict(other).astype(np.float64)}


def summaries(data: Data, windows: Windows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A few numbers a sample, and its target.

    Returns
    -------
    tuple
        ``(n, channels + features + 1)``: ``sign(m) log(1 + |m|)`` of each channel's mean, the features, the share of
        G and C; and ``(n,)`` targets.
    """
    rows: list[NDArray[np.float64]] = []
    targets: list[NDArray[np.float64]] = []
    for batch in data.loader(windows, 64):
        sequence, signals, features = data.inputs(batch)
        parts = [sequence[..., 1:3].sum(-1).mean(1, keepdim=True)]
        if signals is not None:
            mean = signals.double().mean(1)
            parts.append(mean.sign() * mean.abs().log1p())
        if features is not None:
            parts.append(features)
        rows.append(torch.cat([p.double() for p in parts], dim=1).numpy())
        targets.append(batch.target.double().numpy())
    return np.concatenate(rows), np.concatenate(targets)
