"""The lean path gives what TensorStore gives, and refuses what it refuses."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genostore import kernels, local, opened
from genostore.arrays import Array, Reads, Spans
from genostore.errors import CorruptionError
from genostore.genome import Genome
from genostore.local import LocalShards
from genostore.machine import crc32c
from genostore.schema import position_array
from genostore.staging import Staging, create
from genostore.storage import Storage

LENGTH = 100_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Arrays of three types over seven shards, one of them empty."""
    storage = create(tmp_path_factory.mktemp("lean") / "s", Genome.build("t", {"c": LENGTH}, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genostore.schema.POSITION_SHARD", 16_384)
        for dtype, fill in (("float32", np.nan), ("float16", np.nan), ("uint8", 4)):
            rng = np.random.default_rng(0)
            values = np.repeat(rng.integers(0, 90, LENGTH // 10), 10).astype(dtype)
            values = np.concatenate([values, np.full(64, fill, dtype)])
            values[16_384:40_000] = fill
            schema = position_array(LENGTH + 32, 64, dtype, fill)
            staging = Staging(storage, f"tracks/A/{dtype}", {"": schema}, "d")
            staging.begin()
            for block in staging.todo():
                staging.write(block, values[schema.slices(block)[0]]).wait()
            staging.publish({"kind": "track", "cell_type": "A", "assay": dtype})
    return storage


spans = st.lists(st.tuples(st.integers(0, LENGTH - 1), st.integers(1, 3_000)), min_size=1, max_size=60)


@pytest.mark.parametrize("name", ["float32", "float16", "uint8"])
@settings(max_examples=60, deadline=None)
@given(spans=spans)
def test_any_spans_equal_tensorstore(store: Storage, name: str, spans: list[tuple[int, int]]) -> None:
    array = Array(store, f"tracks/A/{name}")
    start = np.array([s for s, _ in spans])
    stop = np.minimum(start + np.array([n for _, n in spans]), LENGTH)
    row = np.arange(len(spans))
    asked = Spans(np.stack([row, start, stop, np.zeros_like(row)], axis=1))
    lean, general = array.empty((len(spans), 2, 3_000)), array.empty((len(spans), 3_000))
    with Reads() as reads:
        reads.spans(array, asked, lean[:, 1])
    assert array.shards is not None
    array.shards = None  # what is left is TensorStore
    with Reads() as reads:
        reads.spans(array, asked, general)
    np.testing.assert_array_equal(lean[:, 1], general)
    np.testing.assert_array_equal(lean[:, 0], array.empty((len(spans), 3_000)))


@settings(deadline=None)
@given(data=st.binary(max_size=100))
def test_crc32c(data: bytes) -> None:
    kept = np.frombuffer(data, np.uint8)
    assert crc32c(kept.ctypes.data, len(data)) == google_crc32c.value(data)


def test_pieces_of_a_chunk_stay_together() -> None:
    start = np.arange(0, 1_000, 10)
    spans = Spans(np.stack([np.arange(100), start, start + 25, np.zeros(100, dtype=np.int64)], axis=1))
    pieces = spans.pieces(64)
    parts = local.split(pieces, 7)
    assert np.concatenate(parts).tolist() == pieces.tolist()
    seen = [set((part >> kernels.SPAN).tolist()) for part in parts]
    assert set.union(*seen) == {k for p in start.tolist() for k in range(p // 64, (p + 24) // 64 + 1)}
    assert sum(map(len, seen)) == len(set.union(*seen))


def damage(folder: Path, how: str) -> None:
    shard = folder / "c/0"
    content = bytearray(shard.read_bytes())
    if how == "data":
        content[10] ^= 1
    elif how == "checksum of the index":
        content[-1] ^= 1
    elif how == "index":
        content[-40] ^= 1
    elif how == "shortened":
        del content[-20:]
    elif how == "emptied":
        content.clear()
    shard.unlink()
    if how != "absent":
        shard.write_bytes(content)


@pytest.mark.parametrize("how", ["data", "index", "checksum of the index", "shortened", "emptied", "absent"])
def test_damage_is_an_error_and_never_a_value(store: Storage, tmp_path: Path, how: str) -> None:
    copy = Storage.of(tmp_path)
    source = store.path("tracks/A/float32")
    for path in source.rglob("*"):
        if path.is_file():
            target = tmp_path / "tracks/A/float32" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    damage(tmp_path / "tracks/A/float32", how)
    array, out = Array(copy, "tracks/A/float32"), np.zeros((1, 10_000), np.float32)
    with pytest.raises(CorruptionError, match="absent" if how == "absent" else "damaged"), Reads() as reads:
        reads.spans(array, Spans(np.array([[0, 0, 10_000, 0]])), out)


def test_other_arrays_are_left_to_tensorstore(store: Storage) -> None:
    metadata = json.loads((store.path("tracks/A/uint8") / "zarr.json").read_text())
    schema = Array(store, "tracks/A/uint8").schema
    assert LocalShards.supports(schema)
    assert schema.to_json()["codecs"] == metadata["codecs"]
    assert not LocalShards.supports(position_array(10, 1, "string", 0))


def test_files_stay_open_while_they_are_read(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if none may, for the sake of others."""
    opened.forget()
    monkeypatch.setattr(opened, "_FILES", 0)
    monkeypatch.setattr(opened, "_INDEXES", 0)
    array = Array(store, "tracks/A/float32")
    start = np.arange(0, LENGTH - 1_000, 1_000)
    out, row = np.empty((len(start), 1_000), np.float32), np.arange(len(start))
    with Reads() as reads:
        reads.spans(array, Spans(np.stack([row, start, start + 1_000, np.zeros_like(row)], axis=1)), out)
    np.testing.assert_array_equal(out.ravel(), array.read(slice(0, out.size)))


def test_tasks_are_all_run_and_an_error_stops_the_rest() -> None:
    ran: list[int] = []
    local.run([partial(ran.append, i) for i in range(100)])
    assert sorted(ran) == list(range(100))

    def fail() -> None:
        raise ValueError("DATA_LOSS")

    ran.clear()
    with pytest.raises(ValueError, match="DATA_LOSS"):
        local.run([fail, *[partial(ran.append, i) for i in range(100_000)]])
    seen = len(ran)
    time.sleep(0.05)
    assert len(ran) == seen < 100_000  # nobody writes any more


def test_threads_that_open_the_same_shards_at_once(store: Storage) -> None:
    """One opens what another has just found closed."""
    array = Array(store, "tracks/A/float32")
    expected, spans = array.read(), Spans(np.array([[0, 0, LENGTH, 0]]))
    parts = local.split(spans.pieces(array.schema.chunk[0]), 4)

    def read(out: np.ndarray) -> None:
        assert array.shards is not None
        for part in parts:
            for task in array.shards.read(part, spans.values, out):
                task()

    with ThreadPoolExecutor(4) as pool:
        for _ in range(100):
            opened.forget()
            outs = [np.empty((1, LENGTH), np.float32) for _ in range(4)]
            list(pool.map(read, outs))
            for out in outs:
                np.testing.assert_array_equal(out[0], expected[:LENGTH])
