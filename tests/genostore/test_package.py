"""What importing brings, and what the programs say."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from genostore.cli import genostore as program

from .conftest import Toy


def test_importing_is_light() -> None:
    script = "import sys, genostore; print([m for m in ('torch', 'dask', 'matplotlib') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_the_package_ingest_is_ours_alone() -> None:
    owners = importlib.metadata.packages_distributions()
    assert set(owners["ingest"]) == set(owners["genostore"]) == set(owners["prism_model"]) == {"genostore"}
    scripts = importlib.metadata.entry_points(group="console_scripts")
    assert "ingest" not in scripts.names


def run(*arguments: object) -> str:
    result = CliRunner().invoke(program, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_info(toy: Toy) -> None:
    output = run("info", toy.path)
    assert "3 contigs, 8,701 bases" in output
    assert "foreground" in output
    assert "A/hic/100" in output


def test_slice(toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "cut.npz"
    run("slice", toy.path, out, "--genes", "G01,gene2", "--width", 64, "--contacts", "hic:100:VC", "--resolution", 4)
    with np.load(out) as arrays:
        assert arrays["gene"].tolist() == ["G01", "G01", "G02", "G02"]
        assert arrays["signal"].shape == (4, 16, 4)


def test_pack_rm_gc_reindex(own_toy: Toy, tmp_path: Path) -> None:
    run("pack", own_toy.path, tmp_path / "p", "--width", 64, "--expression", "CAGE")
    assert "17 samples" not in run("info", tmp_path / "p")
    assert "removed tracks/A/DNase" in run("rm", own_toy.path, "tracks/A/DNase")
    assert "retired tracks/A/DNase@1" in run("gc", own_toy.path, "--grace", 0)
    assert run("reindex", own_toy.path).startswith("17 nodes")
    assert len(own_toy.open().tracks) == 7


@pytest.mark.parametrize("arguments", [["info", "absent.zarr"], ["rm", "STORE", "tracks/A/DNAse"]])
def test_errors_are_one_message(toy: Toy, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "genostore", *(str(toy.path) if a == "STORE" else a for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
