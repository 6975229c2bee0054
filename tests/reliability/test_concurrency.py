"""Many at one store at once, the order of writes that a loss of power needs, and disks that refuse."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import genostore
import ingest
from genostore import index
from genostore.disk import exchange
from genostore.errors import ConflictError, SourceError, StaleError, WriteError
from genostore.staging import collect, remove, writer_lock
from tests.ingest.small import TRACKS, build_small
from tests.reliability.together import overwritten, together
from tests.reliability.world import build, tree

ROOT = Path(__file__).parents[2]


def program(text: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


ADD = """
import sys, ingest
from genostore.errors import GenostoreError
try:
    done = ingest.add(sys.argv[1], sys.argv[2], cell_type=sys.argv[3], assay="DNase")
    print("written" if done.written else "kept")
except GenostoreError as error:
    print(type(error).__name__, error)
"""

READ = """
import os, sys, time, numpy as np, genostore
good, ended = np.load(sys.argv[2]), time.monotonic() + 300
seen = set()
while time.monotonic() < ended and not os.path.exists(sys.argv[3]):
    store = genostore.open(sys.argv[1])
    for node, entry in store.entries.items():
        if entry["kind"] == "track":
            assert np.array_equal(store.array(node).read(), good, equal_nan=True), node
            seen.add(node)
