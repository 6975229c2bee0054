"""Nodes appear whole or not at all, resume where they stopped, and are replaced under readers' eyes."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import genostore
from genostore import index
from genostore.errors import ConflictError, FormatError, StaleError, WriteError
from genostore.genome import Genome
from genostore.schema import position_array
from genostore.staging import Staging, collect, create, remove, writer_lock
from genostore.storage import Storage

from .conftest import Toy, build_toy, write_positions

GENOME = Genome.build("t", {"c1": 70_000, "c2": 30_000}, 16)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genostore.schema.POSITION_SHARD", 16_384)


def stage(storage: Storage, node: str = "tracks/A/x", digest: str = "d") -> tuple[Staging, np.ndarray]:
    schema = position_array(GENOME.length, 16, "float32", float("nan"))
    values = np.arange(GENOME.length, dtype=np.float32)
    values[16_384:40_000] = np.nan
    return Staging(storage, node, {"": schema}, digest), values


def write(staging: Staging, values: np.ndarray, blocks: list[int]) -> None:
    for block in blocks:
        staging.write(block, values[staging.arrays[""].slices(block)[0]]).wait()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_nothing_shows_before_publication(tmp_path: Path) -> None:
    storage = create(tmp_path / "s", GENOME)
    staging, values = stage(storage)
    staging.begin()
    write(staging, values, staging.todo())
    assert len(genostore.open(tmp_path / "s").tracks) == 0
    staging.publish({"kind": "track", "cell_type": "A", "assay": "x"})
    store = genostore.open(tmp_path / "s")
    np.testing.assert_array_equal(store.track("A", "x").read(), values)
    assert store.track("A", "x").attributes["shards"]["index"] == [0, 2, 3, 4, 5, 6]
    assert not list((tmp_path / "s/.genostore/staging").iterdir())


def test_a_resumed_node_is_byte_for_byte_the_same(tmp_path: Path) -> None:
    for name, stops in (("whole", [7]), ("resumed", [1, 3, 3, 7])):
        storage = create(tmp_path / name, GENOME)
        for stop in stops:
            staging, values = stage(storage)  # as a new process would
            staging.begin()
            write(staging, values, [b for b in staging.todo() if b < stop])
        staging.publish({"kind": "track", "cell_type": "A", "assay": "x"})
    whole, resumed = contents(tmp_path / "whole/tracks"), contents(tmp_path / "resumed/tracks")
    assert whole == resumed
    assert index.read(Storage.of(tmp_path / "whole")) == index.read(Storage.of(tmp_path / "resumed"))


def test_work_of_another_digest_is_not_continued(tmp_path: Path) -> None:
    storage = create(tmp_path / "s", GENOME)
    staging, values = stage(storage)
    staging.begin()
    write(staging, values, [0, 1])
    assert staging.todo() == [2, 3, 4, 5, 6]
    other, _ = stage(storage, digest="other")
    other.begin()
    assert other.todo() == list(range(7))


def test_an_unfinished_node_cannot_be_published(tmp_path: Path) -> None:
    staging, values = stage(create(tmp_path / "s", GENOME))
    staging.begin()
    write(staging, values, [0])
    with pytest.raises(FormatError, match=r"shards \[1, 2, 3, 4, 5, 6\] are not written"):
        staging.publish({"kind": "track"})


def test_values_of_another_shape_are_refused(tmp_path: Path) -> None:
    staging, values = stage(create(tmp_path / "s", GENOME))
    staging.begin()
    with pytest.raises(FormatError, match=r"shard 0 of tracks/A/x/ is float32 \(16384,\)"):
        staging.write(0, values)


def test_publishing_over_a_node_needs_to_be_asked_for(own_toy: Toy) -> None:
    storage = own_toy.open().storage
    with pytest.raises(ConflictError, match=r"tracks/A/DNase is already in .*use --overwrite"):
        write_positions(
            storage, own_toy.genome, "tracks/A/DNase", own_toy.tracks["A", "DNase"], np.nan, {"kind": "track"}
        )


def overwrite(toy: Toy, value: float) -> None:
    values = np.full(toy.genome.length, value, dtype=np.float32)
    schema = position_array(toy.genome.length, toy.genome.alignment, "float32", float("nan"))
    staging = Staging(toy.open().storage, "tracks/A/DNase", {"": schema}, "new")
    staging.begin()
    write(staging, values, staging.todo())
    attributes = {"kind": "track", "cell_type": "A", "assay": "DNase", "role": None}
    staging.publish(attributes, overwrite=True)


def test_an_open_reader_is_told_of_an_overwrite(own_toy: Toy) -> None:
    store = own_toy.open()
    windows = store.windows(cell_types="A", assays=["DNase", "H3K27ac"], width=100)
    windows.read([0, 1])
    for generation in (2, 3):
        overwrite(own_toy, float(generation))
        with pytest.raises(StaleError, match=r"tracks/A/DNase of .* was overwritten while it was open"):
            windows.read([0, 1])
        windows = own_toy.open().windows(cell_types="A", assays=["DNase"], width=100)
        assert windows.store.tracks.generation.max() == generation
        assert (windows.read([1]).signal == generation).all()


def test_an_open_reader_is_told_of_a_removal(own_toy: Toy) -> None:
    store = own_toy.open()
    signal = store.signal("chr1", ["A"], ["DNase"])
    signal.compute()
    remove(store.storage, "tracks/A/DNase")
    with pytest.raises(StaleError, match="was removed while it was open"):
        signal.compute()
    assert "DNase" not in own_toy.open().tracks.query("cell_type == 'A'").assay.tolist()
    overwrite(own_toy, 1.0)
    assert own_toy.open().entries["tracks/A/DNase"]["generation"] == 2


def test_gc_deletes_what_is_retired_and_nothing_else(own_toy: Toy) -> None:
    storage = own_toy.open().storage
    overwrite(own_toy, 1.0)
    staging, _ = stage(storage, "tracks/A/left")
    staging.begin()
    before = contents(own_toy.path / "tracks")
    assert collect(storage, grace=3_600) == ["staged tracks/A/left"]
    assert collect(storage, grace=0) == ["retired tracks/A/DNase@1"]
    assert collect(storage, grace=0) == []
    assert contents(own_toy.path / "tracks") == before


def test_the_index_can_be_made_anew(own_toy: Toy) -> None:
    storage = own_toy.open().storage
    before = index.read(storage)
    (own_toy.path / "index.json").unlink()
    assert index.read(storage) == before
    assert index.rebuild(storage) == before
    (own_toy.path / "index.json").write_text("{")
    with pytest.raises(FormatError, match="genostore reindex"):
        own_toy.open().tracks  # noqa: B018


def test_a_store_is_of_one_assembly(tmp_path: Path) -> None:
    create(tmp_path / "s", GENOME)
    create(tmp_path / "s", GENOME)
    with pytest.raises(ConflictError, match=r"holds assembly t .* and this is u"):
        create(tmp_path / "s", Genome.build("u", {"c1": 5}, 16))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("")
    with pytest.raises(ConflictError, match="a folder with other things in it"):
        create(tmp_path / "other", GENOME)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def _hold(path: str, started: multiprocessing.synchronize.Event, end: multiprocessing.synchronize.Event) -> None:
    with writer_lock(Storage.of(path), "tracks/A/x"):
        started.set()
        end.wait(60)


def test_two_writers_of_one_node(tmp_path: Path) -> None:
    storage = create(tmp_path / "s", GENOME)
    spawn = multiprocessing.get_context("spawn")
    started, end = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(storage.root, started, end))
    other.start()
    assert started.wait(60)
    with (
        pytest.raises(ConflictError, match="another process is writing tracks/A/x"),
        writer_lock(storage, "tracks/A/x"),
    ):
        pass
    with writer_lock(storage, "tracks/A/y"):
        pass
    other.kill()
    other.join()
    with writer_lock(storage, "tracks/A/x"):  # the lock of a dead process is free
        pass


def test_a_file_that_cannot_grow_is_told_plainly(tmp_path: Path) -> None:
    script = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.genostore.test_staging import GENOME, stage, write
from genostore.staging import create
staging, values = stage(create({str(tmp_path / "s")!r}, GENOME))
staging.begin()
values[:] = __import__("numpy").random.default_rng(0).random(len(values))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
write(staging, values, [0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "WriteError" in done.stderr
    assert "the limit on the size of files" in done.stderr


def test_a_read_only_folder_is_told_plainly(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    root = os.geteuid() == 0
    if root:  # to whom every folder is writable
        os.seteuid(65_534)
    try:
        with pytest.raises(WriteError, match="no permission to write there"):
            create(tmp_path / "s", GENOME)
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o700)


def test_attributes_hold_no_time_host_or_path(tmp_path: Path) -> None:
    toys = [build_toy(tmp_path / name) for name in ("one", "two")]
    one, two = ({k: v for k, v in contents(t.path).items() if not k.startswith(".genostore")} for t in toys)
    assert one == two
    assert len(json.loads(one["index.json"])["nodes"]) == 1 + 8 + 2 + 1 + 4 + 1 + 1
