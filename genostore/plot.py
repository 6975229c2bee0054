"""Pictures of a store: one window with everything aligned, and what the store holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from genostore.contacts import ContactMap, Contacts
from genostore.draw import GAP, GRID, ContactView, Signal, WindowView, draw_window, style
from genostore.errors import GenostoreError, QueryError, WriteError
from genostore.genome import Region

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genostore.store import Store

MOST_BINS = 400  # of a contact matrix that is drawn; a coarser one is taken beyond
FEWEST_BINS = 4  # fewer make no triangle
ROLE_COLOURS = {"foreground": "#009E73", "background": "#56B4E9"}


def plot_window(
    store: Store,
    gene: str,
    cell_types: Sequence[str] | None = None,
    assays: Sequence[str] | None = None,
    contacts: Contacts | str | bool | None = None,
    width: int = 200_000,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw a gene's window: contacts, genes, sequence and every signal, aligned on one genomic axis.

    Parameters
    ----------
    store
        An open store.
    gene
        Id or name of a gene; or a region such as ``"chr1:1,000-2,000"``, whose own width then counts.
    cell_types, assays
        In the order to draw; None for all. A stranded pair (``"RNA"``) is one row, its minus strand downwards.
    contacts
        A :class:`Contacts`, which names bin size and weights; the name of an assay of contacts; None for what there
        is, balanced where it can be; False for none. They are left out where the window holds fewer than 4 bins.
    width
        Of the window in bases, centred on the TSS and cut at the ends of the contig. Up to 120 bases are drawn as
        letters; beyond that the sequence is shown by its GC content.
    path
        Where to save the picture as well (PNG at 150 dpi, or SVG or PDF by its ending).

    Returns
    -------
    matplotlib.figure.Figure
        Stretches where a track says nothing are grey, so that they are not taken for zeros.

    Raises
    ------
    NotFoundError
        For an unknown gene, cell type, assay or contacts.
    QueryError
        If ``width`` is below 10 bases, the path's ending names no format, or matplotlib is not installed.
    WriteError
        If the picture cannot be written.
    """
    check_matplotlib()
    figure = draw_window(read_window(store, gene, cell_types, assays, contacts, width))
    if path is not None:
        save(figure, path)
    return figure


def check_matplotlib() -> None:
    """Say how to get matplotlib where it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise QueryError("pictures need matplotlib, which is not installed: pip install 'genostore[plot]'") from error


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Save a picture in the format that its name ends in, at 150 dpi.

    Raises
    ------
    QueryError
        If the ending names no format.
    WriteError
        If the file cannot be written.
    """
    ending = Path(path).suffix.lstrip(".")
    known = figure.canvas.get_supported_filetypes()
    if ending not in known:
        raise QueryError(
            f"{os.fspath(path)} should end in .png, .svg or .pdf; pictures are also written as {sorted(known)}"
        )
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise WriteError(f"the picture {os.fspath(path)} cannot be written: {error.strerror}") from error


def read_window(
    store: Store,
    gene: str,
    cell_types: Sequence[str] | None = None,
    assays: Sequence[str] | None = None,
    contacts: Contacts | str | bool | None = None,
    width: int = 200_000,
) -> WindowView:
    """Read what `plot_window` draws; the arguments are its own."""
    if width < 10:
        raise QueryError(f"width is {width}; a picture is at least 10 bases wide")
    row = _gene(store, gene, width)
    if row is None:
        region, tss, title = store.genome.region(gene), None, gene
    else:
        contig = store.genome.resolve(row["contig"])
        tss = int(row["tss"])
        start = tss - width // 2
        region = Region(contig, max(start, 0), min(start + width, contig.length))
        name = f"{row['name']} ({row['id']})" if row["name"] not in ("", row["id"]) else row["id"]
        title = f"{name}, {contig.name}:{tss:,} {row['strand']}"
    cells = store._known(cell_types, store.cell_types, "cell type")
    return WindowView(
        title=f"{title}   [{store.genome.name}]",
        contig=region.contig.name,
        start=region.start,
        end=region.end,
        tss=tss,
        gene=None if row is None else row["id"],
        codes=store.sequence(region),
        genes=_genes_in(store, region),
        signals=_signals(store, region, cells, assays),
        contacts=_contacts(store, region, cells, contacts),
    )


