from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import genostore
from genostore import Contacts
from genostore.errors import ConflictError, QueryError

from .conftest import Toy

PARTS = ("sequence", "signal", "contacts", "contact_origin", "features", "target", "anchor", "left_pad", "right_pad")
QUERY = {"width": 400, "jitter": 30, "contacts": "hic", "expression": "CAGE", "features": "all"}


@pytest.fixture(scope="module")
def pack(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "toy.pack"
    return toy.open().windows(**QUERY, orient="gene").pack(path)


@pytest.mark.parametrize("shift", [-30, 0, 11, 30])
@pytest.mark.parametrize(
    "query",
    [
        QUERY,
        QUERY | {"orient": "gene"},
        QUERY | {"width": 100, "assays": ["RNA-", "DNase"], "cell_types": ["B"], "resolution": 4},
        QUERY | {"genes": ["G04", "G00", "G04"], "contacts": None, "missing_target": "keep"},
        QUERY | {"split": "test", "fold": "split", "exclude": "blacklist"},
    ],
)
def test_a_pack_answers_as_its_store(toy: Toy, pack: Path, query: dict, shift: int) -> None:
    windows, packed = toy.open().windows(**query), genostore.open(pack).windows(**query)
    every = np.arange(len(windows))
    assert len(windows) == len(packed)
    a, b = windows.read(every, shift), packed.read(every, shift)
    for part in PARTS:
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part), err_msg=part)


def test_a_pack_of_matrices(toy: Toy, tmp_path: Path) -> None:
    query = {"width": 300, "contacts": Contacts("hic", 100, "VC", "matrix")}
    windows = toy.open().windows(**query)
    packed = genostore.open(windows.pack(tmp_path / "p")).windows(**query)
    np.testing.assert_array_equal(windows.read(range(20)).contacts, packed.read(range(20)).contacts)


@pytest.mark.parametrize("kind", ["profile", "matrix"])
def test_every_cut_of_a_pack_has_the_bins_of_the_stores(toy: Toy, tmp_path: Path, kind: str) -> None:
    contacts = Contacts("hic", 100, None, kind)
    store = toy.open()
    pack = genostore.open(store.windows(width=200, jitter=25, contacts=contacts, sequence=False).pack(tmp_path / "p"))
    for width in (1, 101, 150, 200):
        query = {"width": width, "contacts": contacts, "sequence": False, "assays": []}
        windows, packed = store.windows(**query), pack.windows(**query)
        room = 125 - (width + 1) // 2
        for shift in range(-room, room + 1):
            a, b = windows.read(range(len(windows)), shift), packed.read(range(len(windows)), shift)
            np.testing.assert_array_equal(a.contacts, b.contacts, err_msg=f"{width} {shift}")


def test_xarray_opens_a_pack(toy: Toy, pack: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")
        dataset = xr.open_zarr(pack, consolidated=False)
    assert dataset["signal"].dims == ("gene", "cell_type", "assay", "position")
    assert set(dataset.coords) >= {"gene", "cell_type", "assay", "position", "gene_tss", "gene_strand"}
    batch = toy.open().windows(genes=["G01"], width=460).read([1])
    one = dataset["signal"].sel(gene="G01", cell_type="B").transpose("position", "assay")
    np.testing.assert_array_equal(one.values, batch.signal[0])


def test_a_pack_pickles_and_lists(pack: Path) -> None:
    again = pickle.loads(pickle.dumps(genostore.open(pack)))
    assert "9 genes x 2 cell types" in repr(again)
    assert len(again.tracks) == 8
    assert again.windows(width=10).roles == ["background", "foreground", None, None]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"width": 500}, "holds 460 bases a window, jitter included, and 500 are asked for"),
        ({"width": 400, "jitter": 31}, "462 are asked for"),
        ({"contacts": Contacts("hic", 100, "VC")}, "ask the store"),
        ({"regions": "some.bed"}, "windows about genes"),
    ],
)
def test_what_a_pack_cannot_answer(pack: Path, query: dict, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        genostore.open(pack).windows(**({"width": 10} | query))


def test_a_pack_is_not_written_over(toy: Toy, tmp_path: Path) -> None:
    windows = toy.open().windows(width=10)
    assert windows.pack(tmp_path / "p") == windows.pack(tmp_path / "p")  # the same once more is no work
    before = (tmp_path / "p/zarr.json").stat().st_mtime_ns
    with pytest.raises(ConflictError, match="it has width 10, and 20 is asked for"):
        toy.open().windows(width=20).pack(tmp_path / "p")
    with pytest.raises(ConflictError, match="it has dtype 'float32', and 'float16'"):
        windows.pack(tmp_path / "p", dtype="float16")
    with pytest.raises(ConflictError, match="it has other genes"):
        toy.open().windows(width=10, genes=["G01"]).pack(tmp_path / "p")
    assert (tmp_path / "p/zarr.json").stat().st_mtime_ns == before
    toy.open().windows(width=20).pack(tmp_path / "p", overwrite=True)
    assert genostore.open(tmp_path / "p").description["width"] == 20
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["p"]
    for path in (toy.path, toy.path / "tracks"):
        with pytest.raises(ConflictError, match="no pack"):
            windows.pack(path, overwrite=True)
