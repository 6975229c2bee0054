"""``python -m benchmarks [--quick]``: every comparison, as a table of ratios and as JSON."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import windows
from benchmarks.harness import report


def main() -> None:
    """Run the suites."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, a few minutes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/windows.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(windows.run(Path(folder), options.quick), options.out)


if __name__ == "__main__":
    main()
