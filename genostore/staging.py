"""Writing: a node is built out of sight, shard by shard, and appears whole or not at all.

A node (an array such as ``tracks/K562/DNase``, or a group such as ``genes``) is staged under
``.genostore/staging/``. Each shard is written once, by one writer, and leaves a record when it is durable; so a
killed run resumes after its last record, and the result is the same, byte for byte. :meth:`Staging.publish`
writes the attributes and renames the node into its place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from genostore import index
from genostore.arrays import checksum, combine, context
from genostore.disk import (
    exchange,
    lock,
    log,
    make_folder,
    put_folder,
    remove_tree,
    sync_tree,
    write_file,
    writing,
)
from genostore.errors import ConflictError, FormatError
from genostore.genome import Genome
from genostore.schema import ArraySchema, RootSchema, check_name, dumps, group_metadata
from genostore.seal import read_root, seal
from genostore.statistics import Statistics
from genostore.storage import PRIVATE, Storage


def create(path: str | Path, genome: Genome) -> Storage:
    """Make an empty store for a genome, or find the one that is there.

    Raises
    ------
    ConflictError
        If something else is there: a store of another assembly, or a folder that is no store.
    WriteError
        If it cannot be written.
    """
    from genostore import __version__

    storage = Storage.of(path)
    root = RootSchema(genome.name, genome.contigs, genome.alignment, f"genostore {__version__}")
    with writing(storage.root):
        folder = Path(storage.root)
        if (
            folder.is_dir()
            and not storage.path("zarr.json").exists()
            and any(p.name != PRIVATE for p in folder.iterdir())
        ):
            raise ConflictError(f"{folder} is a folder with other things in it; name a new folder for the store")
        storage.path(f"{PRIVATE}/locks").mkdir(parents=True, exist_ok=True)
        with lock(storage.path(f"{PRIVATE}/locks/root.lock"), f"the root of {folder}", wait=60):
            raw = storage.read("zarr.json")
            if raw is None:
                index.put(storage, "zarr.json", seal(root.to_json(), "zarr.json"))
                index.write(storage, {})
                return storage
    found, _ = read_root(raw, storage.root)
    if found.genome != genome:
        raise ConflictError(
            f"{storage.root} holds assembly {found.assembly} ({len(found.contigs)} contigs, alignment "
            f"{found.alignment}), and this is {genome.name} ({len(genome)} contigs, alignment {genome.alignment}); "
            "an assembly is fixed when a store is made, so ingest into a new store"
        )
    return storage


@contextmanager
def writer_lock(storage: Storage, node: str) -> Iterator[None]:
    """Be the only writer of a node.

    Raises
    ------
    ConflictError
        At once, if another process is.
    """
    with (
        writing(storage.root),
        lock(storage.path(f"{PRIVATE}/locks/{quote(node, safe='+')}.lock"), f"{node} of {storage.root}"),
    ):
        yield


@dataclass(frozen=True)
class Pending:
    """A shard on its way to the disk."""

    finish: Callable[[], None]

    def wait(self) -> None:
        """Return when the shard and its record are durable."""
        self.finish()


@dataclass(frozen=True)
class Staging:
    """A node being built. It pickles, so that several processes may write shards of it.

    Attributes
    ----------
    storage
        The store.
    node
        Its path in the store.
    arrays
        Schemas by name; the name ``""`` is the node itself when the node is an array.
    digest
        Of the sources and options: work staged under another digest is thrown away, never continued.
    """

    storage: Storage
    node: str
    arrays: Mapping[str, ArraySchema]
    digest: str
    _handles: dict[str, ts.TensorStore] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for part in self.node.split("/"):
            check_name(part, f"part of {self.node!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {k: ({} if k == "_handles" else v) for k, v in self.__dict__.items() if k != "folder"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @cached_property
    def folder(self) -> Path:
        """Where it is staged: by its digest, so that a worker that outlives its run never writes into other work."""
        return self.storage.path(f"{PRIVATE}/staging/{quote(self.node, safe='+')}@{self.digest[:16]}")

    def begin(self) -> None:
        """Prepare the staging folder, keeping the shards that an interrupted run of the same work left."""
        arrays = {k: asdict(v) | {"fill": str(v.fill)} for k, v in self.arrays.items()}
        plan = dumps({"digest": self.digest, "arrays": arrays})
        with writing(self.storage.root):
            marker = self.folder / "plan.json"
            if marker.exists() and marker.read_bytes() == plan and self._array_folder("").is_dir():
                return
            for folder in [self.folder, *staged(self.storage, self.node)]:
                # First, so that what a killed removal leaves is never continued.
                (folder / "plan.json").unlink(missing_ok=True)
                remove_tree(folder)
            for name, schema in self.arrays.items():
                (self.folder / "records" / (name or "_")).mkdir(parents=True)
                array = self._array_folder(name)
                array.mkdir(parents=True, exist_ok=True)
                write_file(array / "zarr.json", dumps(schema.to_json()))
            write_file(marker, plan)

    def _array_folder(self, name: str) -> Path:
        return self.folder / "node" / name if name else self.folder / "node"

    def _record(self, name: str, block: int) -> Path:
        return self.folder / "records" / (name or "_") / f"{block}.json"

    def todo(self, name: str = "") -> list[int]:
        """Number the shards of an array that are still to be written."""
        done = {int(p.stem) for p in (self.folder / "records" / (name or "_")).glob("*.json")}
        return [b for b in range(self.arrays[name].n_blocks) if b not in done]

    def _handle(self, name: str) -> ts.TensorStore:
        if name not in self._handles:
            spec = {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": f"{self._array_folder(name)}/"},
                # Every chunk of a shard that is written is there, so that an absent one is known to be lost.
                "store_data_equal_to_fill_value": True,
            }
            self._handles[name] = ts.open(spec, open=True, context=context()).result()
        return self._handles[name]

    def write(
        self,
        block: int,
        values: NDArray[Any],
        name: str = "",
        counts: Mapping[str, float] | None = None,
        maxima: Mapping[str, float] | None = None,
    ) -> Pending:
        """Start writing one shard; it is encoded in the background.

        Parameters
        ----------
        block
            Number of the shard (C order of the shard grid).
        values
            Of the extent ``arrays[name].slices(block)``; not to be changed until the write is done.
        name
            Of the array.
        counts
            Tallies that the attributes shall give as sums over all shards.
        maxima
            Measures of which they shall give the greatest over all shards.
        """
        schema = self.arrays[name]
        where = schema.slices(block)
        expected = tuple(s.stop - s.start for s in where)
        if values.shape != expected or values.dtype != np.dtype(schema.dtype):
            raise FormatError(
                f"shard {block} of {self.node}/{name} is {schema.dtype} {expected}, "
                f"and these values are {values.dtype} {values.shape}"
            )
        record: dict[str, Any] = {"counts": dict(counts or {}), "maxima": dict(maxima or {})}
        if schema.dims == ("position",) and values.dtype.kind == "f":
            statistics = Statistics.of(values)
            record["statistics"] = vars(statistics) | {
                "low": repr(statistics.low),
                "high": repr(statistics.high),
            }
            empty = statistics.finite + statistics.infinite == 0
        else:
            empty = bool((values == schema.fill).all())
        future = None
        if not empty:
            record["crc32c"] = checksum(values)
            with writing(self.storage.root):
                future = self._handle(name)[where].write(values, can_reference_source_data_indefinitely=True)

        def finish(values: NDArray[Any] = values) -> None:  # holds the values until they are written
            with writing(self.storage.root):
                if future is not None:
                    future.result()
                write_file(self._record(name, block), dumps(record))

        return Pending(finish)

    def write_text(self, values: NDArray[Any], name: str) -> None:
        """Write a whole column of text (TensorStore has no strings)."""
        import zarr

        with writing(self.storage.root):
            array = zarr.open_array(self._array_folder(name), mode="r+")
            array[:] = values
            sync_tree(self._array_folder(name))
            write_file(self._record(name, 0), dumps({"crc32c": checksum(values), "counts": {}, "maxima": {}}))

    def write_column(self, values: NDArray[Any], name: str = "") -> None:
        """Write a whole column, of numbers or text."""
        if 0 in self._done(name):
            return
        if self.arrays[name].dtype == "string":
            self.write_text(values, name)
        else:
            self.write(0, values, name).wait()

    def _done(self, name: str) -> set[int]:
        return set(range(self.arrays[name].n_blocks)) - set(self.todo(name))

    def publish(
        self,
        attributes: Mapping[str, Any],
        array_attributes: Mapping[str, Mapping[str, Any]] | None = None,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Complete the node and rename it into its place.

        Parameters
        ----------
        attributes
            Of the node, ``kind`` among them.
        array_attributes
            Of the arrays of a group, by name.
        overwrite
            Retire the node that is there.

        Returns
        -------
        dict
            The node's attributes as written.

        Raises
        ------
        ConflictError
            If a node is there and ``overwrite`` is not set.
        """
        generation = index.generation(self.storage, self.node) + 1
        node_attributes = {**attributes, "generation": generation}
        target = self.storage.path(self.node)
        if target.exists() and not overwrite:
            raise ConflictError(f"{self.node} is already in {self.storage.root}; use --overwrite to replace it")
        with writing(self.storage.root):
            for name, schema in self.arrays.items():
                own = {**(array_attributes or {}).get(name, {}), **self._gather(name)}
                if not name:
                    own = node_attributes = {**node_attributes, **own}
                self._put_metadata(name, schema.to_json(own))
            if "" not in self.arrays:
                for group in {name.rpartition("/")[0] for name in self.arrays} - {""}:
                    self._put_metadata(group, group_metadata())
                self._put_metadata("", group_metadata(node_attributes))
            for pattern in ("*.__lock", "*.part", "*.partial"):  # of a writer that was killed
                for leftover in self._array_folder("").rglob(pattern):
                    leftover.unlink()
            sync_tree(self._array_folder(""))
            self._make_parents()
            staged_node = self._array_folder("")
            if not target.exists():
                put_folder(staged_node, target)
            elif exchange(staged_node, target):
                retire(self.storage, self.node, generation - 1, staged_node)
            else:
                retire(self.storage, self.node, generation - 1, target)
                put_folder(staged_node, target)
            index.update(self.storage, {self.node: node_attributes})
            log(
                self.storage.path(f"{PRIVATE}/log.jsonl"),
                event="publish",
                node=self.node,
                generation=generation,
            )
            remove_tree(self.folder)
        return node_attributes

    def _put_metadata(self, name: str, metadata: Mapping[str, Any]) -> None:
        key = "/".join(part for part in (self.node, name, "zarr.json") if part)
        write_file(self._array_folder(name) / "zarr.json", seal(metadata, key))

    def _gather(self, name: str) -> dict[str, Any]:
        """Merge the records of an array's shards, in order, into its attributes."""
        missing = self.todo(name)
        if missing:
            raise FormatError(f"{self.node}/{name} cannot be published: shards {missing[:8]} are not written")
        blocks = range(self.arrays[name].n_blocks)
        records = [json.loads(self._record(name, b).read_bytes()) for b in blocks]
        present = [(b, r["crc32c"]) for b, r in zip(blocks, records, strict=True) if "crc32c" in r]
        out: dict[str, Any] = {
            "shards": {"index": [b for b, _ in present], "crc32c": [c for _, c in present]},
            "crc32c": combine([c for _, c in present]),
        }
        parts = [_statistics(r["statistics"]) for r in records if "statistics" in r]
        if parts:
            root, _ = read_root(self.storage.read("zarr.json") or b"{}", self.storage.root)
            out["statistics"] = Statistics.merge(parts).to_json(sum(c.length for c in root.contigs))
        for what, merge in (("counts", sum), ("maxima", max)):
            names = dict.fromkeys(k for r in records for k in r[what])
            if names:
                out[what] = {k: merge(r[what][k] for r in records if k in r[what]) for k in names}
        return out

    def _make_parents(self) -> None:
        parts = self.node.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            group = "/".join(parts[:depth])
            make_folder(self.storage.path(group))
            key = f"{group}/zarr.json"
            if not self.storage.path(key).exists():
                index.put(self.storage, key, seal(group_metadata(), key))


