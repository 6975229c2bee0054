"""What a GPU waits for: data in a training step, a gather of resident windows, the copy from the host.

Every function takes the device, so that the code runs on a processor too (its figures mean nothing there).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.data import CELL, CONTIG, Bench, disjoint
from benchmarks.harness import Bar, Result, Row, Skip

WIDTHS = {2_000: 8, 200_000: 1}  # batch by width; 8 as the paper trains
TRACKS = 3
WAITING = "share of a training step of Prism spent waiting for data"
RESIDENT = "resident on the GPU, 2 kb, 3 tracks, batch 512"
HOST = "batches of resident windows in RAM, sent to the GPU"


def run(bench: Bench) -> Result:
    """Measure where there is a CUDA device; say so where there is none."""
    import torch

    result = Result("gpu")
    if not torch.cuda.is_available():
        for work in (WAITING, RESIDENT, HOST):
            result.skipped.append(Skip(work, "no CUDA device here"))
        return result
    device = torch.device("cuda")
    from prism_model import Prism, PrismConfig

    name = torch.cuda.get_device_name(device)
    steps = 20 if bench.size.name == "quick" else 60
    for width, batch in WIDTHS.items():
        model = Prism(PrismConfig(signal_size=TRACKS, feature_size=0, center_length=2_000))
        share, seconds = waiting(bench, model.to(device), width, batch, steps)
        work = f"{WAITING}, {width // 1000} kb, batch {batch}"
        result.rows.append(Row(work, name, seconds * 1e3, "ms a step", 1.0, steps))
        result.bars.append(Bar(work, "the same steps on one batch kept", "at most", 5, 100 * share, "%"))
    limit = copy_rate(device, device)
    resident = resident_rate(bench, device)
    result.rows += [
        Row(RESIDENT, "genostore", resident / 1e9, "GB/s", 1.0, 5),
        Row(RESIDENT, f"copy within {name}", limit / 1e9, "GB/s", limit / resident, 5),
    ]
    result.bars.append(Bar(RESIDENT, "copy bandwidth of the device", "at least", 50, 100 * resident / limit, "%"))
    sent, pinned = host_rate(bench, device), copy_rate(torch.device("cpu"), device)
    result.rows += [
        Row(HOST, "genostore", sent / 1e9, "GB/s", 1.0, 5),
        Row(HOST, "copy of pinned memory", pinned / 1e9, "GB/s", pinned / sent, 5),
    ]
    return result


def waiting(bench: Bench, model: Any, width: int, batch: int, steps: int) -> tuple[float, float]:
    """Give the share of the time of a step of the model that the loader takes, and the seconds of a step.

    Steps on batches from the loader and steps on one batch that is kept take turns; what the former take longer is
    waiting, or disturbance by the loader's threads, which costs a training run as much.
    """
    import numpy as np
    import pandas as pd
    import torch

    from prism_model import prism_loss

    device = next(model.parameters()).device
    n = min(steps * batch, bench.size.length // width)
    starts = disjoint(np.random.default_rng(5), bench.size.length, width, n)
    regions = pd.DataFrame({"contig": CONTIG, "start": starts, "end": starts + width})
    windows = bench.store.windows(regions=regions, cell_types=[CELL], assays=bench.tracks[:TRACKS], width=width)
    loader = windows.loader(batch, shuffle=True, device=device, threads=bench.threads, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    target = torch.zeros(batch, device=device)

    def step(values: Any) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            terms = prism_loss(model(values.sequence, torch.log1p(values.signal), None), target)
        terms.total.backward()
        optimizer.step()

    kept = next(iter(loader))
    step(kept)  # compiles what is compiled when it is first used

    def kept_steps() -> None:
        for _ in range(len(loader)):
            step(kept)

    def streamed() -> None:
        for values in loader:
            step(values)

    found: dict[Callable[[], None], list[float]] = {kept_steps: [], streamed: []}
    for turn in range(3):
        for work, seconds in found.items():
            loader.set_epoch(turn + 1)
            seconds.append(_seconds(work, device))
    alone, both = (statistics.median(s) for s in found.values())
    return max(0.0, 1 - alone / both), both / len(loader)


def resident_rate(bench: Bench, device: Any) -> float:
    """Bytes of windows a second that a loader with everything in the device's memory gives."""
    return _stream_rate(bench, device, resident=device.type)


def host_rate(bench: Bench, device: Any) -> float:
    """Bytes of windows a second that a loader with everything in RAM brings to the device."""
    return _stream_rate(bench, device, resident="ram")


def _stream_rate(bench: Bench, device: Any, **options: Any) -> float:
    windows = bench.store.windows(cell_types=[CELL], assays=bench.tracks[:TRACKS], sequence=False, width=2_000)
    loader = windows.loader(512, shuffle=True, device=device, drop_last=True, missing="nan", **options)
    size = 0

    def epoch() -> None:
        nonlocal size
        size = sum(batch.signal.nbytes for batch in loader)

    seconds = [_seconds(epoch, device) for _ in range(6)][1:]
    return size / statistics.median(seconds)


def copy_rate(source: Any, device: Any, size: int = 2**28) -> float:
    """Bytes a second of a copy to the device: from pinned memory, or within the device."""
    import torch

    values = torch.zeros(size, dtype=torch.uint8, device=source, pin_memory=source.type == "cpu" != device.type)
    out = torch.empty(size, dtype=torch.uint8, device=device)
    seconds = [_seconds(lambda: out.copy_(values, non_blocking=True), device) for _ in range(6)][1:]
    return size / statistics.median(seconds)


def _seconds(work: Callable[[], Any], device: Any) -> float:
    import torch

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    settle()
    began = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - began
