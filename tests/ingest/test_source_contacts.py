from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from genostore.errors import SourceError
from ingest.sources import cool, dothic
from ingest.sources.base import ContactSource
from ingest.sources.hic import open_contacts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cooler

hictkpy = dothic.hictkpy()
Write = Callable[[str, str | bytes], Path]

CONTIGS = {"chr1": 3050, "chr2": 1000, "chrM": 16}
BIN = 10


def bin_table(contigs: dict[str, int] = CONTIGS, size: int = BIN) -> pd.DataFrame:
    return cooler.util.binnify(pd.Series(contigs), size)


def pixel_table(n_bins: int, n: int = 6000, dtype: Any = np.int32, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n_bins, n)
    second = np.minimum(first + rng.geometric(0.02, n) - 1, n_bins - 1)
    table = pd.DataFrame({"bin1_id": first, "bin2_id": second}).drop_duplicates()
    table = table.sort_values(["bin1_id", "bin2_id"], ignore_index=True)
    counts = rng.integers(1, 50, len(table))
    return table.assign(count=(counts + 0.5 if np.dtype(dtype).kind == "f" else counts).astype(dtype))


def make_cool(path: Path, dtype: Any = np.int32, **columns: Any) -> Path:
    bins = bin_table().assign(**columns)
    pixels = pixel_table(len(bins), dtype=dtype)
    cooler.create_cooler(str(path), bins, pixels, dtypes={"count": dtype}, ordered=True)
    return path


def make_mcool(path: Path, *sizes: int) -> Path:
    for size in sizes:
        bins = bin_table(size=size)
        uri = f"{path}::/resolutions/{size}"
        cooler.create_cooler(uri, bins, pixel_table(len(bins)), ordered=True, mode="a")
    return path


def expect_band(matrix: np.ndarray, lo: int, hi: int, n_offsets: int) -> tuple[np.ndarray, int, float]:
    n = len(matrix)
    upper = np.triu(np.nan_to_num(matrix))
    band = np.zeros((hi - lo, n_offsets))
    for d in range(n_offsets):
        diagonal = np.diagonal(upper, d)[lo:hi]
        band[: len(diagonal), d] = diagonal
    beyond = np.triu(upper, n_offsets)[lo : min(hi, n)]
    return band, int(np.count_nonzero(beyond)), float(beyond.sum())


def check_band(source: ContactSource, contig: str, matrix: np.ndarray, lo: int, hi: int, n_offsets: int) -> None:
    band, pixels, total = expect_band(matrix, lo, hi, n_offsets)
    got = source.band(contig, lo, hi, n_offsets)
    assert got.values.dtype == source.dtype
    assert np.array_equal(got.values, band)
    assert got.beyond_pixels == pixels
    assert got.beyond_sum == pytest.approx(total, rel=1e-12)


# .cool and .mcool


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
def test_band_equals_cooler(tmp_path: Path, dtype: Any) -> None:
    path = make_cool(tmp_path / "a.cool", dtype)
    source = open_contacts(path)
    assert isinstance(source, ContactSource)
    assert source.contigs == source.extents == CONTIGS
    assert source.bin_size == BIN
    assert source.dtype == dtype
    source.validate()
    matrix = cooler.Cooler(str(path)).matrix(balance=False)
    for contig, length in CONTIGS.items():
        dense, n = matrix.fetch(contig), -(-length // BIN)
        check_band(source, contig, dense, 0, n, 7)
        check_band(source, contig, dense, 0, n, 1)
        check_band(source, contig, dense, n // 3, n // 2 + 1, n + 20)
        check_band(source, contig, dense, n - 1, n + 5, 3)  # rows past the contig's end are 0
    assert source.band("chr1", 5, 5, 3).values.shape == (0, 3)


def test_band_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_cool(tmp_path / "a.cool")
    whole = open_contacts(path).band("chr1", 0, 305, 9)
    monkeypatch.setattr(cool, "_PIXELS", 50)
    pieces = open_contacts(path)
    pieces.validate()
    band = pieces.band("chr1", 0, 305, 9)
    assert np.array_equal(band.values, whole.values)
    assert (band.beyond_pixels, band.beyond_sum) == (whole.beyond_pixels, whole.beyond_sum)


def test_pickles(tmp_path: Path) -> None:
    source = open_contacts(make_mcool(tmp_path / "a.mcool", 10, 20), 20)
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.band("chr1", 0, 50, 5).values, source.band("chr1", 0, 50, 5).values)


def test_weight_conventions(tmp_path: Path) -> None:
    n = len(bin_table())
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(0.5, 2, n) for name in ("weight", "KR", "VC", "VC_SQRT", "SCALE", "GC", "mine", "odd")}
    values["weight"][3] = np.nan
    path = make_cool(tmp_path / "a.cool", **values)
    with h5py.File(path, "a") as file:
        file["bins/mine"].attrs["divisive_weights"] = True
        file["bins/VC"].attrs["divisive_weights"] = np.array([False])  # the file's own word goes before the name
    source = open_contacts(path)
    conventions = {name: weight.divisive for name, weight in source.weights().items()}
    assert conventions == {"weight": False, "KR": True, "VC": False, "VC_SQRT": True, "SCALE": True, "mine": True}
    assert set(source.weight_names) == set(conventions)
    found = source.weights(["weight", "odd"], divisive={"odd": False})
    assert list(found) == ["weight", "odd"]
    assert found["weight"].values.dtype == np.float64
    assert np.array_equal(found["weight"].values, values["weight"], equal_nan=True)
    assert found["odd"].divisive is False
    assert source.weights(["weight"], divisive={"weight": True})["weight"].divisive is True
    with pytest.raises(SourceError, match=r"does not say whether the weights 'odd' multiply or divide.*odd: true"):
        source.weights(["odd"])
    with pytest.raises(SourceError, match=r"has no weights 'ICE'; it has .*'KR'.*'weight'"):
        source.weights(["ICE"])
    with pytest.raises(SourceError, match="has no weights 'weight'; it has none"):
        open_contacts(make_cool(tmp_path / "b.cool")).weights(["weight"])


