"""``python -m benchmarks.prism_step``: a training step of Prism at the paper's sizes, against the sequential scan.

On a processor: batch 2, 2,000 bases, 2 contexts, float32. Each backend runs in a process of its own, which reports its
times and the memory that the steps added at their peak; the processes take turns, and the ratio's spread over the
rounds is printed. ``reference`` is the same model in plain torch with the scan position by position.

With a GPU also: the step at the paper's batch of 8 in bfloat16, with every scan that the machine has, beside the time
that its bytes and its operations alone would take, and what the paper's 50,000 steps come to.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

BATCH, LENGTH, SHORT = 2, 2_000, 64
WARM = 2  # steps of a process that are not timed: its first ones make the memory that all others use again
GPU_BATCH, RECIPE_STEPS = 8, 50_000
PARTS = {
    "scan": ("prism_model::scan_",),
    "gate": ("prism_model::gate_",),
    "convolution": ("prism_model::convolution_",),
    "normalisation": ("prism_model::rms_norm_",),
    "matrix products": ("prism_model::product", "prism_model::gram", "aten::mm", "aten::addmm", "aten::bmm"),
    "optimiser": ("Optimizer.step",),
}
"""Parts of a step, by the names that torch's profiler gives to what runs there."""


def make_step(backend: str, device: str = "cpu", half: bool = False) -> tuple[Any, Callable[[int, int], None]]:
    """A model and its training step: forward, backward, optimiser."""
    import torch

    from prism_model import Prism, prism_loss

    torch.manual_seed(0)
    model = Prism(scan=backend).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(batch: int, length: int) -> None:
        sequence = torch.eye(4, device=device)[torch.randint(0, 4, (batch, length), device=device)]
        signals, features, target = (torch.randn(batch, *n, device=device) for n in ((length, 3), (9,), ()))
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = prism_loss(model(sequence, signals, features), target).total
        loss.backward()
        optimizer.step()

    return model, step


def measure(backend: str, steps: int) -> dict[str, Any]:
    """Time training steps in this process."""
    from genostore.memory import keep_freed_memory
    from prism_model.idle import let_idle_threads_sleep

    let_idle_threads_sleep()  # both as `prism train` does
    keep_freed_memory()
    model, step = make_step(backend)
    model.config = replace(model.config, center_length=SHORT)
    step(1, SHORT)  # loads what is compiled or imported when it is first used
    model.config = replace(model.config, center_length=LENGTH)
    before = _peak()
    result: dict[str, Any] = {"seconds": [], "processor_seconds": []}
    for number in range(-WARM, steps):
        start, spent = time.perf_counter(), time.process_time()
        step(BATCH, LENGTH)
        if number >= 0:
            result["seconds"].append(time.perf_counter() - start)
            result["processor_seconds"].append(time.process_time() - spent)
    result["gib"] = _peak() - before
    if backend != "reference":
        result["parts"] = profile(lambda: step(BATCH, LENGTH))
    return result


def profile(run: Callable[[], None]) -> dict[str, float]:
    """Share of each part in the time of one run."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        start = time.perf_counter()
        run()
        whole = time.perf_counter() - start
    shares = {}
    for part, names in PARTS.items():
        events = [e for e in recorded.key_averages() if e.key.startswith(names) and not e.key.endswith("_backward0")]
        own = [e.cpu_time_total if part == "optimiser" else e.self_cpu_time_total for e in events]
        shares[part] = sum(own) / 1e6 / whole
    return shares | {"rest": 1 - sum(shares.values())}


def _peak() -> float:
    """Most memory that this process ever held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def on_processor(rounds: int) -> dict[str, Any]:
    """Both backends in turns; the ratios of their medians, round by round."""
    found: dict[str, list[dict]] = {"cpu": [], "reference": []}
    for _ in range(rounds):
        for backend, results in found.items():
            command = [sys.executable, "-m", "benchmarks.prism_step", "--measure", backend]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    pairs = list(zip(found["reference"], found["cpu"], strict=True))
    ratios, processor = (
        [statistics.median(r[key]) / statistics.median(o[key]) for r, o in pairs]
        for key in ("seconds", "processor_seconds")
    )
    memory = {b: max(r["gib"] for r in results) for b, results in found.items()}
    parts = {p: statistics.median(r["parts"][p] for r in found["cpu"]) for p in found["cpu"][0]["parts"]}
    return {
        "seconds": {b: statistics.median(s for r in results for s in r["seconds"]) for b, results in found.items()},
        "gib": memory,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "processor_ratios": processor,
        "memory_ratio": memory["reference"] / memory["cpu"],
        "outside_scan": 1 - parts["scan"],
        "parts": parts,
        "runs": found,
    }


