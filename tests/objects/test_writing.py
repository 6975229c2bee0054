"""Writers on S3: every command, many at once, killed at any moment, and readers who watch."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import genostore
import ingest
from genostore import index
from genostore.cli import genostore as program
from genostore.errors import ConflictError, CorruptionError, StaleError
from genostore.objects import Bucket
from genostore.staging import Staging, collect, create, remove, writer_lock
from genostore.storage import PRIVATE
from tests.genostore.conftest import Toy, write_positions
from tests.ingest.small import EVERYTHING, TRACKS, Small, build_small

from .conftest import S3

KILLS = int(os.environ.get("GENOSTORE_KILLS", "6"))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    monkeypatch.setenv("GENOSTORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sources").mkdir()
    return build_small(tmp_path / "sources")


def _in_environment(environment: dict[str, str], function: Any, arguments: tuple[Any, ...], answer: Any) -> None:
    os.environ.update(environment)
    try:
        answer.put(function(*arguments))
    except Exception as error:  # whoever waits for the answer is to be told of any
        answer.put(error)


def _ingest(catalogue: str, store: str, overwrite: bool = False) -> tuple[str, ...]:
    return ingest.run(ingest.plan(catalogue, store), overwrite=overwrite).written


def _add(store: str, file: str, cell_type: str) -> tuple[str, ...]:
    return ingest.add(store, file, cell_type=cell_type, assay="x").written


class Elsewhere:
    """Runs functions in processes of their own, that start quickly."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["ingest", "ingest.run", "tests.objects.test_writing", "tests.warm"])

    def start(self, function: Any, *arguments: Any) -> tuple[Any, Any]:
        environment = {k: v for k, v in os.environ.items() if k.startswith(("AWS_", "GENOSTORE_"))}
        answer = self.context.SimpleQueue()
        process = self.context.Process(target=_in_environment, args=(environment, function, arguments, answer))
        process.start()
        return process, answer


@pytest.fixture(scope="module")
def elsewhere() -> Elsewhere:
    return Elsewhere()


def content(url: str) -> dict[str, bytes]:
    storage = Bucket.at(url)
    keys = [key for key in storage.keys("") if not key.startswith(PRIVATE)]
    return dict(zip(keys, storage.map(storage.read, keys), strict=True))


