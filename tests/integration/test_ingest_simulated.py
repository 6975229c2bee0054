"""From the simulator's files to windows: the path of the demo, and every value on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import genostore
import ingest
from ingest.simulate import simulate


def test_a_simulation_is_ingested_verified_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENOSTORE_CACHE", str(tmp_path / "cache"))
    catalogue = simulate(tmp_path / "files", genes=40, cell_types=2, seed=3)
    planned = ingest.plan(catalogue, tmp_path / "s.zarr")
    outcome = ingest.run(planned)
    assert set(outcome.written) == {node.path for node in planned.nodes}
    report = ingest.verify(tmp_path / "s.zarr", deep=True, against=catalogue)
    assert report.ok, str(report)
    assert report.compared == report.values

    store = genostore.open(tmp_path / "s.zarr")
    assert store.cell_types == ["cellA", "cellB"]
    assert set(store.genes["split"]) == {"train", "valid", "test"}
    windows = store.windows(assays=["H3K27ac", "DNase"], contacts="hic", expression="CAGE", features="all", width=500)
    batch = windows.read(np.arange(8))
    assert batch.signal.shape == (8, 500, 2)
    assert np.isfinite(batch.target).all()
    exported = ingest.export(store, "tracks/cellA/RNA+", tmp_path / "rna.bw")
    ingest.add(store.path, exported, cell_type="cellB", assay="RNA", strand="+")
    again = genostore.open(store.path)
    assert again.entries["tracks/cellB/RNA+"]["crc32c"] == again.entries["tracks/cellA/RNA+"]["crc32c"]