def on_gpu(steps: int = 10) -> dict[str, Any]:
    """The step with every scan there is, and its floor."""
    import torch

    from prism_model.scan import BACKENDS

    def timed(run: Callable[[], None], repeats: int = steps) -> float:
        run(), run()
        times = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    seconds = {}
    for backend in ("triton", "mamba_ssm", "chunked", "reference"):
        if BACKENDS[backend].available:
            model, step = make_step(backend, "cuda", half=True)
            seconds[backend] = timed(lambda step=step: step(GPU_BATCH, LENGTH), 2 if backend == "reference" else steps)
            if backend == "chunked":
                model.compile()
                seconds["compiled chunked"] = timed(lambda step=step: step(GPU_BATCH, LENGTH))
            del model, step
    copies, c = GPU_BATCH * 3, model_sizes()
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    rate = 2 * 8192**3 / timed(lambda: torch.mm(x, x))
    bandwidth = 2 * x.numel() * x.element_size() / timed(lambda: x.clone())
    positions = copies * LENGTH * c["n_layer"]
    operations = 3 * 2 * positions * c["d_model"] * c["inner"] * 3 + 3 * 2 * positions * c["inner"] * c["projected"] * 2
    # bfloat16: a scan reads 3 and writes 1 tensor forward, reads 4 and writes 3 backward; the convolution 2 and 3;
    # both directions. The products in and out read and write theirs once forward and twice backward.
    moved = 2 * positions * (2 * c["inner"] * (4 + 7 + 2 + 3) + 3 * (2 * c["d_model"] + 3 * c["inner"]))
    floor = max(operations / rate, moved / bandwidth)
    best = min(seconds.values())
    return {
        "device": torch.cuda.get_device_name(),
        "seconds": seconds,
        "floor_seconds": floor,
        "over_floor": best / floor,
        "samples_per_second": GPU_BATCH / best,
        "recipe_hours": RECIPE_STEPS * best / 3600,
    }


def model_sizes() -> dict[str, int]:
    from prism_model.prism import PrismConfig

    c = PrismConfig()
    rank = -(-c.d_model // 16)
    inner = c.expand * c.d_model
    return {"d_model": c.d_model, "n_layer": c.n_layer, "inner": inner, "projected": rank + 2 * c.d_state}


def main() -> None:
    """Measure, print the ratios, write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print what the step spends its time on")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/prism_step.json"))
    parser.add_argument("--measure", choices=["cpu", "reference"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, 1 if options.measure == "reference" else 4)))
        return
    result = on_processor(options.rounds)
    print(f"a step of Prism, batch {BATCH}, length {LENGTH:,}, 2 contexts, float32")
    for backend, name in (("reference", "sequential scan"), ("cpu", "cpu scan")):
        print(f"  {name:16} {result['seconds'][backend]:7.2f} s   {result['gib'][backend]:6.2f} GiB more at the peak")
    spread = " to ".join(f"{r:.1f}" for r in (min(result["ratios"]), max(result["ratios"])))
    print(f"  {result['ratio']:.1f} times faster ({spread} over {options.rounds} rounds; processor time: ", end="")
    print(f"{statistics.median(result['processor_ratios']):.1f}), {result['memory_ratio']:.1f} times less memory")
    print(f"  outside the scan: {result['outside_scan']:.0%} of the step")
    if options.profile:
        for part, share in result["parts"].items():
            print(f"    {part:16} {share:5.0%}")
    import torch

    if torch.cuda.is_available():
        result["gpu"] = gpu = on_gpu()
        print(f"on {gpu['device']}, batch {GPU_BATCH}, bfloat16")
        for name, seconds in gpu["seconds"].items():
            print(f"  {name:16} {seconds * 1e3:9.1f} ms   {seconds / gpu['floor_seconds']:.1f} times the floor")
        print(f"  floor            {gpu['floor_seconds'] * 1e3:9.1f} ms (bytes and operations alone)")
        print(f"  {gpu['samples_per_second']:.0f} samples/s; {RECIPE_STEPS:,} steps: {gpu['recipe_hours']:.1f} h")
    else:
        print("no GPU here: its part is skipped")
    options.out.parent.mkdir(exist_ok=True, parents=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
