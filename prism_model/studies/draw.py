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


def interval(ax: Axes, at: float, row: pd.Series, name: str, colour: str, marker: str = "o") -> None:
    """A value on its line: thick its interval over genes, thin that over seeds, where there are any."""
    for over, width in (("seeds", 0.6), ("genes", 1.6)):
        ax.plot(row[[f"{name}_{over}_low", f"{name}_{over}_high"]].astype(float), [at, at], color=colour, lw=width)
    ax.plot([row[name]], [at], marker, ms=4.2, color=colour)


def worth_and_dependence(summary: pd.DataFrame) -> Figure:
    """Worth of each set of signals above the dependence on it, a panel a choice of features."""
    ninths = list(dict.fromkeys(summary["ninth"]))
    sets = list(dict.fromkeys(summary["removed"]))
    looks = {"shuffle": ("D", PALETTE[1]), "mean": ("^", PALETTE[0]), "zero": ("s", PALETTE[4])}
    made, axes = figure(2.0 + 3.6 * len(ninths), 1.0 + 0.42 * len(sets), len(ninths), sharex=True, sharey=True)
    with style():
        for ax, ninth in zip(axes, ninths, strict=True):
            part = summary[summary["ninth"] == ninth].set_index(["removed", "way"])
            for y, removed in enumerate(sets):
                interval(ax, y - 0.27, part.loc[(removed, next(iter(looks)))], "worth", INK)
                for i, (way, (marker, colour)) in enumerate(looks.items()):
                    interval(ax, y - 0.09 + 0.18 * i, part.loc[(removed, way)], "dependence", colour, marker)
            ax.axvline(0, color=INK, lw=0.7)
            ax.set_xscale("symlog", linthresh=0.1)  # zeros may cost ten times what the rest does
            ticks = [t for t in (-0.1, -0.05, 0, 0.05, 0.1, 0.3, 1, 3, 10) if t <= summary["dependence"].max() * 1.5]
            ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
            ax.minorticks_off()
            ax.grid(axis="x", color=GRID, lw=0.6)
            ax.set_xlabel("rise of test MSE")
            if len(ninths) > 1:
                ax.set_title(f"{ninth} the ninth feature", loc="left")
        axes[0].set_yticks(range(len(sets)), [complement(s, sets) for s in sets])
        axes[0].invert_yaxis()
        axes[0].plot([], [], "o", ms=4.2, color=INK, label="trained without (worth)")
        ways = {"shuffle": "another gene's at test, half", "mean": "mean profile at test", "zero": "zeros at test"}
        for way, (marker, colour) in looks.items():
            axes[0].plot([], [], marker, ms=4.2, color=colour, label=ways[way])
        made.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2 * len(ninths))
    return made


def complement(removed: str, sets: list[str]) -> str:
    """A large set of signals by what it lacks."""
    everything = max(sets, key=lambda s: s.count("+")).split("+")
    kept = [c for c in everything if c not in removed.split("+")]
    if not kept:
        return "all"
    return removed.replace("+", " + ") if len(kept) > 1 or len(everything) < 4 else f"all but {kept[0]}"


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
            ax.legend(loc="lower right")
    return made


def adjustment(summary: pd.DataFrame) -> Figure:
    """MSE of each variant minus that of n = 0, one mark a branch."""
    summary = summary.dropna(subset=["difference"])
    variants = list(dict.fromkeys(summary["variant"]))
    looks = {"original": ("o", INK), "adjusted": ("D", PALETTE[1]), "adjusted-prediction": ("^", PALETTE[0])}
    made, (ax,) = figure(7.0, 1.0 + 0.45 * len(variants))
    with style():
        for i, (branch, (marker, colour)) in enumerate(looks.items()):
            part = summary[summary["branch"] == branch].set_index("variant")
            for row in part.iloc:
                interval(ax, variants.index(row.name) + 0.22 * (i - 1), row, "difference", colour, marker)
            if len(part):
                ax.plot([], [], marker, ms=4.2, color=colour, label=branch)
        ax.axvline(0, color=INK, lw=0.7)
        ax.set_yticks(range(len(variants)), variants)
        ax.invert_yaxis()
        ax.set_xlabel("test MSE minus that of n = 0")
        ax.grid(axis="x", color=GRID, lw=0.6)
        made.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=len(looks))
    return made


