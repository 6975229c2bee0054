"""The guides do what they say: the code of each page runs, top to bottom, on a small simulated store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import ingest
from ingest.simulate import simulate

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``store.zarr`` lies."""
    path = tmp_path_factory.mktemp("guides")
    ingest.run(ingest.plan(simulate(path / "data", genes=60), path / "store.zarr"))
    return path


def run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the page's blocks of Python in one namespace, and give what they left."""
    monkeypatch.chdir(folder)
    text = (GUIDES / page).read_text()
    names: dict[str, Any] = {"__name__": page}
    for match in re.finditer(r"^```python\n(.*?)^```", text, flags=re.M | re.S):
        blank = "\n" * text.count("\n", 0, match.start(1))  # so that a traceback names the page's own line
        exec(compile(blank + match[1], str(GUIDES / page), "exec"), names)
    return names


def test_cnn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("cnn.md", folder, monkeypatch)
    assert sum(names["losses"][-2:]) < sum(names["losses"][:2]) / 2
    assert names["predicted"].shape == names["observed"].shape


def test_contact_maps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("contact_maps.md", folder, monkeypatch)
    assert (names["expected"][:8].diff() < 0).all()  # contacts fall with the distance
    for out, wanted, mask in names["outs"]:
        assert out.shape == wanted.shape == mask.shape == (len(out), names["BINS"], names["BINS"])
        assert torch.equal(mask, mask.transpose(1, 2))
        torch.testing.assert_close(out, out.transpose(1, 2))
        assert not mask.all()
    for batch in names["valid"]:
        assert (batch.contact_origin == 0).all()  # the first bin of the contacts is the window's first


def test_xarray(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xbatcher")
    names = run("xarray.md", folder, monkeypatch)
    profile = names["profile"].sel(assay="H3K27ac").sum("bin")
    assert float(profile.sel(quarter="highest quarter")) > float(profile.sel(quarter="lowest quarter"))
    assert (folder / "profiles.png").stat().st_size > 10_000


def test_every_guide_is_tried() -> None:
    assert {path.name for path in GUIDES.glob("*.md")} == {"cnn.md", "contact_maps.md", "xarray.md"}
