"""Resident data: the same batches as from the store, held once, given back."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from genostore import Contacts, disk, shared
from genostore.batch_kernels import gather_sequence, gather_signal
from genostore.errors import QueryError
from genostore.loader.resident import OnDevice
from genostore.resident import Resident
from tests.alone import alone

from .conftest import Toy

QUERIES = {
    "plain": {"width": 400, "jitter": 0},
    "jitter": {"width": 401, "jitter": 61, "contacts": "hic", "expression": "CAGE", "features": "all"},
    "matrix": {"width": 250, "jitter": 75, "contacts": Contacts("hic", kind="matrix", weight="VC")},
    "flank": {"width": 50, "jitter": 3, "contacts": Contacts("hic", flank=700), "orient": "gene"},
    "binned": {"width": 300, "jitter": 7, "resolution": 10, "assays": ["RNA", "DNase"], "orient": "gene"},
    "sums": {"width": 300, "resolution": 4, "aggregate": "sum", "assays": ["DNase"], "sequence": False},
    "wide": {"width": 699, "jitter": 200, "contacts": "hic"},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of shared memory of the test's own; nothing may stay in it."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    path = base / f"genostore-test-{os.getpid()}-{tmp_path.name}"
    monkeypatch.setenv("GENOSTORE_RESIDENT", str(path))
    yield path
    gc.collect()  # compiling, the first time, leaves cycles that hold the frames that called
    left = list(path.glob("*"))
    disk.remove_tree(path)
    assert not left


def same(a: object, b: object, close: float = 0.0) -> None:
    for field in fields(a):  # type: ignore[arg-type]
        x, y = getattr(a, field.name), getattr(b, field.name)
        if x is None or isinstance(x, int):
            assert x == y
        else:
            np.testing.assert_allclose(np.asarray(y), np.asarray(x), rtol=close, atol=close, err_msg=field.name)


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("strand", [None, "random"])
def test_resident_batches_equal_those_of_the_store(toy: Toy, query: dict, strand: str | None) -> None:
    windows = toy.open().windows(**query)
    options = {"shuffle": True, "seed": 2, "reverse_complement": strand, "missing": "nan", "sequence": "codes"}
    lazy, resident = windows.loader(6, **options), windows.loader(6, resident="ram", **options)
    held = windows.loader(6, **options)
    turned = strand is not None or windows.query.orient == "gene"
    held.source = OnDevice(windows, torch.device("cpu"), "float32", turned)
    for a, b, c in zip(lazy, resident, held, strict=True):
        same(a, b)
        same(a, c, 1e-6 if windows.query.resolution > 1 else 0.0)
    every = np.arange(len(windows))
    filled = np.nan_to_num(windows.read(every).signal)
    for source in (windows, lazy.source, resident.source):
        np.testing.assert_array_equal(source.read(every, fill=0.0).signal, filled)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_smaller_types_round(toy: Toy, dtype: str, error: float) -> None:
    windows = toy.open().windows(width=300, orient="gene")
    expected, rounded = windows.read(range(20)), Resident(windows, dtype).read(range(20))
    assert rounded.signal.dtype == np.float32
    np.testing.assert_allclose(rounded.signal, expected.signal, rtol=error, atol=1e-7)
    assert (rounded.signal != expected.signal)[~np.isnan(expected.signal)].any()
    if dtype == "float16":
        np.testing.assert_array_equal(rounded.signal, expected.signal.astype(np.float16).astype(np.float32))
    (loader,) = windows.loader(20, resident="ram", resident_dtype=dtype, missing="nan")
    np.testing.assert_array_equal(loader.signal.numpy(), rounded.signal)
    device = OnDevice(windows, torch.device("cpu"), dtype, True)
    (held,) = [device.fill(b) for b in _tensors(device.read(range(20)))]
    np.testing.assert_array_equal(held.signal.numpy(), rounded.signal)


def _tensors(batch: object) -> list:
    from genostore.loader.send import tensors

    return [tensors(batch)]  # type: ignore[arg-type]


def test_a_value_too_large_for_float16_is_refused(toy: Toy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genostore import resident

    plain = resident.blocks

    def large(array):  # type: ignore[no-untyped-def]
        for start, stop, values in plain(array):
            values[7] = 70_000.0
            yield start, stop, values

    monkeypatch.setattr(resident, "blocks", large)
    windows = toy.open().windows(width=300, assays=["DNase"], sequence=False)
    with pytest.raises(QueryError, match="tracks/A/DNase holds 70000, which float16 cannot"):
        Resident(windows, "float16")
    assert not list(folder.iterdir())  # what was begun is gone
    assert Resident(windows, "bfloat16").read([0]).signal.shape == (1, 300, 1)


def test_positions_past_two_to_the_31() -> None:
    """On lazily mapped memory, of which the few pages that are touched exist."""
    far = 2**31 + 12_345
    memory = mmap.mmap(-1, 2 * (far + 10_000))
    track = np.frombuffer(memory, np.float16)
    codes = np.frombuffer(memory, np.uint8)
    here = np.arange(64, dtype=np.float16)
    track[far : far + 64] = here
    where = (np.array([far - 10, 5]), np.zeros(2, np.int64), np.array([far + 50, 10]), np.array([True, False]))
    out = np.empty((2, 1, 80), dtype=np.float32)
    gather_signal(np.full((2, 1), track.ctypes.data), 1, *where, np.float32(np.nan), out)
    expected = np.concatenate([np.zeros(10), here[:50], np.full(20, np.nan)])
    np.testing.assert_array_equal(out[0, 0], expected[::-1])
    np.testing.assert_array_equal(out[1, 0], np.r_[np.zeros(5), np.full(75, np.nan)])
    view = torch.from_numpy(track)[None].unfold(1, 64, 1)  # as OnDevice gathers
    np.testing.assert_array_equal(view[torch.tensor([0]), torch.tensor([far])][0].numpy(), here)
    codes[far : far + 64] = 2
    bases = np.empty((2, 80), dtype=np.uint8)
    gather_sequence(codes, *where, bases)
    complement = np.concatenate([np.full(10, 3), np.full(50, 1), np.full(20, 4)])
    np.testing.assert_array_equal(bases[0], complement[::-1])


def test_what_does_not_fit_is_refused_with_its_size(toy: Toy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "free", lambda: 1_000)
    windows = toy.open().windows(width=300, contacts="hic", assays=["DNase"])
    message = r"want 0.00 GiB \(tracks/A/DNase 0.00, tracks/B/DNase 0.00, sequence 0.00, contacts 0.00\), and 0.00 GiB"
    with pytest.raises(QueryError, match=message):
        windows.loader(resident="ram")
    with pytest.raises(QueryError, match=message):
        OnDevice(windows, torch.device("cpu"), "float32", False)
    assert shared.free() == 1_000
    assert not list(folder.iterdir())


def test_loaders_share_what_they_hold_and_the_last_removes_it(toy: Toy, folder: Path) -> None:
    windows = toy.open().windows(width=300, assays=["DNase"])
    first = Resident(windows)
    names = {p.name for p in folder.iterdir()}
    assert len(names) == 3  # two tracks and the sequence
    second = pickle.loads(pickle.dumps(Resident(toy.open().windows(width=50, assays=["DNase"]))))
    assert {p.name for p in folder.iterdir()} == names
    del first
    assert {p.name for p in folder.iterdir()} == names
    same(toy.open().windows(width=50, assays=["DNase"]).read([1, 2]), second.read([1, 2]))
    del second
    assert not list(folder.iterdir())


RANK = """
import os, sys, time, genostore
from genostore.resident import Resident
windows = genostore.open(sys.argv[1]).windows(width=300)
held = Resident(windows)
total = float(held.read(range(20)).sequence.sum())
print(total, held.nbytes, flush=True)
sys.stdin.readline()
"""


def test_two_ranks_hold_the_data_once(toy: Toy, folder: Path) -> None:
    command = [sys.executable, "-c", RANK, str(toy.path)]
    ranks = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [rank.stdout.readline().split() for rank in ranks]  # type: ignore[union-attr]
    assert said[0] == said[1]
    held = sum(p.stat().st_blocks * 512 for p in folder.iterdir())
    assert int(said[0][1]) <= held <= int(said[0][1]) + 9 * 8_192  # once, and a header for each of nine arrays
    ranks[0].communicate("\n", timeout=60)
    assert len(list(folder.iterdir())) == 9  # the other still reads
    ranks[1].communicate("\n", timeout=60)
    assert not list(folder.iterdir())


def test_what_a_killed_process_left_is_used_or_removed(toy: Toy, folder: Path) -> None:
    command = [sys.executable, "-c", RANK, str(toy.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as rank:
        rank.stdout.readline()  # type: ignore[union-attr]
        os.kill(rank.pid, signal.SIGKILL)
    assert len(list(folder.iterdir())) == 9
    inodes = {p.name: p.stat().st_ino for p in folder.iterdir()}
    windows = toy.open().windows(width=300, assays=["DNase"])
    unfinished = shared.key("unfinished")
    (folder / unfinished).write_bytes(bytes(5_000))
    held = Resident(windows)
    left = {p.name: p.stat().st_ino for p in folder.iterdir()}
    assert len(left) == 3
    assert left.items() <= inodes.items()  # not made again
    same(windows.read(range(20)), held.read(range(20)))


def test_a_half_made_array_is_made_again(folder: Path) -> None:
    name = shared.key("half")
    folder.mkdir(mode=0o700)
    (folder / name).write_bytes(bytes(4096 + 80))  # as a killed maker leaves it
    made = shared.shared(name, (10,), np.dtype(float), lambda out: out.fill(3.0))
    np.testing.assert_array_equal(made.values, np.full(10, 3.0))
    with pytest.raises(ValueError, match="read-only"):
        made.values[0] = 1


def test_who_came_second_waits_for_the_array_and_not_for_its_user(folder: Path) -> None:
    name, kind = shared.key("second"), np.dtype(float)
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / name).open("w+b") as file, ThreadPoolExecutor(1) as other:
        fcntl.flock(file, fcntl.LOCK_SH)  # as of one who looks, makes, and keeps it
        second = other.submit(shared.shared, name, (10,), kind, lambda out: out.fill(3.0))
        time.sleep(0.3)  # it has seen that the array is not made, and wants to make it
        assert not second.done()
        file.write(shared._DONE.ljust(shared._HEADER, b"\0") + np.full(10, 5.0).tobytes())
        file.flush()
        try:
            assert (second.result(timeout=30).values == 5).all()
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # else a failure would wait for ever
    del second


def test_a_folder_that_others_can_write_to_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with pytest.raises(OSError, match="this user alone"):
        shared.folder()


def test_workers_share_the_parents_memory(toy: Toy, folder: Path) -> None:
    loader = toy.open().windows(width=20).loader(3, shuffle=True, threads=0, resident="ram")
    names = {p.name for p in folder.iterdir()}
    expected = [b.index.tolist() for b in loader]
    loader.set_epoch(0)
    workers = DataLoader(loader, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert [b.index.tolist() for b in workers] == expected
    script = """
        import sys, genostore
        from torch.utils.data import DataLoader
        loader = genostore.open(sys.argv[1]).windows(width=20).loader(3, shuffle=True, threads=0, resident="ram")
        print([b.index.tolist() for b in DataLoader(loader, None, num_workers=1, multiprocessing_context="fork")])
    """
    # Nothing of TensorStore is used, so that a fork does no harm.
    assert alone(script, toy.path).strip() == str(expected)
    assert {p.name for p in folder.iterdir()} == names


def test_a_pack_is_refused(toy: Toy, tmp_path: Path) -> None:
    import genostore

    path = toy.open().windows(width=100).pack(tmp_path / "pack.zarr")
    with pytest.raises(QueryError, match="is a pack of windows; open the store"):
        genostore.open(path).windows(width=50).loader(resident="ram")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resident": "disk"}, "resident is 'disk'; it is one of None, 'ram', 'cuda'"),
        ({"resident": "ram", "resident_dtype": "int8"}, "resident_dtype is 'int8'"),
        ({"resident": "cuda", "device": "cpu"}, "device is 'cpu'; leave device out"),
    ],
)
def test_bad_options_say_why(toy: Toy, options: dict, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        toy.open().windows(width=20).loader(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_data_on_a_gpu_give_the_same_batches(toy: Toy, query: dict) -> None:
    windows = toy.open().windows(**query)
    options = {"shuffle": True, "reverse_complement": "random"}
    for a, b in zip(windows.loader(6, **options), windows.loader(6, resident="cuda", **options), strict=True):
        assert b.index.is_cuda
        same(a, b.to("cpu"), 1e-6)
