"""Drawing on one genomic axis, from plain arrays: no store is read here. matplotlib is imported on use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genostore.sequence import UNKNOWN, decode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which colour-blind readers tell apart; one a cell type."""
BASE_COLOURS = {"A": "#009E73", "C": "#0072B2", "G": "#E69F00", "T": "#D55E00", "N": "#999999"}
INK, GAP, GRID = "#222222", "#EAEAEA", "#DDDDDD"
CONTACT_MAP = "magma_r"
LETTERS_UP_TO = 120  # bases; beyond that they cannot be read, and GC content is drawn
FIGURE_IN, SIDES_IN = 10.0, (1.35, 0.85)  # inches
WIDTH_IN = FIGURE_IN - sum(SIDES_IN)
MOST_LANES = 5  # of genes; with more, names are left out
COLUMNS = 900  # points drawn along the axis; about one a pixel

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "savefig.dpi": 150,
    "figure.dpi": 150,
    "svg.hashsalt": "genostore",
}


@dataclass(frozen=True)
class Signal:
    """One row of a window's picture: a track, or the two strands of a pair.

    Attributes
    ----------
    assay, cell_type, unit, role
        For the label.
    values
        ``(length,)`` float32, NaN where the source says nothing.
    minus
        The minus strand of a pair, drawn downwards; None for a single track.
    """

    assay: str
    cell_type: str
    values: Floats
    unit: str | None = None
    role: str | None = None
    minus: Floats | None = None


@dataclass(frozen=True)
class ContactView:
    """Contacts of one cell type around a window.

    Attributes
    ----------
    cell_type, label
        ``label`` says which contacts these are, and how they are balanced.
    edges
        ``(bin + 1,)`` positions of the bins' edges on the contig.
    matrix
        ``(bin, bin)``, NaN where filtered or beyond the stored band.
    """

    cell_type: str
    label: str
    edges: NDArray[np.int64]
    matrix: Floats


@dataclass(frozen=True)
class WindowView:
    """Everything that `draw_window` shows, read already.

    Attributes
    ----------
    title, contig, start, end
        Where; 0-based, half-open.
    tss
        Of the gene that the window is about, and the viewpoint of the profiles; None for a plain region.
    codes
        ``(length,)`` uint8, 0-3 = A C G T, 4 = other.
    signals, contacts
        In the order drawn.
    genes
        ``id, name, start, end, tss, strand`` of the genes that overlap.
    gene
        The id of the one to stress.
    """

    title: str
    contig: str
    start: int
    end: int
    codes: NDArray[np.uint8]
    genes: pd.DataFrame
    signals: list[Signal] = field(default_factory=list)
    contacts: list[ContactView] = field(default_factory=list)
    tss: int | None = None
    gene: str | None = None


@contextmanager
def style() -> Iterator[None]:
    """Draw in the house's style, and leave matplotlib's settings as they were."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def colours(names: Sequence[str]) -> dict[str, str]:
    """Give each name (a cell type) its colour, by its place."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def draw_window(view: WindowView) -> Figure:
    """Draw a window: contacts, genes, sequence and signals, one above the other on one genomic axis.

    Parameters
    ----------
    view
        What to show.

    Returns
    -------
    matplotlib.figure.Figure
        Made without pyplot, so that there is nothing to close. A gap in a track is shaded grey and is not a zero.
    """
    from matplotlib.figure import Figure

    cells = list(dict.fromkeys([*(c.cell_type for c in view.contacts), *(s.cell_type for s in view.signals)]))
    colour = colours(cells)
    lanes, named = gene_lanes(view.genes, view.start, view.end)
    heights = [1.25] * len(view.contacts) + [0.75] * bool(view.contacts and view.tss is not None)
    heights += [0.22 * max(1, max(lanes, default=0) + 1) + 0.12, 0.42] + [0.5] * len(view.signals)
    (left, right), top, bottom, gap = SIDES_IN, 0.72, 0.5, 0.1
    height = sum(heights) + gap * (len(heights) - 1) + top + bottom
    with style():
        figure = Figure(figsize=(FIGURE_IN, height))
        axes: list[Axes] = []
        at = height - top
        for rows in heights:
            box = (left / FIGURE_IN, (at - rows) / height, WIDTH_IN / FIGURE_IN, rows / height)
            axes.append(figure.add_axes(box, sharex=axes[0] if axes else None))
            at -= rows + gap
        rest = iter(axes)
        if view.contacts:
            _contacts(figure, rest, view, colour)
        draw_genes(next(rest), view.genes, lanes, view.start, view.end, view.gene, named)
        draw_sequence(next(rest), view.codes, view.start)
        _signals(rest, view, colour)
        for ax in axes:
            if view.tss is not None:
                ax.axvline(view.tss + 0.5, color=INK, lw=0.7, ls=(0, (3, 2)), zorder=5)
            ax.tick_params(axis="x", bottom=ax is axes[-1], labelbottom=ax is axes[-1])
            ax.spines["bottom"].set_visible(ax is axes[-1])
        axes[0].set_xlim(view.start, view.end)
        position_axis(axes[-1], view.contig, view.end - view.start)
        if view.tss is not None:
            _distance_axis(axes[0], view.tss, view.end - view.start)
        figure.text(left / FIGURE_IN, 1 - 0.1 / height, view.title, fontsize=10, va="top", weight="bold")
        note = "grey: no data, which is not zero"
        figure.text(1 - right / FIGURE_IN, 0.07 / height, note, fontsize=6.5, ha="right", color="#666666")
    return figure