def _statistics(record: Mapping[str, Any]) -> Statistics:
    histogram = {int(k): v for k, v in record["histogram"].items()}
    return Statistics(**{**record, "low": float(record["low"]), "high": float(record["high"]), "histogram": histogram})


def staged(storage: Storage, node: str) -> list[Path]:
    """Find the folders of staged work on a node, of any digest."""
    name = quote(node, safe="+")
    return [f for f in storage.path(f"{PRIVATE}/staging").glob("*") if f.name.partition("@")[0] == name]


def retire(storage: Storage, node: str, generation: int, folder: Path) -> None:
    """Move a node's folder out of sight; readers that have it open find out at their next read."""
    retired = storage.path(f"{PRIVATE}/retired/{quote(node, safe='+')}@{generation}")
    remove_tree(retired)
    retired.parent.mkdir(parents=True, exist_ok=True)
    put_folder(folder, retired)


def remove(storage: Storage, node: str) -> None:
    """Remove a node: it is retired, and ``genostore gc`` deletes it later.

    The index forgets it first, so that a removal that is killed half-way leaves a store that opens; the same call
    finishes it.

    Raises
    ------
    ConflictError
        If a writer is at work on it, or it is the genes and columns lie along them.
    """
    entries = index.read(storage)
    along = sorted(n for n, e in entries.items() if e["kind"] in ("feature", "expression"))
    if node == "genes" and along:
        raise ConflictError(f"{', '.join(along[:8])} of {storage.root} lie along the genes; remove them first")
    with writer_lock(storage, node), writing(storage.root):
        generation = index.generation(storage, node)
        index.update(storage, {node: None})
        if storage.path(node).exists():
            retire(storage, node, generation, storage.path(node))
        for folder in staged(storage, node):
            remove_tree(folder)
        log(storage.path(f"{PRIVATE}/log.jsonl"), event="remove", node=node)


