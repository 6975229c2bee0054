"""A plan, as a person reads it before it is run."""

from __future__ import annotations

from genostore import index
from genostore.storage import Storage
from ingest.nodes.base import Node
from ingest.plan import Plan
from ingest.wording import counted, duration, sized

# As measured on 50 Mb tracks of 2 million intervals; see benchmarks/ingest_track.py.
_STORED = 0.7  # bytes stored for each byte of a compressed source
_RATE = 250e6  # bytes of values that one worker writes a second


def summarise(plan: Plan, workers: int = 1) -> str:
    """Say what a run of the plan would do.

    Parameters
    ----------
    plan
        What was settled.
    workers
        Processes that would write.

    Returns
    -------
    str
        A line a node with the size of its source and of its values, what is still to be fetched, and an estimate.
    """
    storage = Storage.of(plan.store)
    lines = [f"{storage.root}"]
    if plan.genome is not None:
        bases = sum(c.length for c in plan.genome)
        lines[0] += f": assembly {plan.genome.name}, {counted(len(plan.genome), 'contig')}, {bases:,} bases"
    width = max((len(n.path) for n in plan.nodes), default=0)
    new: list[Node] = []
    for node in plan.nodes:
        there = index.node_attributes(storage, node.path)
        state = "new" if there is None else "there" if there.get("digest") == node.digest else "differs"
        if state != "there":
            new.append(node)
        source = node.sources[0]
        size = source.path.stat().st_size
        lines.append(f"  {node.path:<{width}}  {state:<7}  {sized(node.size):>9} from {source.name} ({sized(size)})")
    lines += [f"  to fetch: {source}" for source in plan.to_fetch]
    if plan.to_fetch:
        lines.append(f"{counted(len(plan.to_fetch), 'source')} to fetch; what is made from them is not listed")
    values = sum(node.size for node in new)
    stored = sum(min(node.size, _STORED * sum(s.path.stat().st_size for s in node.sources)) for node in new)
    seconds = values / _RATE / max(workers, 1)
    lines.append(
        f"{len(new)} of {len(plan.nodes)} nodes to write: {sized(values)} of values, about {sized(stored)} on disk, "
        f"about {duration(seconds)} with {counted(workers, 'worker')}"
    )
    return "\n".join(lines)
