"""The lean path to packs gives what TensorStore gives, and refuses what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import genostore
from genostore import packing
from genostore.arrays import Array, Reads
from genostore.errors import CorruptionError, QueryError
from genostore.genome import Genome
from genostore.schema import ArraySchema
from genostore.staging import Staging, create
from genostore.storage import Storage
from genostore.tiles import Tiles

from .conftest import Toy

SHAPES = {
    "sequence": (23, 70),
    "profile": (23, 4, 9),
    "signal": (23, 4, 5, 70),
    "matrix": (23, 4, 9, 9),
}
TILES = {  # tiles that divide nothing evenly, of one window and of several, and shards along genes and cell types
    "sequence": ((3, 32), (6, 96)),
    "profile": ((2, 2, 9), (6, 4, 9)),
    "signal": ((1, 1, 2, 33), (1, 2, 6, 99)),
    "matrix": ((1, 4, 4, 9), (4, 4, 12, 9)),
}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Packed arrays of every rank, type and codec, one shard of each being empty."""
    storage = create(tmp_path_factory.mktemp("tiles") / "s", Genome.build("t", {"c": 100}, 4))
    rng = np.random.default_rng(0)
    for part, shape in SHAPES.items():
        for dtype in ("float32", "float16", "uint8"):
            for level in (None, 1):
                fill: float = 4 if dtype == "uint8" else np.nan
                dims = ("gene", "cell_type", "assay", "position")[: len(shape)]
                tile, shard = TILES[part]
                schema = ArraySchema(shape, dims, dtype, fill, tile, shard, level)
                values = rng.integers(0, 200, shape).astype(dtype)
                if dtype != "uint8":
                    values[rng.random(shape) < 0.1] = np.nan
                values[schema.slices(1)] = fill
                staging = Staging(storage, f"{part}/{dtype}.{level}", {"": schema}, "d")
                staging.begin()
                for block in staging.todo():
                    staging.write(block, values[schema.slices(block)].copy()).wait()
                staging.publish({"kind": "packed"})
    return storage


