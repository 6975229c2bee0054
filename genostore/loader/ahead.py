"""Read in threads, a bounded number ahead, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from genostore import local

T = TypeVar("T")
R = TypeVar("R")


def ahead(read: Callable[[T], R], items: Iterable[T], threads: int, depth: int) -> Generator[R, None, None]:
    """Map ``read`` over items in threads, and give the results in order.

    The caller reads the first one itself, since it would only wait for it; the threads begin with the next.

    Parameters
    ----------
    read, items
        What to call, on what.
    threads
        That read; 0 reads in the caller's thread, when asked.
    depth
        Results that are read, or being read, while the caller is busy with one.

    Yields
    ------
    R
        An exception of ``read`` is raised once, in the place of its result, and ends it; no thread is left when the
        iterator ends or is closed.
    """
    if not threads:
        yield from map(read, items)
        return
    pool = ThreadPoolExecutor(threads, "genostore-read", initializer=local.share, initargs=(threads,))
    pending: deque[Future[R]] = deque()
    waiting = iter(items)
    try:
        for first in islice(waiting, 1):
            pending.extend(pool.submit(read, item) for item in islice(waiting, depth))
            with local.sharing(1 + min(threads, len(pending))):
                result = read(first)
            yield result
        for item in waiting:
            pending.append(pool.submit(read, item))
            yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
