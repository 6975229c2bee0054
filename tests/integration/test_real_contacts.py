"""Contacts of public files: every bin, band value and weight equals what cooler and hictkpy read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import genostore
import ingest
from genostore.contacts import ContactMap
from genostore.store import Store
from ingest.sources.dothic import hictkpy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cooler

pytestmark = pytest.mark.real

Real = Callable[[str], Any]
BIN = 5_000
HIC_NAMES = {"chr21": "21", "chr22": "22"}  # of the assembly and of the .hic files
HIC_ENTRIES = [
    # cell type, file, version, bin size, normalisations
    ("LOW", "GSE131651_NSD2_LOW_arima_example.hic", 8, 50_000, ["GW_SCALE", "KR", "SCALE", "VC", "VC_SQRT"]),
    ("HIGH", "GSE131651_NSD2_HIGH_arima_example.hic", 8, 50_000, ["GW_SCALE", "KR", "SCALE", "VC", "VC_SQRT"]),
    ("test", "test_chr22.hic", 8, 100_000, ["KR", "SCALE", "VC", "VC_SQRT"]),
    ("test", "test_chr22.hic", 8, 2_500_000, ["KR", "SCALE", "VC", "VC_SQRT"]),
    ("no_norms", "eigenvector_example.hic", 9, 250_000, []),
]


def to_band(bin1: Any, bin2: Any, count: Any, shape: tuple[int, int]) -> tuple[np.ndarray, int, float]:
    """Lay pixels of the upper triangle out as a band; also the number and the sum of those beyond it."""
    bin1, offset, count = np.asarray(bin1), np.asarray(bin2) - np.asarray(bin1), np.asarray(count)
    assert (offset >= 0).all()
    near = offset < shape[1]
    band = np.zeros(shape, dtype=count.dtype)
    band[bin1[near], offset[near]] = count[near]
    assert len(np.unique(bin1 * shape[0] + offset)) == len(bin1)
    return band, int(np.count_nonzero(count[~near])), float(count[~near].sum(dtype=np.float64))


def beyond(contacts: ContactMap) -> tuple[int, float]:
    counts = contacts.band.attributes["counts"]
    return counts["beyond_pixels"], counts["beyond_sum"]


def test_yeast_against_cooler(real: Real) -> None:
    """Another old format, other lengths, a plasmid that the assembly lacks; all of it within the band."""
    found = real("yeast")
    store = found.open()
    contacts = store.contacts("yeast", "hic")
    matrix = cooler.Cooler(str(found.data / "yeast.10kb.cool"))
    theirs = {contig: f"chr{contig}" for contig in store.contigs}
    assert contacts.band.dtype == matrix.pixels().dtypes["count"]
    assert contacts.n_bins == sum(-(-length // 10_000) for length in store.contigs.values())
    raw, balanced = matrix.matrix(balance=False), matrix.matrix(balance=True)
    n = 0
    for contig in store.genome:
        dense, name = raw.fetch(theirs[contig.name]), theirs[contig.name]
        np.testing.assert_array_equal(contacts.matrix(contig.name), dense)
        np.testing.assert_allclose(contacts.matrix(contig.name, "weight"), balanced.fetch(name), rtol=1e-12)
        weights = matrix.bins().fetch(name)["weight"].to_numpy()
        first = contacts.first_bin(contig)
        np.testing.assert_array_equal(contacts.biases("weight")[first : first + len(weights)], weights)
        n += len(weights)
    assert n == contacts.n_bins
    assert beyond(contacts) == (0, 0.0)

    recorded = contacts.attributes["provenance"]["contigs"]
    lengths = matrix.chromsizes.to_dict()
    assert recorded["extra"] == ["chr2-micron"]
    assert recorded["absent"] == []
    other = {(theirs[c], lengths[theirs[c]], c, n) for c, n in store.contigs.items() if lengths[theirs[c]] != n}
    assert {tuple(m) for m in recorded["mismatched"]} == other
    assert len(other) == 15


def test_k562_against_cooler_and_the_published_text(real: Real) -> None:
    found = real("k562_hg38")
    contacts = found.open().contacts("K562", "hic")
    matrix = cooler.Cooler(str(found.data / "derived" / "K562_chr22_5kb.RAWobserved.hg38.cool"))
    upper = matrix.matrix(balance=False, sparse=True)[:]
    upper = upper.tocoo()
    keep = upper.row <= upper.col
    shape = (contacts.n_bins, contacts.n_offsets)
    assert shape == (10_164, 401)
    band, pixels, total = to_band(upper.row[keep], upper.col[keep], upper.data[keep], shape)
    got = contacts.band.read()
    assert got.dtype == matrix.pixels().dtypes["count"]
    np.testing.assert_array_equal(got, band)
    assert beyond(contacts) == (pixels, total)
    np.testing.assert_array_equal(contacts.biases("weight"), matrix.bins()[:]["weight"])

    text = pd.read_csv(found.data / "chr22.RAWobserved.gz", sep="\t", header=None, names=["a", "b", "count"])
    assert len(text) == 1_063_677
    assert text["count"].sum() == 6_499_134
    published, pixels, total = to_band(text["a"] // BIN, text["b"] // BIN, text["count"], shape)
    np.testing.assert_array_equal(got, published)
    assert beyond(contacts) == (pixels, total)
    assert np.count_nonzero(got) + pixels == len(text)


def test_profiles_and_matrices_of_windows(real: Real) -> None:
    """What a loader gets of the contacts, balanced, against a balanced matrix of cooler's."""
    found = real("k562_hg38")
    store = found.open()
    matrix = cooler.Cooler(str(found.data / "derived" / "K562_chr22_5kb.RAWobserved.hg38.cool"))
    balanced = matrix.matrix(balance=True)
    genes = store.genes.iloc[::25]["id"].tolist()
    asked = {
        kind: store.windows(
            genes,
            assays=[],
            sequence=False,
            contacts=genostore.Contacts("hic", BIN, weight="weight", kind=kind, flank=100_000),
        )
        for kind in ("profile", "matrix")
    }
    profile, square = (windows.read(np.arange(len(genes))) for windows in asked.values())
    filtered = 0
    for i, row in enumerate(asked["profile"].genes.itertuples()):
        first, view = (row.tss - 100_000) // BIN, row.tss // BIN
        n = profile.contacts.shape[1]
        expected = balanced[first : first + n, first : first + n].astype(np.float32)
        filtered += np.isnan(expected[view - first]).all()
        np.testing.assert_allclose(profile.contacts[i], expected[view - first], rtol=1e-6)
        np.testing.assert_allclose(square.contacts[i], expected, rtol=1e-6)
        # The origin tells in which bin a base of the window lies.
        assert first + (profile.contact_origin[i] + profile.anchor[i]) // BIN == view
    assert 0 < filtered < len(genes)


