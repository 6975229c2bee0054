"""A full permutation from tracks held in memory, against genvarloader."""

from __future__ import annotations

from benchmarks.data import Bench
from benchmarks.epochs import TRACKS, Epochs
from benchmarks.harness import Result, compare, installed

WORK = "resident in RAM, full permutation, 2 kb, 3 tracks, batch 64"


def run(bench: Bench) -> Result:
    """Compare whole epochs."""
    result = Result("resident")
    epochs = Epochs(bench, True)
    makers = {"genostore": epochs.resident, "genvarloader": epochs.genvarloader, "memmap": epochs.memmap}
    contenders = installed(makers, result, "resident")
    unit = "us a window and track"
    result.rows += compare(WORK, contenders, bench.epochs, bench.size.epoch * TRACKS, unit, bench.clock)
    result.bar(WORK, "genvarloader", 5, stretch=10)
    return result