def _gene(store: Store, gene: str, width: int) -> pd.Series | None:
    """Give the row of a gene, or None where ``gene`` is a region instead."""
    try:
        found = store.windows(genes=[gene], assays=[], sequence=False, width=1)
    except GenostoreError:
        if ":" not in gene:
            raise
        return None
    return found.genes.iloc[0]


def _genes_in(store: Store, region: Region) -> pd.DataFrame:
    if "genes" not in store.entries:
        return pd.DataFrame(columns=["id", "name", "start", "end", "tss", "strand"])
    genes = store.genes
    here = (genes.contig == region.contig.name) & (genes.start < region.end) & (genes.end > region.start)
    return genes[here].sort_values("start")


def _signals(store: Store, region: Region, cells: Sequence[str], assays: Sequence[str] | None) -> list[Signal]:
    from genostore.query import resolve_assays

    names = resolve_assays(store, assays, cells, "nan")
    if assays is None:
        names = _by_role(store, names)
    values = store.signal(region, list(cells), names).compute() if names else None
    rows = []
    for name in names:
        partner = f"{name[:-1]}-"
        if name.endswith("-") and f"{name[:-1]}+" in names:
            continue  # drawn with its plus strand
        for cell in cells:
            entry = store.entries.get(f"tracks/{cell}/{name}")
            if entry is None or values is None:
                continue
            paired = name.endswith("+") and partner in names and f"tracks/{cell}/{partner}" in store.entries
            rows.append(
                Signal(
                    assay=name[:-1] if paired else name,
                    cell_type=cell,
                    values=values.sel(cell_type=cell, assay=name).to_numpy(),
                    minus=values.sel(cell_type=cell, assay=partner).to_numpy() if paired else None,
                    unit=entry.get("unit"),
                    role=entry.get("role"),
                )
            )
    return rows


def _by_role(store: Store, names: list[str]) -> list[str]:
    """Foreground first, then background, then the rest."""
    order = {"foreground": 0, "background": 1}
    tracks = {node: entry for node, entry in store.entries.items() if entry["kind"] == "track"}
    roles = {node.rsplit("/", 1)[1]: entry.get("role") for node, entry in tracks.items()}
    return sorted(names, key=lambda name: order.get(roles.get(name) or "", 2))


def _contacts(
    store: Store, region: Region, cells: Sequence[str], asked: Contacts | str | bool | None
) -> list[ContactView]:
    if asked is False:
        return []
    views = []
    for cell in cells:
        found = _contact_map(store, cell, asked, len(region))
        if found is None or len(region) < FEWEST_BINS * found[0].bin_size:
            continue
        contact_map, weight = found
        matrix = contact_map.matrix(region, weight)
        starts = matrix["bin1"].to_numpy()
        assay = contact_map.node.split("/")[2]
        how = f"balanced ({weight})" if weight else "raw counts"
        label = f"{assay} {_size(contact_map.bin_size)}, {how}"
        edges = np.append(starts, starts[-1] + contact_map.bin_size)
        views.append(ContactView(cell, label, edges, matrix.to_numpy()))
    return views


def _contact_map(
    store: Store, cell: str, asked: Contacts | str | bool | None, width: int
) -> tuple[ContactMap, str | None] | None:
    """The contacts to draw of a cell type, and their weights; None where it has none and none were named."""
    there = sorted(
        (node.split("/")[2], int(node.split("/")[3]))
        for node, entry in store.entries.items()
        if entry["kind"] == "contacts" and entry["cell_type"] == cell
    )
    if isinstance(asked, Contacts):
        named = store.contacts(cell, asked.assay, asked.bin_size)
        return named, asked.weight
    if isinstance(asked, str):
        there = [(assay, size) for assay, size in there if assay == asked] or [(asked, 0)]
    if not there:
        return None
    sizes = [size for assay, size in there if assay == there[0][0]]
    size = next((s for s in sizes if width / s <= MOST_BINS), sizes[-1])
    found = store.contacts(cell, there[0][0], size)
    return found, next(iter(found.weights), None)