def _contacts(figure: Figure, rest: Iterator[Axes], view: WindowView, colour: dict[str, str]) -> None:
    from matplotlib.colors import LogNorm

    positive = np.concatenate([c.matrix[c.matrix > 0].ravel() for c in view.contacts])
    low, high = np.quantile(positive, [0.02, 0.995]) if positive.size else (0.5, 1.0)
    norm = LogNorm(low, max(high, low * 1.01), clip=True)
    first = None
    for contacts in view.contacts:
        ax = next(rest)
        image = draw_triangle(ax, contacts.edges, contacts.matrix, norm)
        side_label(ax, contacts.label.split(",")[0], contacts.cell_type, colour[contacts.cell_type])
        first = first or (ax, image)
    assert first is not None
    box = first[0].get_position()
    bar = figure.add_axes((box.x1 + 0.012, box.y0 + 0.05 * box.height, 0.009, 0.9 * box.height))
    figure.colorbar(first[1], cax=bar).set_label(view.contacts[0].label.split(", ")[1], fontsize=7)
    bar.tick_params(labelsize=6)
    bar.yaxis.set_minor_locator(_no_ticks())
    if view.tss is None:
        return
    ax = next(rest)
    for contacts in view.contacts:
        viewpoint = int(np.searchsorted(contacts.edges, view.tss, side="right")) - 1
        profile = contacts.matrix[viewpoint]
        floor = np.nanmin(positive) / 2 if positive.size else 0.1  # where a bin without a contact is drawn
        ax.stairs(np.where(profile == 0, floor, profile), contacts.edges, color=colour[contacts.cell_type], lw=1.1,
                  label=contacts.cell_type, baseline=None)  # fmt: skip
    ax.set_yscale("log")
    ax.yaxis.set_minor_locator(_no_ticks())
    side_label(ax, "contacts of", "the TSS's bin", INK)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), handlelength=1.2, borderpad=0)


def _signals(rest: Iterator[Axes], view: WindowView, colour: dict[str, str]) -> None:
    for signal in view.signals:
        ax = next(rest)
        draw_signal(ax, signal.values, view.start, colour[signal.cell_type], signal.minus)
        same = [s for s in view.signals if s.assay == signal.assay]
        columns = [binned(v, COLUMNS)[0] for s in same for v in (s.values, s.minus) if v is not None]
        high = float(np.nanmax(np.concatenate([*columns, [0.0]])))
        low = min(0.0, float(np.nanmin(np.concatenate([*columns, [0.0]]))))
        high = 1.05 * high or 1.0
        ax.set_ylim(-high if signal.minus is not None else 1.05 * low, high)  # one scale an assay
        ax.yaxis.set_major_locator(_few_ticks())
        name = f"{signal.assay} ±" if signal.minus is not None else signal.assay
        side_label(ax, name, signal.cell_type, colour[signal.cell_type])
        notes = [n for n in (signal.role, signal.unit) if n]
        ax.text(1.006, 0.5, "\n".join(_wrap(n, 14) for n in notes), transform=ax.transAxes, fontsize=6, va="center",
                color="#666666")  # fmt: skip


