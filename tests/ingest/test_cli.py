"""The commands, as a person types them: what they print, and how they end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import genostore
from genostore.cli import genostore as program
from genostore.errors import GenostoreError
from ingest.progress import Bar, Lines, WatchBar, WatchLines

from .small import EVERYTHING, TRACKS, Small, write_bigwig
from .test_run import tree


def call(*arguments: str | Path, code: int = 0) -> str:
    """Run a command; what it raises on purpose is its message."""
    result = CliRunner().invoke(program, [str(a) for a in arguments])
    if isinstance(result.exception, GenostoreError):
        assert code == 1
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def store(small: Small) -> Path:
    return small.folder.parent / "s.zarr"


def test_ingest_says_what_it_does_and_again_that_it_is_done(small: Small, store: Path) -> None:
    catalogue = small.catalogue(EVERYTHING)
    said = call("ingest", catalogue, store)
    assert "note: genes: left out 1 gene of genes.gtf" in said
    assert "[8/10] tracks/K562/DNase written; " in said
    assert f"{store}: 10 written" in said
    said = call("ingest", catalogue, store)
    assert "[8/10] tracks/K562/DNase is there already\n" in said
    assert f"{store}: 10 there already" in said


def test_a_dry_run_lists_and_writes_nothing(small: Small, store: Path) -> None:
    catalogue = small.catalogue(TRACKS)
    said = call("ingest", catalogue, store, "--dry-run")
    assert "assembly small, 3 contigs, 8,701 bases" in said
    assert "tracks/K562/DNase  new        35.8 kB from dnase.bw (" in said
    assert "2 of 2 nodes to write: 44.8 kB of values, about " in said
    assert not store.exists()
    call("ingest", catalogue, store)
    changed = small.catalogue(TRACKS.replace("background", "foreground"))
    said = call("ingest", changed, store, "--dry-run")
    assert "sequence           there " in said
    assert "tracks/K562/DNase  differs " in said


def test_a_conflict_needs_overwrite(small: Small, store: Path) -> None:
    call("ingest", small.catalogue(TRACKS), store)
    catalogue = small.catalogue(TRACKS.replace("background", "foreground"))
    said = call("ingest", catalogue, store, code=1)
    assert "role is 'background' there and 'foreground' here" in said
    assert "1 written, 1 there already" in call("ingest", catalogue, store, "--overwrite")


def test_add_verify_export(small: Small, store: Path) -> None:
    catalogue = small.catalogue(TRACKS)
    call("ingest", catalogue, store)
    said = call("add", store, small.folder / "rna.bedgraph", "--cell-type", "H1", "--assay", "RNA", "--strand", "+")
    assert f"{store}: 1 written" in said
    said = call("add", store, small.folder / "hic.cool", "--cell-type", "H1", "--assay", "hic", "--weight", "weight")
    assert f"{store}: 1 written" in said
    assert "all is well" in call("verify", store, "--against", catalogue, "--deep")
    out = small.folder.parent / "x.bw"
    assert call("export", store, "tracks/H1/RNA+", out) == f"{out}\n"
    assert out.is_file()
    write_bigwig(small.folder / "dnase.bw", {"chr1": 5_000}, {"chr1": small.dnase["chr2"]})
    said = call("verify", store, "--against", catalogue, code=1)
    assert "tracks/K562/DNase: " in said
    assert "differ from the source; chr1:0: " in said or "differ from the source; chr1:" in said


def test_options_that_are_wrong(small: Small, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.workers._TIMEOUT", "0.5s")
    call("ingest", small.catalogue(TRACKS), store)
    file = small.folder / "dnase.bw"
    options = ("--cell-type", "A", "--assay", "x")
    assert "--alias 'one' is not NAME=CONTIG" in call("add", store, file, *options, "--alias", "one", code=1)
    assert "workers is 0; it is 1 or more" in call("add", store, file, *options, "--workers", "0", code=1)
    assert "did you mean 'tracks/K562/DNase'" in call("export", store, "tracks/K562/DNAse", "x.bw", code=1)
    said = call("ingest", small.catalogue(EVERYTHING), store, "--scheduler", "tcp://127.0.0.1:9", code=1)
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:9'" in said


def test_the_program_prints_one_clean_message(small: Small, store: Path) -> None:
    catalogue = small.catalogue(TRACKS.replace("role:", "rolle:").replace("dnase.bw", "dnsae.bw"))
    command = [sys.executable, "-m", "genostore", "ingest", str(catalogue), str(store)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: 2 problems in ")
    assert "catalog.yaml:4: tracks[0].rolle: unknown key; did you mean 'role'?" in result.stderr
    assert "dnsae.bw; did you mean 'dnase.bw'?" in result.stderr
    assert not store.exists()


def test_a_cluster_writes_the_same_bytes(small: Small, store: Path) -> None:
    from distributed import LocalCluster

    call("ingest", small.catalogue(TRACKS), store)
    other = store.with_name("other.zarr")
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        call("ingest", small.catalogue(TRACKS), other, "--scheduler", cluster.scheduler_address)
    assert tree(other) == tree(store)
    assert list(genostore.open(other).entries) == ["sequence", "tracks/K562/DNase"]


def test_plain_lines_tell_rate_and_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 30.0, 30.0, 60.0, 60.0])
    monkeypatch.setattr("ingest.progress.time.monotonic", lambda: next(clock))
    lines = Lines()
    lines.start(2, 100_000_000)
    lines.advance(50_000_000)
    lines.finish("tracks/A/x", "written")
    assert capsys.readouterr().err.splitlines() == [
        "[0/2] 50%, 2 MB/s, 30 s left",
        "[1/2] tracks/A/x written; 50%, 1 MB/s, 1:00 min left",
    ]


def test_downloads_are_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    watch = WatchLines()
    for done in (0, 1_000_000, 2_000_000):
        watch.fetch("a.bw", done, 2_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "fetching a.bw: 0.0 MB of 2.0 MB (0%)",
        "fetching a.bw: 2.0 MB of 2.0 MB (100%)",
    ]


def test_bars_on_a_terminal() -> None:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), force_terminal=True, width=120)
    with Bar(console) as bar:
        bar.start(1, 100)
        bar.begin("tracks/A/x")
        bar.advance(100)
        bar.finish("tracks/A/x", "written")
    with WatchBar(console) as watch:
        watch.look("a.bw")
        watch.fetch("b.bw", 5, 10)
        watch.fetch("b.bw", 10, 10)
    assert "tracks/A/x written" in console.file.getvalue()
    assert "fetching b.bw" in console.file.getvalue()
