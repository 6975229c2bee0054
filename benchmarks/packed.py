"""An epoch in block order from a pack through the loader, against genvarloader and against the page cache."""

from __future__ import annotations

from benchmarks.data import Bench
from benchmarks.epochs import TRACKS, Epochs
from benchmarks.harness import Result, compare, installed

WORK = "packed epoch in block order, 2 kb, 3 tracks, batch 64"


def run(bench: Bench) -> Result:
    """Compare whole epochs."""
    result = Result("packed")
    epochs = Epochs(bench, "blocks")
    makers = {"genostore": epochs.packed, "genvarloader": epochs.genvarloader, "memmap": epochs.memmap}
    contenders = installed(makers, result, "packed")
    unit = "us a window and track"
    result.rows += compare(WORK, contenders, bench.epochs, bench.size.epoch * TRACKS, unit, bench.clock)
    result.bar(WORK, "genvarloader", 3, stretch=5, against="genvarloader, batch 64")
    result.bar(WORK, contenders[-1].name, 0.5, against="memmap of the same dtype and layout (the limit)")
    return result