def collect(storage: Storage, grace: float) -> list[str]:
    """Delete staged work that no writer holds, and nodes retired more than ``grace`` seconds ago.

    Returns
    -------
    list of str
        What was deleted.

    Raises
    ------
    ConflictError
        If a writer is at work; nothing is deleted then.
    """
    deleted = []
    for name in ("", "staging", "retired", "tmp", "locks"):
        folder = storage.path(f"{PRIVATE}/{name}")
        if folder.is_symlink():
            raise FormatError(f"{folder} is a link to another folder, of which nothing is deleted; remove the link")
    left = sorted(storage.path(f"{PRIVATE}/staging").glob("*"))
    locks = sorted(storage.path(f"{PRIVATE}/locks").glob("*.lock"))
    with writing(storage.root), ExitStack() as held:
        for file in locks:  # of every writer there was: none may be at work
            if file.name not in ("index.lock", "root.lock"):
                what = f"{unquote(file.name.removesuffix('.lock'))} of {storage.root}"
                held.enter_context(lock(file, what))
        for folder in left:
            remove_tree(folder)
            deleted.append(f"staged {unquote(folder.name.partition('@')[0])}")
        for folder in sorted(storage.path(f"{PRIVATE}/retired").glob("*")):
            if time.time() - folder.stat().st_ctime >= grace:
                remove_tree(folder)
                deleted.append(f"retired {unquote(folder.name)}")
        for file in sorted(storage.path(f"{PRIVATE}/tmp").glob("*")):
            if time.time() - file.stat().st_mtime >= grace:
                file.unlink(missing_ok=True)
                deleted.append(f"unfinished {file.name}")
    return deleted
