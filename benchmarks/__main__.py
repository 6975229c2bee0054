"""``python -m benchmarks [SUITE ...] [--quick]``: every comparison, as tables of ratios and as JSON."""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

from benchmarks import data, report
from benchmarks.harness import Result

SUITES = ("lazy", "packed", "resident", "incumbent", "ingest", "open", "gpu")
_MODULES = {"ingest": "ingesting", "open": "opening"}  # not to be confused with the package and the function


def run(suites: list[str], bench: data.Bench) -> list[Result]:
    """Run suites in turn, and print each when it is through."""
    report.say_machine()
    results = []
    for suite in suites:
        began = time.perf_counter()
        result = import_module(f"benchmarks.{_MODULES.get(suite, suite)}").run(bench)
        report.show(result)
        print(f"{suite}: {time.perf_counter() - began:.0f} s\n")
        results.append(result)
    return results


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; all when left out")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="fewer sizes, under 3 minutes")
    size.add_argument("--tiny", action="store_true", help="toy sizes, to see that it runs; ratios mean nothing")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="that ratios are taken of")
    parser.add_argument("--threads", type=int, default=2, help="of every contender that takes a number")
    parser.add_argument("--data", type=Path, help="folder in which inputs are made and kept for the next run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the JSON")
    parser.add_argument("--markdown", type=Path, help="write the figures as docs/benchmarks.md has them")
    options = parser.parse_args()
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    chosen = data.QUICK if options.quick else data.TINY if options.tiny else data.FULL
    with ExitStack() as stack:
        folder = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = data.Bench(folder, chosen, options.threads, options.clock)
        settings = {"size": chosen.name, "clock": options.clock, "threads": options.threads}
        results = run(options.suites or list(SUITES), bench)
        for result in results:
            print(f"wrote {report.write(result, options.out, settings)}")
    if options.markdown:
        options.markdown.write_text(report.markdown(results, settings))
        print(f"wrote {options.markdown}")


if __name__ == "__main__":
    main()
