"""Values are those of a plain numpy model, whatever the intervals, contigs, chunks and windows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from tests.reliability import speeds
from tests.reliability.properties import cases, check, scaffolds
from tests.reliability.soak import loader, straddle


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(case=cases())
def test_any_intervals_through_bigwig_and_store_give_any_windows(case: tuple[Any, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert check(Path(folder), *case) > 0


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(case=speeds.cases())
def test_every_speed_of_the_loader_gives_what_the_files_say(case: speeds.Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert speeds.check(Path(folder), case) > 0


def test_values_about_two_to_the_31_and_32(tmp_path: Path) -> None:
    row = straddle(tmp_path)
    assert row.good, row.notes
    assert row.tried == 120


def test_hundreds_of_scaffolds(tmp_path: Path) -> None:
    assert scaffolds(tmp_path, 300).good


def test_a_loader_holds_what_it_held_at_the_start(tmp_path: Path) -> None:
    row = loader(tmp_path / "w", 60)
    assert row.good, row.notes
