"""Run a grid of cells: finished ones are skipped, the rest trained and measured, in parallel when asked.

A cell that does not fit into memory is left for a later run, perhaps on a larger machine; the others go on.

::

    OUT/cells/NAME/run/            the run, as `prism train` makes it
                   NAME.parquet    what was measured on it, a file a table
                   cell.json       labels, settings and data; written last, so a cell that has it is finished
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from genostore.errors import ConflictError
from prism_model import room, runs
from prism_model.data import Data
from prism_model.settings import to_plain
from prism_model.studies.base import Cell, Study, StudyError, Tables
from prism_model.train import complete, fit

DONE = "cell.json"


class Ended(NamedTuple):
    """How the work on a cell ended: well after so many seconds, or with an error."""

    cell: Cell
    seconds: float
    error: BaseException | None


def run_grid(
    study: Study, cells: list[Cell], out: Path, digest: str, *, workers: int, device: str, say: Callable[[str], None]
) -> dict[str, str]:
    """Train and measure the cells that are not finished.

    Parameters
    ----------
    study
        Whose cells they are.
    cells
        The grid.
    out
        Folder of the study.
    digest
        Hash of the data.
    workers
        Processes; 1 = this one, so that a debugger works.
    device
        ``cpu``, ``cuda`` or ``auto``.
    say
        Prints a line.

    Returns
    -------
    dict
        Name of each cell that does not fit into memory, and what it takes and there is.

    Raises
    ------
    genostore.errors.ConflictError
        When a finished cell was made with other settings or data.
    StudyError
        When cells failed; the others are finished and kept.
    """
    pending = [cell for cell in cells if not finished(out, cell, digest)]
    say(f"{study.name}: {len(cells)} runs, {len(cells) - len(pending)} of them finished already")
    failed: dict[str, str] = {}
    unfit: dict[str, str] = {}
    done = len(cells) - len(pending)
    for cell, seconds, error in _results(study, pending, out, digest, workers, device):
        if error is None:
            done += 1
            say(f"{done}/{len(cells)}  {cell.name}  {seconds:.0f} s")
        elif isinstance(error, room.RoomError):
            unfit[cell.name] = str(error)
            say(f"{cell.name} not run: {error}")
        else:
            failed[cell.name] = f"{type(error).__name__}: {error}"
            say(f"{cell.name} failed: {failed[cell.name]}")
    if failed:
        shown = "; ".join(f"{name}: {problem}" for name, problem in list(failed.items())[:3])
        raise StudyError(
            f"{len(failed)} of {len(cells)} runs failed ({shown}). Their logs are {out / 'cells'}/NAME/log.txt; "
            f"the same command again runs these alone"
        )
    return unfit


def finished(out: Path, cell: Cell, digest: str) -> bool:
    """Whether a cell was measured; raises ConflictError when that was with other settings or data."""
    path = out / "cells" / cell.name / DONE
    if not path.is_file():
        return False
    before, now = json.loads(path.read_text()), _identity(cell, digest)
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise ConflictError(
            f"{path.parent} is of other {' and '.join(changed)} than this study asks for; "
            f"choose another --out, or delete that folder to have it made anew"
        )
    return True


def gather(out: Path, cells: list[Cell]) -> Tables:
    """Read the tables of finished cells: name to the rows of all, their labels first."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for cell in cells:
        for path in sorted((out / "cells" / cell.name).glob("*.parquet")):
            table = pd.read_parquet(path)
            labels = pd.DataFrame({key: [value] * len(table) for key, value in cell.labels.items()})
            parts.setdefault(path.stem, []).append(pd.concat([labels, table], axis=1))
    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}


def _identity(cell: Cell, digest: str) -> dict[str, Any]:
    config = to_plain(cell.config)
    config["data"].pop("store")  # where it lies; the digest says what it holds
    return json.loads(json.dumps({"labels": cell.labels, "settings": config, "data": digest}))


def _results(study: Study, pending: list[Cell], out: Path, digest: str, workers: int, device: str) -> Iterator[Ended]:
    """Work on cells, and tell how each ended."""
    alone = pending if workers == 1 else []
    if workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(threads, workers)) as pool:
            waiting = {pool.submit(run_cell, study, cell, out, digest, device): cell for cell in pending}
            for future in as_completed(waiting):
                error = future.exception()
                if isinstance(error, room.RoomError):
                    alone.append(waiting[future])  # there may be room for it when nothing runs beside it
                else:
                    yield Ended(waiting[future], 0.0 if error else future.result(), error)
    for cell in sorted(alone, key=pending.index):
        seconds, why = 0.0, None
        try:
            seconds = run_cell(study, cell, out, digest, device)
        except room.RoomError as error:
            why = room.RoomError(str(error))  # without the frames of the other, which hold what took the memory
        except Exception as error:
            if workers == 1:
                raise  # to where a debugger sees it
            yield Ended(cell, 0.0, error)
            continue
        if why:
            gc.collect()
        yield Ended(cell, seconds, why)


def _begin(threads: int, workers: int) -> None:
    """Give a worker its share of the cores and of the memory."""
    _end_with_parent()  # before the imports, which take seconds

    import numba
    import torch

    from genostore.memory import keep_freed_memory

    keep_freed_memory()
    room.share(workers)
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)


def _end_with_parent() -> None:
    """End this worker when the study is killed: it would wait for ever, and write to cells that the next one takes."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watches the study").start()


def run_cell(study: Study, cell: Cell, out: Path, digest: str, device: str) -> float:
    """Train and measure one cell.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    prism_model.room.RoomError
        When it does not fit into memory.
    """
    began = time.monotonic()
    folder = out / "cells" / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "run"
    begun = _begun(cell, run)
    if run.exists() and not begun:
        shutil.rmtree(run)
    with (folder / "log.txt").open("a") as log:

        def say(line: str) -> None:
            log.write(line + "\n")
            log.flush()

        try:
            with room.told():
                fit(cell.config, run, resume=begun, device=device, say=say)
                measured = study.measure(cell, run, device)
        except room.RoomError as error:
            say(str(error))
            raise
    for name, table in measured.items():
        part = folder / f".{name}.part"
        table.to_parquet(part, index=False)
        part.replace(folder / f"{name}.parquet")
    seconds = time.monotonic() - began
    runs.write_json(folder / DONE, _identity(cell, digest) | {"code": runs.code_version(), "seconds": round(seconds)})
    return seconds


def _begun(cell: Cell, run: Path) -> bool:
    """Whether a run finished an epoch with the settings that are asked for now."""
    if not (run / runs.CONFIG).is_file() or not (run / runs.RESUME).is_file():
        return False
    return runs.read_config(run) == complete(cell.config, Data(cell.config.data))
