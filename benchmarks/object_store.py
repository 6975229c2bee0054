"""How much of a delay at every request of S3 is hidden: throughput with the server delayed, and without, in turns.

``python -m benchmarks.object_store`` starts moto's S3 server and a proxy before it on this machine, puts a store there,
and reads random batches from it with several threads, as the loader does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import genostore
from genostore.genome import Genome
from genostore.objects import Bucket
from genostore.schema import position_array
from genostore.staging import Staging, create
from genostore.upload import upload
from tests.objects.proxy import Proxy
from tests.objects.server import BUCKET, environment, serve

LENGTH, TRACKS, WIDTH = 8_000_000, 4, 2_000
STORE = f"s3://{BUCKET}/s.zarr"


@contextmanager
def server() -> Iterator[Proxy]:
    """Start moto's server, and a proxy before it."""
    with serve() as address:
        proxy = Proxy(address).start()
        os.environ |= environment(proxy.url)
        yield proxy
        proxy.stop()


def build(folder: Path) -> None:
    """Write a store of tracks of runs, as ChIP-seq has them."""
    genome = Genome.build("bench", {"c": LENGTH}, 16_384)
    storage, rng = create(folder, genome), np.random.default_rng(0)
    schema = position_array(genome.length, genome.alignment, "float32", float("nan"))
    for i in range(TRACKS):
        staging = Staging(storage, f"tracks/A/t{i}", {"": schema}, "bench")
        staging.begin()
        for block in staging.todo():
            size = schema.slices(block)[0].stop - schema.slices(block)[0].start
            values = np.repeat(rng.gamma(1.0, 3.0, size // 20 + 1).astype(np.float32), 20)[:size]
            staging.write(block, values).wait()
        staging.publish({"kind": "track", "cell_type": "A", "assay": f"t{i}", "role": None})


def measure(windows: Any, batches: list[np.ndarray], threads: int) -> float:
    """Give windows a second."""
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(windows.read, batches))
    return sum(map(len, batches)) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds, of each request")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, server() as proxy:
        build(Path(scratch, "s.zarr"))
        upload(Path(scratch, "s.zarr"), Bucket.at(STORE))
        rng = np.random.default_rng(0)
        start = rng.integers(0, LENGTH - WIDTH, options.batch * options.batches)
        regions = pd.DataFrame({"contig": "c", "start": start, "end": start + WIDTH})
        found: dict[float, list[float]] = {0.0: [], options.delay: []}
        requests = 0
        for _ in range(options.rounds):
            for delay, rates in found.items():
                store = genostore.open(STORE)
                windows = store.windows(regions=regions, width=WIDTH, sequence=False)
                windows.read([0])
                batches = np.split(rng.permutation(len(start)), options.batches)
                proxy.delay, before = delay, len(proxy.requests)
                rates.append(measure(windows, batches, options.threads))
                requests, proxy.delay = len(proxy.requests) - before, 0.0
        plain, delayed = (statistics.median(rates) for rates in found.values())
        shape = f"{options.batches} batches of {options.batch} windows of {WIDTH:,} bases, {TRACKS} tracks"
        print(f"{shape}: {requests:,} requests")
        print(f"{plain:,.0f} windows/s undelayed, {delayed:,.0f} with {options.delay * 1000:.0f} ms at each request")
        print(f"ratio {plain / delayed:.2f}, at most {proxy.peak} requests at once")


if __name__ == "__main__":
    main()
