"""A run that is killed, at whatever moment, and run again ends as an undisturbed one; a sample of the full run."""

from __future__ import annotations

import pytest

from tests.reliability.crash import study


@pytest.mark.parametrize(("work", "kills"), [("add", 2), ("overwrite", 2), ("rm", 2), ("gc", 2)])
def test_killed_and_run_again_is_as_if_undisturbed(work: str, kills: int) -> None:
    (row,) = study({work: kills}, seed=3)
    assert row.good, row.notes
    assert row.seen["killed"] >= kills
