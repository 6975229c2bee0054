"""A Dask cluster of worker processes of their own: one that is killed in the middle changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ingest
from tests.ingest.small import TRACKS, build_small
from tests.reliability.world import tree

ROOT = Path(__file__).parents[2]
INGEST = "import sys, ingest; ingest.run(ingest.plan(sys.argv[1], sys.argv[2]), scheduler=sys.argv[3])"


def start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_worker_that_is_killed_changes_nothing(tmp_path: Path) -> None:
    small, file = build_small(tmp_path), tmp_path / "scheduler.json"
    more = "".join(f"  - {{cell_type: C{i}, assay: x, source: dnase.bw}}\n" for i in range(12))
    catalogue = small.catalogue(TRACKS + more)
    ingest.run(ingest.plan(catalogue, tmp_path / "good.zarr"))
    options = ("--scheduler-file", str(file))
    running = [start("dask_scheduler", *options, "--port", "0", "--no-dashboard")]
    try:
        workers = [start("dask_worker", *options, "--no-nanny", "--nthreads", "1", "--no-dashboard") for _ in range(2)]
        running += workers
        while not file.exists() or file.stat().st_size == 0:
            time.sleep(0.05)
        import json

        address = json.loads(file.read_text())["address"]
        store = tmp_path / "s.zarr"
        client = subprocess.Popen(
            [sys.executable, "-c", INGEST, str(catalogue), str(store), address], cwd=ROOT, stderr=subprocess.PIPE
        )
        log, ended = store / ".genostore/log.jsonl", time.monotonic() + 120
        while time.monotonic() < ended and (not log.exists() or log.read_text().count('"publish"') < 3):
            time.sleep(0.01)
        workers[0].send_signal(signal.SIGKILL)
        _, error = client.communicate(timeout=120)
        assert client.returncode == 0, error.decode()[-2_000:]
        assert workers[0].wait(10) == -signal.SIGKILL
        assert tree(store) == tree(tmp_path / "good.zarr")
    finally:
        for process in running:
            process.kill()
            process.wait()