@pytest.mark.parametrize("part", SHAPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_windows_equal_tensorstore(arrays: Storage, part: str, data: st.DataObject) -> None:
    dtype, level = data.draw(st.sampled_from(["float32", "float16", "uint8"])), data.draw(st.sampled_from([None, 1]))
    array = Array(arrays, f"{part}/{dtype}.{level}")
    assert Tiles.supports(array.schema)
    shape = SHAPES[part]
    n, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, shape[-1]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    gene = rng.integers(0, shape[0], n)
    cell = rng.integers(0, shape[1], n) if len(shape) > 2 else np.zeros(n, dtype=np.int64)
    channels = data.draw(st.integers(1, 6)) if len(shape) > 3 else 1
    channel = rng.integers(0, shape[2] + 1 if len(shape) > 3 else 1, (n, channels))
    low = rng.integers(0, shape[-1] - width + 3, n)  # some end past the array
    kind = np.dtype("float32" if dtype != "uint8" else dtype)
    out = np.full((n, channels, width), 77, dtype=kind)
    tiles, fill = (
        Tiles(str(arrays.path(array.path)), array.schema, array.stamp, array.present),
        data.draw(st.sampled_from([np.nan, -2])),
    )
    with Reads() as reads:
        reads.tasks(array, tiles.read(gene, cell, channel, low, out, fill))
    whole = array.read().astype(kind)  # by TensorStore
    if dtype != "uint8":
        whole[np.isnan(whole)] = fill
    for block in np.flatnonzero(~array.present):
        whole[array.schema.slices(block)] = 77  # what lies in an empty shard is left as it is
    whole = whole.reshape(*whole.shape[:-1], *[1] * (4 - whole.ndim), whole.shape[-1])
    padded = np.full((*whole.shape[:2], whole.shape[2] + 1, shape[-1] + 3), 77, dtype=kind)
    padded[:, :, :-1, :-3] = whole
    for i in range(n):
        np.testing.assert_array_equal(out[i], padded[gene[i], cell[i]][channel[i], low[i] : low[i] + width])


def test_compressed_packs_and_float16_and_shards_of_cell_types(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_BYTES", 2**12)
    query = {"width": 300, "jitter": 20, "contacts": "hic"}
    windows = toy.open().windows(**query)
    pack = genostore.open(windows.pack(tmp_path / "p", compress=True))
    assert pack.array("signal").schema.n_blocks > len(pack.genes)
    packed = pack.windows(**query)
    which = np.random.default_rng(0).integers(0, 20, 50)
    lean = packed.read(which, 20)
    for part in ("sequence", "signal", "contacts"):
        assert pack.tiles(part) is not None
        np.testing.assert_array_equal(getattr(lean, part), getattr(windows.read(which, 20), part))
    pack._tiles = dict.fromkeys(("sequence", "signal", "contacts"))  # what is left is TensorStore
    general = packed.read(which, 20)
    for part in ("sequence", "signal", "contacts"):
        np.testing.assert_array_equal(getattr(lean, part), getattr(general, part))
    np.testing.assert_array_equal(packed.read(which, 20, fill=-1).signal, np.nan_to_num(lean.signal, nan=-1))


def test_a_window_shifted_out_of_the_margin_is_an_error(toy: Toy, tmp_path: Path) -> None:
    pack = genostore.open(toy.open().windows(width=100, jitter=10).pack(tmp_path / "p"))
    windows = pack.windows(width=100)
    windows.read([0, 1], [10, -10])
    with pytest.raises(QueryError, match=r"about G01 is shifted by -11.*room for 10 either way"):
        windows.read([1, 2], [10, -11])
    assert pack.windows(width=90).read([0], 15).signal.shape == (1, 90, 4)


@pytest.fixture(scope="module")
def whole(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.open().windows(width=100, sequence=False).pack(tmp_path_factory.mktemp("whole") / "p", compress=True)


@pytest.mark.parametrize("how", ["data", "index", "shortened", "emptied", "absent"])
def test_damage_is_an_error_and_never_a_value(whole: Path, tmp_path: Path, how: str) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "p"))
    shard = path / "signal/c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    if how == "data":
        content[10] ^= 1
    elif how == "index":
        content[-40] ^= 1
    elif how == "shortened":
        del content[-500:]
    elif how == "emptied":
        content.clear()
    shard.unlink()
    if how != "absent":
        shard.write_bytes(content)
    pack = genostore.open(path)
    assert pack.tiles("signal") is not None
    message = "a shard that should be there is absent" if how == "absent" else "its bytes are damaged"
    with pytest.raises(CorruptionError, match=message):
        pack.windows(width=100, sequence=False).read(range(20))


def test_a_pack_that_is_replaced_is_noticed(toy: Toy, tmp_path: Path) -> None:
    path = toy.open().windows(width=100, jitter=5).pack(tmp_path / "p")
    windows = genostore.open(path).windows(width=100)
    windows.read([0])
    toy.open().windows(width=100).pack(path, overwrite=True)
    with pytest.raises(genostore.errors.StaleError, match="overwritten while it was open"):
        windows.read([0])
    shutil.rmtree(path)
    with pytest.raises(genostore.errors.StaleError, match="removed while it was open"):
        windows.read([0])


def test_zarr_python_reads_a_pack(toy: Toy, tmp_path: Path) -> None:
    windows = toy.open().windows(width=60, genes=["G03", "G08"])
    path = windows.pack(tmp_path / "p", dtype="float16")
    group = zarr.open_group(path, mode="r")
    signal = group["signal"][:]
    assert signal.dtype == np.float16
    expected = windows.read(range(4)).signal.transpose(0, 2, 1).reshape(2, 2, 4, 60)
    np.testing.assert_array_equal(signal, expected.astype(np.float16))
    assert list(group["gene"][:]) == ["G03", "G08"]
    assert list(group["assay"][:]) == windows.assays


def test_more_shards_than_stay_open(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)
    monkeypatch.setattr("genostore.opened._FILES", 3)
    windows = toy.open().windows(width=50)
    pack = genostore.open(windows.pack(tmp_path / "p"))
    packed = pack.windows(width=50)
    for some in ([0], [5, 7], range(20), [3, 3, 19]):
        np.testing.assert_array_equal(packed.read(some).signal, windows.read(some).signal)


def test_without_the_library_of_checksums(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = genostore.open(whole).windows(width=100, sequence=False)
    expected = windows.read(range(20)).signal
    monkeypatch.setattr("genostore.tiles._crc32c", lambda: 0)
    np.testing.assert_array_equal(windows.read(range(20)).signal, expected)
