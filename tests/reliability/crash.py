"""``kill -9`` at any moment: the store opens, shows whole nodes only, and the next run ends as an undisturbed one.

Run as a program it forks a child for each attempt, having imported everything once and used nothing; a child dies at
a random time, or just before its n-th operation on files or objects, so that every gap between two steps of a
publication is hit. What a killed run left is then read in another child, and the work is done again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.reliability.places import S3, Disk
from tests.reliability.record import Row, run
from tests.reliability.works import Work, works


def in_child(task: Callable[[], Any]) -> int:
    """Fork a child that does a task."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        task()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """Wait for a child; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def do(step: Callable[[Path], Any], folder: Path) -> bool:
    """Do a step in a child; whether it went well."""
    return wait(in_child(lambda: step(folder))) == 0


def disturb(name: str, work: Work, place: Disk, folder: Path, kills: int, seed: int) -> Row:
    """Kill a work ``kills`` times, most attempts on what earlier ones left, and compare its end."""
    row, rng = Row("crash", f"kill -9 during {name}{place.name}"), random.Random(f"{seed}/{name}")
    start, good = folder / "start", folder / "good"
    start.mkdir(parents=True)
    assert do(work.prepare, start), f"{name} cannot be prepared"
    operations, took = undisturbed(work, place, start, good)
    expected = work.result(good)
    number = 0
    while row.seen["killed"] < kills and number < 3 * kills:
        here = folder / f"run{number}"
        place.copy(start, here)
        for _ in range(rng.randint(1, 3)):
            number += 1
            before = rng.randint(1, operations) if rng.random() < 0.7 else None
            code = attempt(work, place, here, before, rng.random() * took)
            row.seen["killed" if code == -signal.SIGKILL else "ended before the kill"] += 1
            if code > 0:
                row.wrong += 1
                row.notes.append(f"attempt {number}: a run after a kill failed")
            if not do(work.check, here):
                row.wrong += 1
                row.notes.append(f"attempt {number}: what was left (killed before operation {before}) is not whole")
        if not do(work.act, here):
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
        place.delete(here)
    row.tried = row.seen["killed"]
    return row


def undisturbed(work: Work, place: Disk, start: Path, good: Path) -> tuple[int, float]:
    """Do a work twice: once to compile what compiles on first use, then to count its operations and take its time."""

    def counted() -> None:
        place.trigger.arm()
        place.watch()
        work.act(good)

    for _ in range(2):
        if good.exists():
            place.delete(good)
        place.copy(start, good)
        began = time.monotonic()
        assert wait(in_child(counted)) == 0, "the work fails undisturbed"
    return place.trigger.ticks, time.monotonic() - began


def attempt(work: Work, place: Disk, here: Path, before: int | None, seconds: float) -> int:
    """Do a work, and kill it before an operation, or else after some seconds; how it ended."""

    def task() -> None:
        place.trigger.arm(*[] if before is None else [before])
        place.watch()
        work.act(here)

    child = in_child(task)
    if before is None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return wait(child)


def study(kills: dict[str, int], seed: int = 0) -> list[Row]:
    """Kill each named work so often; a program of its own does it, as forking needs a process that used nothing.

    A name that ends in ``@s3`` is that work on S3.
    """
    return run(__spec__.name, kills, seed)


def main() -> None:
    kills, seed = json.loads(sys.argv[1]), int(sys.argv[2])
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        places = {"": Disk()}
        if any("@" in name for name in kills):
            places["s3"] = stack.enter_context(S3.serve())
        for named, n in kills.items():
            name, _, where = named.partition("@")
            place = places[where]
            rows.append(disturb(name, works(place, [name])[name], place, Path(folder, named), n, seed))
            print(rows[-1].plain(), file=sys.stderr, flush=True)
    print(json.dumps([row.plain() for row in rows]))


if __name__ == "__main__":
    main()
