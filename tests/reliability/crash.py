"""``kill -9`` at any moment: the store opens, shows whole nodes only, and the next run ends as an undisturbed one.

Run as a program it forks a child for each attempt, having imported everything once and used nothing; a child dies at
a random time, or just before its n-th operation on files (an audit hook counts them), so that every gap between two
steps of a publication is hit. What a killed run left is then read in another child, and the work is done again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reliability.record import Row, run

_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")
CATALOGUE = """\
genes: {source: genes.gtf}
tracks:
  - {cell_type: K562, assay: DNase, source: dnase.bw, role: background}
contacts:
  - {cell_type: K562, assay: hic, source: hic.cool, bin_size: 100, max_distance: 1000}
expression:
  - {assay: CAGE, source: table.csv, gene_id: gene, columns: {K562: cage}, transform: log10p1}
"""


@dataclass(frozen=True)
class Work:
    """Something that is killed half-way.

    Attributes
    ----------
    name
        In words.
    prepare
        Makes what is there before, in an empty folder.
    act
        Does the work, or goes on with it.
    check
        Raises if what a killed run left is not whole.
    result
        What must be the same at the end, bytes by name.
    """

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path], None]
    check: Callable[[Path], None]
    result: Callable[[Path], dict[str, bytes]]


def works() -> dict[str, Work]:
    """All of them; importing this late keeps the imports in the program's own process."""
    import numpy as np

    import genostore
    import ingest
    from genostore import staging
    from tests.ingest.small import build_small
    from tests.reliability.world import tree

    def files(folder: Path) -> None:
        (folder / "files").mkdir()
        build_small(folder / "files").catalogue(CATALOGUE)

    def base(folder: Path) -> None:
        files(folder)
        run(folder)

    def run(folder: Path, overwrite: bool = False) -> None:
        ingest.run(ingest.plan(folder / "files/catalog.yaml", folder / "s.zarr"), overwrite=overwrite)

    def changed(folder: Path) -> None:
        base(folder)
        catalogue = folder / "files/catalog.yaml"
        text = catalogue.read_text().replace("role: background", "role: foreground, bitround: 5")
        catalogue.write_text(text.replace("max_distance: 1000", "max_distance: 500"))

    def add(folder: Path) -> None:
        ingest.add(folder / "s.zarr", folder / "files/rna.bedgraph", cell_type="H1", assay="RNA", strand="+")

    def pack(folder: Path) -> None:
        store = genostore.open(folder / "s.zarr")
        store.windows(cell_types=["K562"], assays=["DNase"], width=200, jitter=10).pack(
            folder / "p.zarr", overwrite=True
        )

    def remove(folder: Path) -> None:
        store = genostore.open(folder / "s.zarr")
        if "tracks/K562/DNase" in store.entries or (folder / "s.zarr/tracks/K562/DNase").exists():
            staging.remove(store.storage, "tracks/K562/DNase")

    def collect(folder: Path) -> None:
        staging.collect(genostore.open(folder / "s.zarr").storage, grace=0)

    def retired(folder: Path) -> None:
        changed(folder)
        run(folder, overwrite=True)
        remove(folder)

    def whole(folder: Path) -> None:
        """Everything that the store shows reads without error, or is told to have been replaced."""
        if not (folder / "s.zarr/zarr.json").exists():
            return
        store = genostore.open(folder / "s.zarr")
        for node, entry in store.entries.items():
            try:
                if entry["kind"] in ("genes", "regions"):
                    _ = store.genes if node == "genes" else store.regions(node.split("/")[1])
                elif entry["kind"] == "contacts":
                    store.contacts("K562", "hic", 100).matrix("chr1", weight="weight")
                else:
                    values = store.array(node).read()
                    if entry["kind"] == "track":
                        stated = entry["statistics"]["covered"]
                        assert int((~np.isnan(values)).sum()) == stated, f"{node}: {stated} values expected"
            except genostore.errors.StaleError:
                pass

    def packed(folder: Path) -> None:
        whole(folder)
        if (folder / "p.zarr").exists():
            genostore.open(folder / "p.zarr").windows(cell_types=["K562"], width=200).read([0, 1])

    def store_tree(folder: Path) -> dict[str, bytes]:
        return tree(folder / "s.zarr")

    def pack_tree(folder: Path) -> dict[str, bytes]:
        return tree(folder / "p.zarr")

    def left(folder: Path) -> dict[str, bytes]:
        private = (p for p in (folder / "s.zarr/.genostore").rglob("*") if p.is_file())
        return {**store_tree(folder), **{str(p): b"" for p in private if p.suffix not in (".lock", ".jsonl")}}

    found = [
        Work("ingest", files, run, whole, store_tree),
        Work("add", base, add, whole, store_tree),
        Work("overwrite", changed, lambda f: run(f, overwrite=True), whole, store_tree),
        Work("pack", base, pack, packed, pack_tree),
        Work("rm", base, remove, whole, store_tree),
        Work("gc", retired, collect, whole, left),
        _training(),
    ]
    return {work.name: work for work in found}


