"""Windows against a plain numpy model of what they must hold."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import genostore
from genostore import Contacts
from genostore.errors import NotFoundError, QueryError, RegionError
from genostore.sequence import complement
from genostore.storage import Storage

from .conftest import BIN, OFFSETS, Toy, write_positions


def cut(values: np.ndarray, start: int, width: int, fill: float) -> np.ndarray:
    """Cut a window out of one contig, padded."""
    padded = np.concatenate([np.full(10_000, fill), values, np.full(10_000, fill)])
    return padded[start + 10_000 : start + 10_000 + width].astype(values.dtype)


@pytest.mark.parametrize("width", [1, 7, 400, 699])
@pytest.mark.parametrize("shift", [0, -13, 50])
def test_windows_equal_the_model(toy: Toy, width: int, shift: int) -> None:
    windows = toy.open().windows(width=width, assays=["H3K27ac", "DNase"])
    batch = windows.read(np.arange(len(windows)), shift)
    assert batch.signal.shape == (20, width, 2)
    for i in range(len(windows)):
        gene, cell = toy.genes.iloc[i // 2], "AB"[i % 2]
        start = gene.tss - width // 2 + shift
        codes = cut(toy.sequence[gene.contig] & 7, start, width, 4)
        np.testing.assert_array_equal(batch.sequence[i], codes)
        for a, assay in enumerate(["H3K27ac", "DNase"]):
            expected = cut(toy.tracks[cell, assay][gene.contig], start, width, np.nan)
            np.testing.assert_array_equal(batch.signal[i, :, a], expected)
        length = toy.genome.resolve(gene.contig).length
        assert batch.left_pad[i] == np.clip(-start, 0, width)
        assert batch.right_pad[i] == np.clip(start + width - length, 0, width)
        assert batch.padded[i] == (start < 0 or start + width > length)
        assert start + batch.anchor[i] == gene.tss


def test_any_order_and_repeats(toy: Toy) -> None:
    windows = toy.open().windows(width=50)
    batch, again = windows.read([3, 1, 1]), windows.read([1, 3])
    np.testing.assert_array_equal(batch.signal[[1, 0]], again.signal)
    np.testing.assert_array_equal(batch.signal[1], batch.signal[2])
    assert batch.index.tolist() == [3, 1, 1]
    with pytest.raises(QueryError, match="sample 20 is not among the 20"):
        windows.read([20])


def test_half_precision_tracks_are_read_as_float32(own_toy: Toy) -> None:
    storage = Storage.of(own_toy.path)
    values = {c: v.astype(np.float16) for c, v in own_toy.tracks["A", "DNase"].items()}
    attributes = {"kind": "track", "cell_type": "A", "assay": "half", "strand": None, "role": None}
    write_positions(storage, own_toy.genome, "tracks/A/half", values, np.nan, attributes)
    windows = own_toy.open().windows(cell_types=["A"], assays=["half", "DNase"], width=200)
    signal = windows.read(np.arange(len(windows))).signal
    assert signal.dtype == np.float32
    np.testing.assert_array_equal(signal[..., 0], signal[..., 1].astype(np.float16).astype(np.float32))


def test_gene_orientation(toy: Toy) -> None:
    store = toy.open()
    plain = store.windows(width=301, assays="RNA", contacts="hic").read(range(20))
    turned = store.windows(width=301, assays="RNA", contacts="hic", orient="gene").read(range(20))
    for i in range(20):
        if toy.genes.strand[i // 2] == "+":
            np.testing.assert_array_equal(turned.sequence[i], plain.sequence[i])
            continue
        complement = np.array([3, 2, 1, 0, 4])[plain.sequence[i]][::-1]
        np.testing.assert_array_equal(turned.sequence[i], complement)
        np.testing.assert_array_equal(turned.signal[i], plain.signal[i, ::-1, ::-1])
        assert (turned.left_pad[i], turned.right_pad[i]) == (plain.right_pad[i], plain.left_pad[i])
        assert turned.anchor[i] == 301 - 1 - plain.anchor[i]
        # Each base finds the contact that it had.
        bins = (turned.contact_origin[i] + np.arange(301)) // BIN
        before = (plain.contact_origin[i] + np.arange(301)) // BIN
        np.testing.assert_array_equal(turned.contacts[i][bins], plain.contacts[i][before][::-1])


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_bins(toy: Toy, aggregate: str) -> None:
    store = toy.open()
    bases = store.windows(width=64, assays=["DNase"]).read(range(20)).signal[..., 0].reshape(20, 16, 4)
    binned = store.windows(width=64, assays=["DNase"], resolution=4, aggregate=aggregate).read(range(20)).signal
    assert binned.shape == (20, 16, 1)
    for i in np.ndindex(20, 16):
        seen = bases[i][~np.isnan(bases[i])].astype(np.float64)
        expected = getattr(np, aggregate)(seen) if seen.size else np.nan
        np.testing.assert_allclose(binned[i][0], expected, rtol=1e-6)


def test_profiles_and_matrices_equal_the_model(toy: Toy) -> None:
    store = toy.open()
    offsets = toy.genome.bin_offsets(BIN)
    for weight in (None, "VC"):
        profile = store.windows(width=700, contacts=Contacts("hic", BIN, weight)).read(range(20))
        square = store.windows(width=700, contacts=Contacts("hic", BIN, weight, "matrix")).read(range(20))
        for i in range(20):
            gene = toy.genes.iloc[i // 2]
            contig = toy.genome.resolve(gene.contig)
            balanced = toy.matrices[gene.contig].astype(float)
            n = len(balanced)
            if weight:
                w = 1 / np.where(toy.weights == 0, np.nan, toy.weights)[offsets[contig.name] :][:n]
                balanced = balanced * w[:, None] * w[None, :]
            distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
            balanced[distance >= OFFSETS] = np.nan
            first = (gene.tss - 350) // BIN
            padded = np.full((n + 200, n + 200), np.nan)
            padded[100:-100, 100:-100] = balanced
            bins = np.arange(first, first + profile.contacts.shape[1]) + 100
            expected = padded[gene.tss // BIN + 100, bins].astype(np.float32)
            np.testing.assert_allclose(profile.contacts[i], expected, rtol=1e-6)
            np.testing.assert_allclose(square.contacts[i], padded[np.ix_(bins, bins)].astype(np.float32), rtol=1e-6)
            assert profile.contact_origin[i] == gene.tss - 350 - first * BIN


def test_a_flank_widens_the_profile(toy: Toy) -> None:
    store = toy.open()
    batch = store.windows(genes=["G02"], width=100, contacts=Contacts("hic", flank=400)).read([0])
    wide = store.windows(genes=["G02"], width=800, contacts="hic").read([0])
    np.testing.assert_array_equal(batch.contacts, wide.contacts)
    assert batch.contact_origin[0] == 1_450 - 1_100


def test_targets_and_features(toy: Toy) -> None:
    store = toy.open()
    windows = store.windows(expression="CAGE", features="all", width=10)
    assert len(windows) == 20 - 1 - 2
    batch = windows.read(range(len(windows)))
    genes = windows.genes["id"].map({g: i for i, g in enumerate(toy.genes["id"])}).to_numpy()[batch.gene]
    np.testing.assert_allclose(batch.target, np.log10(1 + toy.expression[genes, batch.cell_type]), rtol=1e-6)
    np.testing.assert_array_equal(batch.features[:, windows.features.index("CDSLEN")], genes)
    np.testing.assert_array_equal(batch.features[:, windows.features.index("promoter_activity")], batch.cell_type)
    kept = store.windows(expression="CAGE", missing_target="keep", width=10)
    assert len(kept) == 20
    assert np.isnan(kept.read([6]).target[0])


def test_genes_in_the_users_order_with_repeats(toy: Toy) -> None:
    windows = toy.open().windows(genes=["gene2", "G00", "G02.7"], width=10, cell_types="B")
    assert windows.genes["id"].tolist() == ["G02", "G00", "G02"]


def test_splits_and_exclusion(toy: Toy) -> None:
    store = toy.open()
    assert len(store.windows(split="test", fold="split", width=10).genes) == 4
    assert len(store.windows(split="test", fold="fold_1", width=10).genes) == 3
    windows = store.windows(exclude="blacklist", width=90)
    assert windows.genes["id"].tolist() == ["G00", "G01", "G02", "G04", "G05", "G07", "G08", "G09"]
    assert "2 excluded by 'blacklist'" in repr(windows)
    touching = store.windows(genes=["G03"], exclude="blacklist", width=80)  # [1960, 2040) begins where it ends
    assert len(touching.genes) == 1


def test_missing_tracks(own_toy: Toy) -> None:
    genostore.staging.remove(own_toy.open().storage, "tracks/B/DNase")
    store = own_toy.open()
    with pytest.raises(QueryError, match=r"no track B/DNase \(1 of 2 pairs\).*missing_tracks='nan'"):
        store.windows(assays=["DNase"], width=10)
    batch = store.windows(assays=["DNase"], width=10, missing_tracks="nan").read([0, 1])
    assert np.isnan(batch.signal[1]).all()
    assert not np.isnan(batch.signal[0]).all()


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ({"width": 0}, QueryError, "width is 0; a window is at least 1 base wide"),
        ({"width": 10, "resolution": 3}, QueryError, "does not divide the width"),
        ({"jitter": -1}, QueryError, "jitter is -1"),
        ({"aggregate": "max"}, QueryError, "it is one of 'mean', 'sum'"),
        ({"genes": ["G77"]}, NotFoundError, "there is no gene 'G77'; did you mean 'G07'"),
        ({"genes": ["gene8"]}, QueryError, "that of 2 genes; give the id of one of them: G08, G09"),
        ({"genes": []}, QueryError, "no sample is left: 10 genes in the store > those named by genes="),
        ({"cell_types": ["K"]}, NotFoundError, "no cell type 'K'; there are 'A', 'B'"),
        ({"assays": ["DNAse"]}, NotFoundError, "did you mean 'DNase'"),
        ({"split": "test"}, QueryError, "there are split, fold_1"),
        ({"split": "tests", "fold": "split"}, NotFoundError, "did you mean 'test'"),
        ({"fold": "split"}, QueryError, "give split= too"),
        ({"exclude": "blaclist"}, NotFoundError, "did you mean 'blacklist'"),
        ({"width": 800}, QueryError, None),
        ({"width": 4_000}, QueryError, r"4 windows of 4,000 bases are wider than their contig \(chr2, from 3,001"),
        ({"contacts": "hic2"}, NotFoundError, "no contacts 'A/hic2'"),
        ({"contacts": Contacts("hic", weight="KR")}, NotFoundError, "no weights 'KR'; there are 'VC'"),
        ({"expression": "RNA"}, NotFoundError, "no expression RNA/A"),
        ({"features": ["X"]}, NotFoundError, "no gene feature 'X'"),
        (
            {"genes": ["G01", "G77", "MYC"]},
            NotFoundError,
            r"'G07'.* Nor are there 'MYC': 2 of the 3 genes",
        ),
        ({"cell_types": ["A", "A"]}, QueryError, "cell type 'A' is named more than once"),
        ({"genes": ["G00"], "regions": "x.bed"}, QueryError, "give one of them"),
        ({"regions": "x.bed", "expression": "CAGE"}, QueryError, "expression belongs to genes"),
    ],
)
def test_bad_queries_say_why(toy: Toy, query: dict[str, Any], error: type[Exception], message: str | None) -> None:
    if message is None:
        toy.open().windows(**query)
        return
    with pytest.raises(error, match=message):
        toy.open().windows(**query)


def test_regions(toy: Toy, tmp_path: Path) -> None:
    frame = pd.DataFrame({"chrom": ["1", "chr2"], "start": [100, 3_000], "end": [200, 3_001]})
    bed = tmp_path / "some.bed"
    frame.to_csv(bed, sep="\t", header=False, index=False)
    store = toy.open()
    for regions in (frame, bed):
        windows = store.windows(regions=regions, width=100, assays=["DNase"])
        batch = windows.read([0, 3])
        np.testing.assert_array_equal(batch.signal[0, :, 0], toy.tracks["A", "DNase"]["chr1"][100:200])
        assert batch.right_pad.tolist() == [0, 49]
        assert "2 regions" in repr(windows)
    with pytest.raises(RegionError, match="pass an end of their contig"):
        store.windows(regions=frame.assign(end=[200, 3_002]))
    with pytest.raises(RegionError, match="lack the column 'end'"):
        store.windows(regions=frame[["chrom", "start"]])
    with pytest.raises(NotFoundError, match=r"region 1: assembly toy has no contig 'chrX'"):
        store.windows(regions=frame.assign(chrom=["chr1", "chrX"]))


def test_a_bed_file_as_people_write_it(toy: Toy, tmp_path: Path) -> None:
    text = "track name=mine\nbrowser position chr1\n# by hand\n\n1\t100\t200\tone two\t0\t-\nchr2\t3000\t3001\r\n"
    (tmp_path / "a.bed").write_text(text)
    with gzip.open(tmp_path / "b.bed.gz", "wt") as file:
        file.write(text.replace("one two", "one").replace("\t", " "))
    for name in ("a.bed", "b.bed.gz"):
        rows = toy.open().windows(regions=tmp_path / name, width=50, assays=[]).genes
        assert rows[["contig", "start", "end"]].to_numpy().tolist() == [["1", 100, 200], ["chr2", 3_000, 3_001]]
        assert rows["strand"].isna().tolist() == [False, True]
        assert not rows.attrs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"x\.bed holds no regions"),
        ("#\n", "holds no regions"),
        ("chr1\t1\t2\nchr1\tx\t2\nchr1\t5\n", r"(?s)2 lines are not BED.*line 2: .*start is not.*line 3: .*2 columns"),
        ("chr1\t1\t2\n" + "chr1\n" * 9, "and 4 more"),
        ("#\nchr1\t1\t2\nchrX\t1\t2\n", r"x\.bed, line 3: assembly toy has no contig 'chrX'"),
        ("#\nchr1\t1\t2\nchr2\t1\t9999\n", r"1 of 2 regions .*\n.*x\.bed, line 3: chr2:1-9999, of a contig of 3001"),
        ("chr1\t-1\t2\n", "start is not a whole number"),
    ],
)
def test_a_bad_bed_file_is_told_with_its_lines(toy: Toy, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.bed").write_text(text)
    with pytest.raises((RegionError, NotFoundError), match=message):
        toy.open().windows(regions=tmp_path / "x.bed", width=50)


def test_a_bed_file_that_is_none(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"there is no file .*x\.bed"):
        toy.open().windows(regions=tmp_path / "x.bed")
    (tmp_path / "x.bed").write_bytes(b"\x88\xff\xc0")
    with pytest.raises(RegionError, match="which is text"):
        toy.open().windows(regions=tmp_path / "x.bed")


def test_windows_pickle(toy: Toy) -> None:
    windows = toy.open().windows(width=50, contacts="hic")
    first = windows.read([4])
    again = pickle.loads(pickle.dumps(windows)).read([4])
    np.testing.assert_array_equal(first.signal, again.signal)
    np.testing.assert_array_equal(first.contacts, again.contacts)


def test_xarray_is_lazy_and_equal(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = toy.open().windows(width=40, contacts="hic", expression="CAGE", features="all", missing_target="keep")
    read = genostore.windows.StoreReader.read
    monkeypatch.setattr(genostore.windows.StoreReader, "read", lambda *a: pytest.fail("read before it was asked for"))
    dataset = windows.xarray()
    repr(dataset)
    monkeypatch.setattr(genostore.windows.StoreReader, "read", read)
    assert dataset["signal"].data.numblocks == (1, 1, 1, 1)
    batch = windows.read(range(20))
    np.testing.assert_array_equal(dataset["sequence"].values, batch.sequence[::2])
    np.testing.assert_array_equal(dataset["signal"].values, batch.signal.reshape(10, 2, 40, 4).transpose(0, 1, 3, 2))
    np.testing.assert_array_equal(dataset["contacts"].values, batch.contacts.reshape(10, 2, -1))
    np.testing.assert_array_equal(dataset["target"].values.ravel(), batch.target)
    one = dataset["signal"].sel(gene="G04", cell_type="B", assay="RNA-", position=0)
    assert float(one) == toy.tracks["B", "RNA-"]["chr1"][4_990] or np.isnan(float(one))
    assert dataset["gene_strand"].sel(gene="G04") == "+"


def test_xarray_cuts_blocks_of_many_genes(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = toy.open().windows(width=40, assays=["DNase", "RNA"])
    monkeypatch.setattr("genostore.lazy.BLOCK_BYTES", 40 * 2 * 3 * 4 * 4)
    signal = windows.xarray()["signal"]
    assert signal.data.numblocks == (3, 1, 1, 1)
    expected = windows.read(range(20)).signal.reshape(10, 2, 40, 3).transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(signal[2:7].values, expected[2:7])


def test_signal_is_lazy(toy: Toy) -> None:
    signal = toy.open().signal("2:100-3,000", cell_types="B", assays=["RNA-", "DNase"])
    assert signal.dims == ("cell_type", "assay", "position")
    np.testing.assert_array_equal(signal.values[0, 1], toy.tracks["B", "DNase"]["chr2"][100:3_000])
    assert float(signal.position[0]) == 100
    with pytest.raises(NotFoundError, match="no assay 'RNA'"):
        toy.open().signal("chr1", assays=["RNA"])


def test_sequence(toy: Toy) -> None:
    store = toy.open()
    np.testing.assert_array_equal(store.sequence("chrM"), toy.sequence["chrM"] & 7)
    np.testing.assert_array_equal(store.sequence("chr2:5-50", soft_mask=True), toy.sequence["chr2"][5:50])
    assert genostore.decode(toy.sequence["chrM"][:3]).upper() == "".join(
        "ACGTN"[c & 7] for c in toy.sequence["chrM"][:3]
    )


def test_contact_map(toy: Toy) -> None:
    contacts = toy.open().contacts("A", "hic")
    assert contacts.weights == ["VC"]
    raw = contacts.matrix("chr2:250-1,900")
    expected = toy.matrices["chr2"][2:19, 2:19].astype(float)
    expected[np.abs(np.subtract.outer(range(17), range(17))) >= OFFSETS] = np.nan
    np.testing.assert_array_equal(raw.values, expected)
    assert raw.bin1.values[0] == 200
    profile = contacts.profile("2", 1_550, flank=400)
    np.testing.assert_array_equal(profile.values, toy.matrices["chr2"][15, 11:20])
    edge = contacts.profile("chr2", 20, flank=200)
    np.testing.assert_array_equal(edge.values, [np.nan, np.nan, *toy.matrices["chr2"][0, :3]])


def test_a_flipped_window_is_the_reverse_complement(toy: Toy) -> None:
    forward = toy.open().windows(width=41, contacts="hic", jitter=9)
    index, shift = np.arange(20), np.arange(20) % 19 - 9
    flip = np.arange(20) % 3 == 0
    a, b = forward.read(index, shift), forward.read(index, shift, flip)
    np.testing.assert_array_equal(b.reverse, flip)
    pair = [forward.assays.index(s) for s in ("RNA+", "RNA-")]
    for i in range(20):
        if not flip[i]:
            np.testing.assert_array_equal(a.signal[i], b.signal[i])
            continue
        np.testing.assert_array_equal(b.sequence[i], complement(a.sequence[i][::-1]))
        np.testing.assert_array_equal(b.signal[i][:, pair], a.signal[i][::-1][:, pair[::-1]])
        np.testing.assert_array_equal(b.contacts[i], a.contacts[i][::-1])
        assert b.anchor[i] == 40 - a.anchor[i]
        for j in (0, 20, 40):  # each base stays in its bin
            bins = [(int(x.contact_origin[i]) + k) // x.bin_size for x, k in ((a, j), (b, 40 - j))]
            assert a.contacts.shape[1] - 1 - bins[0] == bins[1]
    both = toy.open().windows(width=41, orient="gene").read(index, 0, True)
    np.testing.assert_array_equal(both.reverse, ~forward.selection.minus[forward.selection.gene])
