"""The picture of an explanation: sequence, signals, features, mutagenesis, on one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genostore.draw import GRID, INK, PALETTE, style
from prism_model.explain import BASES, Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 1_200  # along the axis; longer windows are summed in bins
UP, DOWN = PALETTE[1], PALETTE[0]


def draw_explanation(explanation: Explanation) -> Figure:
    """Draw contributions to a prediction: above 0 they raise it, below they lower it.

    Each signal's row shows in grey what the model was given.
    """
    from matplotlib.figure import Figure

    e = explanation
    rows = 1 + len(e.signals)
    heights = [1.0] * rows + ([0.16 * len(e.features) + 0.3] if e.features else []) + ([1.1] if e.mutagenesis else [])
    with style():
        figure = Figure(figsize=(10, 0.9 + 1.05 * sum(heights)), layout="constrained")
        axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _contributions(axes[0], e, e.sequence, "sequence")
        for ax, name in zip(axes[1:], e.signals, strict=False):
            _contributions(ax, e, e.signals[name], name, e.values[name])
        low = min(ax.get_ylim()[0] for ax in axes[:rows])
        high = max(ax.get_ylim()[1] for ax in axes[:rows])
        for ax in axes[:rows]:
            ax.set_ylim(low, high)
            ax.axvline(e.anchor, color=INK, lw=0.7, ls=(0, (3, 2)))
            ax.set_xlim(e.start, e.end)
            ax.tick_params(labelbottom=ax is axes[rows - 1])
        axes[rows - 1].set_xlabel(f"position on {e.contig}; dashed: {'TSS' if e.gene else 'middle'}, strand {e.strand}")
        axes[rows - 1].ticklabel_format(style="plain", useOffset=False)
        if e.features:
            _features(axes[rows], e)
        if e.mutagenesis:
            _mutagenesis(figure, axes[-1], e)
        observed = "" if np.isnan(e.observed) else f", observed {e.observed:.2f}"
        figure.suptitle(
            f"{e.name} in {e.cell_type}, {e.branch} branch: predicted {e.prediction:.2f}{observed}; reference "
            f"{e.reference:.2f}",
            x=0.01,
            ha="left",
            weight="bold",
            fontsize=9,
        )
    return figure


def _contributions(
    ax: Axes, e: Explanation, values: NDArray[Any], name: str, given: NDArray[Any] | None = None
) -> None:
    size = -(-len(values) // POINTS)
    edges = np.arange(0, len(values), size)
    sums = np.add.reduceat(values, edges)
    x = e.start + np.append(edges, len(values))
    if given is not None:
        behind = ax.twinx()
        behind.stairs(np.maximum.reduceat(given, edges), x, fill=True, color="#E4E4E4")
        behind.set_ylabel("given", color="#999999")
        behind.tick_params(colors="#999999")
        behind.spines["right"].set_visible(True)
        ax.set_zorder(behind.get_zorder() + 1)
        ax.patch.set_visible(False)
    ax.stairs(np.maximum(sums, 0), x, fill=True, color=UP)
    ax.stairs(np.minimum(sums, 0), x, fill=True, color=DOWN)
    ax.axhline(0, color=INK, lw=0.5)
    ax.set_ylabel(f"{name}\nsum {values.sum():+.2f}")
    if size > 1:
        ax.text(1.0, 1.0, f"summed over {size} bases", transform=ax.transAxes, ha="right", va="bottom", fontsize=6.5)


def _features(ax: Axes, e: Explanation) -> None:
    names, values = list(e.features), np.array(list(e.features.values()))
    ax.barh(range(len(names)), values, height=0.7, color=np.where(values > 0, UP, DOWN))
    ax.set_yticks(range(len(names)), names, fontsize=6.5)
    ax.axvline(0, color=INK, lw=0.5)
    ax.invert_yaxis()
    ax.grid(axis="x", color=GRID, lw=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel("contribution of gene features")


def _mutagenesis(figure: Figure, ax: Axes, e: Explanation) -> None:
    found = e.mutagenesis
    assert found is not None
    n = len(found.effects)
    most = float(np.nanmax(np.abs(found.effects), initial=1e-9))
    extent = (found.start, found.start + n, 3.5, -0.5)
    image = ax.imshow(
        found.effects.T, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", extent=extent, interpolation="nearest"
    )
    codes = e.codes[found.start - e.start :][:n]
    known = np.flatnonzero(codes < 4)
    ax.plot(found.start + known + 0.5, codes[known], "o", ms=min(2.5, 300 / n), color=INK, mew=0)
    ax.set_yticks(range(4), list(BASES))
    ax.ticklabel_format(axis="x", style="plain", useOffset=False)
    ax.set_xlabel("mutagenesis: change of the prediction by each substitution (dots: the base that is there)")
    figure.colorbar(image, ax=ax, pad=0.01)
