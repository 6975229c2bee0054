"""Pictures: what is read for them, and what is on them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genostore import draw, plot
from genostore.contacts import Contacts
from genostore.errors import NotFoundError, QueryError, RegionError, WriteError
from tests.genostore.conftest import BIN, Toy


def texts(figure: object) -> set[str]:
    """Everything written on a figure."""
    from matplotlib.text import Text

    return {t.get_text() for t in figure.findobj(Text)} - {""}  # type: ignore[attr-defined]


def test_a_window_is_read_as_it_is_stored(toy: Toy) -> None:
    view = plot.read_window(toy.open(), "gene2", width=1_000)
    assert (view.contig, view.start, view.end, view.tss, view.gene) == ("chr1", 1_000, 2_000, 1_500, "G02")
    np.testing.assert_array_equal(view.codes, toy.sequence["chr1"][1_000:2_000] & 7)
    names = [(s.assay, s.cell_type, s.minus is not None) for s in view.signals]
    assert names[:4] == [("H3K27ac", "A", False), ("H3K27ac", "B", False), ("DNase", "A", False), ("DNase", "B", False)]
    assert names[4:] == [("RNA", "A", True), ("RNA", "B", True)]
    for signal in view.signals:
        stored = toy.tracks[signal.cell_type, "RNA+" if signal.minus is not None else signal.assay]
        np.testing.assert_array_equal(signal.values, stored["chr1"][1_000:2_000])
    minus = view.signals[-1].minus
    np.testing.assert_array_equal(minus, toy.tracks["B", "RNA-"]["chr1"][1_000:2_000])
    assert [c.label for c in view.contacts] == [f"hic {BIN} bp, balanced (VC)"] * 2
    assert view.contacts[0].edges.tolist() == list(range(1_000, 2_001, BIN))
    assert view.genes["id"].tolist() == ["G02"]


def test_cell_types_assays_and_contacts_are_as_asked(toy: Toy) -> None:
    store = toy.open()
    view = plot.read_window(store, "G02", ["B"], ["DNase", "RNA+"], Contacts("hic", BIN), 1_000)
    assert [(s.assay, s.cell_type, s.minus is None) for s in view.signals] == [
        ("DNase", "B", True),
        ("RNA+", "B", True),
    ]
    assert view.contacts[0].label.endswith("raw counts")
    raw = toy.matrices["chr1"][10:20, 10:20].astype(float)
    np.testing.assert_array_equal(view.contacts[0].matrix, raw)
    assert plot.read_window(store, "G02", contacts=False, width=1_000).contacts == []
    assert plot.read_window(store, "G02", contacts="hic", width=1_000).contacts
    assert plot.read_window(store, "G02", width=3 * BIN).contacts == []  # too few bins for a triangle


def test_windows_are_cut_at_the_ends_of_a_contig(toy: Toy) -> None:
    view = plot.read_window(toy.open(), "G00", width=1_000)
    assert (view.start, view.end, view.tss) == (0, 505, 5)
    assert len(view.codes) == len(view.signals[0].values) == 505
    assert plot.plot_window(toy.open(), "G04", width=1_000).axes


def test_a_region_is_drawn_without_a_tss(toy: Toy) -> None:
    view = plot.read_window(toy.open(), "2:100-900")
    assert (view.contig, view.start, view.end, view.tss) == ("chr2", 100, 900, None)
    figure = draw.draw_window(view)
    assert not any("TSS" in text for text in texts(figure))


@pytest.mark.parametrize("width", [1_000, 100])
def test_the_picture_says_what_it_shows(toy: Toy, tmp_path: Path, width: int) -> None:
    path = tmp_path / "window.png"
    figure = plot.plot_window(toy.open(), "gene2", width=width, path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    written = texts(figure)
    assert {"gene2 (G02), chr1:1,500 +   [toy]", "H3K27ac", "DNase", "RNA ±", "A", "B", "TSS"} <= written
    assert "grey: no data, which is not zero" in written
    assert any("position on chr1 (bp" in text for text in written)
    letters = [
        t.get_text() for ax in figure.axes for t in ax.texts if t.get_text() in "ACGTN" and len(t.get_text()) == 1
    ]
    assert ("GC content" in written) == (width > draw.LETTERS_UP_TO)
    if width == 100:
        expected = "".join("ACGTN"[c] for c in toy.sequence["chr1"][1_450:1_550] & 7)
        found = "".join(letter for letter in letters)
        assert expected in found  # cell types A and B are letters too
    else:
        assert {"balanced (VC)", "contacts of"} <= written
    left = {round(ax.get_position().x0, 6) for ax in figure.axes if ax.get_xlim() == figure.axes[0].get_xlim()}
    assert len(left) == 1  # all rows on one axis


def test_gaps_are_shaded_and_zeros_are_not() -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    values = np.array([np.nan, np.nan, 0, 0, 1, np.nan, 2], np.float32)
    draw.shade_gaps(ax, np.isnan(values), 100)
    (shades,) = ax.findobj(PolyCollection)
    spans = [(p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in shades.get_paths()]
    assert spans == [(100, 102), (105, 106)]


def test_binned_means_leave_gaps_out() -> None:
    values = np.array([1, np.nan, 3, 5, np.nan, np.nan], np.float32)
    means, edges = draw.binned(values, 3)
    np.testing.assert_array_equal(means, [1, 4, np.nan])
    assert edges.tolist() == [0, 2, 4, 6]
    means, edges = draw.binned(values, 100)
    np.testing.assert_array_equal(means, values)


def test_the_triangle_lies_over_its_bins() -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    matrix = np.array([[1, 2, np.nan], [2, 4, 0], [np.nan, 0, 8.0]])
    image = draw.draw_triangle(ax, np.array([0, 10, 20, 30]), matrix, LogNorm(1, 8))
    drawn = image.get_array().reshape(3, 3)
    assert drawn.mask.tolist() == [[False, False, True], [True, False, False], [True, True, False]]
    assert drawn[1, 2] == 1  # no contact is the palest colour, a filtered bin is masked
    corners = image.get_coordinates()
    assert corners[0, 1].tolist() == [5, 10]  # between the first and the second edge, 10 apart
    assert ax.get_ylim() == (0, 30)


def test_gene_names_do_not_meet() -> None:
    genes = pd.DataFrame(
        [
            ("a", "LONGNAME1", 100, 150, 100, "+"),
            ("b", "LONGNAME2", 200, 250, 249, "-"),
            ("c", "X", 800, 900, 899, "-"),
        ],
        columns=["id", "name", "start", "end", "tss", "strand"],
    )
    assert draw.gene_lanes(genes, 0, 1_000) == ([0, 1, 0], True)
    assert draw.gene_lanes(genes, 0, 1_000_000) == ([0, 1, 2], True)
    many = pd.concat([genes] * 3)
    assert draw.gene_lanes(many, 0, 1_000_000) == ([0, 1, 1] * 3, False)  # by strand, without names


def test_what_cannot_be_drawn_is_said(toy: Toy) -> None:
    store = toy.open()
    with pytest.raises(NotFoundError, match="gene 'gene77'"):
        plot.plot_window(store, "gene77")
    with pytest.raises(QueryError, match="width is 5"):
        plot.plot_window(store, "G02", width=5)
    with pytest.raises(NotFoundError, match="no cell type 'C'"):
        plot.plot_window(store, "G02", ["C"])
    with pytest.raises(NotFoundError, match="no assay 'ATAC'"):
        plot.plot_window(store, "G02", assays=["ATAC"])
    with pytest.raises(NotFoundError, match="contacts 'A/microc'"):
        plot.plot_window(store, "G02", contacts=Contacts("microc"))
    with pytest.raises(RegionError, match="passes an end"):
        plot.plot_window(store, "chr1:10-90,000")


def test_a_picture_that_cannot_be_saved_is_an_error(toy: Toy, tmp_path: Path) -> None:
    store = toy.open()
    with pytest.raises(QueryError, match=r"should end in \.png"):
        plot.plot_window(store, "G02", width=100, path=tmp_path / "a.bed")
    with pytest.raises(WriteError, match="cannot be written: No such file"):
        plot.plot_window(store, "G02", width=100, path=tmp_path / "absent" / "a.png")
    plot.plot_window(store, "G02", width=100, path=tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_without_matplotlib_the_error_says_how_to_get_it(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(QueryError, match=r"pip install 'genostore\[plot\]'"):
        plot.plot_window(toy.open(), "G02")


def test_matplotlib_is_imported_on_use_alone() -> None:
    code = "import sys, genostore.plot, genostore.draw; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_matplotlib_settings_are_left_alone(toy: Toy) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot.plot_window(toy.open(), "G02", width=1_000)
    assert dict(matplotlib.rcParams) == before


def test_content_lists_every_dataset(toy: Toy, tmp_path: Path) -> None:
    store = toy.open()
    cells, rows = plot.content(store)
    assert cells == ["A", "B"]
    labels = [row.label for row in rows]
    assert labels == ["DNase (background)", "H3K27ac (foreground)", "RNA+", "RNA-", "hic contacts", "CAGE expression"]
    assert rows[4].values["A"] == (1.0, f"{BIN} bp bins")
    figure = plot.plot_content(store, tmp_path / "content.png")
    assert set(labels) <= texts(figure)
