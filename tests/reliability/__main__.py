"""``python -m tests.reliability``: try everything, write what was seen as JSON, and put the table into the page."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.reliability.growth import draw, rendered
from tests.reliability.growth import growth as measure
from tests.reliability.parts import attempt, parts
from tests.reliability.record import table

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
FIGURES = PAGE.with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="These studies alone; the rows of others are kept.")
    parser.add_argument("--scale", type=float, default=1.0, help="A share of the full counts.")
    options = parser.parse_args()
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() and options.only else {}
    growth = kept.get("growth")
    wanted = [part for part in parts(options.scale) if not options.only or part[0] in options.only]
    found = {n: study for n, study in kept.get("studies", {}).items() if n not in dict(wanted)}
    began = time.monotonic()
    # A process for each part, two at a time; what one holds or breaks is not the next one's.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        tried = [(name, pool.submit(attempt, study)) for name, study in wanted]
        for name, future in tried:
            rows, seconds = future.result()
            study = found.setdefault(name, {"seconds": 0, "rows": []})
            study["seconds"] += round(seconds)
            study["rows"] += rows
            print(f"{name}, {seconds:.0f} s; {time.monotonic() - began:.0f} s in all\n{table(rows)}", flush=True)
            write(found, growth)
    if not options.only or "growth" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            growth = measure(Path(folder), *[(10, 100), (25, 600)] if options.scale < 1 else [])
        draw(growth, PAGE.with_name("growth.svg"))
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
        text = between(text, "growth", rendered(growth))
    PAGE.write_text(text)


def between(text: str, name: str, content: str) -> str:
    """Replace what stands between two marks."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    return text[: text.index(start) + len(start)] + f"\n{content}\n" + text[text.index(end) :]


if __name__ == "__main__":
    main()
