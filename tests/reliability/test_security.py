"""A test for each line of docs/security.md."""

from __future__ import annotations

import ast
import json
import logging
import re
from pathlib import Path

import google_crc32c
import numcodecs.zstd
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import genostore
import ingest
from genostore import index, text
from genostore.cli import genostore as commands
from genostore.errors import CatalogueError, CorruptionError, FormatError, GenostoreError, SourceError
from genostore.schema import KEY
from genostore.seal import seal
from genostore.staging import collect
from ingest.catalogue import load
from ingest.fetch import fetch, redact
from tests.ingest.small import TRACKS, build_small
from tests.reliability.world import build

ROOT = Path(__file__).parents[2]


def test_nothing_in_the_code_unpickles_or_evaluates() -> None:
    refused = {("pickle", "load"), ("pickle", "loads"), ("yaml", "load"), ("yaml", "unsafe_load"), ("os", "system")}
    for package in ("genostore", "ingest", "prism_model"):
        for path in (ROOT / package).rglob("*.py"):
            for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
                if isinstance(call.func, ast.Name):
                    assert call.func.id not in ("eval", "exec", "__import__"), path
                elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
                    name = (call.func.value.id, call.func.attr)
                    assert name not in refused, path
                    said = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
                    if name == ("torch", "load"):
                        assert said.get("weights_only") is True, path
                    if name == ("np", "load"):
                        assert said.get("allow_pickle") is not True, path
                    assert not said.get("shell"), path


def test_a_catalogue_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("version: 1\nassembly: !!python/object/apply:os.system ['touch run']\n")
    with pytest.raises(CatalogueError, match="tag"):
        load(path)
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["../../x", "..", ".hidden", "/etc", "a/b", "a\\b", "a\tb", "", "zarr.json", "C:x"])
def test_a_catalogues_names_stay_in_the_store(tmp_path: Path, name: str) -> None:
    small = build_small(tmp_path)
    for key in ("cell_type", "assay"):
        entry = {"cell_type": "A", "assay": "x", "source": "dnase.bw", key: name}
        path = small.catalogue(f"tracks: [{json.dumps(entry)}]\n")
        with pytest.raises(CatalogueError, match=key):
            load(path)
    with pytest.raises(CatalogueError):
        ingest.add(tmp_path / "s.zarr", small.folder / "dnase.bw", cell_type=name, assay="x") if (
            ingest.run(ingest.plan(small.catalogue(""), tmp_path / "s.zarr"))
        ) else None


@pytest.mark.parametrize("node", ["../../x", "/etc/passwd", "tracks/../../x", "tracks/.genostore", "a\0b", "tracks//x"])
def test_a_stores_names_stay_in_the_store(tmp_path: Path, node: str) -> None:
    _, store = build(tmp_path / "w", TRACKS)
    storage, outside = genostore.open(store).storage, tmp_path / "x"
    outside.mkdir()
    with pytest.raises(FormatError, match="no path of a store"):
        genostore.open(store).array(node)
    result = CliRunner().invoke(commands, ["rm", str(store), node])
    assert isinstance(result.exception, GenostoreError)
    index.write(storage, {**index.read(storage), node: {"kind": "track"}})
    with pytest.raises(FormatError, match=r"no path of a store"):
        genostore.open(store).entries  # noqa: B018
    assert outside.is_dir()


def test_gc_follows_no_link_out_of_the_store(tmp_path: Path) -> None:
    _, store = build(tmp_path / "w", TRACKS)
    thesis = tmp_path / "home" / "thesis"
    thesis.mkdir(parents=True)
    for name in ("staging", "retired", "tmp"):
        folder = store / ".genostore" / name
        folder.rmdir() if folder.is_dir() and not any(folder.iterdir()) else None
        if not folder.exists():
            folder.symlink_to(tmp_path / "home")
            with pytest.raises(FormatError, match="is a link to another folder"):
                collect(genostore.open(store).storage, grace=0)
            folder.unlink()
    assert thesis.is_dir()


def test_bombs_are_bounded(tmp_path: Path) -> None:
    def summed(data: bytes) -> bytes:
        return data + google_crc32c.value(data).to_bytes(4, "little")

    many = summed(numcodecs.zstd.compress((1 << 31).to_bytes(4, "little") + b"....", 1))
    with pytest.raises(ValueError, match="does not hold 3 texts"):
        text.decode(many, 3)
    large = summed(numcodecs.zstd.compress(bytes(1 << 24), 1))
    with pytest.raises(ValueError, match="claims 16,777,216 bytes for 3 texts"):
        text.decode(large, 3)
    _, store = build(tmp_path / "w", TRACKS)
    path = store / "tracks/K562/DNase/zarr.json"
    document = json.loads(path.read_text())
    for change in (
        {"shape": [1 << 60]},
        {"shape": [-1]},
        {"shape": [1.5]},
        {"shape": []},
        {"dimension_names": ["position"] * 9},
    ):
        path.write_bytes(seal({**document, **change}, "tracks/K562/DNase/zarr.json"))
        with pytest.raises(FormatError, match="not of this format"):
            genostore.open(store).array("tracks/K562/DNase")
    deep = b'{"attributes": ' + b"[" * 100_000
    path.write_bytes(deep)
    with pytest.raises(CorruptionError, match="damaged"):
        genostore.open(store).array("tracks/K562/DNase")
    (store / "index.json").write_bytes(deep)
    with pytest.raises(FormatError, match="reindex"):
        genostore.open(store).entries  # noqa: B018
    (store / "zarr.json").write_bytes(deep)
    with pytest.raises(FormatError, match="damaged"):
        genostore.open(store)