def test_levels_of_an_mcool(tmp_path: Path) -> None:
    path = make_mcool(tmp_path / "a.mcool", 10, 20, 100)
    assert open_contacts(path, 20).bin_size == 20
    assert open_contacts(f"{path}::/resolutions/100").bin_size == 100
    assert open_contacts(f"{path}::resolutions/100", 100).bin_size == 100
    with pytest.raises(SourceError, match=r"a.mcool: has no bins of 5,000 bases; it has 10, 20, 100"):
        open_contacts(path, 5000)
    with pytest.raises(SourceError, match=r"several bin sizes; ask for one of them: 10, 20, 100"):
        open_contacts(path)
    with pytest.raises(SourceError, match=r"no contact matrix at /resolutions/7; it has /resolutions/10"):
        open_contacts(f"{path}::/resolutions/7")
    with pytest.raises(SourceError, match=r"has no bins of 10 bases; it has 100"):
        open_contacts(f"{path}::/resolutions/100", 10)


def tampered(path: Path, change: Callable[[h5py.Group], None], group: str = "/") -> ContactSource:
    with h5py.File(path, "a") as file:
        change(file[group])
    return open_contacts(f"{path}::{group}")


def test_index_that_points_to_other_rows(tmp_path: Path) -> None:
    def shift(group: h5py.Group) -> None:
        group["indexes/bin1_offset"][100] += 3

    source = tampered(make_mcool(tmp_path / "a.mcool", 10, 20), shift, "/resolutions/20")
    message = r"a.mcool::/resolutions/20: the index of rows.*is corrupt.*row of bin \d+, but it is of.*zoomify"
    with pytest.raises(SourceError, match=message):
        source.validate()
    with pytest.raises(SourceError, match=r"index of rows \(indexes/bin1_offset\) is corrupt"):
        source.band("chr1", 0, 153, 5)


def test_index_that_decreases_or_ends_early(tmp_path: Path) -> None:
    def decrease(group: h5py.Group) -> None:
        group["indexes/bin1_offset"][50] = 1

    with pytest.raises(SourceError, match=r"is corrupt: it decreases after bin 49"):
        tampered(make_cool(tmp_path / "a.cool"), decrease).validate()

    with pytest.raises(SourceError, match=r"is corrupt: it decreases"):
        open_contacts(tmp_path / "a.cool").band("chr1", 40, 60, 3)

    def cut(group: h5py.Group) -> None:
        group["indexes/bin1_offset"][-1] -= 5

    with pytest.raises(SourceError, match=r"is corrupt: it has 408 entries and ends at .* for 407 bins and"):
        tampered(make_cool(tmp_path / "b.cool"), cut).validate()

    def overrun(group: h5py.Group) -> None:
        group["indexes/bin1_offset"][-1] += 5

    with pytest.raises(SourceError, match=r"is corrupt: it points to pixel"):
        tampered(make_cool(tmp_path / "c.cool"), overrun).band("chrM", 0, 2, 2)


