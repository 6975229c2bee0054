"""Packs are written whole or not at all, go on after a kill, and are refused when they are stale."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import genostore
from genostore import Contacts, packing
from genostore.errors import ConflictError, QueryError, StaleError
from genostore.packing import layout
from genostore.staging import Staging

from .conftest import BIN, Toy, build_toy, write_positions

QUERY = {"width": 400, "jitter": 30, "contacts": "hic"}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHARD_BYTES", 2**14)


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


KILLED = """
    import os, signal, sys
    import genostore
    from genostore import packing
    from genostore.staging import Staging

    packing.SHARD_BYTES = 2**14
    write, written = Staging.write, []

    def killing(self, *arguments, **options):
        if len(written) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        pending = write(self, *arguments, **options)
        if self.node in ("signal", "sequence", "contacts"):
            written.append(pending.wait())
        return pending

    Staging.write = killing
    genostore.open(sys.argv[1]).windows(width=400, jitter=30, contacts="hic").pack(sys.argv[2], workers=1)
"""


def test_a_killed_run_goes_on_where_it_stopped(
    toy: Toy, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = toy.open().windows(**QUERY)
    undisturbed = windows.pack(tmp_path / "whole", workers=1)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(toy.path), str(tmp_path / "killed"), "4"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    written: list[tuple[str, int]] = []
    write = Staging.write

    def counting(self: Staging, block: int, *arguments: object, **options: object) -> object:
        if self.node in ("signal", "sequence", "contacts"):
            written.append((self.node, block))
        return write(self, block, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Staging, "write", counting)
    seen: list[tuple[int, int]] = []
    path = windows.pack(tmp_path / "killed", workers=2, progress=lambda done, total: seen.append((done, total)))
    total = sum(genostore.open(path).array(p).schema.n_blocks for p in ("sequence", "signal", "contacts"))
    assert len(written) == total - 4 > 2
    assert seen[-1] == (total, total)
    assert seen[0][0] > 4
    assert content(path) == content(undisturbed)
    assert sorted(p.name for p in tmp_path.iterdir() if "partial" in p.name) == []


def test_work_of_another_query_is_not_continued(toy: Toy, tmp_path: Path, small_shards: None) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(toy.path), str(tmp_path / "p"), "4"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    windows = toy.open().windows(width=300)
    assert content(windows.pack(tmp_path / "p")) == content(windows.pack(tmp_path / "q"))


def test_workers_do_not_change_the_bytes(toy: Toy, tmp_path: Path, small_shards: None) -> None:
    windows = toy.open().windows(**QUERY)
    assert content(windows.pack(tmp_path / "a", workers=1)) == content(windows.pack(tmp_path / "b", workers=3))
    with pytest.raises(QueryError, match="workers is 0"):
        windows.pack(tmp_path / "c", workers=0)


def replace_track(toy: Toy, seed: int) -> None:
    values = {c: np.full_like(v, seed) for c, v in toy.tracks["A", "DNase"].items()}
    storage = toy.open().storage
    schema = toy.open().array("tracks/A/DNase").schema
    staging = Staging(storage, "tracks/A/DNase", {"": schema}, f"other {seed}")
    staging.begin()
    axis = np.full(toy.genome.length, np.nan, dtype=np.float32)
    for contig in toy.genome:
        axis[contig.offset : contig.offset + contig.length] = values[contig.name]
    for block in staging.todo():
        staging.write(block, axis[schema.slices(block)]).wait()
    attributes = {"kind": "track", "cell_type": "A", "assay": "DNase", "strand": None, "role": "background"}
    staging.publish(attributes, overwrite=True)


def test_a_pack_knows_when_its_tracks_have_changed(own_toy: Toy, tmp_path: Path) -> None:
    query = {"width": 100, "assays": ["DNase", "H3K27ac"]}
    path = own_toy.open().windows(**query).pack(tmp_path / "p")
    inside = own_toy.open().windows(**query).pack(own_toy.path / "packs" / "p")
    other = own_toy.open().windows(width=100, assays=["H3K27ac"]).pack(tmp_path / "other")
    for source in (own_toy.path, own_toy.open()):
        genostore.open(path, source=source)
    genostore.open(inside)
    replace_track(own_toy, 1)
    message = "tracks/A/DNase has other content .generation 1, now 2.*Pack again"
    with pytest.raises(StaleError, match=message):
        genostore.open(path, source=own_toy.path)
    with pytest.raises(StaleError, match=message):
        genostore.open(inside)
    with pytest.raises(StaleError, match=r"tracks/A/DNase has other content .generation 1, now 2.*use overwrite"):
        own_toy.open().windows(**query).pack(path)
    genostore.open(other, source=own_toy.path)  # it was not cut from that track
    assert genostore.open(path).windows(**query).read([0]).signal.shape == (1, 100, 2)  # by itself it is what it was
    own_toy.open().windows(**query).pack(path, overwrite=True)
    batch = genostore.open(path, source=own_toy.path).windows(**query).read([2])
    np.testing.assert_array_equal(batch.signal[0, :, 0], 1)
    shutil.rmtree(own_toy.path / "tracks/B/H3K27ac")
    (own_toy.path / "index.json").unlink()
    with pytest.raises(StaleError, match="tracks/B/H3K27ac is not there"):
        genostore.open(path, source=own_toy.path)


def test_a_pack_of_another_store_is_refused(toy: Toy, tmp_path: Path) -> None:
    other = build_toy(tmp_path / "other.zarr", seed=1)
    path = toy.open().windows(width=100).pack(tmp_path / "p")
    with pytest.raises(StaleError, match=r"was not cut from what .*other.zarr holds: .*has other content"):
        genostore.open(path, source=other.path)
    with pytest.raises(StaleError, match=r"the pack at .* is another: .*has other content"):
        other.open().windows(width=100).pack(path)
    with pytest.raises(QueryError, match="source= goes with a pack"):
        genostore.open(toy.path, source=other.path)


def test_a_track_that_changes_meanwhile_is_no_part_of_a_pack(
    own_toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = own_toy.open().windows(width=100)
    check = packing._check_unchanged

    def late(plan: packing.Packing) -> None:
        replace_track(own_toy, 2)  # after the last shard was read
        check(plan)

    monkeypatch.setattr(packing, "_check_unchanged", late)
    with pytest.raises(StaleError, match="changed while it was packed: tracks/A/DNase"):
        windows.pack(tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_one_writer_at_a_time(toy: Toy, tmp_path: Path) -> None:
    from genostore.disk import lock

    windows = toy.open().windows(width=100)
    with lock(tmp_path / ".p.lock", "the pack"), pytest.raises(ConflictError, match="another process is writing"):
        windows.pack(tmp_path / "p")


def test_float16_says_what_it_lost(toy: Toy, tmp_path: Path) -> None:
    windows = toy.open().windows(width=100, jitter=5)
    pack = genostore.open(windows.pack(tmp_path / "p", dtype="float16", compress=True))
    exact, half = windows.read(range(18)).signal, pack.windows(width=100).read(range(18)).signal
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, exact.astype(np.float16).astype(np.float32))
    whole = toy.open().windows(width=110).read(range(20)).signal
    error = np.abs(whole.astype(np.float16).astype(np.float32) - whole)
    maxima = pack.array("signal").attributes["maxima"]
    assert maxima["max_absolute_error"] == np.nanmax(error) > 0
    assert maxima["max_relative_error"] == pytest.approx(np.nanmax(error / np.abs(whole)))


def test_float16_refuses_what_overflows_it(own_toy: Toy, tmp_path: Path) -> None:
    values = {c: np.zeros(n, dtype=np.float32) for c, n in own_toy.open().contigs.items()}
    values["chr1"][1_520] = 7e4
    attributes = {"kind": "track", "cell_type": "A", "assay": "big", "strand": None, "role": None}
    write_positions(own_toy.open().storage, own_toy.genome, "tracks/A/big", values, np.nan, attributes)
    windows = own_toy.open().windows(cell_types="A", assays=["DNase", "big"], width=100)
    with pytest.raises(QueryError, match=r"70000.0 of A/big about gene G02 overflows float16.*pack as float32"):
        windows.pack(tmp_path / "p", dtype="float16")
    with pytest.raises(QueryError, match="dtype of a pack is 'float64'"):
        windows.pack(tmp_path / "p", dtype="float64")
    windows.pack(tmp_path / "p")


def test_a_pack_of_a_pack(toy: Toy, tmp_path: Path) -> None:
    query = {"width": 200, "jitter": 20, "contacts": Contacts("hic", BIN, kind="matrix")}
    first = genostore.open(toy.open().windows(**query).pack(tmp_path / "p"))
    smaller = {"width": 200, "cell_types": ["B"], "assays": ["RNA"], "genes": ["G04", "G09"]}
    path = first.windows(**smaller).pack(tmp_path / "q", dtype="float16")
    second = genostore.open(path, source=toy.path)  # it knows where the values came from at first
    a, b = toy.open().windows(**smaller).read([1, 0]), second.windows(**smaller).read([1, 0])
    np.testing.assert_array_equal(a.signal.astype(np.float16).astype(np.float32), b.signal)
    np.testing.assert_array_equal(a.sequence, b.sequence)


def test_missing_tracks_and_contigs_narrower_than_the_margin(own_toy: Toy, tmp_path: Path) -> None:
    shutil.rmtree(own_toy.path / "tracks/B/DNase")
    genostore.index.rebuild(own_toy.open().storage)
    query = {"width": 2_900, "jitter": 100, "missing_tracks": "nan"}  # chr2 has 3,001 bases
    pack = genostore.open(own_toy.open().windows(**query).pack(tmp_path / "p"))
    for shift in (-100, 37, 100):
        a, b = own_toy.open().windows(**query).read(range(20), shift), pack.windows(**query).read(range(20), shift)
        for part in ("sequence", "signal", "left_pad", "right_pad"):
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
    assert np.isnan(b.signal[1, :, pack.assays.index("DNase")]).all()
    with pytest.raises(QueryError, match="has no track B/DNase"):
        pack.windows(width=100)


def test_regions_are_not_packed(toy: Toy, tmp_path: Path) -> None:
    bed = tmp_path / "x.bed"
    bed.write_text("chr1\t100\t200\n")
    with pytest.raises(QueryError, match="regions cannot be packed"):
        toy.open().windows(regions=bed, width=50).pack(tmp_path / "p")


@pytest.mark.parametrize(
    ("shape", "itemsize", "tile", "shard"),
    [
        ((20_000, 1, 3, 2_064), 4, (1, 1, 3, 2_064), (1_354, 1, 3, 2_064)),
        ((20_000, 2, 3, 2_064), 2, (1, 1, 3, 2_064), (1_354, 2, 3, 2_064)),
        ((20_000, 2_064), 1, (1, 2_064), (16_256, 2_064)),
        ((20_000, 3, 41), 4, (8, 3, 41), (68_192, 3, 41)),
        ((100, 50, 30, 200_000), 4, (1, 1, 1, 8_000), (1, 1, 30, 200_000)),
        ((100, 3, 41, 41), 4, (1, 1, 41, 41), (100, 3, 41, 41)),
    ],
)
def test_layout(shape: tuple[int, ...], itemsize: int, tile: tuple[int, ...], shard: tuple[int, ...]) -> None:
    found = layout(shape, itemsize)
    assert found[0] == tile
    assert all(s % t == 0 for t, s in zip(*found, strict=True))
    assert found[1] == tuple(min(a, -(-n // t) * t) for a, n, t in zip(shard, shape, tile, strict=True))


def test_the_command_packs(toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "p"
    command = [
        sys.executable,
        "-m",
        "genostore",
        "pack",
        str(toy.path),
        str(out),
        "--width",
        "50",
        "--dtype",
        "float16",
    ]
    environment = {**os.environ, "COLUMNS": "200"}
    subprocess.run([*command, "--workers", "2"], check=True, env=environment)
    assert genostore.open(out, source=toy.path).description["dtype"] == "float16"
    again = subprocess.run([*command[:-1], "float32"], capture_output=True, text=True, env=environment, check=False)
    assert again.returncode != 0
    assert "it has dtype 'float16', and 'float32' is asked for" in " ".join(again.stderr.split())