@pytest.mark.parametrize("node", ["sequence", "tracks/K562/DNase"])
def test_an_array_shorter_than_the_genome_is_refused(tmp_path: Path, node: str) -> None:
    _, store = build(tmp_path / "w", TRACKS)
    opened = genostore.open(store)
    contig, length = next(reversed(opened.contigs.items()))
    regions = pd.DataFrame({"contig": [contig], "start": [length - 200], "end": [length - 100]})
    windows = opened.windows(regions=regions, width=100)
    path = store / node / "zarr.json"
    document = json.loads(path.read_text())
    path.write_bytes(seal({**document, "shape": [4_096]}, f"{node}/zarr.json"))
    with pytest.raises(CorruptionError, match=r"has 4,096 positions, and the genome of the store \d"):
        windows.read([0])


def test_a_chunk_that_unpacks_to_more_than_its_extent_is_refused(tmp_path: Path) -> None:
    _, store = build(tmp_path / "w")
    chunk = store / "features/length/c/0"
    frame = numcodecs.zstd.compress(bytes(1 << 26), 1)
    chunk.write_bytes(frame + google_crc32c.value(frame).to_bytes(4, "little"))
    with pytest.raises(CorruptionError):
        genostore.open(store).array("features/length").read()


def test_a_catalogue_that_expands_is_bounded(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]" for i in range(8)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    with pytest.raises(CatalogueError, match="once its aliases are expanded"):
        load(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "source", ["javascript:x", "file:///etc/passwd", "data:,x", "ssh://h/x", "jar:x", "gopher://h/x"]
)
def test_schemes_that_are_not_listed_are_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(SourceError, match="unknown scheme"):
        fetch(source, cache=tmp_path)
    small = build_small(tmp_path)
    with pytest.raises(CatalogueError, match="unknown scheme"):
        load(small.catalogue(f"tracks: [{{cell_type: A, assay: x, source: '{source}', md5: {'0' * 32}}}]\n"))


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@127.0.0.1:9/a.bw",
        f"http://127.0.0.1:9/a.bw?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}",
        f"ftp://user:{SECRET}@127.0.0.1:9/a.bw",
        f"http://user:{SECRET}@[bad/a.bw",
    ],
)
def test_credentials_reach_neither_messages_nor_logs_nor_files(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.fetch.download.PAUSE", 0.0)
    with caplog.at_level(logging.INFO), pytest.raises(SourceError) as caught:
        fetch(url, cache=tmp_path)
    assert SECRET not in str(caught.value)
    assert SECRET not in redact(url)
    assert SECRET not in caplog.text
    for path in tmp_path.rglob("*"):
        assert SECRET not in str(path)
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_a_checkpoint_is_read_without_executing(tmp_path: Path) -> None:
    import pickle

    torch = pytest.importorskip("torch")
    from prism_model import Prism

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "run",)

    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"state_dict": {"x": Evil()}}, tmp_path / "zip.ckpt")
    for name in ("evil.ckpt", "zip.ckpt"):
        with pytest.raises(Exception, match=r"."):
            Prism.from_official(tmp_path / name, center_length=2_000, context_activation="sigmoid")
    assert not (tmp_path / "run").exists()


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    _, store = build(tmp_path / "w", TRACKS)
    path = store / "tracks/K562/DNase/zarr.json"
    document = json.loads(path.read_text())
    for dtype in ("object", "O", "variable_length_bytes"):
        path.write_bytes(seal({**document, "data_type": dtype}, "tracks/K562/DNase/zarr.json"))
        with pytest.raises(GenostoreError):
            genostore.open(store).array("tracks/K562/DNase").read()
    small = genostore.open(store)
    assert small.root.to_json()["attributes"][KEY]["kind"] == "store"
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(tmp_path / "x.npz")["a"]


def test_each_line_of_the_threat_model_names_a_test_that_is_here() -> None:
    lines = (ROOT / "docs/security.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "`test_" in line]
    here = {name for name in globals() if name.startswith("test_")}
    here |= set(re.findall(r"def (test_\w+)", (ROOT / "tests/reliability/test_fuzz.py").read_text()))
    here |= set(re.findall(r"def (test_\w+)", (ROOT / "tests/reliability/test_corruption.py").read_text()))
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert set(named) <= here, set(named) - here
