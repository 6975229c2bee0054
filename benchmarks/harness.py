"""Take turns, check that all give the same values, time, and print ratios."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

Read = Callable[[np.ndarray], np.ndarray]


@dataclass
class Row:
    """One contender on one piece of work."""

    work: str
    contender: str
    microseconds: float  # median, a window and track
    ratio: float  # of its median to that of the first contender
    repeats: int
    all_microseconds: list[float] = field(default_factory=list)


def compare(
    work: str, contenders: dict[str, Read], draw: Callable[[], np.ndarray], repeats: int, units: int
) -> list[Row]:
    """Time contenders in turn on the same windows.

    Every repeat draws windows that no repeat before it read, and the sums of what the contenders gave are compared.

    Parameters
    ----------
    work
        What it is called.
    contenders
        By name, functions of the windows' starts that give ``(windows, tracks, width)`` float32, NaN where the
        source is silent. The first is what the others are compared with.
    draw
        Gives the starts of a new batch.
    repeats
        Timed batches of each.
    units
        Windows times tracks of a batch.
    """
    starts = draw()
    first = next(iter(contenders.values()))(starts)
    for name, read in contenders.items():
        np.testing.assert_array_equal(read(starts), first, err_msg=f"{name} gives other values")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        starts, sums = draw(), {}
        for name, read in contenders.items():
            began = time.perf_counter()
            values = read(starts)
            seconds[name].append(time.perf_counter() - began)
            sums[name] = float(np.nansum(values, dtype=np.float64))
            del values
        assert len({round(s, 3) for s in sums.values()}) == 1, sums
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    base = next(iter(medians.values()))
    return [
        Row(work, name, m / units * 1e6, m / base, repeats, [s / units * 1e6 for s in seconds[name]])
        for name, m in medians.items()
    ]


def machine() -> dict[str, str | int]:
    """Describe the machine without naming it."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"processor": model, "cores": cores, "python": platform.python_version()}


def report(rows: list[Row], out: Path | None) -> None:
    """Print a table, and write all figures as JSON."""
    from rich.console import Console
    from rich.table import Table

    table = Table("work", "contender", "us a window and track", "times ours", "repeats")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        table.add_row(row.work, row.contender, f"{row.microseconds:.1f}", f"{row.ratio:.2f}", str(row.repeats))
    console = Console(width=120)
    console.print(machine())
    console.print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"machine": machine(), "rows": [asdict(r) for r in rows]}, indent=1))
        console.print(f"wrote {out}")
