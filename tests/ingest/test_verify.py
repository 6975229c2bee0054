"""Verify finds what is wrong in a store, and says where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import genostore
import ingest
from genostore import index
from genostore.errors import CatalogueError, CorruptionError, FormatError
from genostore.storage import Storage

from .small import BIN, CONTIGS, TRACKS, Small, write_bigwig
from .test_run import make

DNASE = "tracks/K562/DNase"


def lines(store: str, **options: object) -> list[str]:
    found = ingest.verify(store, **options)
    assert found.ok == (not found.findings)
    return [str(f) for f in found.findings]


def damage(path: Path, at: int = 20) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_good_store_against_all_of_its_sources(small: Small) -> None:
    store = make(small)
    found = ingest.verify(store.path, deep=True, against=small.folder / "catalog.yaml")
    assert found.ok, str(found)
    assert found.nodes == 10
    assert found.compared == found.values > 3 * 8_960
    assert str(found).endswith("all is well")
    assert ingest.verify(store.path).compared == 0


def test_deep_needs_the_sources(small: Small) -> None:
    with pytest.raises(CatalogueError, match="name the catalogue"):
        ingest.verify(make(small, TRACKS).path, deep=True)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is not a genostore store"):
        ingest.verify(tmp_path / "none.zarr")


def cut_shard(store: Path) -> None:
    (store / DNASE / "c/0").unlink()


def flip_bit(store: Path) -> None:
    damage(store / DNASE / "c/0")


def add_shard(store: Path) -> None:
    (store / DNASE / "c/7").write_bytes(b"x")


def swap_shard(store: Path) -> None:
    (store / DNASE / "c/0").write_bytes((store / "tracks/K562/RNA+/c/0").read_bytes())


def flip_text(store: Path) -> None:
    damage(store / "genes/id/c/0")


def cut_metadata(store: Path) -> None:
    path = store / DNASE / "zarr.json"
    path.write_bytes(path.read_bytes()[:-40])


def edit_attributes(store: Path) -> None:
    path = store / DNASE / "zarr.json"
    path.write_text(path.read_text().replace('"background"', '"foreground"'))


def forget(store: Path) -> None:
    storage = Storage.of(store)
    index.write(storage, {node: entry for node, entry in index.read(storage).items() if node != DNASE})


def lose(store: Path) -> None:
    (store / DNASE).rename(store.parent / "lost")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut_shard, f"{DNASE}: shard 0 (c/0): array {DNASE} of "),
        (flip_bit, f"{DNASE}: shard 0 (c/0): array {DNASE} of "),
        (swap_shard, f"{DNASE}: shard 0 (c/0) has crc32c "),
        (flip_text, "genes/id: shard 0 (c/0): "),
        (edit_attributes, f"{DNASE}: the metadata of {DNASE} of "),
        (forget, f"{DNASE}: is in the store and not in the index; run `genostore reindex"),
        (lose, f"{DNASE}: is in the index and not in the store; run `genostore reindex"),
    ],
)
def test_harm_is_found(small: Small, harm: Callable[[Path], None], said: str) -> None:
    store = make(small)
    harm(Path(store.path))
    found = lines(store.path)
    assert len(found) == 1
    assert found[0].startswith(said)


def test_a_shard_that_is_not_listed(small: Small) -> None:
    (small.folder / "empty.bedgraph").write_text("chr1\t0\t1\tnan\n")
    store = make(small, "tracks:\n  - {cell_type: K562, assay: x, source: empty.bedgraph}\n")
    (Path(store.path) / "tracks/K562/x/c").mkdir()
    (Path(store.path) / "tracks/K562/x/c/0").write_bytes(b"x")
    assert lines(store.path) == ["tracks/K562/x: shard 0 (c/0) is there and not listed"]


def test_damaged_metadata_are_a_finding(small: Small) -> None:
    store = make(small)
    cut_metadata(Path(store.path))
    found = lines(store.path, against=small.folder / "catalog.yaml")
    assert len(found) == 1
    assert found[0].startswith(f"{DNASE}: the metadata of {DNASE} of {store.path} are damaged")
    with pytest.raises(CorruptionError, match="--overwrite"):
        make(small)
    assert make(small, overwrite=True).entries[DNASE]["generation"] == 2
    assert lines(store.path) == []


def test_other_values_are_told_with_their_place(small: Small) -> None:
    store = make(small)
    values = {c: v.copy() for c, v in small.dnase.items()}
    values["chr2"][1_500:1_502] = 42
    before = small.dnase["chr2"][1_500]
    write_bigwig(small.folder / "dnase.bw", CONTIGS, values)
    found = lines(store.path, deep=True, against=small.folder / "catalog.yaml")
    mine = [line for line in found if line.startswith(DNASE)]
    assert "made from dnase.bw (sha256 " in mine[0]
    assert "differ from the source; chr2:1,500: " in mine[1]
    assert f"chr2:1,500: {before} in the store, 42.0 in the source" in mine[1]
    assert any(line.startswith("expression/SUM/K562: ") for line in found)  # computed from the same file


def test_other_contacts_and_columns_are_told_with_their_place(small: Small) -> None:
    import h5py

    store = make(small)
    with h5py.File(small.folder / "hic.cool", "r+") as file:
        row, column = file["pixels/bin1_id"][0], file["pixels/bin2_id"][0]
        file["pixels/count"][0] = 99
        file["bins/weight"][10] = 5.0
    table = small.folder / "table.csv"
    table.write_text(table.read_text().replace("2.5", "2.6"))
    found = "\n".join(lines(store.path, deep=True, against=small.folder / "catalog.yaml"))
    assert f"chrM:{row * BIN} with {column * BIN}: " in found
    assert "99 in the source" in found
    assert "weights/weight[3]: " in found
    assert "features/length: 1 of 4 values differ from the source; row[3]: 2.5 in the store" in found


def test_what_the_catalogue_has_and_the_store_has_not(small: Small) -> None:
    store = make(small, TRACKS)
    more = small.catalogue(TRACKS + "  - {cell_type: K562, assay: RNA, source: rna.bedgraph}\n")
    assert lines(store.path, against=more) == ["tracks/K562/RNA: is in the catalogue and not in the store"]


def test_a_sample_is_the_same_for_the_same_seed(small: Small) -> None:
    store = make(small)
    one, two = (ingest.verify(store.path, against=small.folder / "catalog.yaml", sample=3) for _ in range(2))
    assert one.ok
    assert 0 < one.compared == two.compared < one.values


def test_a_pack_and_a_store_without_genes(small: Small) -> None:
    assert ingest.verify(make(small, TRACKS, "plain.zarr").path).ok
    store = make(small)
    path = small.folder.parent / "pack.zarr"
    store.windows(cell_types=["K562"], assays=["DNase"], width=100).pack(path)
    assert genostore.open(path)
    assert lines(str(path)) == []