def test_every_command(s3: S3, small: Small, tmp_path: Path) -> None:
    def call(*arguments: object) -> str:
        done = CliRunner().invoke(program, [str(a) for a in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert "test-secret-key" not in done.output
        return done.output

    url, catalogue = s3.url("s.zarr"), small.catalogue(EVERYTHING)
    assert "written" in call("ingest", catalogue, url)
    assert "there already" in call("ingest", catalogue, url)
    assert "1 written" in call("add", url, small.folder / "rna.bedgraph", "--cell-type", "H1", "--assay", "RNA")
    assert "K562" in call("info", url)
    assert "all is well" in call("verify", url, "--against", catalogue)
    call("slice", url, tmp_path / "w.npz", "--cell-types", "K562", "--assays", "DNase", "--width", "100")
    call("export", url, "tracks/K562/DNase", tmp_path / "x.bw")
    call("plot", url, "one", "--out", tmp_path / "x.png", "--width", "200")
    pack = s3.url("p.zarr")
    call("pack", url, pack, "--cell-types", "K562", "--assays", "DNase", "--width", "100")
    cut = {"cell_types": ["K562"], "assays": ["DNase"], "width": 100}
    one, two = (genostore.open(place).windows(**cut) for place in (url, pack))
    np.testing.assert_array_equal(one.read([0, 1]).signal, two.read([0, 1]).signal)
    call("rm", url, "tracks/H1/RNA")
    assert "retired tracks/H1/RNA@1" in call("gc", url, "--grace", "0")
    assert "nodes" in call("reindex", url)
    assert "all is well" in call("verify", url)
    local = tmp_path / "local.zarr"
    call("ingest", catalogue, local)
    on_disk = {f.relative_to(local).as_posix(): f.read_bytes() for f in local.rglob("*") if f.is_file()}
    on_s3 = content(url)
    nodes = {key: raw for key, raw in on_disk.items() if key != "index.json" and not key.startswith(PRIVATE)}
    assert {key: on_s3.get(key) for key in nodes} == nodes  # byte for byte


def test_eight_processes_fill_one_store(s3: S3, small: Small, elsewhere: Elsewhere) -> None:
    url = s3.url("s.zarr")
    ingest.run(ingest.plan(small.catalogue(""), url))
    file = str(small.folder / "rna.bedgraph")
    started = [elsewhere.start(_add, url, file, f"C{k}") for k in range(8)]
    while any(process.is_alive() for process, _ in started):
        for cell in genostore.open(url).cell_types:  # what shows is whole
            genostore.open(url).track(cell, "x").read()
    assert [answer.get() for _, answer in started] == [(f"tracks/C{k}/x",) for k in range(8)]
    store = genostore.open(url)
    assert store.cell_types == [f"C{k}" for k in range(8)]
    assert index.rebuild(store.storage) == store.entries


def test_of_two_who_write_one_track_one_wins_and_the_other_says_so(s3: S3, small: Small, elsewhere: Elsewhere) -> None:
    url = s3.url("s.zarr")
    ingest.run(ingest.plan(small.catalogue(""), url))
    files = [str(small.folder / "rna.bedgraph"), str(small.folder / "dnase.bw")]
    started = [elsewhere.start(_add, url, file, "C") for file in files]
    answers = [answer.get() for _, answer in started]
    won = [a for a in answers if a == ("tracks/C/x",)]
    lost = [a for a in answers if isinstance(a, ConflictError)]
    assert (len(won), len(lost)) == (1, 1), answers
    assert (
        "another process is writing tracks/C/x" in str(lost[0])
        or "is already in" in str(lost[0])
        or ("would change" in str(lost[0]))
    )
    genostore.open(url).track("C", "x").read()


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_at_any_moment_and_run_again(s3: S3, small: Small, elsewhere: Elsewhere, overwrite: bool) -> None:
    url, whole, catalogue = s3.url("killed.zarr"), s3.url("whole.zarr"), small.catalogue(TRACKS)
    if overwrite:
        for place in (url, whole):
            ingest.run(ingest.plan(catalogue, place))
        values = (small.folder / "dnase.bw").read_bytes()
        (small.folder / "rna.bw").write_bytes(values)
        catalogue = small.catalogue(TRACKS.replace("role: background", "role: foreground"))
    began = time.monotonic()
    process, answer = elsewhere.start(_ingest, str(catalogue), whole, overwrite)
    assert isinstance(answer.get(), tuple)
    process.join()
    took = time.monotonic() - began
    kills, dice = max(KILLS // 2, 1), random.Random(7 + overwrite)
    for _ in range(kills):
        process, _ = elsewhere.start(_ingest, str(catalogue), url, overwrite)
        time.sleep(dice.random() * took * 0.9)
        process.kill()
        process.join()
        if Bucket.at(url).read("zarr.json") is not None:
            store = genostore.open(url)
            for node in store.entries:
                try:
                    store.array(node).read()
                except (StaleError, CorruptionError) as error:
                    # Killed between the old node and the new, or between the nodes and the index: told, never mixed.
                    if not overwrite or not (isinstance(error, StaleError) or "is listed but not there" in str(error)):
                        raise
    process, answer = elsewhere.start(_ingest, str(catalogue), url, overwrite)
    got = answer.get()
    assert isinstance(got, tuple), got
    process.join()
    assert content(url) == content(whole)
    assert collect(Bucket.at(url), 0) == []  # nothing was left, of the replaced node neither
    assert content(url) == content(whole)


def write(storage: Any, toy: Toy, value: float, overwrite: bool = False) -> None:
    schema = genostore.schema.position_array(toy.genome.length, toy.genome.alignment, "float32", float("nan"))
    staging = Staging(storage, "tracks/A/x", {"": schema}, f"digest of {value}")
    with writer_lock(storage, "tracks/A/x"):
        staging.begin()
        for block in staging.todo():
            size = schema.slices(block)[0]
            staging.write(block, np.full(size.stop - size.start, value, dtype=np.float32)).wait()
        staging.publish({"kind": "track", "cell_type": "A", "assay": "x", "role": None}, overwrite=overwrite)


def test_an_open_reader_sees_the_old_data_or_is_told(s3: S3, toy: Toy) -> None:
    storage = create(s3.url("s.zarr"), toy.genome)
    write(storage, toy, 1.0)
    for generation in (2, 3):
        track = genostore.open(storage.root).track("A", "x")
        assert (track.read() == generation - 1).all()
        seen = []

        def look(request: str, track: Any = track, seen: list = seen) -> None:
            """At every request of the writer, from another connection."""
            if request.startswith(("PUT", "POST", "DELETE")) and "/tracks/A/x/" in request:
                s3.proxy.hook = None
                try:
                    seen.append(float(np.unique(track.read()).item()))
                except StaleError:
                    seen.append("stale")
                s3.proxy.hook = look

        s3.proxy.hook = look
        write(storage, toy, float(generation), overwrite=True)
        s3.proxy.hook = None
        assert seen
        assert set(seen) <= {float(generation - 1), "stale"}
        with pytest.raises(StaleError, match="was overwritten while it was open"):
            track.read()
    track = genostore.open(storage.root).track("A", "x")
    remove(storage, "tracks/A/x")
    with pytest.raises(StaleError, match="was removed while it was open"):
        track.read()
    assert genostore.open(storage.root).entries == {}
    assert collect(storage, 3_600) == []
    assert collect(storage, 0) == ["retired tracks/A/x@3"]
    assert not storage.keys("tracks/A/x")


def test_a_lock_left_by_the_dead_lapses_and_one_that_is_held_does_not(
    s3: S3, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genostore.leases.LEASE", 4.0)
    storage = create(s3.url("s.zarr"), toy.genome)
    key = f"{PRIVATE}/locks/tracks%2FA%2Fx.lock"
    left = {"owner": "someone", "lease": 2.0, "host": "far", "machine": "another", "pid": 1, "started": "1"}
    storage.put(key, json.dumps(left).encode())
    with pytest.raises(ConflictError, match=r"another process is writing tracks/A/x .* on far; .* lapses"):
        write(storage, toy, 1.0)
    with pytest.raises(ConflictError, match="another process is writing tracks/A/x"):
        collect(storage, 0)
    with storage.lock("tracks/A/x", "tracks/A/x", wait=60):  # it lapses after two seconds of the server's clock
        time.sleep(6)  # longer than a lease: it is renewed
        with pytest.raises(ConflictError), writer_lock(Bucket.at(storage.root), "tracks/A/x"):
            pass
    write(storage, toy, 1.0)


def test_a_writer_who_lost_its_lock_publishes_nothing(s3: S3, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from genostore import leases

    storage = create(s3.url("s.zarr"), toy.genome)
    place = Bucket.publish

    def late(self: Bucket, *arguments: Any) -> None:
        leases._leases[storage.root, "tracks/A/x"].until = 0.0  # it slept through its lease
        place(self, *arguments)

    monkeypatch.setattr(Bucket, "publish", late)
    with pytest.raises(ConflictError, match=r"the lock on tracks/A/x of .* was lost"):
        write(storage, toy, 1.0)
    assert dict(index.scan(storage)) == {}
    monkeypatch.setattr(Bucket, "publish", place)
    write_positions(storage, toy.genome, "tracks/A/y", toy.tracks["A", "DNase"], np.nan, {"kind": "track"})