def _training() -> Work:
    def prepare(folder: Path) -> None:
        import ingest
        from ingest.simulate import simulate

        simulate(folder / "files", genes=40, cell_types=1, seed=0)
        ingest.run(ingest.plan(folder / "files/catalog.yaml", folder / "s.zarr"))

    def act(folder: Path) -> None:
        import torch

        from prism_model import runs
        from prism_model.config import make_config
        from prism_model.train import fit

        torch.set_num_threads(1)
        resume = (folder / "run" / runs.CONFIG).exists()
        config = make_config("tiny", None, (f"data.store={folder / 's.zarr'}", "train.epochs=2"))
        fit(config, folder / "run", resume=resume, device="cpu", say=str)

    def check(folder: Path) -> None:
        from prism_model import Prism
        from prism_model.weights import BEST

        if (folder / "run" / BEST / "model.json").exists():
            Prism.from_run(folder / "run")

    def result(folder: Path) -> dict[str, bytes]:
        kept = ("log.csv", "checkpoints/best/model.safetensors", "checkpoints/best/model.json")
        return {name: (folder / "run" / name).read_bytes() for name in kept}

    return Work("training", prepare, act, check, result)


def in_child(task: Callable[[], Any], before: int | None = None) -> int:
    """Fork a child that does a task; with ``before`` it kills itself before that operation on files."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if before is not None:
            _kill_before(before)
        task()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _kill_before(number: int) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in _EVENTS or (event == "open" and not _writes(arguments)):
            return
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _writes(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))


def wait(child: int) -> int:
    """Wait for a child; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def disturb(work: Work, folder: Path, kills: int, seed: int) -> Row:
    """Kill a work ``kills`` times, most attempts on what earlier ones left, and compare its end."""
    row, rng = Row("crash", f"kill -9 during {work.name}"), random.Random(f"{seed}/{work.name}")
    start, good = folder / "start", folder / "good"
    start.mkdir(parents=True)
    assert wait(in_child(lambda: work.prepare(start))) == 0, f"{work.name} cannot be prepared"
    shutil.copytree(start, good)
    began = time.perf_counter()
    assert wait(in_child(lambda: work.act(good))) == 0, f"{work.name} fails undisturbed"
    took, operations = time.perf_counter() - began, _count_operations(work, start, folder / "count")
    expected = work.result(good)
    number = 0
    while row.seen["killed"] < kills and number < 3 * kills:
        here = folder / f"run{number}"
        shutil.copytree(start, here)
        for _ in range(rng.randint(1, 3)):
            number += 1
            row.tried += 1
            by_count = rng.random() < 0.7
            before = rng.randint(1, operations) if by_count else None
            child = in_child(lambda: work.act(here), before)  # noqa: B023 - done at once
            if not by_count:
                time.sleep(rng.random() * took)
                os.kill(child, signal.SIGKILL)
            code = wait(child)
            row.seen["killed" if code == -signal.SIGKILL else "ended before the kill"] += 1
            if code > 0:
                row.wrong += 1
                row.notes.append(f"attempt {number}: a run after a kill failed")
            if wait(in_child(lambda: work.check(here))) != 0:  # noqa: B023
                row.wrong += 1
                row.notes.append(f"attempt {number}: what was left (killed before operation {before}) is not whole")
        if wait(in_child(lambda: work.act(here))) != 0:  # noqa: B023
            row.lost += 1
            row.notes.append(f"attempt {number}: the work cannot be finished (last kill before operation {before})")
            continue
        got = work.result(here)
        if got != expected:
            row.wrong += 1
            names = [n for n in {*got, *expected} if got.get(n) != expected.get(n)]
            row.notes.append(f"attempt {number}: another result in {names[:4]} (before operation {before})")
        else:
            row.seen["ends the same, byte for byte"] += 1
        shutil.rmtree(here)
    row.tried = row.seen["killed"]
    return row


def _count_operations(work: Work, start: Path, folder: Path) -> int:
    """Count the operations on files of an undisturbed run, in a child."""
    shutil.copytree(start, folder)
    reading, writing = os.pipe()

    def task() -> None:
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            seen += event in _EVENTS and (event != "open" or _writes(arguments))

        sys.addaudithook(hook)
        work.act(folder)
        os.write(writing, str(seen).encode())

    assert wait(in_child(task)) == 0
    return int(os.read(reading, 32))


def study(kills: dict[str, int], seed: int = 0) -> list[Row]:
    """Kill each named work so often; a program of its own does it, as forking needs a process that used nothing."""
    return run(__spec__.name, kills, seed)


def main() -> None:
    kills, seed = json.loads(sys.argv[1]), int(sys.argv[2])
    all_works = works()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, n in kills.items():
            rows.append(disturb(all_works[name], Path(folder, name), n, seed))
            print(rows[-1].plain(), file=sys.stderr, flush=True)
    print(json.dumps([row.plain() for row in rows]))


if __name__ == "__main__":
    main()
