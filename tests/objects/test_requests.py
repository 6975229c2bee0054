"""How many requests things take; docs/object_stores.md states these numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import genostore
from genostore import index
from genostore.genome import Genome
from genostore.schema import position_array
from genostore.staging import Staging, create
from genostore.storage import Storage
from tests.genostore.conftest import Toy

from .conftest import S3
from .server import BUCKET, connect


def test_opening_a_store_of_a_thousand_tracks_takes_two_requests(s3: S3, toy: Toy, tmp_path: Path) -> None:
    local = create(tmp_path / "many.zarr", toy.genome)
    entry = next(e for e in toy.open().entries.values() if e["kind"] == "track")
    many = {
        f"tracks/c{i // 10}/a{i % 10}": entry | {"cell_type": f"c{i // 10}", "assay": f"a{i % 10}"}
        for i in range(1_000)
    }
    index.write(local, many)
    url = s3.upload(tmp_path / "many.zarr", "many.zarr")
    with s3.proxy.counted() as requests:
        store = genostore.open(url)
        assert len(store.tracks) == 1_000
        assert len(store.cell_types) == 100
    assert [method for method, _ in requests] == ["GET", "GET"]


def test_a_batch_asks_for_its_tracks_alone_and_neighbours_in_one_request(s3: S3, tmp_path: Path, monkeypatch) -> None:
    """A track that is asked for costs its metadata once, each shard's index once, and then what a batch needs of it."""
    monkeypatch.setattr("genostore.schema.POSITION_SHARD", 65_536)
    genome = Genome.build("g", {"c": 65_536 * 4}, 4_096)
    storage = create(tmp_path / "s.zarr", genome)
    rng = np.random.default_rng(0)
    for name in [f"t{i}" for i in range(3, 8)]:
        schema = position_array(genome.length, genome.alignment, "float32", float("nan"))
        staging = Staging(storage, f"tracks/A/{name}", {"": schema}, "d")
        staging.begin()
        for block in staging.todo():
            staging.write(block, rng.random(65_536, dtype=np.float32)).wait()
        staging.publish({"kind": "track", "cell_type": "A", "assay": name, "role": None})
    local = genostore.open(tmp_path / "s.zarr")
    store = genostore.open(s3.upload(tmp_path / "s.zarr", "s.zarr"))
    starts = np.arange(8) * 4_096 + 1_000  # neighbours, all in the first shard
    import pandas as pd

    regions = pd.DataFrame({"contig": "c", "start": starts, "end": starts + 2_000})
    ask = {"regions": regions, "width": 2_000, "cell_types": ["A"], "assays": ["t3", "t7"], "sequence": False}
    windows = store.windows(**ask)
    with s3.proxy.counted() as first:
        got = windows.read(np.arange(8)).signal
    np.testing.assert_array_equal(got, local.windows(**ask).read(np.arange(8)).signal)
    # Two tracks: metadata, the index of the one shard, its chunks in one range; then whether it is still the same.
    assert s3.proxy.methods(first) == {"GET": 2 * 3, "HEAD": 2}
    assert not [path for _, path in first if "/t3/" not in path and "/t7/" not in path]
    far = pd.DataFrame({"contig": "c", "start": starts + 65_536, "end": starts + 65_536 + 2_000})
    windows = store.windows(**{**ask, "regions": far})
    with s3.proxy.counted() as second:
        windows.read(np.arange(8))
    assert s3.proxy.methods(second) == {"GET": 2 * 2, "HEAD": 2}


def test_listing_stands_on_folders_not_on_shards(s3: S3, toy: Toy) -> None:
    storage = Storage.of(s3.upload(toy.path, "toy.zarr"))
    connect(s3.upstream).delete_object(Bucket=BUCKET, Key=f"{s3.prefix}/toy.zarr/index.json")
    with s3.proxy.counted() as requests:
        entries = index.read(storage)
    listings = [path for _, path in requests if "list-type=2" in path]
    groups = {node.rpartition("/")[0] for node in entries} | {"tracks", "contacts", "contacts/A", "contacts/A/hic"}
    assert len(listings) <= len(groups) + 6
    assert len(requests) - len(listings) <= len(entries) + len(groups) + 8
