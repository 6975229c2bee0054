"""The format opens in other programs, and what is not of the format is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import xarray as xr
import zarr

import genostore
from genostore.errors import CorruptionError, FormatError
from genostore.schema import KEY, ArraySchema, check_name, position_array, track_name
from genostore.statistics import QUANTILE_RELATIVE_ERROR, Statistics

from .conftest import Toy


def axis(toy: Toy, track: dict[str, np.ndarray]) -> np.ndarray:
    out = np.full(toy.genome.length, np.nan, dtype=np.float32)
    for contig in toy.genome:
        out[contig.offset : contig.offset + contig.length] = track[contig.name]
    return out


@pytest.fixture
def quiet() -> object:
    """zarr-python warns of objects that are no part of the hierarchy: index.json and .genostore."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")
        yield


def test_zarr_python_opens_a_store(toy: Toy) -> None:
    group = zarr.open_group(toy.path, mode="r")
    for (cell, assay), track in toy.tracks.items():
        np.testing.assert_array_equal(group[f"tracks/{cell}/{assay}"][:], axis(toy, track))
    assert list(group["genes/id"][:]) == list(toy.genes["id"])
    assert group["genes/id"].metadata.dimension_names == ("gene",)


def test_xarray_opens_a_store(toy: Toy, quiet: object) -> None:
    with xr.open_datatree(toy.path, engine="zarr", consolidated=False) as tree:
        track = tree["tracks/A/DNase"]
        assert track.dims == ("position",)
        np.testing.assert_array_equal(track.values, axis(toy, toy.tracks["A", "DNase"]))
        assert tree["contacts/A/hic/100/band"].dtype == np.int32


def test_tensorstore_opens_every_numeric_array(toy: Toy) -> None:
    opened = 0
    for path in toy.path.rglob("zarr.json"):
        metadata = json.loads(path.read_text())
        if path.is_relative_to(toy.path / ".genostore") or metadata["node_type"] == "group":
            continue
        if metadata["data_type"] != "string":
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path.parent}/"}}
            array = ts.open(spec, open=True, read=True).result()
            ours = genostore.arrays.Array(toy.open().storage, str(path.parent.relative_to(toy.path)))
            np.testing.assert_array_equal(array.read().result(), ours.read())
            opened += 1
    assert opened == 1 + 8 + 2 * 2 + 3 + 2 + 3 + 2


def test_only_the_codecs_of_the_format_are_used(toy: Toy) -> None:
    used: set[str] = set()

    def walk(codecs: list[dict]) -> None:
        for codec in codecs:
            used.add(codec["name"])
            configuration = codec.get("configuration", {})
            walk(configuration.get("codecs", []))
            walk(configuration.get("index_codecs", []))

    for path in toy.path.rglob("zarr.json"):
        walk(json.loads(path.read_text()).get("codecs", []))
    assert used == {"bytes", "zstd", "crc32c", "sharding_indexed", "vlen-utf8"}


def test_an_unknown_version_is_refused_with_both_named(own_toy: Toy) -> None:
    root = own_toy.path / "zarr.json"
    metadata = json.loads(root.read_text())
    metadata["attributes"][KEY]["version"] = 9
    root.write_text(json.dumps(metadata))
    with pytest.raises(FormatError, match="format version 9, and this genostore reads version 1;"):
        own_toy.open()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="there is no such folder"):
        genostore.open(tmp_path / "absent.zarr")
    with pytest.raises(FormatError, match=r"holds no zarr\.json"):
        genostore.open(tmp_path)
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(FormatError, match="not a genostore store"):
        genostore.open(tmp_path / "other.zarr")
    with pytest.raises(FormatError, match="ftp:// URL"):
        genostore.open("ftp://host/hg38.zarr")
    with pytest.raises(FormatError, match="carries a user, a password") as caught:
        genostore.open("https://me:secret@host/hg38.zarr?X-Amz-Signature=abc")
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_contigs_that_do_not_follow_each_other_are_refused(own_toy: Toy) -> None:
    root = own_toy.path / "zarr.json"
    metadata = json.loads(root.read_text())
    metadata["attributes"][KEY]["contigs"][1]["offset"] += 1
    root.write_text(json.dumps(metadata))
    with pytest.raises(FormatError, match="does not follow the one before it"):
        own_toy.open()


