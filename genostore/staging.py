"""Writing: a node is built out of sight, shard by shard, and appears whole or not at all.

A node (an array such as ``tracks/K562/DNase``, or a group such as ``genes``) is staged under
``.genostore/staging/``. Each shard is written once, by one writer, and leaves a record when it is durable; so a
killed run resumes after its last record, and the result is the same, byte for byte. :meth:`Staging.publish`
writes the attributes and puts the node into its place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any
from urllib.parse import quote

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from genostore import index, text
from genostore.arrays import checksum, combine, context
from genostore.disk import writing
from genostore.errors import ConflictError, FormatError
from genostore.genome import Genome
from genostore.local import LocalShards
from genostore.schema import ArraySchema, RootSchema, check_name, dumps, group_metadata
from genostore.seal import read_root, seal
from genostore.shards import encode_shard
from genostore.statistics import Statistics
from genostore.storage import METADATA, PRIVATE, Storage


def create(path: str | os.PathLike[str], genome: Genome) -> Storage:
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
        raw = storage.read(METADATA)
        if raw is None:
            storage.prepare()
            with storage.lock("root", "the root", wait=60):
                raw = storage.read(METADATA)
                if raw is None:
                    storage.put(METADATA, seal(root.to_json(), METADATA))
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
        If another process is.
    """
    with storage.lock(node, node):
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
        return {k: ({} if k == "_handles" else v) for k, v in self.__dict__.items() if k != "key"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @cached_property
    def key(self) -> str:
        """Where it is staged: by its digest, so that a worker that outlives its run never writes into other work."""
        return f"{PRIVATE}/staging/{quote(self.node, safe='+')}@{self.digest[:16]}"

    def begin(self) -> None:
        """Prepare the staging folder, keeping the shards that an interrupted run of the same work left."""
        arrays = {k: asdict(v) | {"fill": str(v.fill)} for k, v in self.arrays.items()}
        plan, marker, local = (
            dumps({"digest": self.digest, "arrays": arrays}),
            f"{self.key}/plan.json",
            self.storage.local,
        )
        if self.storage.read(marker) == plan and (not local or self.storage.path(self._array("")).is_dir()):
            return
        for folder in staged(self.storage, self.node):
            discard(self.storage, folder)
        if local:
            for name, schema in self.arrays.items():
                self.storage.put(f"{self._array(name)}/{METADATA}", dumps(schema.to_json()))
        self.storage.put(marker, plan)

    def discard(self) -> None:
        """Throw the staged work away."""
        discard(self.storage, self.key)

    def _array(self, name: str) -> str:
        return f"{self.key}/node/{name}".rstrip("/")

    def _record(self, name: str, block: int) -> str:
        return f"{self.key}/records/{name or '_'}/{block}.json"

    def todo(self, name: str = "") -> list[int]:
        """Number the shards of an array that are still to be written."""
        done = {key.rpartition("/")[2] for key in self.storage.keys(f"{self.key}/records/{name or '_'}")}
        return [b for b in range(self.arrays[name].n_blocks) if f"{b}.json" not in done]

    def _handle(self, name: str) -> ts.TensorStore:
        """Give the array to write to: on a disk the staged one, else one in memory, whose shards are then put."""
        if name not in self._handles:
            shared, local = context(), self.storage.local
            spec: dict[str, Any] = {
                "driver": "zarr3",
                "kvstore": self.storage.kvstore(self._array(name)) if local else {"driver": "memory"},
                # Every chunk of a shard that is written is there, so that an absent one is known to be lost.
                "store_data_equal_to_fill_value": True,
            }
            if local:
                self._handles[name] = ts.open(spec, open=True, context=shared).result()
            else:
                spec["metadata"] = {k: v for k, v in self.arrays[name].to_json().items() if k != "attributes"}
                self._handles[name] = ts.open(spec, create=True, context=ts.Context()).result()
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
            record["statistics"] = statistics.to_record()
            empty = statistics.finite + statistics.infinite == 0
        else:
            empty = bool((values == schema.fill).all())
        store: Callable[[], Any] = tuple
        if not empty:
            record["crc32c"] = checksum(values)
            store = self._store(name, block, values)

        def finish() -> None:
            with writing(self.storage.root):
                store()
                self.storage.put(self._record(name, block), dumps(record))

        return Pending(finish)

    def _store(self, name: str, block: int, values: NDArray[Any]) -> Callable[[], Any]:
        """Encode a shard; what it gives has to be called, and returns when the shard is durable."""
        schema = self.arrays[name]
        key = schema.key(block)
        if LocalShards.supports(schema):
            return partial(self.storage.put, f"{self._array(name)}/{key}", encode_shard(values, schema))
        with writing(self.storage.root):
            future = self._handle(name)[schema.slices(block)].write(values, can_reference_source_data_indefinitely=True)

        def finish(values: NDArray[Any] = values) -> None:  # holds the values until they are written
            future.result()
            self._send(name, key)

        return finish

    def _send(self, name: str, key: str) -> None:
        """Put a shard that was encoded in memory."""
        if self.storage.local:
            return
        encoded: Any = self._handle(name).kvstore
        self.storage.put(f"{self._array(name)}/{key}", encoded.read(key).result().value)
        encoded.write(key, None).result()

    def write_text(self, values: NDArray[Any], name: str) -> None:
        """Write a whole column of text (TensorStore has no strings)."""
        schema = self.arrays[name]
        self.storage.put(f"{self._array(name)}/{schema.key(0)}", text.encode(values))
        record = {"crc32c": checksum(values), "counts": {}, "maxima": {}}
        self.storage.put(self._record(name, 0), dumps(record))

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
        if self.storage.there(self.node) and not overwrite:
            raise ConflictError(f"{self.node} is already in {self.storage.root}; use --overwrite to replace it")
        generation = index.generation(self.storage, self.node) + 1
        node_attributes = {**attributes, "generation": generation}
        documents: dict[str, Mapping[str, Any]] = {}  # the node's own last: with it the node exists
        for name, schema in self.arrays.items():
            own = {**(array_attributes or {}).get(name, {}), **self._gather(name)}
            if not name:
                own = node_attributes = {**node_attributes, **own}
            documents[f"{name}/{METADATA}".lstrip("/")] = schema.to_json(own)
        if "" not in self.arrays:
            for group in {name.rpartition("/")[0] for name in self.arrays} - {""}:
                documents[f"{group}/{METADATA}"] = group_metadata()
            documents[METADATA] = group_metadata(node_attributes)
        metadata = {key: seal(document, f"{self.node}/{key}") for key, document in documents.items()}
        self._make_parents()
        self.storage.publish(self._array(""), self.node, metadata, generation - 1)
        index.update(self.storage, {self.node: node_attributes})
        self.storage.log(event="publish", node=self.node, generation=generation)
        self.discard()
        return node_attributes

    def _gather(self, name: str) -> dict[str, Any]:
        """Merge the records of an array's shards, in order, into its attributes."""
        missing = self.todo(name)
        if missing:
            raise FormatError(f"{self.node}/{name} cannot be published: shards {missing[:8]} are not written")
        blocks = range(self.arrays[name].n_blocks)
        raw = self.storage.map(self.storage.read, [self._record(name, b) for b in blocks])
        records = [json.loads(r or b"") for r in raw]
        present = [(b, r["crc32c"]) for b, r in zip(blocks, records, strict=True) if "crc32c" in r]
        out: dict[str, Any] = {
            "shards": {"index": [b for b, _ in present], "crc32c": [c for _, c in present]},
            "crc32c": combine([c for _, c in present]),
        }
        measured = [r["statistics"] for r in records if "statistics" in r]
        if measured:
            root, _ = read_root(self.storage.read(METADATA) or b"{}", self.storage.root)
            merged = Statistics.merge(map(Statistics.of_record, measured))
            out["statistics"] = merged.to_json(sum(c.length for c in root.contigs))
        for what, merge in (("counts", sum), ("maxima", max)):
            names = dict.fromkeys(k for r in records for k in r[what])
            if names:
                out[what] = {k: merge(r[what][k] for r in records if k in r[what]) for k in names}
        return out

    def _make_parents(self) -> None:
        parts = self.node.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            group = "/".join(parts[:depth])
            key = f"{group}/{METADATA}"
            if self.storage.read(key) is None:
                self.storage.put(key, seal(group_metadata(), key))


def staged(storage: Storage, node: str) -> list[str]:
    """Find the folders of staged work on a node, of any digest."""
    name, within = quote(node, safe="+"), f"{PRIVATE}/staging"
    return [f"{within}/{f}" for f in storage.children(within) if f.partition("@")[0] == name]


def discard(storage: Storage, folder: str) -> None:
    """Throw staged work away: its plan first, so that what a killed removal leaves is never continued."""
    storage.remove(f"{folder}/plan.json")
    storage.delete(folder)


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
    with writer_lock(storage, node):
        generation = index.generation(storage, node)
        index.update(storage, {node: None})
        if storage.there(node):
            storage.retire(node, generation)
        for folder in staged(storage, node):
            discard(storage, folder)
        storage.log(event="remove", node=node)


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
    return storage.collect(grace)
