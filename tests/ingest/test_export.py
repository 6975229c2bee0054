"""What a store gives back as files is what went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyBigWig
import pytest

import genostore
import ingest
from genostore.errors import ConflictError, NotFoundError, QueryError, RegionError
from ingest.sources.bedgraph import BedGraph

from .small import BIN, CONTIGS, Small
from .test_run import make

DNASE = "tracks/K562/DNase"


@pytest.fixture
def store(small: Small) -> genostore.Store:
    return make(small)


@pytest.fixture
def out(small: Small) -> Path:
    folder = small.folder.parent / "out"
    folder.mkdir()
    return folder


def test_a_track_as_bigwig_has_the_same_values_and_gaps(store: genostore.Store, small: Small, out: Path) -> None:
    path = ingest.export(store, DNASE, out / "dnase.bw")
    with pyBigWig.open(str(path)) as file:
        assert file.chroms() == CONTIGS
        for contig, length in CONTIGS.items():
            np.testing.assert_array_equal(file.values(contig, 0, length, numpy=True), small.dnase[contig])


def test_a_bigwig_ingested_again_is_the_same_track(store: genostore.Store, small: Small, out: Path) -> None:
    path = ingest.export(store.path, DNASE, out / "again.bigWig")
    ingest.add(store.path, path, cell_type="K562", assay="again")
    again = genostore.open(store.path)
    assert again.entries["tracks/K562/again"]["crc32c"] == again.entries[DNASE]["crc32c"]


def test_a_slice_as_bedgraph(store: genostore.Store, small: Small, out: Path) -> None:
    path = ingest.export(store, DNASE, out / "slice.bedGraph", region="chr1:1,000-2,000")
    expected = np.full(5_000, np.nan, dtype=np.float32)
    expected[1_000:2_000] = small.dnase["chr1"][1_000:2_000]
    np.testing.assert_array_equal(BedGraph(path).values("chr1", 0, 5_000), expected)
    assert {line.split("\t")[0] for line in path.read_text().splitlines()} == {"chr1"}


def test_odd_values_come_back_as_they_were(small: Small, out: Path) -> None:
    text = "chr1\t0\t2\tinf\nchr1\t2\t4\t-0.0\nchr1\t4\t6\t0.0\nchr1\t6\t8\t0.1\nchr1\t8\t9\t1e-30\n"
    (small.folder / "odd.bedgraph").write_text(text)
    store = make(small, "tracks:\n  - {cell_type: A, assay: odd, source: odd.bedgraph}\n")
    assert ingest.export(store, "tracks/A/odd", out / "odd.bg").read_text() == text


def test_slices_as_npz(store: genostore.Store, small: Small, out: Path) -> None:
    with np.load(ingest.export(store, DNASE, out / "a.npz", region=("chr2", 10, 60))) as found:
        np.testing.assert_array_equal(found["values"], small.dnase["chr2"][10:60])
        assert (str(found["contig"]), int(found["start"]), int(found["end"])) == ("chr2", 10, 60)
    with np.load(ingest.export(store, "sequence", out / "b.npz", region="chrM")) as found:
        np.testing.assert_array_equal(found["values"], small.codes("chrM"))
    node = f"contacts/K562/hic/{BIN}"
    with np.load(ingest.export(store, node, out / "c.npz", region="chr1:0-1000", weight="weight")) as found:
        weights = small.weights[:10]
        np.testing.assert_allclose(found["values"], small.matrix["chr1"][:10, :10] * np.outer(weights, weights))


def test_genes_and_regions_as_bed(store: genostore.Store, out: Path) -> None:
    assert ingest.export(store, "regions/blacklist", out / "a.bed").read_text().splitlines() == [
        "chr1\t100\t200\tHigh Signal",
        "chr2\t3000\t3001\tEnd",
    ]
    assert (
        ingest.export(store, "genes", out / "b.bed", region="chr1:0-500").read_text() == "chr1\t100\t400\tG1.2\t0\t+\n"
    )


@pytest.mark.parametrize(
    ("node", "name", "options", "error", "message"),
    [
        ("tracks/K562/DNas", "a.bw", {}, NotFoundError, "did you mean 'tracks/K562/DNase'"),
        (DNASE, "a.txt", {}, QueryError, "does not say the format; it can be written as bigwig, bedgraph, npz"),
        (DNASE, "a.bed", {}, QueryError, "cannot be written as bed"),
        ("features/length", "a.npz", {}, QueryError, "it has no such form"),
        (DNASE, "a.npz", {}, QueryError, "an npz is of one region"),
        (DNASE, "a.npz", {"region": "chr1:4000-6000"}, RegionError, "passes an end of chr1"),
        (DNASE, "a.bw", {"weight": "VC"}, QueryError, "weight is for contacts"),
    ],
)
def test_what_cannot_be(
    store: genostore.Store, out: Path, node: str, name: str, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ingest.export(store, node, out / name, **options)
    assert not list(out.iterdir())


def test_a_file_that_is_there_is_kept(store: genostore.Store, out: Path) -> None:
    (out / "a.bw").write_text("precious")
    with pytest.raises(ConflictError, match=r"a.bw is there already"):
        ingest.export(store, DNASE, out / "a.bw")
    assert (out / "a.bw").read_text() == "precious"
    ingest.export(store, DNASE, out / "a.bw", overwrite=True)
    assert pyBigWig.open(str(out / "a.bw")).isBigWig()
