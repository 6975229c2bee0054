"""What a run found: tables for a terminal, JSON for later, Markdown for docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Bar, Result, Row

PACKAGES = ("genostore", "numpy", "torch", "tensorstore", "zarr", "zarrs", "figwig", "pyBigWig", "pybigtools",
            "genvarloader", "pyfaidx", "h5py")  # fmt: skip


def machine() -> dict[str, str | int]:
    """Describe the machine without naming it."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"processor": model, "cores": cores, "memory_gib": round(memory), "python": platform.python_version()}


def versions() -> dict[str, str]:
    """Give the versions of what takes part."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def say_machine() -> None:
    """Print the machine and the versions."""
    console = Console(width=150)
    console.print(machine(), versions())


def show(result: Result) -> None:
    """Print a suite's tables."""
    console = Console(width=150)
    for unit in dict.fromkeys(row.unit for row in result.rows):
        table = Table("work", "contender", unit, "times ours", "repeats", title=f"{result.suite}: {unit}")
        for column in table.columns[2:]:
            column.justify = "right"
        work = None
        for row in (r for r in result.rows if r.unit == unit):
            if row.work != work and work is not None:
                table.add_section()
            named = f"{row.contender} ({row.note})" if row.note else row.contender
            shown = row.work if row.work != work else ""
            table.add_row(shown, named, f"{row.value:,.4g}", f"{row.times:.2f}", str(row.repeats))
            work = row.work
        console.print(table)
    if result.bars:
        table = Table("work", "against", "bar", "measured", "met", title=f"{result.suite}: bars")
        for bar in result.bars:
            table.add_row(bar.work, bar.against, _bound(bar), _measured(bar), _met(bar))
        console.print(table)
    for skip in result.skipped:
        console.print(f"skipped: {skip.work}: {skip.why}", markup=False, highlight=False)


def write(result: Result, folder: Path, settings: dict[str, object]) -> Path:
    """Write all figures of a suite as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.suite}.json"
    bars = [{**asdict(bar), "met": bar.met} for bar in result.bars]
    content = {
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "rows": [asdict(row) for row in result.rows],
        "bars": bars,
        "skipped": [asdict(skip) for skip in result.skipped],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def markdown(results: Sequence[Result], settings: dict[str, object]) -> str:
    """Give the part of docs/benchmarks.md that holds figures."""
    here = machine()
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines = [
        f"{here['processor']}, {here['cores']} cores, {here['memory_gib']} GiB, Python {here['python']}; "
        f"{settings['size']} run, {settings['clock']} time, {settings['threads']} threads.",
        f"{named}.",
        "",
        "### Bars",
        "",
        "| suite | work | against | bar | measured | met |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for bar in result.bars:
            cells = (result.suite, bar.work, bar.against, _bound(bar), _measured(bar), _met(bar))
            lines.append(f"| {' | '.join(cells)} |")
    for result in results:
        for unit in dict.fromkeys(row.unit for row in result.rows):
            lines += ["", f"### {result.suite}: {unit}", "", *_pivot([r for r in result.rows if r.unit == unit])]
        lines += [""] if result.skipped else []
        lines += [f"* Not measured: {skip.work}: {skip.why}." for skip in result.skipped]
    return "\n".join(lines) + "\n"


def _pivot(rows: Sequence[Row]) -> Iterator[str]:
    """One line a piece of work: ours in units, the others in times ours."""
    names = list(dict.fromkeys(row.contender for row in rows))
    yield f"| work | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for work in dict.fromkeys(row.work for row in rows):
        by_name = {row.contender: row for row in rows if row.work == work}
        first = next(iter(by_name))
        cells = [work]
        for name in names:
            row = by_name.get(name)
            cells.append("" if row is None else f"{row.value:,.4g}" if name == first else f"{row.times:.2f} times")
        yield f"| {' | '.join(cells)} |"


def _bound(bar: Bar) -> str:
    goal = f"{bar.bound} {bar.bar:g} {bar.unit}"
    return f"{goal}; stretch {bar.stretch:g}" if bar.stretch is not None else goal


def _measured(bar: Bar) -> str:
    return f"{bar.measured:.3g} {bar.unit}"


def _met(bar: Bar) -> str:
    if not bar.met:
        return "no"
    if bar.stretch is None:
        return "yes"
    return "yes, and the stretch" if bar.reaches(bar.stretch) else "yes, not the stretch"