def draw_triangle(ax: Axes, edges: NDArray[np.int64], matrix: Floats, norm: Any) -> Any:
    """Draw the upper triangle of a contact matrix, turned by 45 degrees so that its base is the genome.

    Parameters
    ----------
    ax
        Where; its y axis is the distance of the two bins.
    edges
        ``(bin + 1,)`` positions.
    matrix
        ``(bin, bin)``; NaN is grey, 0 the palest colour.
    norm
        A matplotlib norm of the values.
    """
    import matplotlib

    colour_map = matplotlib.colormaps[CONTACT_MAP].with_extremes(bad=GAP)
    i, j = np.meshgrid(edges, edges, indexing="ij")
    upper = np.triu(np.ones(matrix.shape, bool))
    shown = np.ma.masked_invalid(np.where(matrix <= 0, norm.vmin, matrix))
    # What lies below the diagonal is squeezed under the axis, where it is not seen.
    image = ax.pcolormesh((i + j) / 2, (j - i), shown, cmap=colour_map, norm=norm, rasterized=True)
    image.set_array(np.ma.array(shown.filled(np.nan), mask=shown.mask | ~upper))
    ax.set_ylim(0, edges[-1] - edges[0])
    ax.yaxis.set_major_locator(_few_ticks())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value / 1_000:,.0f} kb" if value else "0")
    return image


def draw_signal(ax: Axes, values: Floats, start: int, colour: str, minus: Floats | None = None) -> None:
    """Draw a track as a filled curve; stretches where it has no value are shaded.

    Parameters
    ----------
    values
        ``(length,)``, the first being that of position ``start``.
    minus
        Of the other strand, drawn downwards.
    """
    for strand, sign in ((values, 1), (minus, -1)):
        if strand is None:
            continue
        means, edges = binned(strand, COLUMNS)
        ax.stairs(sign * means, start + edges, fill=True, color=colour, alpha=0.85 if sign > 0 else 0.55, lw=0)
    silent = np.isnan(values) if minus is None else np.isnan(values) & np.isnan(minus)
    shade_gaps(ax, silent, start)
    ax.axhline(0, color=INK, lw=0.5)


def shade_gaps(ax: Axes, silent: NDArray[np.bool_], start: int) -> None:
    """Shade the runs of positions that have no value."""
    steps = np.diff(np.concatenate([[0], silent.astype(np.int8), [0]]))
    spans = [
        (float(start + a), float(b - a))
        for a, b in zip(np.flatnonzero(steps > 0), np.flatnonzero(steps < 0), strict=True)
    ]
    if spans:
        ax.broken_barh(spans, (0, 1), transform=ax.get_xaxis_transform(), color=GAP, lw=0, zorder=0)


def binned(values: Floats, columns: int) -> tuple[Floats, NDArray[np.int64]]:
    """Mean of the values present in each of at most ``columns`` bins; NaN where a bin has none.

    Returns
    -------
    means : ndarray
        ``(bins,)`` float64.
    edges : ndarray
        ``(bins + 1,)`` int64, in positions from the first value.
    """
    edges = np.unique(np.linspace(0, len(values), min(columns, len(values)) + 1).round().astype(np.int64))
    seen = ~np.isnan(values)
    total = np.add.reduceat(np.where(seen, values, 0).astype(np.float64), edges[:-1])
    count = np.add.reduceat(seen.astype(np.int64), edges[:-1])
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0), edges