def test_pixels_stored_twice_as_cooler_083_did(tmp_path: Path) -> None:
    def double(group: h5py.Group) -> None:
        index = group["indexes/bin1_offset"][:]
        row = int(np.argmax(np.diff(index) >= 2))
        at = int(index[row])
        group["pixels/bin2_id"][at + 1] = group["pixels/bin2_id"][at]

    source = tampered(make_mcool(tmp_path / "a.mcool", 10), double, "/resolutions/10")
    with pytest.raises(SourceError, match=r"more than once.*cooler 0.8.3 wrote such.*hictk fix-mcool"):
        source.validate()
    with pytest.raises(SourceError, match=r"stores the pixel of bins \d+ and \d+ more than once"):
        source.band("chr1", 0, 305, 305)


def test_rows_in_any_order_are_no_damage(tmp_path: Path) -> None:
    path = make_cool(tmp_path / "a.cool")
    whole = open_contacts(path).band("chr1", 0, 305, 20).values

    def shuffle(group: h5py.Group) -> None:
        index = group["indexes/bin1_offset"][:]
        for name in ("bin2_id", "count"):
            column = group["pixels"][name][:]
            for lo, hi in pairwise(index):
                column[lo:hi] = column[lo:hi][::-1]
            group["pixels"][name][:] = column

    source = tampered(path, shuffle)
    source.validate()
    assert np.array_equal(source.band("chr1", 0, 305, 20).values, whole)


def test_lower_triangle_in_an_upper_matrix(tmp_path: Path) -> None:
    def turn(group: h5py.Group) -> None:
        at = int(group["indexes/bin1_offset"][200])
        group["pixels/bin2_id"][at] = 5

    with pytest.raises(SourceError, match="below the diagonal of a matrix that says it stores the upper triangle"):
        tampered(make_cool(tmp_path / "a.cool"), turn).band("chr1", 190, 210, 5)


def test_refused_layouts(tmp_path: Path) -> None:
    bins = bin_table()
    square = pixel_table(len(bins))
    cooler.create_cooler(
        str(tmp_path / "square.cool"), bins, square, ordered=True, symmetric_upper=False, triucheck=False
    )
    with pytest.raises(SourceError, match=r"square.cool: stores a square matrix"):
        open_contacts(tmp_path / "square.cool")

    varied = pd.DataFrame({"chrom": "chr1", "start": [0, 10, 25], "end": [10, 25, 40]})
    cooler.create_cooler(str(tmp_path / "varied.cool"), varied, pixel_table(3, 5), ordered=True)
    with pytest.raises(SourceError, match=r"varied.cool: has bins of variable size"):
        open_contacts(tmp_path / "varied.cool", BIN)

    cells = {f"cell{i}": pixel_table(len(bins), seed=i) for i in range(8)}
    cooler.create_scool(str(tmp_path / "cells.scool"), bins, cells, ordered=True)
    with pytest.raises(SourceError, match=r".scool of 8 single cells.*cell0, cell1.*and 2 more"):
        open_contacts(tmp_path / "cells.scool", BIN)
    assert open_contacts(f"{tmp_path / 'cells.scool'}::/cells/cell3").bin_size == BIN

    with h5py.File(tmp_path / "other.cool", "w") as file:
        file["x"] = 1
    with pytest.raises(SourceError, match="is HDF5, but holds no contact matrix in cooler's layout"):
        open_contacts(tmp_path / "other.cool")


def test_cut_out_of_a_matrix(tmp_path: Path) -> None:
    def move(group: h5py.Group) -> None:
        group["bins/start"][:305] += 100

    with pytest.raises(SourceError, match=r"bins of 'chr1' start at 100, so this is a cut-out"):
        tampered(make_cool(tmp_path / "a.cool"), move)


def test_truncated_hdf5(tmp_path: Path) -> None:
    whole = make_cool(tmp_path / "a.cool").read_bytes()
    cut = tmp_path / "cut.cool"
    for size in (100, 3000, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=rf"cut.cool: is truncated: it has {size:,} of {len(whole):,} bytes"):
            open_contacts(cut)


def test_damaged_chunk(tmp_path: Path) -> None:
    path = make_cool(tmp_path / "a.cool")
    with h5py.File(path) as file:
        chunk = file["pixels/count"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 20 : chunk.byte_offset + 60] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a.cool: cannot be read as HDF5, so it is damaged"):
        open_contacts(path).band("chr1", 0, 305, 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [("chr1\t0\t10\t5\n", "text that begins"), ("", "it is empty"), ("<html></html>", "web page")],
)
def test_not_contacts(write: Write, content: str, message: str) -> None:
    with pytest.raises(SourceError, match=rf"is no .cool, .mcool or .hic file.*{message}"):
        open_contacts(write("a.cool", content))


