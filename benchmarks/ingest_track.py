"""What one more track costs: seconds against pyBigWig reading the same values, bytes against the bigWig, peak memory.

    python benchmarks/ingest_track.py [--megabases 50] [--intervals 2200000] [--repeats 5]

A catalogue of six tracks and one of one are ingested in turn, each in a process of its own; the difference of the
medians over five is one track, start-up not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TRACKS = 6


def make_track(path: Path, seed: int, length: int, intervals: int) -> None:
    """Write a bigWig of random intervals, nine of ten adjacent to the one before, values with 3 decimals."""
    import pyBigWig

    rng = np.random.default_rng(seed)
    edges = np.sort(rng.choice(length, size=2 * intervals, replace=False))
    start, end = edges[::2], edges[1::2].copy()
    adjacent = rng.random(intervals - 1) < 0.9
    end[:-1] = np.where(adjacent, start[1:], end[:-1])
    values = np.round(rng.gamma(0.5, 4.0, intervals), 3)
    file = pyBigWig.open(str(path), "w")
    file.addHeader([("chr22", length)])
    for low in range(0, intervals, 200_000):
        part = slice(low, low + 200_000)
        n = len(start[part])
        file.addEntries(["chr22"] * n, start[part].tolist(), ends=end[part].tolist(), values=values[part].tolist())
    file.close()


def make_inputs(folder: Path, length: int, intervals: int) -> None:
    """Write the sequence, the tracks and the two catalogues."""
    rng = np.random.default_rng(0)
    bases = np.frombuffer(b"ACGT", dtype=np.uint8)[rng.integers(0, 4, length)].tobytes().decode()
    lines = "\n".join(bases[i : i + 100] for i in range(0, length, 100))
    (folder / "genome.fa").write_text(f">chr22\n{lines}\n")
    for k in range(TRACKS):
        make_track(folder / f"t{k}.bw", k, length, intervals)
    for n in (1, TRACKS):
        entries = "".join(f"  - {{cell_type: A, assay: t{k}, source: t{k}.bw}}\n" for k in range(n))
        text = f"version: 1\nassembly: {{name: bench, fasta: genome.fa}}\ntracks:\n{entries}"
        (folder / f"catalog{n}.yaml").write_text(text)


def ingest(catalogue: str, store: str, workers: int) -> None:
    """Ingest, and print seconds (of planning and writing) and peak memory as JSON."""
    import ingest as package

    began = time.perf_counter()
    package.run(package.plan(catalogue, store), workers=workers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_mib": peak}))


def reference(path: str, length: int) -> None:
    """Read a whole track with pyBigWig, and print seconds as JSON."""
    import pyBigWig

    began = time.perf_counter()
    file = pyBigWig.open(path)
    file.values("chr22", 0, length, numpy=True)
    file.close()
    print(json.dumps({"seconds": time.perf_counter() - began}))


def measure(*arguments: str, folder: Path) -> dict[str, float]:
    """Run a part of this script in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    here = str(Path(__file__).resolve().parents[1])  # this checkout is what is measured, wherever one is installed
    environment = os.environ | {"GENOSTORE_CACHE": str(folder / "cache"), "PYTHONPATH": here}
    output = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if output.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output.stderr}")
    return json.loads(output.stdout)


def stored(store: Path, k: int) -> int:
    """Bytes of a track in a store."""
    return sum(p.stat().st_size for p in (store / "tracks" / "A" / f"t{k}").rglob("*") if p.is_file())


def main() -> None:
    """Measure, and print ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabases", type=int, default=50)
    parser.add_argument("--intervals", type=int, default=2_200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    length = options.megabases * 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, length, options.intervals)
        seconds: dict[int, list[float]] = {1: [], TRACKS: []}
        direct = []
        peak = 0.0
        for repeat in range(options.repeats):
            for n in seconds:
                store = folder / f"s{repeat}_{n}.zarr"
                catalogue = str(folder / f"catalog{n}.yaml")
                found = measure("ingest", catalogue, str(store), str(options.workers), folder=folder)
                seconds[n].append(found["seconds"])
                peak = max(peak, found["peak_mib"])
            direct += [measure("reference", str(folder / f"t{k}.bw"), str(length), folder=folder)["seconds"]
                       for k in range(TRACKS)]  # fmt: skip
        size = sum(stored(folder / f"s0_{TRACKS}.zarr", k) for k in range(TRACKS))
        given = sum((folder / f"t{k}.bw").stat().st_size for k in range(TRACKS))
        more = (statistics.median(seconds[TRACKS]) - statistics.median(seconds[1])) / (TRACKS - 1)
        base = statistics.median(direct)
        print(f"one more track      {more:.3f} s")
        print(f"pyBigWig.values     {base:.3f} s")
        print(f"ratio               {more / base:.2f} (bar 3, goal 1.6)")
        print(f"bytes stored/bigWig {size / given:.2f} (bar 1)")
        print(f"peak memory         {peak:.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["ingest"]:
        ingest(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1:2] == ["reference"]:
        reference(sys.argv[2], int(sys.argv[3]))
    else:
        main()