def test_a_listed_shard_that_is_absent_is_an_error(own_toy: Toy) -> None:
    (own_toy.path / "tracks/A/DNase/c/0").unlink()
    windows = own_toy.open().windows(cell_types=["A"], assays=["DNase"], width=100)
    with pytest.raises(CorruptionError, match=r"tracks/A/DNase.*a shard that should be there is absent"):
        windows.read([0])


def test_a_flipped_bit_is_an_error(own_toy: Toy) -> None:
    shard = own_toy.path / "tracks/A/DNase/c/0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptionError, match="its bytes are damaged"):
        own_toy.open().signal("chr1", ["A"], ["DNase"]).compute()


def test_damaged_text_is_an_error(own_toy: Toy) -> None:
    chunk = own_toy.path / "genes/name/c/0"
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(CorruptionError, match="genes/name"):
        _ = own_toy.open().genes
    chunk.unlink()
    with pytest.raises(CorruptionError, match="genes/name"):
        _ = own_toy.open().genes


def test_schema_survives_json() -> None:
    schema = position_array(1_000_000, 16_384, "float32", float("nan"))
    again = ArraySchema.from_json(schema.to_json(), "here")
    assert again.to_json() == schema.to_json()
    with pytest.raises(FormatError, match="array here are not of this format"):
        ArraySchema.from_json({"shape": [1]}, "here")


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "a b", "", "é", "x\n"])
def test_names_that_could_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(FormatError, match="cannot be a name"):
        check_name(name, "cell type")


def test_track_names() -> None:
    assert [track_name("RNA", "+"), track_name("DNase", None, 2), track_name("RNA", "-", 1)] == [
        "RNA+",
        "DNase.rep2",
        "RNA-.rep1",
    ]


def test_statistics_do_not_depend_on_the_cut() -> None:
    rng = np.random.default_rng(0)
    values = rng.gamma(1, 10, 10_000).astype(np.float32)
    values[::7] = np.nan
    values[5] = np.inf
    values[6] = -3.0
    whole = Statistics.of(values).to_json(20_000)
    parts = Statistics.merge([Statistics.of(part) for part in np.array_split(values, 7)]).to_json(20_000)
    finite = values[np.isfinite(values)].astype(np.float64)
    for found in (whole, parts):
        assert found["covered"] == finite.size + 1
        assert found["coverage"] == (finite.size + 1) / 20_000
        assert (found["min"], found["max"], found["infinite"]) == (-3.0, finite.max(), 1)
        assert found["mean"] == pytest.approx(finite.mean())
        assert found["sd"] == pytest.approx(finite.std())
        for q, value in found["quantiles"].items():
            assert value == pytest.approx(
                np.quantile(finite, float(q), method="lower"), rel=2 * QUANTILE_RELATIVE_ERROR
            )


def test_statistics_of_silence() -> None:
    assert Statistics.of(np.full(5, np.nan, np.float32)).to_json(5) == {"coverage": 0.0, "covered": 0, "infinite": 0}


def test_codecs_of_no_use_here_are_refused() -> None:
    plain = ArraySchema((8,), ("gene",), "float32", np.nan, (4,), (8,), level=None)
    assert ArraySchema.from_json(plain.to_json(), "x").to_json() == plain.to_json()
    assert "zstd" not in str(plain.to_json())
    metadata = plain.to_json()
    metadata["codecs"][0]["configuration"]["codecs"].insert(1, {"name": "blosc", "configuration": {}})
    with pytest.raises(FormatError, match="array x has codecs bytes, blosc, crc32c"):
        ArraySchema.from_json(metadata, "x")
