"""``python -m benchmarks.prism_step``: a training step of Prism at the paper's sizes, against the sequential scan.

Each backend runs in a process of its own, which reports its times and the memory that the steps added at their peak;
the processes take turns. The share of the scan is what torch's profiler gives to the scan's operators in one step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

BATCH, LENGTH = 2, 2_000
SHORT = 64
SCAN = "prism_model::selective_scan"


def measure(backend: str, steps: int) -> dict[str, float | list[float]]:
    """Time training steps in this process: forward, backward and optimiser, float32."""
    import torch

    from prism_model import Prism, prism_loss
    from prism_model.memory import keep_freed_memory

    keep_freed_memory()  # as `prism train` does
    torch.manual_seed(0)
    model = Prism(scan=backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    model.config = replace(model.config, center_length=SHORT)

    def step(batch: int, length: int) -> None:
        sequence = torch.eye(4)[torch.randint(0, 4, (batch, length))]
        signals, features, target = torch.randn(batch, length, 3), torch.randn(batch, 9), torch.randn(batch)
        optimizer.zero_grad()
        prism_loss(model(sequence, signals, features), target).total.backward()
        optimizer.step()

    step(1, SHORT)  # loads what is compiled or imported when it is first used
    model.config = replace(model.config, center_length=LENGTH)
    before = _peak()
    times, processor = [], []
    for _ in range(steps):
        start, spent = time.perf_counter(), time.process_time()
        step(BATCH, LENGTH)
        times.append(time.perf_counter() - start)
        processor.append(time.process_time() - spent)
    result: dict[str, float | list[float]] = {"seconds": times, "processor_seconds": processor}
    result["gib"] = _peak() - before
    if backend == "cpu":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            start = time.perf_counter()
            step(BATCH, LENGTH)
            whole = time.perf_counter() - start
        named = [e for e in profile.key_averages() if SCAN.replace("::", "_") in e.key or SCAN in e.key]
        result["scan_share"] = sum(e.self_cpu_time_total for e in named) / 1e6 / whole
    return result


def _peak() -> float:
    """Most memory that this process ever held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Take turns, then print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/prism_step.json"))
    parser.add_argument("--measure", choices=["cpu", "reference"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, 1 if options.measure == "reference" else 4)))
        return
    found: dict[str, list[dict]] = {"cpu": [], "reference": []}
    for _ in range(options.rounds):
        for backend, results in found.items():
            command = [sys.executable, "-m", "benchmarks.prism_step", "--measure", backend]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    times = {b: [s for r in results for s in r["seconds"]] for b, results in found.items()}
    reference, ours = (statistics.median(times[b]) for b in ("reference", "cpu"))
    memory = {b: max(r["gib"] for r in results) for b, results in found.items()}
    share = statistics.median(r["scan_share"] for r in found["cpu"])
    print(f"a step of Prism, batch {BATCH}, length {LENGTH:,}, 2 contexts, float32")
    print(f"  sequential scan   {reference:7.2f} s   {memory['reference']:6.2f} GiB more at the peak")
    print(f"  cpu scan          {ours:7.2f} s   {memory['cpu']:6.2f} GiB")
    print(f"  {reference / ours:.1f} times faster, {memory['reference'] / memory['cpu']:.1f} times less memory")
    print(f"  outside the scan: {1 - share:.0%} of the step")
    options.out.parent.mkdir(exist_ok=True, parents=True)
    result = {
        "ratio": reference / ours,
        "memory_ratio": memory["reference"] / memory["cpu"],
        "outside_scan": 1 - share,
        **found,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
