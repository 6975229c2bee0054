"""How a loader shares out the memory it may use; docs/loader.md explains the formula."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from genostore.errors import QueryError

if TYPE_CHECKING:
    from genostore.windows import Windows

LOAD_BYTES = 8 * 2**20  # a load is made of as many batches as fit in this, where the budget allows
FIXED_BYTES = 32 * 2**20  # caches, decoders and threads, whatever the batch
PLAN_BYTES = 200  # of a piece of a chunk, while it is planned and read


@dataclass(frozen=True)
class Sizes:
    """Bytes of one sample on its way.

    Attributes
    ----------
    read
        As a load holds it, which the reading threads left; on a processor with bases spelled and contacts spread.
    working
        Beside it while it is read: the plan, what is spelled and spread, copies where windows are binned or turned
        round.
    made
        Made of it for the batch that is given out.
    """

    read: int
    working: int
    made: int


def sizes(windows: Windows, *, onehot: bool, mask: bool, expand: bool, turned: bool, cuda: bool) -> Sizes:
    """Tell the bytes of a sample, given what is made of it."""
    query, chosen = windows.query, windows.selection
    width, channels = query.width, len(chosen.assays)
    values = channels * (width // query.resolution)
    base = 4 * channels * width
    sequence, contacts = width if query.sequence else 0, 4 * _bins(windows)
    read = sequence + 4 * values + contacts + 4 * len(chosen.features) + 100
    working = PLAN_BYTES * (channels + (sequence > 0)) * (2 + width // 4_096)
    working += 5 * base if query.resolution > 1 else 0
    working += read if turned else 0
    working += 2 * contacts  # float64
    if not cuda and onehot:
        read, working = read + 15 * sequence, working + sequence
    if not cuda and expand:
        read, working = read + 4 * width - contacts, working + contacts
    return Sizes(read, working, values if mask and not cuda else 0)


def _bins(windows: Windows) -> int:
    asked = windows.selection.contacts
    if asked is None:
        return 0
    assert asked.bin_size is not None
    n = ((windows.width if asked.flank is None else 2 * asked.flank) - 1) // asked.bin_size + 2
    return n if asked.kind == "profile" else n * n


@dataclass(frozen=True)
class Budget:
    """What may be in memory at once.

    Attributes
    ----------
    batch
        Samples a batch.
    sizes
        Of a sample.
    load
        Batches that are read together.
    threads, depth
        That read, and loads that are read, or being read, while one is given out.
    """

    batch: int
    sizes: Sizes
    load: int
    threads: int
    depth: int

    @property
    def peak(self) -> int:
        """Bytes at the worst moment.

        ``depth`` loads ahead, the one being given out, and the one before it, of which the caller may still hold a
        batch; the working memory of each load being read, by the threads and, the first, by the caller; two batches
        as they are given out.
        """
        of_load = self.batch * self.load
        loads = (self.depth + 2) * of_load * self.sizes.read
        working = (self.threads + 1) * of_load * self.sizes.working
        return FIXED_BYTES + loads + working + 2 * self.batch * self.sizes.made


def plan(
    memory: int | None,
    sizes: Sizes,
    batch: int,
    *,
    threads: int,
    prefetch: int,
    together: int,
    batches: int,
    apart: bool = False,
) -> Budget:
    """Share out memory: as many batches a load, then as many loads ahead, as fit.

    Parameters
    ----------
    memory
        Bytes, or None for as much as the other options ask for.
    sizes, batch
        Of a sample, and samples a batch.
    threads, prefetch
        As asked for; fewer where the budget is small.
    together
        Batches that are best read together (a shuffle buffer); 1 otherwise.
    batches
        An epoch.
    apart
        Whether those may also be read in several loads, at no loss but that of larger reads.

    Raises
    ------
    QueryError
        If the budget does not suffice for one load, naming the least that would.
    """
    worth = max(1, LOAD_BYTES // max(1, batch * sizes.read))
    most = max(together * apart, worth)
    # In a short epoch each thread has something to do, and the next load too unless that would make them small.
    few, fewer = -(-batches // max(1, threads)), -(-batches // max(1, threads * prefetch))
    most = min(most, max(fewer, min(worth, few)))
    together = 1 if apart else together
    most = max(1, most // together) * together
    wanted = Budget(batch, sizes, most, threads, threads * prefetch)
    if memory is None or wanted.peak <= memory:
        return wanted
    depths = [(min(threads, d), d) for d in range(threads * prefetch, 0, -1)] + [(0, 0)]
    for some_threads, depth in depths:
        least = replace(wanted, load=together, threads=some_threads, depth=depth)
        if least.peak <= memory:
            grown = [replace(least, load=n) for n in range(together, most + 1, together)]
            return [b for b in grown if b.peak <= memory][-1]
    what = f"a shuffle buffer of {together} batches" if together > 1 else "one batch"
    raise QueryError(
        f"memory is {memory:,} bytes, and {what} of {batch} windows wants {least.peak:,}; give memory={least.peak} or "
        f"more, or smaller batches{' or a smaller buffer' if together > 1 else ''}"
    )


def check(memory: int | None) -> None:
    """Refuse what is no number of bytes."""
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 1):
        raise QueryError(f"memory is {memory!r}; it is a number of bytes, or None")
