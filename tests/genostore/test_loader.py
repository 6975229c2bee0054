from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from genostore.errors import QueryError
from genostore.order import Order
from tests.alone import alone

from .conftest import Toy


def indices(loader: object) -> list[list[int]]:
    return [b.index.tolist() for b in loader]  # type: ignore[attr-defined]


def test_every_sample_once_an_epoch_in_another_order(toy: Toy) -> None:
    loader = toy.open().windows(width=20).loader(6, shuffle=True, seed=3)
    first, second = indices(loader), indices(loader)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(20))
    assert first != second
    assert len(loader) == len(first) == 4
    loader.set_epoch(0)
    assert indices(loader) == first


def test_an_epoch_of_which_every_batch_was_taken_is_over(toy: Toy) -> None:
    loader = toy.open().windows(width=20).loader(6, shuffle=True, seed=3)
    expected = [indices(loader), indices(loader)]
    loader.set_epoch(0)
    assert [[b.index.tolist() for _, b in zip(range(len(loader)), loader)] for _ in range(2)] == expected  # noqa: B905


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_do_not_change_the_batches(toy: Toy, threads: int) -> None:
    windows = toy.open().windows(width=40, jitter=15, contacts="hic")
    expected = list(windows.loader(3, shuffle=True, threads=0))
    for a, b in zip(expected, windows.loader(3, shuffle=True, threads=threads), strict=True):
        for name in ("index", "anchor", "sequence", "signal", "contacts", "contact_origin"):
            assert torch.equal(getattr(a, name), getattr(b, name))


def test_jitter_moves_the_window_and_no_more(toy: Toy) -> None:
    windows = toy.open().windows(genes=["G02"], cell_types="A", width=100, jitter=30, assays=["DNase"])
    starts = set()
    for epoch in range(20):
        loader = windows.loader(1, missing="nan", shuffle=True)
        loader.set_epoch(epoch)
        (batch,) = loader
        start = 1_500 - int(batch.anchor[0])
        starts.add(start - 1_450)
        track = toy.tracks["A", "DNase"]["chr1"][start : start + 100]
        np.testing.assert_array_equal(batch.signal[0, :, 0].numpy(), track)
    assert len(starts) > 8
    assert min(starts) >= -30
    assert max(starts) <= 30


def test_a_resumed_loader_goes_on_where_it_stopped(toy: Toy) -> None:
    windows = toy.open().windows(width=20)
    whole = indices(windows.loader(3, shuffle=True, seed=1))
    loader = windows.loader(3, shuffle=True, seed=1, prefetch=3)
    iterator = iter(loader)
    seen = [next(iterator).index.tolist() for _ in range(2)]
    state = loader.state_dict()  # of batches yielded, not of those read ahead
    assert state["yielded"] == 2
    again = windows.loader(3, shuffle=True, seed=1)
    again.load_state_dict(state)
    assert seen + indices(again) == whole
    with pytest.raises(QueryError, match="seed was 1 and is 2"):
        windows.loader(3, shuffle=True, seed=2).load_state_dict(state)


@pytest.mark.parametrize(("n", "world", "batch"), [(20, 2, 3), (21, 2, 4), (23, 4, 2), (5, 1, 2)])
def test_ranks_are_disjoint_and_equal(n: int, world: int, batch: int) -> None:
    ranks = [Order(n, batch, shuffle=True, rank=r, world=world).epoch(5) for r in range(world)]
    assert {len(r) for r in ranks} == {n // world}
    assert len(set(np.concatenate(ranks).tolist())) == n // world * world
    one = Order(n, batch * world, shuffle=True).epoch(5)
    for step in range(n // world // batch):
        together = np.stack([r[step * batch : (step + 1) * batch] for r in ranks], axis=1).ravel()
        np.testing.assert_array_equal(together, one[step * batch * world : (step + 1) * batch * world])


def test_drop_last(toy: Toy) -> None:
    loader = toy.open().windows(width=20).loader(6, drop_last=True)
    assert [len(b) for b in loader] == [6, 6, 6]
    assert len(loader) == 3


def test_what_becomes_of_silence(toy: Toy) -> None:
    windows = toy.open().windows(width=50, assays=["DNase"])
    expected = windows.read(range(20)).signal
    (kept,) = windows.loader(20, missing="nan")
    np.testing.assert_array_equal(kept.signal.numpy(), expected)
    (zero,) = windows.loader(20, missing="zero")
    np.testing.assert_array_equal(zero.signal.numpy(), np.nan_to_num(expected))
    assert zero.mask is None
    (mask,) = windows.loader(20, missing="mask")
    np.testing.assert_array_equal(mask.mask.numpy(), ~np.isnan(expected))
    with pytest.raises(QueryError, match="signal 'DNase' of A has no value for G00, and missing='error'"):
        next(iter(windows.loader(20, missing="error")))


def test_one_hot(toy: Toy) -> None:
    windows = toy.open().windows(width=50)
    codes = windows.read(range(20)).sequence
    (batch,) = windows.loader(20)
    assert batch.sequence.shape == (20, 50, 4)
    assert batch.sequence.dtype == torch.float32
    for code in range(4):
        np.testing.assert_array_equal(batch.sequence[..., code].numpy(), codes == code)
    (codes_batch,) = windows.loader(20, sequence="codes")
    assert codes_batch.sequence.dtype == torch.uint8


def test_spawned_dataloader_workers_share_the_epoch(toy: Toy) -> None:
    loader = toy.open().windows(width=20).loader(3, shuffle=True, threads=0)
    expected = indices(loader)
    loader.set_epoch(0)
    workers = DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert indices(workers) == expected


def test_a_forked_child_is_told_to_spawn(toy: Toy) -> None:
    script = """
        import os, sys, genostore
        windows = genostore.open(sys.argv[1]).windows(width=20)
        windows.read([0])
        if os.fork() == 0:
            try:
                windows.read([0])
            except genostore.errors.ForkError as error:
                print(error, flush=True)
                os._exit(7)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    """
    printed = alone(script, toy.path)
    assert "multiprocessing_context='spawn'" in printed
    assert printed.strip().endswith("7")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing": "drop"}, "missing is 'drop'"),
        ({"sequence": "letters"}, "sequence is 'letters'"),
        ({"batch_size": 0}, "batch_size is 0; it is 1 or more"),
        ({"rank": 2, "world": 2}, "rank is 2 of 2"),
        ({"rank": 0}, "give both rank and world"),
        ({"device": "abacus"}, "not a device that torch knows"),
    ],
)
def test_bad_options_say_why(toy: Toy, options: dict, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        toy.open().windows(width=20).loader(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_absent_device_is_told(toy: Toy) -> None:
    with pytest.raises(QueryError, match="finds no CUDA device here"):
        toy.open().windows(width=20).loader(device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_equal_those_on_a_cpu(toy: Toy) -> None:
    windows = toy.open().windows(width=40, contacts="hic", expression="CAGE", features="all")
    for a, b in zip(windows.loader(3), windows.loader(3, device="cuda"), strict=True):
        for name in ("sequence", "signal", "contacts", "features", "target"):
            assert getattr(b, name).is_cuda
            assert torch.equal(getattr(a, name), getattr(b, name).cpu())
