"""Writing what a plan settled: resumable, one writer a node, nothing visible before it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from genostore import index
from genostore.errors import CatalogueError, ConflictError, CorruptionError
from genostore.staging import create
from genostore.storage import Storage
from ingest.integrity import intact
from ingest.job import Job
from ingest.nodes.base import Node
from ingest.plan import Plan
from ingest.progress import Display, Silent
from ingest.wording import counted, listed
from ingest.workers import crew

_ALONG_GENES = ("genes", "feature", "expression")


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes
    ----------
    written
        Nodes that it wrote.
    kept
        Nodes that were there already, made from the same sources with the same options.
    """

    written: tuple[str, ...]
    kept: tuple[str, ...]


def run(
    plan: Plan,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Display | None = None,
) -> Outcome:
    """Write a plan's nodes into its store.

    A run that was interrupted, however abruptly, is continued by the same call, and the result is the same.

    Parameters
    ----------
    plan
        From :func:`ingest.plan`.
    workers
        Processes that write; 1 for this one alone. More are spawned, so that a script that calls this needs
        ``if __name__ == "__main__":``.
    scheduler
        Address of a Dask scheduler whose workers write instead.
    overwrite
        Replace nodes that are there with other content, which without it is an error before anything is written;
        and nodes whose stored bytes fail their checksums.
    progress
        What shows how it goes; nothing by default.

    Returns
    -------
    Outcome

    Raises
    ------
    CatalogueError
        If the plan still has sources to fetch.
    ConflictError
        If nodes are there with other content, or another process writes one of them.
    SourceError
        If a source cannot be decoded, or changes while it is read.
    WriteError
        If the store cannot be written.
    """
    if plan.to_fetch or plan.genome is None:
        raise CatalogueError(
            f"{counted(len(plan.to_fetch), 'source')} still to fetch: {listed(plan.to_fetch)}; plan again with "
            "download=True"
        )
    storage = create(plan.store, plan.genome)
    show = progress if progress is not None else Silent()
    jobs, kept = settle(plan.nodes, storage, overwrite)
    written = []
    with show, crew(workers, scheduler) as hands, ThreadPoolExecutor(1, "hash") as hasher:
        show.start(len(plan.nodes), sum(job.node.size for job in jobs))
        for node in kept:
            show.finish(node.path, "is there already")
        for job in jobs:  # the next node's sources are hashed while one is written
            hasher.submit(getattr, job.node, "digest")
        try:
            for job in hands.write(jobs, overwrite, show):
                if job.overtaken:
                    kept.append(job.node)
                else:
                    written.append(job.node.path)
                show.finish(job.node.path, "was written by another process" if job.overtaken else "written")
        finally:
            hasher.shutdown(cancel_futures=True)
    plan.clean()
    return Outcome(tuple(written), tuple(node.path for node in kept))


def settle(nodes: Sequence[Node], storage: Storage, overwrite: bool) -> tuple[list[Job], list[Node]]:
    """Tell the nodes to write from those that are there already.

    Raises
    ------
    ConflictError
        If some are there with other content and may not be replaced; or if the genes would change under columns
        that are not written along with them.
    """
    jobs, kept, conflicts = [], [], []
    for node in nodes:
        job = Job(node, storage)
        try:
            there = index.node_attributes(storage, node.path)
        except CorruptionError:
            if not overwrite:
                raise
            there = None
        if there is None:
            jobs.append(job)
        elif there.get("digest") == node.digest:
            if overwrite and not intact(storage, node.path):
                jobs.append(job)
            else:
                job.settle()
                kept.append(node)
        else:
            jobs.append(job)
            conflicts.append(f"{node.path}: {difference(there, node)}")
    if conflicts and not overwrite:
        raise ConflictError(
            f"{counted(len(conflicts), 'node')} of {storage.root} would change; --overwrite replaces what is there; "
            "nothing was written\n  " + "\n  ".join(conflicts)
        )
    if any(job.node.kind == "genes" and storage.read("genes/zarr.json") is not None for job in jobs):
        along = {path for path, entry in index.read(storage).items() if entry["kind"] in _ALONG_GENES}
        orphans = sorted(along - {node.path for node in nodes})
        if orphans:
            raise ConflictError(
                f"replacing the genes of {storage.root} would leave {', '.join(orphans)} in the order of the old ones; "
                "remove these with `genostore rm`, or name them in the catalogue too"
            )
    return jobs, kept


def difference(there: dict[str, Any], node: Node) -> str:
    """Say in what a node of the store differs from one to be written."""
    if there.get("kind") != node.kind:
        return f"is of kind {there.get('kind')} there"
    old, new = there.get("provenance", {}), node.attributes()["provenance"]
    if old.get("sha256") != new["sha256"]:
        return (
            f"made from {old.get('source')} (sha256 {str(old.get('sha256'))[:12]}...), and this is "
            f"{new['source']} (sha256 {new['sha256'][:12]}...)"
        )
    if old.get("options") != new["options"]:
        return f"made with options {old.get('options') or 'none'}, and these are {new['options'] or 'none'}"
    wanted = {k: v for k, v in node.attributes().items() if k != "provenance"}
    changed = [k for k, v in wanted.items() if there.get(k) != v]
    if changed:
        return ", ".join(f"{k} is {there.get(k)!r} there and {wanted[k]!r} here" for k in changed[:4])
    return "made from the same source in another way (other contig names, genes or a newer genostore)"
