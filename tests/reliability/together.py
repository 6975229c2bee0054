"""A training run on a store that eight writers fill meanwhile, and on one whose track is overwritten under it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import genostore
import ingest
from genostore.errors import StaleError
from ingest.simulate import simulate
from tests.reliability.record import Row

ROOT = Path(__file__).parents[2]
KEPT = ("log.csv", "checkpoints/best/model.safetensors")
# Adds tracks of its own, overwrites and removes them, until it is told to end.
WRITE = """
import sys, threading, ingest
from genostore import open, staging
store, file, name = sys.argv[1:]
told = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
written = 0
while written < 3 or not told.is_set():
    ingest.add(store, file, cell_type=f"{name}.{written}", assay="x")
    ingest.add(store, file, cell_type=f"{name}.{written}", assay="x", role="background", overwrite=True)
    if written % 2:
        staging.remove(open(store).storage, f"tracks/{name}.{written}/x")
    written += 1
    if written == 1:
        print("begun", flush=True)
print(written)
"""


def train(store: Path, out: Path, say: Callable[[str], None] = str) -> dict[str, bytes]:
    """Two epochs of a small model; what it leaves."""
    from prism_model.config import make_config
    from prism_model.train import fit

    fit(make_config("tiny", None, (f"data.store={store}", "train.epochs=2")), out, device="cpu", say=say)
    return {name: (out / name).read_bytes() for name in KEPT}


def together(folder: Path, writers: int = 8) -> Row:
    """Train alone and among writers; compare what comes of it."""
    row = Row("concurrency", f"a training run while {writers} processes add, overwrite and remove other tracks")
    simulate(folder / "files", genes=40, cell_types=1, seed=0)
    store, catalogue = folder / "s.zarr", folder / "files/catalog.yaml"
    ingest.run(ingest.plan(catalogue, store))
    alone = train(store, folder / "alone")
    file = next(iter(sorted((folder / "files").rglob("*.bw"))))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    command = [sys.executable, "-c", WRITE, str(store), str(file)]
    running = [subprocess.Popen([*command, f"W{i}"], **pipes) for i in range(writers)]
    try:
        begun = [process.stdout.readline() for process in running]
        among = train(store, folder / "among")
        said = [process.communicate("", timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    written = [int(out) if out.strip() else 0 for out, _ in said]
    row.lost = sum(n < 3 for n in written)
    row.notes = [error for _, error in said if error]
    kept = sum(-(-n // 2) for n in written)
    tracks = genostore.open(store).tracks
    row.lost += sum(tracks["cell_type"].str.startswith("W")) != kept or begun.count("begun\n") != writers
    row.lost += not ingest.verify(store).ok
    row.add("equal to the run alone, byte for byte" if among == alone else "another result")
    row.wrong = row.seen["another result"]
    row.seen["tracks written meanwhile"] = sum(written)
    return row


def overwritten(folder: Path) -> Row:
    """Overwrite a track of a training run after its first epoch: it goes on with the old values, or says so."""
    row = Row("concurrency", "a training run whose track is overwritten after an epoch")
    simulate(folder / "files", genes=40, cell_types=1, seed=0)
    store, catalogue = folder / "s.zarr", folder / "files/catalog.yaml"
    ingest.run(ingest.plan(catalogue, store))
    alone = train(store, folder / "alone")
    text = catalogue.read_text()
    catalogue.write_text(text.replace("assay: DNase,", "assay: DNase, bitround: 3,"))
    assert catalogue.read_text() != text
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:  # the first tells of the model, the second of the first epoch
            ingest.run(ingest.plan(catalogue, store), overwrite=True)

    try:
        same = train(store, folder / "among", say) == alone
        row.add("equal to the run alone, byte for byte" if same else "another result")
    except StaleError as error:
        row.add("an error that names the change" if "was overwritten" in str(error) else "another error")
    row.wrong = (
        row.tried - row.seen["equal to the run alone, byte for byte"] - row.seen["an error that names the change"]
    )
    row.notes = lines
    return row
