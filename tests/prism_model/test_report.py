"""The report: its page, its pictures, and what it says of a run."""

from __future__ import annotations

import base64
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from genostore.errors import NotFoundError
from prism_model.cli import main
from prism_model.config import make_config
from prism_model.figures import predicted_against_observed, training_curves
from prism_model.page import Page
from prism_model.report import difference_of_errors, report
from prism_model.train import fit
from tests.prism_model.conftest import CELLS, WIDTH

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps."""
    sizes = ["model.d_model=8", "model.n_layer=1", "model.d_state=4", "train.steps=8", "train.batch_size=8"]
    config = make_config(overrides=[f"data.store={tiny_store}", f"data.width={WIDTH}", *sizes])
    return fit(config, tmp_path_factory.mktemp("runs") / "tiny", device="cpu", say=lambda line: None)


class Outline(HTMLParser):
    """Checks that tags close in order, and gathers what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.images += tag == "img"
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(path: Path) -> Outline:
    """Parse a page."""
    parser = Outline()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.open == []
    return parser


def texts(figure: object) -> set[str]:
    """Everything written on a figure."""
    from matplotlib.text import Text

    return {t.get_text() for t in figure.findobj(Text)} - {""}  # type: ignore[attr-defined]


def test_a_page_holds_everything_and_escapes_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PIXEL)
    page = Page("A < B")
    page.heading("Section & more")
    page.text("Run `a <b>` now", soft=True)
    page.tiles([("0.5", "MSE")])
    page.table(["name", "value"], [["x<y", "1,234.5"], [None, 3]], stressed=[1])
    page.picture(tmp_path / "a.png", 'a "pixel"', "It is `one` pixel.")
    page.commands(["a > b", "c"])
    page.write(tmp_path / "page.html")
    found = outline(tmp_path / "page.html")
    assert found.images == 1
    assert all(r.startswith("data:image/png;base64,") for r in found.references)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>A &lt; B</h1>" in text
    assert "<p class=soft>Run <code>a &lt;b&gt;</code> now</p>" in text
    assert '<td>x&lt;y</td><td class="number">1,234.5</td>' in text
    assert '<tr class=stressed><td></td><td class="number">3</td></tr>' in text
    assert "a &gt; b\nc" in text
    assert not re.search(r"https?:", text)


def test_training_curves_show_losses_and_both_branches() -> None:
    step = np.arange(40)
    training = pd.DataFrame({"step": step, "prediction": 1 / (1 + step), "total": 2 / (1 + step)})
    validation = pd.DataFrame({"step": [10, 20], "original": [0.4, 0.3], "adjusted": [0.5, np.nan]})
    figure = training_curves(training, validation, 20, {"mean": 0.6, "ridge": 0.45})
    written = texts(figure)
    assert {
        "prediction",
        "total",
        "original branch",
        "adjusted branch",
        "mean (baseline)",
        "checkpoint kept",
    } <= written
    lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
    assert lines["original branch"].get_xydata().tolist() == [[10, 0.4], [20, 0.3]]
    assert lines["adjusted branch"].get_xydata().tolist() == [[10, 0.5]]
    assert lines["ridge (baseline)"].get_ydata()[0] == pytest.approx(0.45)


def test_scatters_share_a_scale_and_state_their_errors() -> None:
    observed = np.array([0.0, 1.0, 2.0, 3.0])
    predictions = {"original branch": observed + 0.5, "mean (baseline)": np.full(4, 1.5)}
    figure = predicted_against_observed(observed, predictions, ["K562", "GM12878"] * 2, "log10(1 + CAGE)")
    written = texts(figure)
    assert "MSE 0.250\nPearson r 1.000\nn = 4" in written
    assert "MSE 1.250\nPearson r not defined\nn = 4" in written
    assert {"K562", "GM12878", "predicted log10(1 + CAGE)"} <= written
    first, second = figure.axes
    assert first.get_xlim() == first.get_ylim() == second.get_xlim()


def test_a_report_shows_the_store_a_window_training_and_predictions(run: Path, tmp_path: Path) -> None:
    lead = "genostore ingest catalog.yaml tiny.zarr"
    page = report(run, tmp_path / "out", commands=[lead], device="cpu")
    assert page == tmp_path / "out" / "report.html"
    pictures = {"store.png", "neighbourhood.png", "window.png", "training.png", "predictions.png"}
    assert {p.name for p in page.parent.iterdir()} == {*pictures, "report.html"}
    found = outline(page)
    assert found.images == len(pictures)
    assert all(r.startswith("data:image/png;base64,") for r in found.references)
    text = page.read_text(encoding="utf-8")
    for expected in (lead, "prism report", "genostore plot", "What the store holds", "Predicted against observed"):
        assert expected in text
    for cell in CELLS:
        assert f"{cell}.H3K27ac.bw" in text
    scores = json.loads((run / "metrics" / "test.json").read_text())["scores"]
    assert set(scores) == {"original", "adjusted", "mean", "ridge"}
    for groups in scores.values():
        assert f"{groups['all']['mse']:.4f}" in text
        assert f"<b>{groups['all']['mse']:.3f}</b>" in text


def test_a_report_of_another_architecture_speaks_of_that(tiny_store: Path, tmp_path: Path) -> None:
    sizes = ["model.name=cnn", "model.d_model=8", "model.n_layer=1", "train.steps=4", "train.batch_size=8"]
    config = make_config(overrides=[f"data.store={tiny_store}", f"data.width={WIDTH}", *sizes])
    run = fit(config, tmp_path / "cnn", device="cpu", say=lambda line: None)
    text = report(run, tmp_path / "out", device="cpu").read_text(encoding="utf-8")
    assert "predicted by the model cnn" in text
    assert not any(word in text for word in ("Prism", "djusted", "alpha = "))


def test_a_report_evaluates_only_what_is_older_than_the_checkpoint(run: Path, tmp_path: Path) -> None:
    report(run, tmp_path / "a", device="cpu")
    scores = run / "metrics" / "test.json"
    before = scores.stat().st_mtime_ns
    result = CliRunner().invoke(main, ["report", str(run), "--out", str(tmp_path / "b"), "--gene", "gene50"])
    assert result.exit_code == 0, result.output
    assert scores.stat().st_mtime_ns == before
    assert "<code>gene50</code>" in (tmp_path / "b" / "report.html").read_text(encoding="utf-8")
    os.utime(scores, (0, 0))
    report(run, tmp_path / "b", device="cpu")
    assert scores.stat().st_mtime_ns > before


def test_what_cannot_be_reported_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="not the folder of a run"):
        report(tmp_path, tmp_path / "out")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(NotFoundError, match="no checkpoint yet"):
        report(unfinished, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_difference_of_errors_resamples_genes() -> None:
    rng = np.random.default_rng(0)
    gene = np.repeat([f"g{i}" for i in range(200)], 2)
    observed = rng.normal(size=400)
    table = pd.DataFrame(
        {"gene": gene, "observed": observed, "good": observed + 0.1, "bad": observed + rng.normal(size=400)}
    )
    difference, low, high = difference_of_errors(table, "good", "bad")
    assert difference == pytest.approx(((table.good - observed) ** 2 - (table.bad - observed) ** 2).mean())
    assert low < difference < high < 0
    assert difference_of_errors(table, "good", "good") == (0, 0, 0)
