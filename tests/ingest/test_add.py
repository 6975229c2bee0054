"""One file into a store that is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import genostore
import ingest
from genostore.errors import CatalogueError, ConflictError, FormatError, SourceError

from .small import BIN, CONTIGS, TRACKS, Small, write_bigwig
from .test_run import make, track, tree


def test_a_track_in_one_line_touches_nothing_that_is_there(small: Small) -> None:
    store = make(small)
    before = tree(Path(store.path))
    outcome = ingest.add(
        store.path,
        small.folder / "rna.bedgraph",
        cell_type="H1",
        assay="RNA",
        strand="-",
        replicate=2,
        role="background",
    )
    assert outcome.written == ("tracks/H1/RNA-.rep2",)
    after = tree(Path(store.path))
    assert {k for k in before if after[k] != before[k]} == {"index.json"}
    store = genostore.open(store.path)
    np.testing.assert_array_equal(track(store, "tracks/H1/RNA-.rep2", "chr2"), small.rna["chr2"])
    assert store.entries["tracks/H1/RNA-.rep2"]["role"] == "background"


def test_as_the_catalogue_would(small: Small) -> None:
    one = make(small, TRACKS, "one.zarr")
    two = make(small, "", "two.zarr")
    ingest.add(two.path, small.folder / "dnase.bw", cell_type="K562", assay="DNase", role="background", unit="reads")
    assert tree(Path(one.path)) == tree(Path(two.path))


def test_contacts_are_told_by_content(small: Small) -> None:
    store = make(small, "")
    source = small.folder / "hic.cool"
    odd = source.rename(small.folder / "matrix.bin")
    outcome = ingest.add(store.path, odd, cell_type="H1", assay="hic", max_distance=500)
    assert outcome.written == (f"contacts/H1/hic/{BIN}",)
    assert genostore.open(store.path).contacts("H1", "hic").max_distance == 500


def test_again_is_nothing_and_other_content_is_refused(small: Small) -> None:
    store = make(small, TRACKS)
    add = {"cell_type": "K562", "assay": "DNase", "role": "background", "unit": "reads"}
    assert ingest.add(store.path, small.folder / "dnase.bw", **add).kept == ("tracks/K562/DNase",)
    write_bigwig(small.folder / "other.bw", CONTIGS, small.rna)
    with pytest.raises(ConflictError, match=r"1 node of .* would change; --overwrite"):
        ingest.add(store.path, small.folder / "other.bw", **add)
    assert ingest.add(store.path, small.folder / "other.bw", **add, overwrite=True).written == ("tracks/K562/DNase",)


@pytest.mark.parametrize(
    ("file", "options", "error", "message"),
    [
        ("dnase.bw", {"assay": "a/b"}, CatalogueError, "assay: 'a/b' is no name"),
        ("dnase.bw", {"role": "front"}, CatalogueError, "role: expected 'foreground' or 'background', got 'front'"),
        ("dnase.bw", {"bin_size": 5_000}, CatalogueError, "dnase.bw is a track, which takes no bin_size"),
        ("hic.cool", {"strand": "+"}, CatalogueError, "hic.cool is contacts, which takes no strand"),
        ("hic.cool", {"bin_size": 7}, SourceError, "no bins of 7 bases"),
        ("hic.cool", {"weights": ["KR"]}, SourceError, "has no weights 'KR'"),
        ("none.bw", {}, SourceError, "no such file"),
        ("table.csv", {}, SourceError, "is neither a bigWig nor named like a bedGraph"),
        ("dnase.bw", {"sha256": "0" * 64}, SourceError, "its sha256 is"),
    ],
)
def test_what_cannot_be(small: Small, file: str, options: dict, error: type[Exception], message: str) -> None:
    store = make(small, "")
    before = tree(Path(store.path))
    with pytest.raises(error, match=message):
        ingest.add(store.path, small.folder / file, **{"cell_type": "K562", "assay": "x"} | options)
    assert tree(Path(store.path)) == before


def test_a_store_must_be_there(small: Small) -> None:
    with pytest.raises(FormatError, match="is not a genostore store"):
        ingest.add(small.folder / "none.zarr", small.folder / "dnase.bw", cell_type="A", assay="x")


def test_a_name_that_the_store_cannot_hold(small: Small) -> None:
    store = make(small, "")
    with pytest.raises((CatalogueError, FormatError), match="name"):
        ingest.add(store.path, small.folder / "dnase.bw", cell_type=".hidden", assay="x")
