from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genostore.errors import QueryError
from genostore.order import Order

orders = st.fixed_dictionaries(
    {
        "n": st.integers(0, 300),
        "batch_size": st.integers(1, 40),
        "world": st.integers(1, 5),
        "block": st.integers(1, 50),
        "buffer": st.integers(1, 9),
        "seed": st.integers(0, 9),
        "drop_last": st.booleans(),
    }
)


@settings(deadline=None)
@given(options=orders, epoch=st.integers(0, 3), shuffle=st.sampled_from([False, True, "blocks"]))
def test_every_sample_once_and_ranks_disjoint_and_equal(options: dict, epoch: int, shuffle: bool | str) -> None:
    ranks = [Order(shuffle=shuffle, rank=r, **options) for r in range(options["world"])]
    samples = [o.epoch(epoch) for o in ranks]
    assert {len(s) for s in samples} == {ranks[0].samples}
    together = np.concatenate(samples)
    assert len(set(together.tolist())) == len(together)
    assert set(together.tolist()) <= set(range(options["n"]))
    if not options["drop_last"]:
        assert len(together) == options["n"] // options["world"] * options["world"]
    for order, taken in zip(ranks, samples, strict=True):
        batches = [order.batch(taken, i) for i in range(len(order))]
        assert np.array_equal(np.concatenate([np.empty(0, int), *batches]), taken)
        np.testing.assert_array_equal(order.epoch(epoch), taken)


def test_a_block_is_read_by_one_rank_in_one_load() -> None:
    options = {"n": 6_400, "batch_size": 20, "shuffle": "blocks", "seed": 2, "world": 4, "block": 16, "buffer": 10}
    seen: dict[int, set[tuple[int, int]]] = {}
    for rank in range(4):
        order = Order(rank=rank, **options)
        assert order.load == 8  # 160 samples in batches of 20
        taken = order.epoch(1)
        for place, sample in enumerate(taken.tolist()):
            seen.setdefault(sample // 16, set()).add((rank, place // 160))
    assert len(seen) == 400
    assert all(len(where) == 1 for where in seen.values())


def test_epochs_and_seeds_differ_and_a_buffer_is_mixed() -> None:
    order = Order(1_000, 10, shuffle="blocks", block=5, buffer=20)
    first, second = order.epoch(0), order.epoch(1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Order(1_000, 10, shuffle="blocks", block=5, buffer=20, seed=1).epoch(0))
    assert len({s // 5 for s in order.batch(first, 0).tolist()}) > 5  # of 10 samples
    assert len({s // 5 for s in first[:100].tolist()}) == 20


def test_what_is_left_out_changes_with_the_epoch() -> None:
    order = [Order(101, 4, shuffle="blocks", rank=r, world=4, block=10, buffer=2) for r in range(4)]
    left_out = {(set(range(101)) - set(np.concatenate([o.epoch(e) for o in order]).tolist())).pop() for e in range(400)}
    assert len(left_out) > 80


@pytest.mark.parametrize("wrong", [{"shuffle": "block"}, {"block": 0}, {"buffer": 0}, {"batch_size": 0}])
def test_wrong_options_are_named(wrong: dict) -> None:
    with pytest.raises(QueryError, match=f"{next(iter(wrong))} is"):
        Order(**({"n": 10, "batch_size": 2} | wrong))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_scoring_leaves_no_sample_out(shuffle: bool, world: int) -> None:
    ranks = [Order(11, 2, shuffle, rank=r, world=world, even=False) for r in range(world)]
    assert sorted(np.concatenate([order.epoch(3) for order in ranks]).tolist()) == list(range(11))
    for order in ranks:
        assert sum(len(order.batch(order.epoch(3), i)) for i in range(len(order))) == order.samples
    with pytest.raises(QueryError, match="even=False"):
        Order(11, 2, "blocks", even=False)
