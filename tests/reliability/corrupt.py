"""Flip bits and lose, cut and swap whole objects: every one is noticed, or does no harm."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ingest
from genostore.errors import GenostoreError
from tests.reliability.record import Row
from tests.reliability.world import build, contents, is_data, objects, same

PLACES = {
    "chunk data": lambda p, at, size: is_data(p) and not _in_index(p, at, size),
    "shard indexes": lambda p, at, size: is_data(p) and _in_index(p, at, size),
    "metadata of nodes and groups": lambda p, at, size: p.name == "zarr.json",
    "index.json": lambda p, at, size: p.name == "index.json",
}


def _in_index(path: Path, at: int, size: int) -> bool:
    """Say whether a byte lies among the last of a shard, which say where its chunks lie (of text: in its end)."""
    return at >= size - 52


@contextmanager
def changed(file: Path, content: bytes | None) -> Iterator[None]:
    """Give a file other content for a while; None removes it."""
    before = file.read_bytes()
    try:
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        yield
    finally:
        file.write_bytes(before)


def look(store: Path, good: dict[str, Any]) -> str:
    """Read everything and verify; say who noticed."""
    try:
        read = "same" if same(contents(store), good) else "other"
    except GenostoreError:
        read = "error"
    except Exception as error:  # an error that is not ours still keeps a wrong value from anybody
        read = f"raw {type(error).__name__}"
    try:
        verified = not ingest.verify(store).ok
    except GenostoreError:
        verified = True
    except Exception as error:
        return f"verify raised {type(error).__name__}: {str(error)[:80]}"
    if read.startswith("raw"):
        return f"{read} on reading"
    if read == "error":
        return "an error on reading" if verified else "an error on reading alone"
    if verified:
        return "found by verify"
    return "harmless: everything reads the same" if read == "same" else "silently wrong"


def flips(folder: Path, place: str, count: int, seed: int = 0) -> Row:
    """Flip one bit at ``count`` of the places of a kind."""
    _, store = build(folder)
    good, rng, row = contents(store), random.Random(f"{seed}/{place}"), Row("corruption", f"one bit flipped in {place}")
    files = [p for p in objects(store) if (store / p).stat().st_size]
    while row.tried < count:
        path = rng.choice(files)
        data = bytearray((store / path).read_bytes())
        at = rng.randrange(len(data))
        if rng.random() < 0.5 and is_data(path):
            at = len(data) - 1 - rng.randrange(min(52, len(data)))
        if not PLACES[place](path, at, len(data)):
            continue
        data[at] ^= 1 << rng.randrange(8)
        with changed(store / path, bytes(data)):
            _count(row, look(store, good), f"{path} byte {at} -> {bytes(data[max(at - 12, 0) : at + 8])!r}")
    return row


def _count(row: Row, outcome: str, where: str) -> None:
    row.add(outcome)
    if outcome == "silently wrong" or outcome.startswith(("verify raised", "raw")):
        row.wrong += outcome == "silently wrong"
        row.notes.append(f"{outcome}: {where}")
    elif outcome.startswith("harmless"):
        row.notes.append(f"{outcome}: {where}")


def whole_objects(folder: Path, count: int, seed: int = 0) -> list[Row]:
    """Delete, cut off, empty and swap objects, ``count`` in all; every object at least once where that suffices."""
    _, store = build(folder)
    good, rng = contents(store), random.Random(seed)
    files = objects(store)
    rows = {w: Row("corruption", f"whole objects {w}") for w in ("deleted", "cut off", "emptied", "swapped")}
    for number in range(count):
        what = list(rows)[number % len(rows)]
        path = files[number // len(rows) % len(files)]
        data = (store / path).read_bytes()
        if what == "swapped":
            alike = [p for p in files if p != path and p.name == path.name and (store / p).read_bytes() != data]
            other = rng.choice(alike or [p for p in files if p != path])
            with changed(store / path, (store / other).read_bytes()), changed(store / other, data):
                _count(rows[what], look(store, good), f"{path} with {other}")
            continue
        cut = {"deleted": None, "cut off": data[: rng.randrange(len(data) or 1)], "emptied": b""}[what]
        with changed(store / path, cut):
            _count(rows[what], look(store, good), str(path))
    return list(rows.values())


def swapped_nodes(folder: Path) -> Row:
    """Swap whole nodes and whole columns, metadata and values together."""
    _, store = build(folder)
    good, row = contents(store), Row("corruption", "whole nodes and columns swapped")
    folders = sorted({p.parent for p in objects(store) if p.name == "zarr.json"} - {Path()})
    pairs = [(a, b) for i, a in enumerate(folders) for b in folders[i + 1 :] if len(a.parts) == len(b.parts)]
    for one, other in random.Random(0).sample(pairs, min(len(pairs), 40)):
        if one in other.parents or other in one.parents:
            continue
        _exchange(store / one, store / other)
        _count(row, look(store, good), f"{one} with {other}")
        _exchange(store / one, store / other)
    return row


def _exchange(one: Path, other: Path) -> None:
    spare = one.with_name(".spare")
    shutil.move(one, spare)
    shutil.move(other, one)
    shutil.move(spare, other)
