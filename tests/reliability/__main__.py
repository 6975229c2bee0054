"""``python -m tests.reliability``: try everything, write what was seen as JSON, and put the table into the page."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from tests.reliability import corrupt, crash, fuzz, properties, soak
from tests.reliability.record import Row, table

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
FIGURES = PAGE.with_suffix(".json")
KILLS = {"ingest": 40, "add": 45, "overwrite": 40, "pack": 35, "rm": 25, "gc": 20, "training": 10}
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


def examples(folder: Path, count: int) -> list[Row]:
    """Hypothesis, as often as asked."""
    row = Row("properties", "any intervals -> bigWig -> store -> windows at every edge, against numpy")

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=properties.cases())
    def run(case: tuple[Any, ...]) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as here:
            row.seen["equal to the model"] += properties.check(Path(here), *case)
            row.tried += 1

    try:
        run()
    except AssertionError as error:
        row.wrong += 1
        row.notes.append(str(error)[:500])
    return [row]


def studies(scale: float) -> Iterator[tuple[str, Callable[[Path], list[Row]]]]:
    """Each study by name; ``scale`` makes all counts smaller."""

    def some(counts: dict[str, int]) -> dict[str, int]:
        return {name: max(1, round(n * scale)) for name, n in counts.items()}

    n = {"flips": 1_000, "objects": 208, "examples": 200, "epochs": 600}
    n = {name: max(8, round(value * scale)) for name, value in n.items()}
    yield "objects", lambda f: corrupt.whole_objects(f, n["objects"])
    yield "nodes", lambda f: [corrupt.swapped_nodes(f)]
    yield "flips", lambda f: corrupt.flips(f, n["flips"])
    yield "fuzz", lambda _: fuzz.study(some(FUZZ))
    yield "crash", lambda _: crash.study(some(KILLS))
    yield "examples", lambda f: examples(f, n["examples"])
    yield "scaffolds", lambda f: [properties.scaffolds(f)]
    yield "straddle", lambda f: [soak.straddle(f)]
    yield "loader", lambda f: [soak.loader(f, max(60, n["epochs"]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="These studies alone; the rows of others are kept.")
    parser.add_argument("--scale", type=float, default=1.0, help="A share of the full counts.")
    options = parser.parse_args()
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() and options.only else {}
    found: dict[str, Any] = kept.get("studies", {})
    for name, study in studies(options.scale):
        if options.only and name not in options.only:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder, "w")
            if name in ("examples", "scaffolds"):
                here.mkdir()
            rows = study(here)
        found[name] = {"seconds": round(time.monotonic() - began), "rows": [row.plain() for row in rows]}
        print(f"{name}: {found[name]['seconds']} s\n{table(found[name]['rows'])}", flush=True)
        write(found, kept.get("growth"))
    growth = kept.get("growth")
    if not options.only or "growth" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            sizes = ((10, 100, 1_000), (25, 600, 20_000)) if options.scale >= 1 else ((5, 20), (25, 600))
            growth = soak.growth(Path(folder), *sizes)
    write(found, growth)
    if not all(row["lost"] == row["wrong"] == 0 for study in found.values() for row in study["rows"]):
        raise SystemExit("something was lost, or silently wrong; see the notes in docs/reliability.json")


def write(found: dict[str, Any], growth: dict[str, Any] | None) -> None:
    """Write the figures and the page's table."""
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"
    FIGURES.write_text(json.dumps({"machine": machine, "studies": found, "growth": growth}, indent=1) + "\n")
    text = PAGE.read_text()
    rows = [row for name in sorted(found) for row in found[name]["rows"]]
    text = between(text, "table", f"{table(rows)}\n\nOn {machine}.")
    if growth is not None:
        text = between(text, "growth", grown(growth))
    PAGE.write_text(text)


def grown(growth: dict[str, Any]) -> str:
    """Render what growth costs."""
    out = ["| store | ingest, CPU s | on disk, MB | open, ms | list of tracks, ms | a window, ms | a region, ms |"]
    out.append("|---|---|---|---|---|---|---|")
    for what, sizes in growth.items():
        for n, m in sizes.items():
            figures = (m["ingest_s"], m["size_mb"], m["open"], m["list"], m["window"], m["region"])
            out.append(f"| {int(n):,} {what} | " + " | ".join(f"{f:.3g}" for f in figures) + " |")
    return "\n".join(out)


def between(text: str, name: str, content: str) -> str:
    """Replace what stands between two marks."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    return text[: text.index(start) + len(start)] + f"\n{content}\n" + text[text.index(end) :]


if __name__ == "__main__":
    main()
