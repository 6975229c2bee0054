"""Who writes the shards: this process, or spawned processes and clusters through Dask."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from genostore.errors import GenostoreError, QueryError, WriteError
from genostore.memory import LARGE
from genostore.staging import writer_lock
from ingest.job import Item, Job, Pipeline
from ingest.progress import Display

_TIMEOUT = "10s"  # for a scheduler to answer
_ALONE = "60s"  # without any worker, before the work is given up; one that died is replaced sooner
_AHEAD = 2  # work items given out for each worker, so that none waits


class Crew(Protocol):
    """Writes nodes, one after the other or several at once."""

    def write(self, jobs: Sequence[Job], overwrite: bool, show: Display) -> Iterator[Job]:
        """Write and publish each job's node, and yield it then."""


class Alone:
    """This process: one node after the other, so that a debugger works.

    The last shards of a node are encoded while the first ones of the next are decoded; it is published then.
    """

    def write(self, jobs: Sequence[Job], overwrite: bool, show: Display) -> Iterator[Job]:
        """Write and publish each job's node, and yield it then."""
        unpublished: deque[_Open] = deque()

        def publish() -> Iterator[Job]:
            while unpublished and unpublished[0].complete:
                done = unpublished.popleft()
                done.job.publish(overwrite)
                done.lock.close()
                yield done.job

        with ExitStack() as locks, Pipeline() as pipeline:
            for job in jobs:
                show.begin(job.node.path)
                opened = _Open(job, locks.enter_context(ExitStack()), show)
                opened.lock.enter_context(writer_lock(job.storage, job.node.path))
                if opened.overtaken(overwrite):
                    yield job
                    continue
                items = job.begin()
                unpublished.append(opened)
                opened.begin(items)
                for item in items:
                    for _ in item.feed(pipeline, opened.advance):
                        yield from publish()
                yield from publish()
            pipeline.settle()
            yield from publish()


@dataclass
class _Open:
    """A node that is being written: its lock, and the bytes that are not durable yet."""

    job: Job
    lock: ExitStack
    show: Display
    left: int = -1

    def overtaken(self, overwrite: bool) -> bool:
        """Give the lock back if another process published the same node before this one held it."""
        self.job.overtaken = not overwrite and self.job.published()
        if self.job.overtaken:
            self.show.advance(self.job.node.size)
            self.lock.close()
        return self.job.overtaken

    def begin(self, items: Sequence[Item]) -> None:
        self.left = sum(item.size for item in items)
        self.show.advance(self.job.node.size - self.left)

    def advance(self, size: int) -> None:
        self.left -= size
        self.show.advance(size)

    @property
    def complete(self) -> bool:
        return self.left == 0


class Processes:
    """The workers of a Dask cluster; this process gives out the work, writes columns and publishes.

    Parameters
    ----------
    client
        ``distributed.Client``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def write(self, jobs: Sequence[Job], overwrite: bool, show: Display) -> Iterator[Job]:
        """Write and publish each job's node, and yield it then."""
        from distributed import as_completed

        waiting = iter(jobs)
        of: dict[str, tuple[_Open, int]] = {}  # by the key of a future: whose item it is, and its bytes
        queue = as_completed()

        def publish(opened: _Open) -> Iterator[Job]:
            if opened.complete:
                opened.job.publish(overwrite)
                opened.lock.close()
                yield opened.job

        with ExitStack() as locks:
            while True:
                while len(of) < _AHEAD * self._n_workers() and (job := next(waiting, None)) is not None:
                    show.begin(job.node.path)
                    opened = _Open(job, locks.enter_context(ExitStack()), show)
                    opened.lock.enter_context(writer_lock(job.storage, job.node.path))
                    if opened.overtaken(overwrite):
                        yield job
                        continue
                    items = job.begin()
                    opened.begin(items)
                    for item in items:
                        future = self._client.submit(Item.write, item, pure=False)
                        of[future.key] = opened, item.size
                        queue.add(future)
                    yield from publish(opened)
                if not of:
                    return
                future = next(queue)
                opened, size = of.pop(future.key)
                _result(future, opened.job)
                opened.advance(size)
                yield from publish(opened)

    def _n_workers(self) -> int:
        return max(len(self._client.ncores()), 1)


def _result(future: Any, job: Job) -> None:
    """Raise what the worker raised; a worker that died is told with the files that it read, where that is known."""
    try:
        future.result()
    except GenostoreError:
        raise
    except Exception as error:
        name, files = type(error).__name__, ", ".join(str(source.path) for source in job.node.sources)
        if name == "NoWorkerError":  # any work that waits is told so, whatever it was that the last worker died of
            raise WriteError(
                f"no worker process is left to make {job.node.path} of {files}, and new ones die as they start; run "
                "again with --workers 1 to see what they die of. What is done is kept"
            ) from error
        if name == "KilledWorker":
            raise WriteError(
                f"{files}: worker processes died, several times, while they made {job.node.path} of it; either it is "
                "damaged so that the library that reads it crashes (fetch it again, or leave it out), or memory ran "
                "out (run again with fewer --workers). What is done is kept"
            ) from error
        raise


@contextmanager
def crew(workers: int, scheduler: str | None) -> Iterator[Crew]:
    """Gather those who write.

    Parameters
    ----------
    workers
        1 for this process alone; more for as many spawned processes.
    scheduler
        Address of a Dask scheduler (``tcp://host:8786``), whose workers are taken instead. They must see the
        sources, the cache and the store under the same paths.

    Raises
    ------
    QueryError
        If the number of workers is below 1, or the scheduler does not answer.
    """
    if workers < 1:
        raise QueryError(f"workers is {workers}; it is 1 or more")
    if scheduler is None and workers == 1:
        yield Alone()
        return
    import logging

    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_TIMEOUT)
        except (OSError, ValueError) as error:
            raise QueryError(
                f"no Dask scheduler answers at {scheduler!r} ({error}); start one with `dask scheduler`, or use workers"
            ) from error
        with client:
            yield Processes(client)
        return
    with (
        dask.config.set(
            {
                # Dask replaces a worker that dies, but not one that dies while it starts: the run would wait for ever.
                "distributed.scheduler.no-workers-timeout": _ALONE,
                # A worker makes arrays of the same size over and over; see genostore.memory.
                "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": LARGE,
                "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": LARGE,
            }
        ),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",  # any free port: a second run beside this one finds the usual one taken
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Processes(client)
