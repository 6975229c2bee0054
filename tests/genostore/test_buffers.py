"""Memory goes back when nobody refers to it any more, and not before."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

from genostore import buffers


@pytest.fixture(autouse=True)
def _empty_pool() -> None:
    gc.collect()
    buffers.release()


def test_memory_is_used_again() -> None:
    first = buffers.empty((100, 1_000), np.float32)
    where = first.ctypes.data
    del first
    again = buffers.empty((100, 1_000), np.float32)
    assert again.ctypes.data == where
    assert buffers.empty((100, 1_000), np.float32).ctypes.data != where


def test_a_view_keeps_the_memory() -> None:
    whole = buffers.full((100, 1_000), 7.0, np.float32)
    part = whole[3:5, ::-1].T
    where = whole.ctypes.data
    del whole
    other = buffers.full((100, 1_000), 1.0, np.float32)
    assert other.ctypes.data != where
    assert (part == 7).all()


def test_a_tensor_keeps_the_memory() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(buffers.full((100, 1_000), 7.0, np.float32))[:, 1:].clone(
        memory_format=torch.preserve_format
    )
    kept = torch.from_numpy(buffers.full((100, 1_000), 5.0, np.float32))[50]
    for _ in range(3):
        buffers.full((100, 1_000), 1.0, np.float32)
    assert (tensor == 7).all()
    assert (kept == 5).all()


def test_idle_memory_is_bounded_and_released() -> None:
    held = [buffers.empty((2**20,), np.float64) for _ in range(80)]
    del held
    gc.collect()
    assert 0 < buffers.idle_bytes() <= 512 * 2**20
    buffers.release()
    assert buffers.idle_bytes() == 0


def test_sizes_that_are_wanted_no_more_make_room() -> None:
    old = [buffers.empty((2**20,), np.float64) for _ in range(64)]
    del old
    first = buffers.full((3 * 2**20,), 7.0, np.float64)
    del first
    assert (buffers.empty((3 * 2**20,), np.float64) == 7).all()  # what was there, and not zeros
    assert buffers.idle_bytes() <= 512 * 2**20


def test_a_forked_child_writes_to_memory_of_its_own() -> None:
    script = f"""
import os
import numpy as np
from genostore import buffers
held = buffers.full(({2**20},), 1, np.uint8)
if os.fork() == 0:
    held[:] = 2
    os._exit(0)
os.wait()
assert (held == 1).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_small_and_empty_arrays() -> None:
    assert buffers.empty((0, 5), np.float32).shape == (0, 5)
    assert buffers.full((3,), 4, np.uint8).tolist() == [4, 4, 4]


def test_threads_never_share_memory() -> None:
    wrong = []

    def work(value: int) -> None:
        for _ in range(200):
            array = buffers.full((40_000,), value, np.int32)
            if not (array == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
