"""Damage of any kind is noticed on reading or by verify; a sample of what the full run tries."""

from __future__ import annotations

from pathlib import Path

import pytest

import genostore
import ingest
from genostore.errors import CorruptionError, FormatError
from genostore.seal import broken, seal, sealed
from tests.reliability.corrupt import PLACES, changed, flips, swapped_nodes, whole_objects
from tests.reliability.world import build, objects


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path, place: str) -> None:
    row = flips(tmp_path, place, 10)
    assert row.good, row.notes
    assert not any("harmless" not in note for note in row.notes), row.notes


def test_an_object_that_is_lost_cut_or_swapped_is_noticed(tmp_path: Path) -> None:
    for row in whole_objects(tmp_path / "w", 48, seed=1):
        assert row.good, row.notes


def test_a_column_in_the_place_of_another_is_noticed(tmp_path: Path) -> None:
    row = swapped_nodes(tmp_path / "w")
    assert row.good, row.notes
    assert row.tried > 20


def test_every_metadata_object_is_sealed(tmp_path: Path) -> None:
    _, store = build(tmp_path / "w")
    for path in objects(store):
        if path.suffix == ".json":
            raw = (store / path).read_bytes()
            assert sealed(raw)
            assert broken(raw, str(path)) is None
            assert broken(raw, "other/zarr.json") is not None
            flipped = bytes([raw[0], raw[1] ^ 4, *raw[2:]])
            assert broken(flipped, str(path)) is not None


def test_the_same_content_in_other_spacing_passes() -> None:
    import json

    document = {"zarr_format": 3, "node_type": "group", "attributes": {"genostore": {"kind": "x"}, "theirs": 1}}
    raw = seal(document, "a/zarr.json")
    assert broken(raw, "a/zarr.json") is None
    respelled = json.dumps({**json.loads(raw), "consolidated_metadata": {}}).encode()
    assert broken(respelled, "a/zarr.json") is None
    assert broken(respelled.replace(b'"theirs": 1', b'"theirs": 2'), "a/zarr.json") is not None


def test_lost_parts_of_a_group_are_found_by_verify(tmp_path: Path) -> None:
    _, store = build(tmp_path / "w")
    for lost, said in (
        ("genes/tss/zarr.json", "genes/tss: is a part of genes and not there"),
        ("contacts/K562/hic/100/weights/zarr.json", "contacts/K562/hic/100/weights: has no zarr.json"),
        ("tracks/K562/zarr.json", "tracks/K562"),
    ):
        with changed(store / lost, None):
            assert any(str(f).startswith(said) for f in ingest.verify(store).findings), lost
    assert ingest.verify(store).ok


def test_a_damaged_root_or_index_is_told_with_the_remedy(tmp_path: Path) -> None:
    _, store = build(tmp_path / "w")
    for name, error, said in (
        ("zarr.json", FormatError, "damaged"),
        ("index.json", FormatError, "genostore reindex"),
        ("tracks/K562/DNase/zarr.json", CorruptionError, "damaged"),
    ):
        raw = (store / name).read_bytes()
        damaged = raw.replace(b"chr1", b"chr9", 1).replace(b"DNase", b"DNasf", 1)
        with changed(store / name, damaged), pytest.raises(error, match=said):
            genostore.open(store).track("K562", "DNase")
