"""Contenders take turns on the same work; what they give is compared before anything is timed, and while it is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Array = np.ndarray
Clock = Literal["wall", "processor"]


class Disagreement(AssertionError):
    """A contender gave other values than the first: its time would mean nothing."""


@dataclass(frozen=True)
class Read:
    """A contender that is called for a batch and gives its values, ``(windows, tracks, width)`` or what the work says.

    The call is timed; the values are summed afterwards.
    """

    name: str
    read: Callable[[Array], Array]
    note: str = ""


@dataclass(frozen=True)
class Stream:
    """A contender that gives batch after batch as torch tensors, as a training loop takes them.

    ``batches`` yields ``(samples, values)``, the values a tensor or several, samples first. The whole pass is timed,
    with the sum of every batch, because a loader that reads ahead would otherwise read for nothing while the batch is
    summed.
    """

    name: str
    batches: Callable[[Array], Iterator[tuple[Array, Any]]]
    note: str = ""


Contender = Read | Stream


@dataclass(frozen=True)
class Row:
    """One contender on one piece of work."""

    work: str
    contender: str
    value: float  # median
    unit: str
    times: float  # median over repeats of its time over the first contender's in the same repeat
    repeats: int
    note: str = ""
    seconds: Sequence[float] = field(default_factory=list)  # wall
    processor_seconds: Sequence[float] = field(default_factory=list)


@dataclass(frozen=True)
class Bar:
    """A figure that the project sets itself, and what was measured."""

    work: str
    against: str
    bound: Literal["at least", "at most"]
    bar: float
    measured: float
    unit: str = "times"
    stretch: float | None = None

    @property
    def met(self) -> bool:
        return self.reaches(self.bar)

    def reaches(self, bar: float) -> bool:
        return self.measured >= bar if self.bound == "at least" else self.measured <= bar


@dataclass(frozen=True)
class Skip:
    """Work that could not be measured here, and why."""

    work: str
    why: str


@dataclass
class Result:
    """What a suite found."""

    suite: str
    rows: list[Row] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)

    def bar(
        self, work: str, contender: str, bar: float, stretch: float | None = None, against: str | None = None
    ) -> None:
        """Hold the ratio of a row against a bar: how many times longer the contender takes than the first."""
        rows = [row for row in self.rows if row.work == work]
        if not rows:  # not part of a run of this size
            return
        for row in rows:
            if row.contender == contender:
                self.bars.append(Bar(work, against or contender, "at least", bar, row.times, stretch=stretch))
                return
        self.skipped.append(Skip(f"{work}, against {against or contender}", f"{contender} is not installed"))


def compare(
    work: str,
    contenders: Sequence[Contender],
    parts: Sequence[Array],
    units: int,
    unit: str,
    clock: Clock = "wall",
    tolerance: float = 1e-5,
) -> list[Row]:
    """Time contenders in turn on the same samples.

    Parameters
    ----------
    work
        What it is called.
    contenders
        The first is what the others are compared with.
    parts
        Samples of each turn, none of them in two parts. Contenders must give equal values for the first part, which
        is not timed; the others are the timed repeats, and the sums of what was given are compared in each.
    units
        By which the time of a part is divided.
    unit
        Such as ``"us a window and track"``: microseconds and the name of what is counted.
    clock
        ``"wall"``, or ``"processor"`` to take ratios of processor time (of all threads), which other work on the
        machine disturbs less.
    tolerance
        Relative, of the sums: their order differs. Values are compared exactly.

    Raises
    ------
    Disagreement
        If a contender gives other values than the first.
    """
    first = _values(contenders[0], parts[0])
    for contender in contenders[1:]:
        _check(work, contender.name, _values(contender, parts[0]), first)
    wall: dict[str, list[float]] = {c.name: [] for c in contenders}
    processor: dict[str, list[float]] = {c.name: [] for c in contenders}
    for turn, part in enumerate(parts[1:]):
        sums: dict[str, float] = {}
        for i in range(len(contenders)):
            contender = contenders[(i + turn) % len(contenders)]
            seconds, spent, sums[contender.name] = _timed(contender, part)
            wall[contender.name].append(seconds)
            processor[contender.name].append(spent)
        expected = sums[contenders[0].name]
        for name, total in sums.items():
            if not np.isclose(total, expected, rtol=tolerance, atol=1e-6):
                raise Disagreement(f"{work}: {name} gives values that sum to {total}, {contenders[0].name} {expected}")
    chosen = wall if clock == "wall" else processor
    base = chosen[contenders[0].name]
    return [
        Row(
            work,
            c.name,
            statistics.median(chosen[c.name]) / units * 1e6,
            unit,
            statistics.median(s / b for s, b in zip(chosen[c.name], base, strict=True)),
            len(base),
            c.note,
            wall[c.name],
            processor[c.name],
        )
        for c in contenders
    ]


def _values(contender: Contender, part: Array) -> Array:
    """Give all values of a part, in the order of its samples."""
    if isinstance(contender, Read):
        return np.asarray(contender.read(part))
    got = [(np.asarray(samples), _joined(values)) for samples, values in contender.batches(part)]
    samples = np.concatenate([s for s, _ in got])
    if not np.array_equal(np.sort(samples), np.sort(part)):
        raise Disagreement(f"{contender.name} gives {len(samples)} samples, not each of the {len(part)} once")
    by_sample = np.argsort(samples, kind="stable")[np.argsort(np.argsort(part, kind="stable"), kind="stable")]
    values: Array = np.concatenate([v for _, v in got])[by_sample]
    return values


def _joined(values: Any) -> Array:
    """Copy the values of a batch, of several tensors one beside the other."""
    if not isinstance(values, tuple):
        return np.array(values.numpy())
    return np.concatenate([v.numpy().reshape(len(v), -1) for v in values], axis=1)


def _check(work: str, name: str, values: Array, first: Array) -> None:
    if values.shape != first.shape:
        raise Disagreement(f"{work}: {name} gives shape {values.shape}, expected {first.shape}")
    if values.dtype != first.dtype:
        raise Disagreement(f"{work}: {name} gives {values.dtype}, expected {first.dtype}")
    same = (values == first) | (np.isnan(values) & np.isnan(first))
    if not same.all():
        where = tuple(int(i) for i in np.argwhere(~same)[0])
        raise Disagreement(
            f"{work}: {name} gives other values at {np.count_nonzero(~same):,} of {same.size:,} places, "
            f"the first at {where}: {values[where]}, expected {first[where]}"
        )


def _timed(contender: Contender, part: Array) -> tuple[float, float, float]:
    """Give seconds, processor seconds and the sum of the values."""
    if isinstance(contender, Read):
        spent, began = time.process_time(), time.perf_counter()
        values = contender.read(part)
        seconds, spent = time.perf_counter() - began, time.process_time() - spent
        return seconds, spent, float(np.nansum(values, dtype=np.float64))
    total = 0.0
    spent, began = time.process_time(), time.perf_counter()
    for _, values in contender.batches(part):
        for part_of_batch in values if isinstance(values, tuple) else (values,):
            # In one thread: torch's would wait for each other on a busy machine.
            total += float(part_of_batch.numpy().sum())
    return time.perf_counter() - began, time.process_time() - spent, total


def split(n: int, parts: int) -> list[Array]:
    """Cut ``range(n)`` into equal parts."""
    return np.array_split(np.arange(n // parts * parts), parts)


def installed(makers: Mapping[str, Callable[[], Contender]], result: Result, work: str) -> list[Contender]:
    """Make the contenders whose packages are here; name the others."""
    found = []
    for name, make in makers.items():
        try:
            found.append(make())
        except ImportError as error:
            result.skipped.append(Skip(f"{work}: {name}", f"{error.name} is not installed"))
    return found
