"""Who writes the shards: this process, or spawned processes and clusters through Dask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from genostore.errors import GenostoreError, QueryError, WriteError
from genostore.staging import writer_lock
from ingest.job import Item, Job
from ingest.progress import Display

_TIMEOUT = "10s"  # for a scheduler to answer
_AHEAD = 2  # work items given out for each worker, so that none waits


class Crew(Protocol):
    """Writes nodes, one after the other or several at once."""

    def write(self, jobs: Sequence[Job], overwrite: bool, show: Display) -> Iterator[Job]:
        """Write and publish each job's node, and yield it then."""


class Alone:
    """This process: one node after the other, so that a debugger works."""

    def write(self, jobs: Sequence[Job], overwrite: bool, show: Display) -> Iterator[Job]:
        """Write and publish each job's node, and yield it then."""
        for job in jobs:
            show.begin(job.node.path)
            with writer_lock(job.storage, job.node.path):
                items = job.begin()
                show.advance(job.node.size - sum(item.size for item in items))
                for item in items:
                    item.write(show.advance)
                job.publish(overwrite)
            yield job


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
        of: dict[str, tuple[Job, int]] = {}  # by the key of a future: whose item it is, and its bytes
        left: dict[str, int] = {}  # items to come, by node
        queue = as_completed()
        with ExitStack() as stack:
            locks: dict[str, ExitStack] = {}

            def begin(job: Job) -> Iterator[Job]:
                path = job.node.path
                show.begin(path)
                locks[path] = stack.enter_context(ExitStack())
                locks[path].enter_context(writer_lock(job.storage, path))
                items = job.begin()
                show.advance(job.node.size - sum(item.size for item in items))
                left[path] = len(items)
                for item in items:
                    future = self._client.submit(Item.write, item, pure=False)
                    of[future.key] = job, item.size
                    queue.add(future)
                if not items:
                    yield from finish(job)

            def finish(job: Job) -> Iterator[Job]:
                job.publish(overwrite)
                locks.pop(job.node.path).close()
                yield job

            while True:
                while len(of) < _AHEAD * self._n_workers() and (job := next(waiting, None)) is not None:
                    yield from begin(job)
                if not of:
                    return
                future = next(queue)
                job, size = of.pop(future.key)
                _result(future)
                show.advance(size)
                left[job.node.path] -= 1
                if not left[job.node.path]:
                    yield from finish(job)

    def _n_workers(self) -> int:
        return max(len(self._client.ncores()), 1)


def _result(future: Any) -> None:
    """Raise what the worker raised."""
    try:
        future.result()
    except GenostoreError:
        raise
    except Exception as error:
        if type(error).__name__ == "KilledWorker":
            raise WriteError(
                "worker processes died while they wrote (out of memory?); what is done is kept, so run again, "
                "with fewer --workers"
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
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Processes(client)
