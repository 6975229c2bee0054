"""All that is tried, in parts that a process each can try side by side."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from tests.reliability import corrupt, crash, fuzz, guided, properties, soak, speeds, together
from tests.reliability.record import Row

Study = Callable[[Path], Row | list[Row]]
KILLS = {
    "s3": {"ingest@s3": 10, "add@s3": 6, "overwrite@s3": 12, "pack@s3": 8, "rm@s3": 4, "gc@s3": 4},
    "training": {"training": 15},
    "crash": {"ingest": 45, "add": 45, "overwrite": 45, "pack": 35, "rm": 20, "gc": 15},
}
FUZZ = {
    "region": 800,
    "catalogue": 1_500,
    "BED": 1_000,
    "GTF": 1_200,
    "table": 1_200,
    "bedGraph": 1_000,
    "FASTA": 800,
    "bigWig": 1_500,
    ".hic": 700,
    ".cool": 500,
    "chunk": 2_000,
}
GUIDED = {"region": 20_000, "catalogue": 6_000, "BED": 6_000, "GTF": 6_000, "table": 6_000, "bedGraph": 6_000}


def examples(folder: Path, what: str, cases: SearchStrategy, check: Callable[..., int], count: int) -> Row:
    """Hypothesis, as often as asked."""
    row = Row("properties", what)

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=cases)
    def run(case: Any) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as here:
            row.seen["windows equal to the model"] += check(Path(here), case)
            row.tried += 1

    try:
        run()
    except AssertionError as error:
        row.wrong += 1
        row.notes.append(str(error)[:500])
    return row


def examples_of(folder: Path, count: int) -> Row:
    what = "any intervals -> bigWig -> store -> windows at every edge, against numpy"
    return examples(folder, what, properties.cases(), lambda f, case: properties.check(f, *case), count)


def speeds_of(folder: Path, count: int) -> Row:
    what = "any track, contacts and genes -> windows lazily, from a pack, resident, against numpy"
    return examples(folder, what, speeds.cases(), speeds.check, count)


def parts(scale: float) -> Iterator[tuple[str, Study]]:
    """Each study in parts that can be tried side by side, the long ones first; ``scale`` makes all counts smaller."""

    def some(n: int, least: int = 1) -> int:
        return max(least, round(n * scale))

    for study, works in KILLS.items():
        for name, kills in works.items():
            yield study, partial(crash_of, {name: some(kills)})
    for place in corrupt.PLACES:
        yield "flips", partial(corrupt.flips, place=place, count=some(260, 2))
    yield "objects", partial(corrupt.whole_objects, count=some(208, 8))
    yield "nodes", corrupt.swapped_nodes
    for kind, cases in FUZZ.items():
        yield "fuzz", partial(fuzz_of, {kind: some(cases)})
    for kind, cases in GUIDED.items() if guided.INSTALLED else ():
        yield "guided", partial(guided_of, {kind: some(cases)})
    yield "examples", partial(examples_of, count=some(200, 8))
    yield "speeds", partial(speeds_of, count=some(150, 8))
    yield "together", together.together
    yield "together", together.overwritten
    yield "scaffolds", properties.scaffolds
    yield "straddle", soak.straddle
    yield "loader", partial(soak.loader, epochs=some(600, 60))
    yield "loader", partial(soak.loader_on_s3, epochs=some(150, 30))


def crash_of(kills: dict[str, int], _: Path) -> list[Row]:
    return crash.study(kills)


def fuzz_of(counts: dict[str, int], _: Path) -> list[Row]:
    return fuzz.study(counts)


def guided_of(counts: dict[str, int], _: Path) -> list[Row]:
    return guided.study(counts)


def attempt(study: Study) -> tuple[list[dict[str, Any]], float]:
    """Run a part in a new folder; its rows, and the seconds that it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = study(Path(folder))
    return [row.plain() for row in (rows if isinstance(rows, list) else [rows])], time.monotonic() - began