def contexts(table: pd.DataFrame) -> Figure:
    """Contexts of each variant's first seed on their first two components."""
    first = table[table["seed"] == table.groupby("variant")["seed"].transform("first")]
    variants = list(dict.fromkeys(first["variant"]))
    made, axes = figure(2.6 * len(variants), 2.7, len(variants))
    with style():
        for ax, variant in zip(axes, variants, strict=True):
            for context, part in first[first["variant"] == variant].groupby("context"):
                shade = PALETTE[int(context) % len(PALETTE)]
                ax.plot(part["pc1"], part["pc2"], "o", ms=2, mew=0, alpha=0.6, color=shade, label=f"context {context}")
            ax.set_title(variant, loc="left")
            ax.set_xlabel("component 1")
            ax.locator_params(nbins=4)
        axes[0].set_ylabel("component 2")
    return made


def shift(summary: pd.DataFrame, against: pd.DataFrame, environments: list[str]) -> Figure:
    """Errors against those of the foreground alone, and how far predictions move with the state."""
    plain = against["against"].iloc[0]
    against = against[against["against"] == plain]
    labels = list(dict.fromkeys(zip(summary["model"], summary["branch"], strict=True)))
    made, axes = figure(9.5, 0.9 + 0.36 * len(labels), 2, sharey=True)
    panels = [("mse", against, f"test MSE minus that of {plain}")]
    panels += [("lean", summary, "rise of the prediction when the background opens")]
    colours = dict(zip(environments, (INK, *PALETTE[1:]), strict=False))
    with style():
        for ax, (name, table, title) in zip(axes, panels, strict=True):
            for i, (environment, colour) in enumerate(colours.items()):
                part = table[table["environment"] == environment].dropna(subset=[name])
                for row in part.set_index(["model", "branch"]).iloc:
                    at = labels.index(row.name) + 0.22 * (i - (len(environments) - 1) / 2)
                    interval(ax, at, row, name, colour)
            ax.axvline(0, color=INK, lw=0.7)
            ax.grid(axis="x", color=GRID, lw=0.6)
            ax.set_xlabel(title)
        for environment, colour in colours.items():
            axes[0].plot([], [], "o", ms=4.2, color=colour, label=environment)
        axes[0].set_yticks(range(len(labels)), [f"{model}: {branch}" for model, branch in labels])
        axes[0].invert_yaxis()
        made.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(environments))
    return made


def length(summary: pd.DataFrame) -> Figure:
    """MSE by training length, and of each model on shorter windows."""
    made, (left, right) = figure(9.0, 3.4, 2, sharey=True)
    whole = summary[summary["train_length"] == summary["test_length"]]
    with style():
        left.vlines(whole["train_length"], whole["mse_seeds_low"], whole["mse_seeds_high"], color=INK, lw=1.3)
        left.plot(whole["train_length"], whole["mse"], "o-", ms=4.5, color=INK, lw=1)
        left.set_xlabel("bases of a window, in training and at test")
        left.set_ylabel("test MSE")
        for i, (train, part) in enumerate(summary.groupby("train_length")):
            colour = PALETTE[i % len(PALETTE)]
            right.plot(part["test_length"], part["mse"], "o-", ms=4, lw=1.2, color=colour, label=f"{train:,} bp")
        right.set_xlabel("central bases shown at test")
        made.legend(
            *right.get_legend_handles_labels(), title="trained on", title_fontsize=7.5, loc="outside center right"
        )
        for ax in (left, right):
            ax.set_xscale("log")
            ticks = sorted(set(summary["train_length"]))
            ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
            ax.minorticks_off()
            ax.grid(axis="y", color=GRID, lw=0.6)
    return made
