"""One node being written: begun, its shards written by whoever, published whole."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial

from genostore import index
from genostore.errors import ConflictError, SourceError
from genostore.schema import summary
from genostore.staging import Staging, staged, writer_lock
from genostore.storage import Storage
from ingest.hashing import Stamp, stamp
from ingest.nodes.base import Node, Values

_WRITERS = 4  # threads that encode shards, and wait for the disk, while the next one is decoded
_IN_FLIGHT = 4  # shards held in memory at once beside the one being decoded
_RUN = 16  # shards that one work item holds, so that a worker opens a source once for many


class Pipeline:
    """Shards on their way to the disk: encoded in other threads while the next one is decoded in this one."""

    def __init__(self) -> None:
        self._writers = ThreadPoolExecutor(_WRITERS, "encode")
        self._pending: deque[tuple[Future[None], Callable[[], None]]] = deque()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._writers.shutdown(cancel_futures=True)

    def push(self, write: Callable[[], None], done: Callable[[], None]) -> None:
        """Start a write; ``done`` is called in this thread once it is durable. Waits while too many are under way."""
        self._pending.append((self._writers.submit(write), done))
        self.settle(_IN_FLIGHT)

    def settle(self, most: int = 0) -> None:
        """Wait until at most so many writes are under way; raises what a write raised."""
        while self._pending and (len(self._pending) > most or self._pending[0][0].done()):
            future, done = self._pending.popleft()
            future.result()
            done()


@dataclass(frozen=True)
class Item:
    """Consecutive shards of one array, for one worker to write."""

    node: Node
    staging: Staging
    name: str
    blocks: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of values."""
        return sum(self.node.block_size(self.name, b) for b in self.blocks)

    def feed(self, pipeline: Pipeline, advance: Callable[[int], None]) -> Iterator[None]:
        """Decode the shards one by one into a pipeline.

        Parameters
        ----------
        pipeline
            Encodes and writes them.
        advance
            Called with the bytes of each shard once it is durable.

        Yields
        ------
        None
            After each shard.
        """
        for block in self.blocks:
            values = self.node.read(self.name, block)
            size = self.node.block_size(self.name, block)
            pipeline.push(partial(self._store, block, values), partial(advance, size))
            yield

    def write(self) -> None:
        """Write the shards."""
        with Pipeline() as pipeline:
            for _ in self.feed(pipeline, lambda _: None):
                pass
            pipeline.settle()

    def _store(self, block: int, found: Values) -> None:
        self.staging.write(block, found.values, self.name, found.counts, found.maxima).wait()


class Job:
    """A node to write into a store, by one writer at a time (hold its ``writer_lock``).

    Parameters
    ----------
    node
        What to write.
    storage
        The store.
    """

    def __init__(self, node: Node, storage: Storage) -> None:
        self.node, self.storage = node, storage
        self.overtaken = False  # another process published the same node first
        self._stamps: list[Stamp] = []
        self._started = 0.0

    @cached_property
    def staging(self) -> Staging:
        """Where it is built; staged work of another digest is never continued."""
        return Staging(self.storage, self.node.path, self.node.arrays, self.node.digest)

    def begin(self) -> list[Item]:
        """Prepare it, write its columns, and list the shards that are still to be written as work items."""
        self._started = time.monotonic()
        self._stamps = [stamp(s.path) for s in self.node.sources]
        self.staging.begin()
        items = []
        for name, schema in self.node.arrays.items():
            todo = self.staging.todo(name)
            if schema.shard is None:
                for _ in todo:
                    self.staging.write_column(self.node.read(name, 0).values, name)
            else:
                items += [Item(self.node, self.staging, name, run) for run in _runs(todo)]
        return items

    def publish(self, overwrite: bool) -> None:
        """Put the node into its place.

        Raises
        ------
        SourceError
            If a source changed while it was read.
        """
        for source, before in zip(self.node.sources, self._stamps, strict=True):
            if stamp(source.path) != before:
                self.staging.discard()
                raise SourceError(
                    f"{source.path}: changed while {self.node.path} was made from it; nothing of it is kept. "
                    "Run again once it is no longer written to"
                )
        attributes = {"kind": self.node.kind, "digest": self.node.digest, **self.node.attributes()}
        self.staging.publish(attributes, self.node.array_attributes(), overwrite)
        self.storage.log(
            event="ingest",
            node=self.node.path,
            sources=[str(s.path) for s in self.node.sources],
            seconds=round(time.monotonic() - self._started, 3),
        )

    def settle(self) -> None:
        """Finish what a killed run of the same work may have left undone after it published the node.

        Nothing is done while another process writes the node: whatever there is to finish is then its own.
        """
        attributes = index.node_attributes(self.storage, self.node.path)
        left = staged(self.storage, self.node.path)
        entered = attributes is not None and index.read(self.storage).get(self.node.path) == summary(attributes)
        if entered and not left:
            return
        with suppress(ConflictError), writer_lock(self.storage, self.node.path):
            attributes = index.node_attributes(self.storage, self.node.path)
            if attributes is not None:
                index.update(self.storage, {self.node.path: attributes})
            for folder in left:
                self.storage.delete(folder)

    def published(self) -> bool:
        """Tell whether another process has published the same node since this one was planned."""
        there = index.node_attributes(self.storage, self.node.path)
        return there is not None and there.get("digest") == self.node.digest


def _runs(blocks: list[int]) -> Iterator[tuple[int, ...]]:
    """Cut a list of shards into runs of consecutive ones, each of at most ``_RUN``."""
    run: list[int] = []
    for block in blocks:
        if run and (block != run[-1] + 1 or len(run) == _RUN):
            yield tuple(run)
            run = []
        run.append(block)
    if run:
        yield tuple(run)