def plot_content(store: Store, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw what a store holds: each assay of each cell type with the share of the genome that it covers.

    Parameters
    ----------
    store
        An open store.
    path
        Where to save the picture as well.

    Returns
    -------
    matplotlib.figure.Figure
        Contacts are shown with their bin sizes and expression with its number of genes; a grey cell is a dataset that
        the store does not have.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    cells, rows = content(store)
    label_in, cell_in, row_in, top_in = 1.8, 1.35, 0.3, 0.4
    width, height = label_in + cell_in * len(cells) + 0.1, top_in + row_in * len(rows) + 0.1
    with style():
        figure = Figure(figsize=(width, height))
        box = (label_in / width, 0.1 / height, cell_in * len(cells) / width, row_in * len(rows) / height)
        ax = figure.add_axes(box)
        for y, row in enumerate(rows):
            for x, cell in enumerate(cells):
                share, text = row.values.get(cell, (0.0, ""))
                ax.barh(y, 0.92, left=x + 0.04, height=0.8, color="none" if text else GAP, lw=0.6, ec=GRID)
                ax.barh(y, 0.92 * share, left=x + 0.04, height=0.8, color=row.colour, alpha=0.55)
                ax.text(x + 0.5, y, text, ha="center", va="center", fontsize=7)
        ax.set_yticks(range(len(rows)), [row.label for row in rows])
        ax.set_xticks(np.arange(len(cells)) + 0.5, cells, weight="bold")
        ax.set_xlim(0, len(cells))
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        ax.spines[["left", "bottom"]].set_visible(False)
    if path is not None:
        save(figure, path)
    return figure


@dataclass(frozen=True)
class ContentRow:
    """One dataset of `plot_content`: its values are a share from 0 to 1 and a text, by cell type."""

    label: str
    colour: str
    values: dict[str, tuple[float, str]]


def content(store: Store) -> tuple[list[str], list[ContentRow]]:
    """Give the cell types and rows of `plot_content`: tracks, then contacts, then expression."""
    tracks, expression = store.tracks, store.expression
    cells = sorted({*store.cell_types, *expression["cell_type"]})
    rows = []
    for (assay, role), group in tracks.fillna({"role": ""}).groupby(["assay", "role"], sort=False):
        label = f"{assay} ({role})" if role else str(assay)
        shares = dict(zip(group["cell_type"], group["coverage"].astype(float), strict=True))
        known = {c: (s, f"{s:.1%} covered") if s == s else (0.0, "there") for c, s in shares.items()}
        rows.append(ContentRow(label, ROLE_COLOURS.get(str(role), "#999999"), known))
    sizes: dict[str, dict[str, list[int]]] = {}
    for node, entry in store.entries.items():
        if entry["kind"] == "contacts":
            _, cell, assay, size = node.split("/")
            sizes.setdefault(assay, {}).setdefault(cell, []).append(int(size))
    for assay, by_cell in sizes.items():
        texts = {c: " and ".join(_size(s) for s in sorted(of)) + " bins" for c, of in by_cell.items()}
        rows.append(ContentRow(f"{assay} contacts", "#E69F00", {c: (1.0, text) for c, text in texts.items()}))
    genes = len(store.genes) if "genes" in store.entries else 1
    for assay, group in expression.groupby("assay", sort=False):
        counts = dict(zip(group["cell_type"], group["measured"].fillna(genes).astype(int), strict=True))
        shares = {c: (n / genes, f"{n:,} genes") for c, n in counts.items()}
        rows.append(ContentRow(f"{assay} expression", "#CC79A7", shares))
    return cells, rows


def _size(bases: int) -> str:
    return f"{bases // 1_000:,} kb" if bases % 1_000 == 0 else f"{bases:,} bp"