print(len(seen))
"""


def test_some_write_different_tracks_and_two_the_same_while_one_reads(tmp_path: Path) -> None:
    small, store = build(tmp_path / "w", TRACKS)
    np.save(tmp_path / "good.npy", genostore.open(store).track("K562", "DNase").read())
    reader = program(READ, store, tmp_path / "good.npy", tmp_path / "written")
    cells = [f"C{i}" for i in range(4)] + ["same", "same"]
    writers = [program(ADD, store, small.folder / "dnase.bw", cell) for cell in cells]
    said = [w.communicate(timeout=300)[0].strip() for w in writers]
    (tmp_path / "written").touch()
    assert said[:4] == ["written"] * 4, said
    assert sorted(s.split()[0] for s in said[4:])[-1] == "written"
    other = next(s for s in said[4:] if s != "written") if said[4:] != ["written"] * 2 else "both written"
    assert other == "kept" or "another process is writing tracks/same/DNase" in other, other
    out, error = reader.communicate(timeout=120)
    assert reader.returncode == 0, error
    assert int(out) >= 1
    assert ingest.verify(store).ok
    assert len(genostore.open(store).tracks) == 6


def test_a_training_run_among_writers_is_as_if_alone(tmp_path: Path) -> None:
    row = together(tmp_path, writers=2)
    assert row.good, row.notes


def test_a_training_run_whose_track_is_overwritten_is_told(tmp_path: Path) -> None:
    row = overwritten(tmp_path)
    assert row.good, row.notes


def test_a_store_object_never_mixes_generations(tmp_path: Path) -> None:
    small, store = build(tmp_path / "w")
    seen = genostore.open(store)
    assert len(seen.entries) == 10  # what is in it is known, and no array is open
    catalogue = small.folder / "catalog.yaml"
    changed = catalogue.read_text().replace("role: background", "role: foreground")
    catalogue.write_text(changed.replace("max_distance: 1000", "max_distance: 500"))
    maps = seen.contacts("K562", "hic")
    ingest.run(ingest.plan(catalogue, store), overwrite=True)
    with pytest.raises(StaleError, match=r"tracks/K562/DNase .* was overwritten after the store was opened"):
        seen.track("K562", "DNase")
    with pytest.raises(StaleError, match="was overwritten while it was open"):
        maps.matrix("chr1", weight="weight")
    assert genostore.open(store).contacts("K562", "hic").max_distance == 500
    before = genostore.open(store)
    assert "regions/blacklist" in before.entries
    remove(before.storage, "regions/blacklist")
    with pytest.raises(StaleError, match="was removed after the store was opened"):
        before.regions("blacklist")


def test_a_swap_is_one_step(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    assert exchange(tmp_path / "one", tmp_path / "two") == (sys.platform == "linux")
    if sys.platform == "linux":
        assert (tmp_path / "one/x").read_text() == "two"


def test_rm_and_gc_refuse_while_a_writer_is_at_work_and_delete_nothing_else(tmp_path: Path) -> None:
    _, store = build(tmp_path / "w")
    storage = genostore.open(store).storage
    remove(storage, "tracks/K562/RNA+")
    left = store / ".genostore/staging/tracks%2FK562%2Fx@0123"
    left.mkdir(parents=True)
    with writer_lock(storage, "tracks/K562/DNase"):
        with pytest.raises(ConflictError, match="another process is writing tracks/K562/DNase"):
            remove(storage, "tracks/K562/DNase")
        with pytest.raises(ConflictError, match="another process is writing tracks/K562/DNase"):
            collect(storage, grace=0)
        assert left.is_dir()
    before = tree(store)
    with pytest.raises(ConflictError, match="lie along the genes"):
        remove(storage, "genes")
    assert collect(storage, grace=3_600) == ["staged tracks/K562/x"]
    assert collect(storage, grace=0) == ["retired tracks/K562/RNA+@1"]
    assert tree(store) == before
    assert ingest.verify(store).ok


def test_a_removal_that_was_killed_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store = build(tmp_path / "w", TRACKS)
    storage = genostore.open(store).storage
    with monkeypatch.context() as patch:
        patch.setattr("genostore.folder.Folder.retire", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remove(storage, "tracks/K562/DNase")
    assert list(genostore.open(store).entries) == ["sequence"]
    remove(storage, "tracks/K562/DNase")
    assert not (store / "tracks/K562/DNase").exists()
    assert ingest.verify(store).ok


@pytest.mark.skipif(not Path("/usr/bin/strace").exists(), reason="needs strace, to see the order of system calls")
def test_all_is_on_the_disk_before_it_is_renamed_into_sight(tmp_path: Path) -> None:
    small, store = build(tmp_path / "w", "")
    trace = tmp_path / "trace"
    options = ["-f", "-y", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2", "-o", str(trace)]
    tried = subprocess.run(["strace", "true"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip("strace may not trace here")
    command = [sys.executable, "-c", ADD, str(store), str(small.folder / "dnase.bw"), "H1"]
    done = subprocess.run(["strace", *options, *command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "written", done.stderr
    calls = [line for line in trace.read_text().splitlines() if str(store) in line]
    published = next(i for i, c in enumerate(calls) if "rename" in c and c.count('tracks/H1/DNase"') == 1)
    staged = "/.genostore/staging/tracks%2FH1%2FDNase@"
    before, after = calls[:published], calls[published + 1 :]

    def synced(lines: list[str], end: str) -> bool:
        return any("sync(" in line and line.split("<")[1].split(">")[0].endswith(end) for line in lines)

    for name in ("/node/c/0", "/node/zarr.json", "/node/c", "/node"):
        assert any(staged in c and synced([c], name) for c in before), f"{name} is not synchronised before the rename"
    assert synced(before, "/tracks"), "the new folder tracks/H1 is not durable before a node goes into it"
    indexed = next(i for i, c in enumerate(after) if "rename" in c and 'index.json"' in c)
    assert synced(after[:indexed], "/tracks/H1"), "the rename is not durable before the index tells of it"
    assert synced(after[indexed:], str(store)), "the index is not durable"


def test_a_clock_that_is_set_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, store = build(tmp_path / "w", TRACKS)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    seen = genostore.open(store).track("K562", "DNase")
    old = seen.read()
    for path in (store / "tracks/K562/DNase/zarr.json", small.folder / "dnase.bw"):
        os.utime(path, ns=(0, 0))
    with pytest.raises(StaleError):
        seen.read()
    ingest.run(ingest.plan(small.catalogue(TRACKS.replace("background", "foreground")), store), overwrite=True)
    np.testing.assert_array_equal(genostore.open(store).track("K562", "DNase").read(), old)
    assert collect(genostore.open(store).storage, grace=0) == []  # what seems to be of the future is kept


def test_a_source_that_is_replaced_with_its_old_times_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingest.nodes.track import TrackNode

    small = build_small(tmp_path)
    plan, original = ingest.plan(small.catalogue(TRACKS), tmp_path / "s.zarr"), TrackNode.read

    def meddle(self: TrackNode, name: str, block: int) -> object:
        found, file = original(self, name, block), small.folder / "dnase.bw"
        status, data = file.stat(), file.read_bytes()
        file.write_bytes(data[:-8] + bytes(4) + data[-4:])
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        return found

    monkeypatch.setattr(TrackNode, "read", meddle)
    with pytest.raises(SourceError, match=r"dnase.bw: changed while tracks/K562/DNase was made"):
        ingest.run(plan)


def test_permission_that_is_lost_midway_is_told_and_what_is_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = build_small(tmp_path)
    plan = ingest.plan(small.catalogue(TRACKS), tmp_path / "s.zarr")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("genostore.folder.sync_tree", refuse)
        with pytest.raises(WriteError, match="no permission to write there"):
            ingest.run(plan)
    assert list(genostore.open(tmp_path / "s.zarr").entries) == []
    ingest.run(ingest.plan(small.catalogue(TRACKS), tmp_path / "s.zarr"))
    assert ingest.verify(tmp_path / "s.zarr").ok


def test_reindex_remembers_what_was_removed(tmp_path: Path) -> None:
    small, store = build(tmp_path / "w", TRACKS)
    storage = genostore.open(store).storage
    remove(storage, "tracks/K562/DNase")
    index.rebuild(storage)
    ingest.run(ingest.plan(small.catalogue(TRACKS), store))
    assert genostore.open(store).entries["tracks/K562/DNase"]["generation"] == 2