def draw_sequence(ax: Axes, codes: NDArray[np.uint8], start: int) -> None:
    """Draw the bases as letters where they can be read, and GC content where they cannot."""
    codes = codes & np.uint8(7)
    if len(codes) <= LETTERS_UP_TO:
        size = min(11.0, 0.95 * WIDTH_IN * 72 / len(codes) / 0.62)
        for offset, letter in enumerate(decode(codes)):
            ax.text(start + offset + 0.5, 0.45, letter, color=BASE_COLOURS[letter], ha="center", va="center",
                    fontsize=size, family="DejaVu Sans Mono", weight="bold")  # fmt: skip
        ax.set_ylim(0, 1)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        side_label(ax, "sequence", "", INK)
        return
    strong = np.where(codes == UNKNOWN, np.nan, (codes == 1) | (codes == 2))
    columns = max(1, min(COLUMNS // 3, len(codes) // 20))
    means, edges = binned(strong, columns)
    ax.stairs(100 * means, start + edges, color="#555555", lw=0.8, baseline=None)
    shade_gaps(ax, codes == UNKNOWN, start)
    ax.set_ylim(0, 100)
    ax.set_yticks([0, 50, 100], ["0", "50", "100%"])
    ax.axhline(50, color=GRID, lw=0.6, zorder=0)
    side_label(ax, "GC content", f"of {round(len(codes) / columns):,} bp", INK)


def gene_lanes(genes: pd.DataFrame, start: int, end: int) -> tuple[list[int], bool]:
    """Give each gene a lane, counted downwards; the genes come sorted by start.

    Returns
    -------
    lanes : list of int
        Where neither a gene nor its name meets another; or the plus strand above the minus strand, where that would
        take more than ``MOST_LANES``.
    named : bool
        Whether there is room for all names.
    """
    free: list[float] = []
    lanes = []
    for gene in genes.itertuples():
        at, side = _name_place(gene, start, end)
        reach = 0.011 * (end - start) * (len(str(gene.name)) + 1)
        text = (at, at + reach) if side == "left" else (at - reach, at)
        a, b = min(max(gene.start, start), text[0]), max(min(gene.end, end), text[1])
        lane = next((i for i, until in enumerate(free) if until <= a), len(free))
        free[lane:] = [b, *free[lane + 1 :]]
        lanes.append(lane)
    if len(free) > MOST_LANES:
        return [int(strand == "-") for strand in genes["strand"]], False
    return lanes, True


def _name_place(gene: Any, start: int, end: int) -> tuple[float, str]:
    """Where a gene's name goes, clear of its TSS's arrow, and how it is aligned."""
    width = end - start
    if not start <= gene.tss < end:
        return max(gene.start, start), "left"
    if gene.tss > end - 0.08 * width:
        return gene.tss - (0.004 if gene.strand != "-" else 0.02) * width, "right"
    return gene.tss + (0.02 if gene.strand != "-" else 0.005) * width, "left"


def draw_genes(
    ax: Axes,
    genes: pd.DataFrame,
    lanes: Sequence[int],
    start: int,
    end: int,
    stressed: str | None = None,
    named: bool = True,
) -> None:
    """Draw gene bodies, each with its TSS's arrow and its name; only the stressed one's where not ``named``."""
    for gene, lane in zip(genes.itertuples(), lanes, strict=True):
        mine = gene.id == stressed
        colour = INK if mine else "#777777"
        y, forward = -lane, 1 if gene.strand != "-" else -1
        body = [max(gene.start, start), min(gene.end, end)]
        ax.plot(body, [y, y], color=colour, lw=4 if mine else 3, solid_capstyle="butt")
        if not (named or mine):
            continue
        if start <= gene.tss < end:
            foot, tip = gene.tss + 0.5, gene.tss + 0.5 + forward * 0.014 * (end - start)
            ax.plot([foot, foot], [y, y + 0.42], color=colour, lw=1.0)
            arrow = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
            ax.annotate("", (tip, y + 0.42), (foot, y + 0.42), arrowprops=arrow)
        at, side = _name_place(gene, start, end)
        weight = "bold" if mine else "normal"
        ax.text(at, y + 0.16, gene.name or gene.id, fontsize=6.5, ha=side, color=colour, weight=weight, clip_on=True)
    ax.set_ylim(-max(lanes, default=0) - 0.35, 0.8)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    side_label(ax, "genes", "" if named else "+ above \N{MINUS SIGN}", INK)


def side_label(ax: Axes, first: str, second: str, colour: str) -> None:
    """Name a row at its left, in two lines."""
    text: dict[str, Any] = {"transform": ax.transAxes, "ha": "right", "fontsize": 8}
    ax.text(-0.06, 0.52 if second else 0.4, first, va="bottom" if second else "center", **text)
    ax.text(-0.06, 0.48, second, va="top", color=colour, weight="bold" if colour != INK else "normal", **text)


def position_axis(ax: Axes, contig: str, width: int) -> None:
    """Label an axis of positions, in the unit that suits its width."""
    unit, size = unit_of(width)
    ax.xaxis.set_major_formatter(lambda value, _: _short(f"{value / size:,.3f}"))
    ax.set_xlabel(f"position on {contig} ({unit}; 0-based)")


def _distance_axis(ax: Axes, tss: int, width: int) -> None:
    unit, size = unit_of(width)

    def distance(x: Any) -> Any:
        return x - tss - 0.5

    def position(x: Any) -> Any:
        return x + tss + 0.5

    above = ax.secondary_xaxis("top", functions=(distance, position))
    above.xaxis.set_major_formatter(lambda value, _: _short(f"{value / size:+,.3f}") if value else "TSS")
    above.set_xlabel(f"distance from the TSS ({unit})", labelpad=4)
    above.tick_params(length=2.5)
    above.spines["top"].set_visible(False)


def unit_of(width: int) -> tuple[str, int]:
    """Name and size in bases of the unit that suits an axis of ``width`` bases."""
    if width >= 3_000_000:
        return "Mb", 1_000_000
    return ("kb", 1_000) if width > 6_000 else ("bp", 1)


def _short(number: str) -> str:
    return number.rstrip("0").rstrip(".")


def _wrap(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(2)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
