"""Sharing the work of the compiled loops out among threads.

A kernel's last argument is an array of its tasks, one a row. As many threads as torch uses share them; the kernels
release the GIL. Not numba's own parallel loops: their default layer aborts the process when two threads enter it at
once, as a loader and a training step do, and their OpenMP layer when a child was forked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import _profiler_enabled  # type: ignore[attr-defined]
from torch.profiler import record_function

from prism_model.cpu_products import ROWS
from prism_model.cpu_vectors import LANES

BLOCK = 256
"""Most channels of a task; fewer where there are fewer samples than threads."""

ROW_BLOCK = 1_024
"""Most rows of a task whose sum over rows is kept."""

Tasks = Callable[[Iterable[int], int], list[tuple[int, ...]]]
"""The tasks that a kernel has with some samples, each of which may be divided into so many parts."""


class Call(NamedTuple):
    """A kernel, all of its arguments but the tasks, and how these come from samples."""

    kernel: Callable[..., None]
    arguments: Sequence[Any]
    tasks: Tasks


def run(kernel: Callable[..., None], arguments: Sequence[Any], tasks: np.ndarray) -> None:
    """Share a kernel's tasks out and wait for all."""
    work = _labelled(kernel, arguments)
    shares = np.array_split(tasks, max(1, min(torch.get_num_threads(), len(tasks))))
    _everywhere([partial(work, share) for share in shares])


def run_in_turn(calls: Sequence[Call], batch: int) -> None:
    """Run kernels of which each needs what those before it made of the same sample, and nothing of another.

    As far as there are samples for all threads alike, each thread takes its own through all kernels, lest they wait
    for each other time and again. What is left is divided, and there they do wait.
    """
    n_threads = torch.get_num_threads()
    own = batch // n_threads
    rest = range(own * n_threads, batch)
    if own:
        work = [(_labelled(call.kernel, call.arguments), call.tasks) for call in calls]

        def through(samples: range) -> None:
            for kernel, tasks in work:
                kernel(np.array(tasks(samples, 1)))

        _everywhere([partial(through, range(k * own, (k + 1) * own)) for k in range(n_threads)])
    if rest:
        for call in calls:
            run(call.kernel, call.arguments, np.array(call.tasks(rest, -(-n_threads // len(rest)))))


def by_channels(width: int, batch: int) -> Tasks:
    """Tasks ``(sample, first channel, last channel, block)``.

    Sums over channels depend on the blocks, so where there are samples for all threads these are always the same.

    Raises
    ------
    ValueError
        When the channels are no whole vectors: the kernels would read past the end.
    """
    if width % LANES:
        raise ValueError(f"the operator takes a multiple of {LANES} channels, not {width}; call selective_scan")
    blocks = _blocks(width, batch)
    return lambda samples, parts: [(b, *block, k) for b in samples for k, block in enumerate(blocks)]


def n_blocks(width: int, batch: int) -> int:
    """Into how many blocks the channels of a sample are divided."""
    return len(_blocks(width, batch))


def _blocks(width: int, batch: int) -> list[tuple[int, int]]:
    return _divided(width, -(-torch.get_num_threads() // batch), LANES, BLOCK)


def by_columns(width: int) -> Tasks:
    """Tasks ``(sample, first column, last column)``, whole tiles of a product."""
    return lambda samples, parts: [(b, *part) for b in samples for part in _divided(width, parts, ROWS, width)]


def by_rows(length: int) -> Tasks:
    """Tasks ``(first row, last row)`` of matrices in which the samples' positions lie one after the other."""
    return lambda samples, parts: [
        (b * length + first, b * length + last)
        for b in samples
        for first, last in _divided(length, parts, ROWS, length)
    ]


def by_row_blocks(length: int) -> tuple[Tasks, int]:
    """Tasks ``(first row, last row, block)`` as of :func:`by_rows`, and how many there are a sample.

    Sums over rows depend on the blocks, so these are always the same.
    """
    parts = _divided(length, -(-length // ROW_BLOCK), 1, ROW_BLOCK)

    def tasks(samples: Iterable[int], _: int) -> list[tuple[int, ...]]:
        rows = [(b * length, b * len(parts)) for b in samples]
        return [(at + first, at + last, own + k) for at, own in rows for k, (first, last) in enumerate(parts)]

    return tasks, len(parts)


def _divided(width: int, parts: int, grain: int, most: int) -> list[tuple[int, int]]:
    """First and last of ``parts`` parts that are about equal, multiples of ``grain`` and ``most`` at most."""
    size = min(-(-width // (parts * grain)) * grain, most)
    return [(first, min(first + size, width)) for first in range(0, width, size)]


def _labelled(kernel: Callable[..., None], arguments: Iterable[Any]) -> Callable[[np.ndarray], None]:
    """A kernel that waits for its tasks; torch's profiler is told when it runs."""
    arrays = [a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments]

    def work(tasks: np.ndarray) -> None:
        kernel(*arrays, tasks)

    def labelled(tasks: np.ndarray) -> None:
        with record_function(f"prism_model::{kernel.__name__}"):
            work(tasks)

    # A label gives the GIL away twice, and each time may wait for it: 0.1 ms a kernel.
    return labelled if _profiler_enabled() else work


def _everywhere(jobs: Sequence[Callable[[], None]]) -> None:
    """Run each on a thread of its own, the first on this one."""
    mine, *others = jobs
    running = [_pool(len(others), os.getpid()).submit(job) for job in others]
    mine()
    for job in running:
        job.result()


@lru_cache(maxsize=1)
def _pool(size: int, pid: int) -> ThreadPoolExecutor:
    """One pool a process; ``pid`` because a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(size, thread_name_prefix="prism")
