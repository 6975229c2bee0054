"""A small store of every kind of node, all that can be read of it, and whether two stores are the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import genostore
import ingest
from genostore import arrays, opened
from ingest.integrity import arrays_of
from tests.ingest.small import EVERYTHING, Small, build_small


def build(folder: Path, sections: str = EVERYTHING) -> tuple[Small, Path]:
    """Write source files, and the store of them."""
    (folder / "files").mkdir(parents=True)
    small = build_small(folder / "files")
    store = folder / "s.zarr"
    ingest.run(ingest.plan(small.catalogue(sections), store))
    return small, store


def contents(path: Path) -> dict[str, Any]:
    """Read all of a store through its public face."""
    forget()
    store = genostore.open(path)
    out: dict[str, Any] = {
        "contigs": store.contigs,
        "assembly": store.genome.name,
        "tracks": store.tracks.drop(columns="generation"),
        "expression": store.expression,
        "cell types": store.cell_types,
        "features": store.features,
    }
    for node, entry in store.entries.items():
        if entry["kind"] == "genes":
            out["genes"] = store.genes
        elif entry["kind"] == "regions":
            out[node] = store.regions(node.split("/")[1])
        elif entry["kind"] == "contacts":
            _, cell_type, assay, bin_size = node.split("/")
            found = store.contacts(cell_type, assay, int(bin_size))
            contig = next(iter(store.contigs))
            for weight in (None, *found.weights):
                out[f"{node} {weight}"] = found.matrix(contig, weight).to_numpy()
            out[f"{node} band"] = found.band.read()
        else:
            out[node] = store.array(node).read()
    return out


def forget() -> None:
    """Drop what this process keeps of files, so that the next read goes to the disk."""
    opened.forget()
    opened._indexes.clear()
    arrays._context = None


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Compare what two stores gave."""
    return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, pd.DataFrame):
        return one.equals(other)
    if isinstance(one, np.ndarray):
        equal_nan = one.dtype.kind == "f"
        return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, other, equal_nan=equal_nan)
    return bool(one == other)


def objects(store: Path) -> list[Path]:
    """All objects of a store but its private ones, relative to it."""
    files = (p.relative_to(store) for p in sorted(store.rglob("*")) if p.is_file())
    return [p for p in files if p.parts[0] != ".genostore"]


def tree(store: Path) -> dict[str, bytes]:
    """The bytes of all objects."""
    return {str(p): (store / p).read_bytes() for p in objects(store)}


def is_data(path: Path) -> bool:
    """Say whether an object holds values rather than metadata."""
    return path.name not in ("zarr.json", "index.json")


__all__ = ["arrays_of", "build", "contents", "forget", "is_data", "objects", "same", "tree"]
