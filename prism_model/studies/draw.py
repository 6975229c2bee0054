"""Pictures of the studies, from their summary tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from genostore.draw import GRID, INK, PALETTE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure in the project's style, and its axes in reading order."""
    from matplotlib.figure import Figure

    with style():
        made = Figure(figsize=(width, height), layout="constrained", dpi=110)
        axes = np.atleast_1d(made.subplots(rows, columns, **options)).ravel().tolist()
    return made, axes


def bars(ax: Axes, at: float, estimate: float, low: float, high: float, colour: str, **options: Any) -> None:
    """A point with its interval, which may be lacking."""
    if np.isfinite(low) and np.isfinite(high):
        ax.plot([at, at], [low, high], color=colour, lw=1.3, zorder=2)
    ax.plot([at], [estimate], ls="", color=colour, zorder=3, **{"marker": "o", "ms": 4.5} | options)


def worth_and_dependence(summary: pd.DataFrame) -> Figure:
    """Worth of each set of signals beside the dependence on it, a panel a choice of features."""
    ninths = list(dict.fromkeys(summary["ninth"]))
    sets = list(dict.fromkeys(summary["removed"]))
    made, axes = figure(max(6.0, 1.1 * len(sets) * len(ninths)), 3.6, len(ninths), sharey=True)
    looks = {"zero": ("s", PALETTE[4]), "mean": ("^", PALETTE[5]), "shuffle": ("D", PALETTE[1])}
    with style():
        for ax, ninth in zip(axes, ninths, strict=True):
            part = summary[summary["ninth"] == ninth].set_index(["removed", "way"])
            for x, removed in enumerate(sets):
                shown = [way for way in looks if (removed, way) in part.index]
                row = part.loc[(removed, shown[0])]
                if "worth" in row and np.isfinite(row["worth"]):
                    bars(ax, x - 0.27, row["worth"], row["worth_genes_low"], row["worth_genes_high"], INK)
                for i, way in enumerate(shown):
                    row = part.loc[(removed, way)]
                    marker, colour = looks[way]
                    low, high = row["dependence_genes_low"], row["dependence_genes_high"]
                    bars(ax, x - 0.05 + 0.16 * i, row["dependence"], low, high, colour, marker=marker)
            ax.axhline(0, color=INK, lw=0.7)
            ax.set_xticks(range(len(sets)), [s.replace("+", "\n+ ") for s in sets])
            ax.grid(axis="y", color=GRID, lw=0.6)
            if len(ninths) > 1:
                ax.set_title(f"{ninth} the ninth feature", loc="left")
        axes[0].set_ylabel("rise of test MSE")
        axes[0].plot([], [], "o", ms=4.5, color=INK, label="trained without it (worth)")
        for way, (marker, colour) in looks.items():
            axes[0].plot([], [], marker, ms=4.5, color=colour, label=f"taken at test: {way}")
        axes[0].legend()
    return made


def attributions(table: pd.DataFrame) -> Figure:
    """Mean absolute contribution of each input."""
    ninths = list(dict.fromkeys(table["ninth"]))
    order = table.groupby("input")["contribution"].max().sort_values().index
    made, (ax,) = figure(6.5, 0.8 + 0.24 * len(order))
    with style():
        for i, ninth in enumerate(ninths):
            part = table[table["ninth"] == ninth].set_index("input").reindex(order)
            at = np.arange(len(order)) + 0.14 * (i - (len(ninths) - 1) / 2)
            colour = PALETTE[i]
            ax.hlines(at, part["seeds_low"].clip(lower=0), part["seeds_high"], color=colour, lw=1.3)
            label = f"{ninth} the ninth feature" if len(ninths) > 1 else None
            ax.plot(part["contribution"], at, "o", ms=4.5, color=colour, label=label)
        ax.set_yticks(range(len(order)), order)
        ax.set_xlim(left=0)
        ax.set_xlabel("mean absolute contribution to a prediction")
        ax.grid(axis="x", color=GRID, lw=0.6)
        if len(ninths) > 1:
            ax.legend()
    return made