def test_published_virtual_4c(real: Real) -> None:
    """The contacts rank bins as the published profiles of the same TSSs do.

    Those are KR-normalised and of another Hi-C map of K562; ours are counts lifted over from hg38, with ICE weights.
    They cannot be equal. The docs give the figures.
    """
    found = real("k562_hg19")
    store = found.open()
    contacts = store.contacts("K562", "hic")
    end = store.contigs[store.genome.resolve("22").name]
    ours, published, peaks = [], [], []
    for file in sorted((found.data / "HiC_bedgraph").glob("*.bg.gz")):
        tss = int(file.name.split("_")[-1].split(".")[0])
        assert tss < end
        profile = contacts.profile("22", tss, 500_000, weight="weight")
        rows = pd.read_csv(file, sep="\t", header=None, names=["contig", "start", "end", "value"])
        values = rows.set_index("start")["value"]
        if values.max() > 0:
            peaks.append(values.idxmax() // BIN == tss // BIN)
        if profile.notnull().any():
            ours.append(profile.to_numpy())
            published.append(values.reindex(profile["bin"].to_numpy()).to_numpy())
    assert np.mean(peaks) > 0.9  # a TSS's bin is that of its position, here as there

    def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
        there = ~np.isnan(a) & ~np.isnan(b)
        return float(spearmanr(a[there], b[there]).statistic)

    own = np.array([rank_correlation(a, b) for a, b in zip(ours, published, strict=True)])
    assert len(own) == 89  # the others' bins are filtered
    assert np.median(own) > 0.8
    assert own.min() > 0.4
    # Distance alone gives a high correlation: that of a profile with those of other TSSs.
    others = np.array([np.median([rank_correlation(a, b) for b in published[::8]]) for a in ours])
    assert np.median(own - others) > 0.1
    assert np.mean(own > others) > 0.9


# .hic


def write_n_fasta(path: Path, lengths: dict[str, int]) -> Path:
    path.write_text("".join(f">{name}\n{'N' * length}\n" for name, length in lengths.items()))
    return path


@pytest.fixture(scope="module")
def hic_store(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    """A store of all the .hic files of hg19; the FASTA has the lengths and no bases."""
    folder, files = tmp_path_factory.mktemp("hic"), shared / "data" / "hic_formats"
    lengths = hictkpy().File(str(files / HIC_ENTRIES[0][1]), 50_000).chromosomes()
    write_n_fasta(folder / "hg19.fa", {ours: lengths[theirs] for ours, theirs in HIC_NAMES.items()})
    entries = "".join(
        f"  - {{cell_type: {cell}, assay: hic, bin_size: {size}, max_distance: {20 * size}, weights: all, "
        f"source: {files / name}}}\n"
        for cell, name, _, size, _ in HIC_ENTRIES
    )
    catalogue = folder / "catalog.yaml"
    catalogue.write_text(f"version: 1\nassembly: {{name: hg19, fasta: hg19.fa}}\ncontacts:\n{entries}")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GENOSTORE_CACHE", str(folder / "cache"))
        ingest.run(ingest.plan(catalogue, folder / "store.zarr"))
    return files, genostore.open(folder / "store.zarr")


@pytest.mark.parametrize(("cell_type", "name", "version", "bin_size", "norms"), HIC_ENTRIES)
def test_hic_against_hictkpy(
    hic_store: tuple[Path, Store], cell_type: str, name: str, version: int, bin_size: int, norms: list[str]
) -> None:
    files, store = hic_store
    contacts = store.contacts(cell_type, "hic", bin_size)
    source = hictkpy().File(str(files / name), bin_size)
    assert source.attributes()["format-version"] == version
    assert contacts.weights == norms
    got = contacts.band.read()
    assert got.dtype == np.float32
    lengths = source.chromosomes()
    starts = dict(zip(lengths, np.cumsum([0, *(-(-n // bin_size) for n in lengths.values())]), strict=False))
    pixels, total, seen = 0, 0.0, 0
    for contig in store.genome:
        theirs = HIC_NAMES[contig.name]
        first, n_bins = contacts.first_bin(contig), contig.n_bins(bin_size)
        found = source.fetch(theirs, count_type="float32").to_df()
        bin1, bin2 = found["bin1_id"] - starts[theirs], found["bin2_id"] - starts[theirs]
        band, n, amount = to_band(bin1, bin2, found["count"], (n_bins, contacts.n_offsets))
        np.testing.assert_array_equal(got[first : first + n_bins], band)
        pixels, total, seen = pixels + n, total + amount, seen + len(found)
    assert seen > 0
    assert beyond(contacts)[0] == pixels
    assert beyond(contacts)[1] == pytest.approx(total, rel=1e-6)

    for norm in norms:
        stored = store.array(f"{contacts.node}/weights/{norm}")
        assert stored.attributes["divisive"] is True
        vector = source.weights(norm, divisive=True)
        for contig in store.genome:
            first, n_bins = contacts.first_bin(contig), contig.n_bins(bin_size)
            start = starts[HIC_NAMES[contig.name]]
            np.testing.assert_array_equal(stored.read(slice(first, first + n_bins)), vector[start : start + n_bins])

    last = store.genome.resolve("chr22")
    low = max(last.n_bins(bin_size) - contacts.n_offsets, 0) * bin_size
    for norm in norms:  # counts balanced by us are those that hictkpy balances
        where = f"{HIC_NAMES[last.name]}:{low}-{last.length}"
        dense = source.fetch(where, normalization=norm, count_type="float64").to_numpy("full")
        ours = contacts.matrix((last.name, low, last.length), norm).to_numpy()
        assert np.count_nonzero(dense > 0) > 50
        np.testing.assert_allclose(np.where(dense == 0, 0, ours), dense, rtol=1e-6)
