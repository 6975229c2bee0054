"""Streaming batches to a device. The one module of this package that imports torch."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from genostore.batch import Batch
from genostore.errors import QueryError
from genostore.order import Ints, Order

if TYPE_CHECKING:
    from genostore.windows import Windows

log = logging.getLogger("genostore")
Missing = Literal["zero", "mask", "nan", "error"]


class Loader(IterableDataset[Batch]):
    """Batches of windows as torch tensors, in an order that (seed, epoch) alone decides.

    Iterate it in a plain loop, or hand it to ``DataLoader(loader, batch_size=None,
    multiprocessing_context="spawn")``. Each pass is the next epoch, unless :meth:`set_epoch` names another.

    Parameters
    ----------
    windows
        What to read.
    batch_size
        Samples a batch, of this rank.
    shuffle, seed
        Read in a random order, drawn from the seed and the epoch; the seed rules the jitter too.
    device
        Where the tensors go.
    sequence
        ``"onehot"``: (B, W, 4) float32 made on the device from codes; ``"codes"``: (B, W) uint8.
    missing
        What becomes of silent positions: ``"zero"``, ``"mask"`` (zero, and ``batch.mask`` says where a value was),
        ``"nan"`` (kept) or ``"error"``. The first two fill contacts and features with zero too, and the filled
        share of the first batch is logged once.
    drop_last
        Leave out the last, short batch.
    rank, world
        Of this process; taken from ``torch.distributed`` when left out. See :class:`genostore.order.Order`.
    threads
        That read; 0 reads in the caller's thread.
    prefetch
        Batches read ahead by each thread.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int = 64,
        *,
        shuffle: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
        sequence: Literal["onehot", "codes"] = "onehot",
        missing: Missing = "zero",
        drop_last: bool = False,
        rank: int | None = None,
        world: int | None = None,
        threads: int = 2,
        prefetch: int = 2,
    ) -> None:
        for name, value, allowed in (
            ("sequence", sequence, ("onehot", "codes")),
            ("missing", missing, ("zero", "mask", "nan", "error")),
        ):
            if value not in allowed:
                raise QueryError(f"{name} is {value!r}; it is one of {', '.join(map(repr, allowed))}")
        for name, number, least in (("batch_size", batch_size, 1), ("threads", threads, 0), ("prefetch", prefetch, 1)):
            if number < least:
                raise QueryError(f"{name} is {number}; it is {least} or more")
        rank, world = _place(rank, world)
        self.windows = windows
        self.order = Order(len(windows), batch_size, shuffle, seed, drop_last, rank, world)
        self.device = _device(device)
        self.sequence, self.missing = sequence, missing
        self.threads, self.prefetch = threads, prefetch
        self.epoch = 0
        self._yielded = 0
        self._reported = False

    def __len__(self) -> int:
        """Batches an epoch, of this rank."""
        return len(self.order)

    def __repr__(self) -> str:
        return f"<Loader: {len(self):,} batches of {self.order.batch_size} to {self.device}, from {self.windows!r}>"

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass gives, from its first batch on."""
        self.epoch, self._yielded = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Tell where the reading stands: the epoch, the batches yielded in it, and what decides the order."""
        return {
            "epoch": self.epoch,
            "yielded": self._yielded,
            "n": self.order.n,
            "batch_size": self.order.batch_size,
            "seed": self.order.seed,
            "shuffle": self.order.shuffle,
            "world": self.order.world,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises
        ------
        QueryError
            If the order would not be the same.
        """
        now = self.state_dict()
        differing = [k for k in now if k not in ("epoch", "yielded") and now[k] != state[k]]
        if differing:
            what = ", ".join(f"{k} was {state[k]} and is {now[k]}" for k in differing)
            raise QueryError(f"the loader's state is that of another order of samples: {what}")
        self.epoch, self._yielded = state["epoch"], state["yielded"]

    def __iter__(self) -> Iterator[Batch]:
        if self._yielded >= len(self):  # whoever read it last took every batch, and did not ask for one more
            self.set_epoch(self.epoch + 1)
        order, shifts = self.order.epoch(self.epoch), self.order.shifts(self.epoch, self.windows.query.jitter)
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        numbers = range(self._yielded + first, len(self), step)
        read = partial(self._read, order, shifts)
        for number, batch in zip(numbers, self._ahead(read, numbers), strict=True):
            self._yielded = number + 1
            yield self._prepare(batch)
        self.set_epoch(self.epoch + 1)

    def _read(self, order: Ints, shifts: Ints, number: int) -> Batch:
        index = self.order.batch(order, number)
        return self.windows.read(index, shifts[index])

    def _ahead(self, read: Any, numbers: range) -> Iterator[Batch]:
        """Read batches in threads, a bounded number ahead, and give them in order."""
        if not self.threads:
            yield from map(read, numbers)
            return
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="genostore")
        pending: deque[Future[Batch]] = deque()
        try:
            for number in numbers:
                pending.append(pool.submit(read, number))
                if len(pending) > self.threads * self.prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, batch: Batch) -> Batch:
        """Move a batch to the device; bases become one-hot and gaps are filled there."""
        out = replace(batch)
        for field in fields(batch):
            value = getattr(batch, field.name)
            if isinstance(value, np.ndarray):
                setattr(out, field.name, self._send(value))
        if out.sequence is not None and self.sequence == "onehot":
            out.sequence = one_hot(out.sequence)
        if self.missing == "error":
            self._refuse(batch)
        elif self.missing != "nan":
            self._fill(out)
        return out

    def _send(self, array: Any) -> torch.Tensor:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _fill(self, batch: Batch) -> None:
        if batch.signal is not None:
            silent = torch.isnan(batch.signal)
            if not self._reported:
                self._reported = True
                share = float(silent.float().mean())
                if share:
                    log.info("missing=%r fills %.1f%% of the first batch's signal", self.missing, 100 * share)
            if self.missing == "mask":
                batch.mask = ~silent
            batch.signal = batch.signal.masked_fill(silent, 0.0)
        for name in ("contacts", "features"):
            values = getattr(batch, name)
            if values is not None:
                setattr(batch, name, values.masked_fill(torch.isnan(values), 0.0))

    def _refuse(self, batch: Batch) -> None:
        for name, labels in (("signal", self.windows.assays), ("features", self.windows.features)):
            values = getattr(batch, name)
            if values is None or not np.isnan(values).any():
                continue
            where = np.argwhere(np.isnan(values))[0]
            row = self.windows.genes.iloc[int(batch.gene[where[0]])]
            cell_type = self.windows.cell_types[int(batch.cell_type[where[0]])]
            raise QueryError(
                f"{name} {labels[where[-1]]!r} of {cell_type} has no value for "
                f"{row.get('id', row['contig'])}, and missing='error'; choose 'zero', 'mask' or 'nan'"
            )


def one_hot(codes: torch.Tensor) -> torch.Tensor:
    """Make ``(..., 4)`` float32 of uint8 codes: A C G T, and zeros for code 4."""
    table = torch.eye(5, 4, dtype=torch.float32, device=codes.device)
    return table[codes.int()]


def _place(rank: int | None, world: int | None) -> tuple[int, int]:
    if (rank is None) != (world is None):
        raise QueryError("give both rank and world, or neither")
    if rank is None or world is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
    if not 0 <= rank < world:
        raise QueryError(f"rank is {rank} of {world}; ranks are numbered from 0")
    return rank, world


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise QueryError(f"{device!r} is not a device that torch knows: {error}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise QueryError(f"device is {device!r}, and torch finds no CUDA device here; use device='cpu'")
    return chosen
