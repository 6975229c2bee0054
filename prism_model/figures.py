"""Pictures of a run, from plain arrays: training curves, and predictions against observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genostore.draw import GRID, INK, PALETTE, colours, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]

BRANCHES = {"original": "#CC79A7", "adjusted": "#009E73"}
"""The two branches of the model and their colours; no cell type's, which come first in the palette."""
TERMS = {"prediction": "#CC79A7", "intervention": "#009E73", "uniformity": "#E69F00", "total": INK}
"""The terms of the loss: that of each branch has the branch's colour."""
MOST_POINTS = 4_000  # of a scatter; a random part of more is drawn


def training_curves(
    training: pd.DataFrame, validation: pd.DataFrame, best_step: int | None, baselines: dict[str, float]
) -> Figure:
    """Draw the losses over training steps, and the validation error of both branches.

    Parameters
    ----------
    training
        ``step`` and a column a loss term, in the order to draw.
    validation
        ``step``, and ``original`` and ``adjusted``: mean squared errors.
    best_step
        The step of the checkpoint that was kept.
    baselines
        Name to mean squared error on the same validation samples, drawn as level lines.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for i, name in enumerate(c for c in training.columns if c != "step"):
            rows = training[["step", name]].dropna()
            colour = TERMS.get(name, PALETTE[i % len(PALETTE)])
            left.plot(rows["step"], rows[name], color=colour, lw=0.5, alpha=0.35)
            left.plot(rows["step"], _smooth(rows[name]), color=colour, lw=1.4, label=name)
        left.set_title("loss on training batches (thick: running mean)", loc="left")
        left.legend(ncols=2)
        for branch, colour in BRANCHES.items():
            if branch in validation:
                rows = validation[["step", branch]].dropna()
                right.plot(rows["step"], rows[branch], color=colour, lw=1.4, marker="o", ms=3, label=f"{branch} branch")
        dashes = ((0, (5, 2)), (0, (1, 1.5)), (0, (4, 1, 1, 1)))
        for (name, value), dash in zip(baselines.items(), dashes, strict=False):
            right.axhline(value, color="#777777", lw=1.0, ls=dash, label=f"{name} (baseline)")
        if best_step is not None:
            right.axvline(best_step, color=INK, lw=0.7, ls=(0, (3, 2)))
            at = (best_step, 0.06)
            right.annotate(
                "checkpoint kept",
                at,
                xycoords=right.get_xaxis_transform(),
                xytext=(3, -2),
                textcoords="offset points",
                fontsize=7,
                va="bottom",
                rotation=90,
            )
        right.set_title("mean squared error on the validation split", loc="left")
        right.legend()
        for ax in (left, right):
            ax.set_xlabel("optimiser step")
            ax.grid(axis="y", color=GRID, lw=0.6)
            ax.set_axisbelow(True)
        left.set_ylim(bottom=min(0.0, left.get_ylim()[0]))
        right.set_ylim(bottom=0)
        right.set_xlim(left.get_xlim())
    return figure


def _smooth(values: pd.Series) -> pd.Series:
    return values.rolling(max(1, len(values) // 20), center=True, min_periods=1).mean()


def predicted_against_observed(
    observed: Floats, predictions: dict[str, Floats], cell_type: Sequence[str], label: str
) -> Figure:
    """Draw a scatter a predictor, on one scale, with its errors.

    Parameters
    ----------
    observed
        ``(n,)`` the targets.
    predictions
        Name (``original branch``, ``ridge``) to ``(n,)``.
    cell_type
        ``(n,)`` of each sample, for the colours.
    label
        Of the axes: what is predicted, and its unit.
    """
    from matplotlib.figure import Figure

    cells = np.asarray(cell_type)
    colour = colours(list(dict.fromkeys(cells.tolist())))
    shown = np.random.default_rng(0).permutation(len(observed))[:MOST_POINTS]
    everything = np.concatenate([observed, *predictions.values()])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.04 * (high - low) or 1.0
    with style():
        figure = Figure(figsize=(10, 10 / len(predictions) + 0.75), layout="constrained")
        axes = figure.subplots(1, len(predictions), squeeze=False, sharex=True, sharey=True)[0]
        for ax, (name, predicted) in zip(axes, predictions.items(), strict=True):
            _scatter(ax, observed[shown], predicted[shown], [colour[c] for c in cells[shown]])
            ax.set_title(name, loc="left", weight="bold")
            ax.text(0.03, 0.97, _errors(observed, predicted), transform=ax.transAxes, va="top", fontsize=7.5)
            ax.set_xlim(low - margin, high + margin)
            ax.set_ylim(low - margin, high + margin)
            ax.set_aspect("equal")
            ax.set_xlabel(f"observed {label}")
        axes[0].set_ylabel(f"predicted {label}")
        for name, shade in colour.items():
            axes[-1].plot([], [], "o", ms=4, color=shade, label=name)
        axes[-1].legend(loc="lower right", handletextpad=0.1, borderpad=0)
    return figure


def _scatter(ax: Axes, x: Floats, y: Floats, colour: list[str]) -> None:
    ax.axline((0, 0), slope=1, color="#999999", lw=0.8, zorder=0)
    size = float(np.clip(3_000 / max(1, len(x)), 3, 16))
    ax.scatter(x, y, s=size, c=colour, alpha=0.6, lw=0, rasterized=True)


def _errors(observed: Floats, predicted: Floats) -> str:
    squared = float(np.mean((observed - predicted) ** 2))
    constant = np.ptp(observed) == 0 or np.ptp(predicted) == 0
    r = "not defined" if constant else f"{np.corrcoef(observed, predicted)[0, 1]:.3f}"
    return f"MSE {squared:.3f}\nPearson r {r}\nn = {len(observed):,}"