def test_absent_contig_and_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no contig 'chr3'; did you mean"):
        open_contacts(make_cool(tmp_path / "a.cool")).band("chr3", 0, 1, 1)
    with pytest.raises(SourceError, match="there is no such file"):
        open_contacts(tmp_path / "none.mcool", 10)


# .hic


@pytest.fixture(scope="module")
def hic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A version 9 file of two contigs with contacts between them."""
    path = tmp_path_factory.mktemp("hic") / "a.hic"
    contigs = {"chr1": 25_000, "chr2": 9_000}
    pixels = pixel_table(3400, 40_000, dtype=np.float32)
    with hictkpy.hic.FileWriter(path, contigs, [10, 100], tmpdir=path.parent) as writer:
        writer.add_pixels(pixels)
    return path, pixels


@pytest.mark.parametrize("rows", [64, 1000, 4096])
def test_hic_band_equals_what_was_written(
    hic: tuple[Path, pd.DataFrame], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dothic, "_ROWS", rows)
    path, pixels = hic
    source = open_contacts(path, 10)
    assert isinstance(source, ContactSource)
    assert source.contigs == {"chr1": 25_000, "chr2": 9_000}
    assert source.dtype == np.float32
    source.validate()
    for contig, first, n in (("chr1", 0, 2500), ("chr2", 2500, 900)):
        own = pixels[pixels.bin1_id.between(first, first + n - 1) & (pixels.bin2_id < first + n)]
        matrix = np.zeros((n, n))
        matrix[own.bin1_id - first, own.bin2_id - first] = own["count"]
        check_band(source, contig, matrix, 0, n, 40)
        check_band(source, contig, matrix, n // 3, n // 2, 1)
        check_band(source, contig, matrix, n - 3, n + 4, 6)


def test_hic_leaves_no_thread_at_work(hic: tuple[Path, pd.DataFrame]) -> None:
    open_contacts(hic[0], 10).validate()
    began = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - began < 0.1


def test_hic_pickles_and_lists(hic: tuple[Path, pd.DataFrame]) -> None:
    path, _ = hic
    source = open_contacts(path, 100)
    first = source.band("chr1", 0, 250, 4).values
    assert np.array_equal(pickle.loads(pickle.dumps(source)).band("chr1", 0, 250, 4).values, first)
    with pytest.raises(SourceError, match=r"a.hic: has no bins of 5,000 bases; it has 10, 100"):
        open_contacts(path, 5000)
    with pytest.raises(SourceError, match=r"several bin sizes; ask for one of them: 10, 100"):
        open_contacts(path)
    with pytest.raises(SourceError, match=r"no normalisation 'VC' at 100 bases; it has none"):
        source.weights(["VC"])
    with pytest.raises(SourceError, match=r"no contig 'chr3'"):
        source.band("chr3", 0, 1, 1)


def test_every_truncation_of_a_hic_is_refused(hic: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    whole = hic[0].read_bytes()
    cut = tmp_path / "cut.hic"
    for size in (4, 10, 50, 500, len(whole) // 2, len(whole) - 200, len(whole) - 9, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=r"cut.hic: is truncated.*fetch it again"):
            open_contacts(cut, 10)


def test_hic_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "old.hic"
    path.write_bytes(b"HIC\0" + (6).to_bytes(4, "little") + bytes(100))
    with pytest.raises(SourceError, match=r"is a .hic of version 6; versions 8 and 9"):
        open_contacts(path, 10)


# The public files: each reads right, or is refused for its own reason.

READ = {
    "GSE131651_NSD2_HIGH_arima_example.hic": [50_000],
    "GSE131651_NSD2_LOW_arima_example.hic": [50_000],
    "eigenvector_example.hic": [250_000],
    "test_chr22.hic": [100_000, 2_500_000],
    "testBp.hic": [10_000],
    "GSE63525_GM12878_insitu_primary_2_5mb.cool": [2_500_000],
    "gm12878_raw_values.cool": [2_500_000],
    "hg19.GM12878-MboI.matrix.2000kb.cool": [2_000_000],
    "kr_full.cool": [5_000],
    "small_test_matrix_50kb_res.cool": [50_000],
    "matrix.mcool": [40_000, 80_000, 160_000, 320_000, 640_000],
    "multi_small_test_matrix.mcool": [5_000, 10_000, 20_000],
    "toy.symm.upper.2.mcool": [2, 4, 8, 16],
}
REFUSED = {
    "R1_R2_restrictionFile.cool": (None, "variable size"),
    "toy.symm.upper.var.cool": (None, "variable size"),
    "toy.asymm.2.cool": (2, "square matrix"),
    "scool_test_file.scool": (100_000, r"\.scool of 5 single cells.*GSM2687248_41669_ACAGTG"),
    "unittest_matrix_2.cool": (10_000, "start at 160,000,000"),
}


@pytest.mark.real
def test_the_tables_name_every_file(data: Path) -> None:
    assert {p.name for p in (data / "hic_formats").iterdir()} == READ.keys() | REFUSED.keys()


@pytest.mark.real
@pytest.mark.parametrize(("name", "size"), [(n, s) for n, sizes in READ.items() for s in sizes])
def test_public_file_reads_right(data: Path, name: str, size: int) -> None:
    path = data / "hic_formats" / name
    source = open_contacts(path, size)
    source.validate()
    n_bins = sum(-(-length // size) for length in source.contigs.values())
    reference: Any
    if name.endswith(".hic"):
        file = hictkpy.File(str(path), size)
        counts = {c: file.fetch(c).nnz() for c in source.contigs}
        reference = lambda contig: file.fetch(contig, count_type="float64").to_numpy()  # noqa: E731
        assert source.weight_names == sorted(file.avail_normalizations())
        for weight_name, weight in source.weights().items():
            assert weight.divisive
            assert weight.values.shape == (n_bins,)
            expected = np.asarray(file.weights(weight_name, divisive=True))
            assert np.array_equal(weight.values, expected, equal_nan=True)
    else:
        legacy = {f"{path}::/{i}": 640_000 >> i for i in range(5)} if name == "matrix.mcool" else {}
        usual = [str(path), f"{path}::/resolutions/{size}"][name.endswith(".mcool")]
        clr = cooler.Cooler(next((uri for uri, s in legacy.items() if s == size), usual))
        assert source.contigs == clr.chromsizes.to_dict()
        counts = source.contigs
        reference = clr.matrix(balance=False).fetch
        assert source.dtype == clr.pixels()[:1]["count"].dtype
        for weight_name, weight in source.weights().items():
            assert weight.divisive is (weight_name != "weight")
            assert np.array_equal(weight.values, clr.bins()[weight_name][:], equal_nan=True)
    contig = max(counts, key=lambda c: counts[c])
    n = -(-source.contigs[contig] // size)
    check_band(source, contig, reference(contig), 0, n, 5)
    check_band(source, contig, reference(contig), n // 4, n // 2, 300)


@pytest.mark.real
@pytest.mark.parametrize("name", list(REFUSED))
def test_public_file_is_refused(data: Path, name: str) -> None:
    size, message = REFUSED[name]
    with pytest.raises(SourceError, match=message):
        open_contacts(data / "hic_formats" / name, size)


@pytest.mark.real
def test_contigs_of_a_hic_without_vectors_have_nan(data: Path) -> None:
    source = open_contacts(data / "hic_formats" / "test_chr22.hic", 100_000)
    vc = source.weights(["VC"])["VC"].values
    firsts = np.cumsum([0, *(-(-length // 100_000) for length in source.contigs.values())])
    at = list(source.contigs).index("22")
    inside = np.zeros(len(vc), bool)
    inside[firsts[at] : firsts[at + 1]] = True
    assert np.isnan(vc[~inside]).all()
    assert np.isfinite(vc[inside]).all()
    assert (vc[inside] == 0).sum() == 162  # the file's own word for empty bins
    with pytest.raises(SourceError, match=r"no normalisation 'ICE' at 100,000 bases; it has KR, SCALE, VC, VC_SQRT"):
        source.weights(["ICE"])
    with pytest.raises(SourceError, match="VC divides the counts"):
        source.weights(["VC"], divisive={"VC": False})


@pytest.mark.real
def test_yeast_hic(data: Path) -> None:
    path = data / "yeast" / "yeast.10kb.cool"
    source = open_contacts(path)
    source.validate()
    matrix = cooler.Cooler(str(path)).matrix(balance=False)
    for contig in ("chrII", "chr2-micron", "chrMito"):
        n = -(-source.contigs[contig] // 10_000)
        check_band(source, contig, matrix.fetch(contig), 0, n, 20)
    assert source.weights()["weight"].divisive is False
