"""The loader: batches of windows, in an order that (seed, epoch) alone decides."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import IterableDataset, get_worker_info

from genostore.batch import Batch
from genostore.errors import NotFoundError, QueryError, nearest
from genostore.loader import budget
from genostore.loader.ahead import ahead
from genostore.loader.finish import Finish, Missing
from genostore.loader.resident import OnDevice
from genostore.loader.send import Numbered, Sender, split, tensors
from genostore.loader.transforms import parse
from genostore.order import Ints, Order
from genostore.resident import Resident, ResidentDtype

if TYPE_CHECKING:
    from genostore.loader.workers import Workers
    from genostore.windows import Windows

Flips = NDArray[np.bool_] | bool


class Source(Protocol):
    """Brings batches of samples: the windows themselves, or what keeps their data in memory."""

    def read(
        self, indices: ArrayLike, shift: ArrayLike = 0, flip: ArrayLike = False, *, fill: float = math.nan
    ) -> Batch:
        """Read samples; see :meth:`genostore.windows.Windows.read`."""
        ...


@dataclass(frozen=True)
class Pass:
    """What one pass reads: samples in order, and how each is cut."""

    epoch: int
    order: Ints
    shift: Ints
    flip: Flips
    first: int  # batch


class Loader(IterableDataset[Batch]):
    """Batches of windows as torch tensors, in an order that (seed, epoch) alone decides.

    Iterate it in a plain loop, hand it to Lightning, or spread it over processes with :meth:`workers` or
    ``DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context="spawn")``. Each pass is the next
    epoch, unless :meth:`set_epoch` names another.

    Parameters
    ----------
    windows
        What to read.
    batch_size
        Samples a batch, of this rank.
    shuffle, seed
        True: read in a random order, drawn from the seed and the epoch. ``"blocks"``: for packs larger than memory,
        shuffle blocks of consecutive samples. The seed rules the jitter and the strands too.
    block, buffer
        For ``shuffle="blocks"``: samples a block and blocks shuffled together; see :class:`genostore.order.Order`.
    device
        Where the tensors go; the processor by default, the GPU with ``resident="cuda"``.
    resident
        Hold the tracks (and sequence, contacts, features, target) in memory and cut windows out of them: ``"ram"``,
        one copy for all processes of the machine; ``"cuda"``, on ``device``.
    resident_dtype
        In which tracks are held: ``"float32"``, or ``"float16"`` or ``"bfloat16"``, which round. Batches are float32.
    sequence
        ``"onehot"``: (B, W, 4) float32 made on the device from codes; ``"codes"``: (B, W) uint8.
    transform
        Of the signal, on the device: ``"log1p"`` (of the absolute value, with its sign), ``"arcsinh"``, ``"zscore"``
        (by the mean and sd of the whole track, which the store keeps; comes first), ``{"clip": [low, high]}``; a list
        of such steps; or a mapping of assays to these.
    missing
        What becomes of silent positions, after the transform: ``"zero"``, ``"mask"`` (zero, and ``batch.mask`` says
        where a value was), ``"nan"`` (kept) or ``"error"``. The first two fill contacts and features with zero too,
        and the filled share of the first batch is logged once.
    reverse_complement
        ``"random"``: turn every other window, on average, round (stranded tracks swapped), others each epoch;
        ``"always"``: all of them; None.
    expand_contacts
        Give profiles of contacts as one value a base, (B, W).
    weights
        ``batch.weight`` of each sample: an array of ``len(windows)``, or the name of a column of ``windows.genes``.
    drop_last
        Leave out the last, short batch.
    rank, world
        Of this process; taken from ``torch.distributed`` when left out. See :class:`genostore.order.Order`.
    even
        False: no sample is left out where ``world`` does not divide their number; ranks may get one more or less.
    threads
        That read; 0 reads in the caller's thread.
    prefetch
        Loads (of one or more batches) read ahead by each thread.
    memory
        Bytes that reading, prefetch, shuffle buffer and caches may take together; None for what the other options
        ask for. It changes no batch. See docs/loader.md for the formula.

    Raises
    ------
    QueryError
        For options that contradict each other, a device that is not there, a budget too small for one batch, or
        data too large to be resident.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int = 64,
        *,
        shuffle: bool | Literal["blocks"] = False,
        seed: int = 0,
        block: int | None = None,
        buffer: int | None = None,
        device: str | torch.device | None = None,
        resident: Literal["ram", "cuda"] | None = None,
        resident_dtype: ResidentDtype = "float32",
        sequence: Literal["onehot", "codes"] = "onehot",
        transform: str | Mapping[str, Any] | Sequence[Any] | None = None,
        missing: Missing = "zero",
        reverse_complement: Literal["random", "always"] | None = None,
        expand_contacts: bool = False,
        weights: ArrayLike | str | None = None,
        drop_last: bool = False,
        rank: int | None = None,
        world: int | None = None,
        even: bool = True,
        threads: int = 2,
        prefetch: int = 2,
        memory: int | None = None,
    ) -> None:
        for name, value, allowed in (
            ("sequence", sequence, ("onehot", "codes")),
            ("missing", missing, ("zero", "mask", "nan", "error")),
            ("reverse_complement", reverse_complement, (None, "random", "always")),
            ("resident", resident, (None, "ram", "cuda")),
        ):
            if value not in allowed:
                raise QueryError(f"{name} is {value!r}; it is one of {', '.join(map(repr, allowed))}")
        for name, number, least in (("batch_size", batch_size, 1), ("threads", threads, 0), ("prefetch", prefetch, 1)):
            if number < least:
                raise QueryError(f"{name} is {number}; it is {least} or more")
        budget.check(memory)
        if expand_contacts and (windows.selection.contacts is None or windows.selection.contacts.kind != "profile"):
            raise QueryError("expand_contacts wants profiles: query windows(contacts=Contacts(assay, kind='profile'))")
        rank, world = _place(rank, world)
        self.windows: Windows = windows
        blocks = {k: v for k, v in (("block", block), ("buffer", buffer)) if v is not None}
        self.order = Order(len(windows), batch_size, shuffle, seed, drop_last, rank, world, even=even, **blocks)
        self.device = find_device(device or ("cuda" if resident == "cuda" else "cpu"))
        if resident == "cuda" and self.device.type != "cuda":
            raise QueryError(f"resident='cuda' holds the data on a GPU, and device is {device!r}; leave device out")
        self.reverse_complement = reverse_complement
        self.weights = None if weights is None else _weights(windows, weights)
        onehot = sequence == "onehot"
        self.finish = Finish(windows, onehot, missing, parse(windows, transform), expand_contacts)
        turned = reverse_complement is not None or windows.query.orient == "gene"
        self.budget = budget.plan(
            memory,
            budget.sizes(
                windows,
                onehot=onehot,
                mask=missing == "mask",
                expand=expand_contacts,
                turned=turned,
                cuda=self.device.type == "cuda",
            ),
            batch_size,
            threads=threads,
            prefetch=prefetch,
            together=min(self.order.load, max(1, len(self.order))),
            apart=windows.reader.apart(windows.parts),
            batches=len(self.order),
        )
        self.source: Source = windows
        if resident == "ram":
            self.source = Resident(windows, resident_dtype)
        elif resident == "cuda":
            self.source = OnDevice(windows, self.device, resident_dtype, turned)
        self.epoch = 0
        self.yielded = 0
        self._begun = False  # whether the pass of ``epoch`` was
        # Where the reading stands, for worker processes: changes so far, epoch, batches yielded.
        self._shared: torch.Tensor | None = None
        self._changes, self._passes = -1, 0

    def __len__(self) -> int:
        """Batches an epoch, of this rank."""
        return len(self.order)

    def __repr__(self) -> str:
        return f"<Loader: {len(self):,} batches of {self.order.batch_size} to {self.device}, from {self.windows!r}>"

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass gives.

        It gives it from its first batch on, unless a state of that epoch was just loaded: then from where that stood.
        """
        if self._begun or epoch != self.epoch:
            self.epoch, self.yielded, self._begun = epoch, 0, False
        self._publish()

    def state_dict(self) -> dict[str, Any]:
        """Tell where the reading stands: the epoch, the batches yielded in it, and what decides the order."""
        over = self.yielded >= len(self) > 0
        order = self.order
        state = {
            "epoch": self.epoch + over,
            "yielded": 0 if over else self.yielded,
            "n": order.n,
            "batch_size": order.batch_size,
            "seed": order.seed,
            "shuffle": order.shuffle,
            "world": order.world,
        }
        return state | ({"block": order.block, "buffer": order.buffer} if order.shuffle == "blocks" else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass go on where :meth:`state_dict` was taken.

        Raises
        ------
        QueryError
            If the order would not be the same.
        """
        now = self.state_dict()
        differing = [k for k in now if k not in ("epoch", "yielded") and now[k] != state.get(k)]
        if differing:
            what = ", ".join(f"{k} was {state.get(k)} and is {now[k]}" for k in differing)
            raise QueryError(
                f"the loader's state is that of another order of samples: {what}; "
                "go on as it was begun, with the batch size, the seed and the number of processes of then"
            )
        self.epoch, self.yielded, self._begun = state["epoch"], state["yielded"], False
        self._publish()

    def begin(self) -> int:
        """Begin a pass, of the next epoch if the last was begun, and give the number of its first batch."""
        if self._begun:
            self.epoch, self.yielded = self.epoch + 1, 0
        self._begun = True
        self._publish()
        return self.yielded

    def workers(self, num_workers: int = 2, **options: Any) -> Workers:
        """Read in processes; see :class:`genostore.loader.Workers`."""
        from genostore.loader.workers import Workers

        return Workers(self, num_workers, **options)

    def __getstate__(self) -> dict[str, Any]:
        self._share()  # it travels to workers as shared memory
        return self.__dict__

    def _share(self) -> torch.Tensor:
        if self._shared is None:
            self._shared = torch.zeros(3, dtype=torch.int64).share_memory_()
            self._publish()
        return self._shared

    def _publish(self) -> None:
        if self._shared is not None:
            self._shared += torch.tensor([1, 0, 0])
            self._shared[1:] = torch.tensor([self.epoch, self.yielded])

    def _begin_in_worker(self) -> int:
        """Begin a pass in a worker: where the main process says, or the epoch after if it has said nothing since."""
        changes, epoch, yielded = self._share().tolist()
        if changes != self._changes:
            self._changes, self._passes = changes, 0
        self.epoch = epoch + self._passes
        self._passes += 1
        return yielded if self._passes == 1 else 0

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker is None:
            numbers = range(self.begin(), len(self))
        else:
            if self.device.type == "cuda":
                raise QueryError(
                    "a DataLoader's workers read to memory: give the loader device='cpu', the DataLoader "
                    "pin_memory=True, and move each batch with batch.to('cuda', non_blocking=True)"
                )
            numbers = range(self._begin_in_worker() + worker.id, len(self), worker.num_workers)
        epoch = self.epoch
        flip: Flips = self.reverse_complement == "always"
        if self.reverse_complement == "random":
            flip = self.order.flips(epoch)
        this = Pass(
            epoch, self.order.epoch(epoch), self.order.shifts(epoch, self.windows.query.jitter), flip, numbers.start
        )
        self.finish.to(self.device)
        send = Sender(self.device, self._prepare)
        with closing(self._batches(this, numbers)) as batches, closing(send(batches)) as sent:
            for number, batch in sent:
                if worker is None:
                    self.yielded = number + 1
                yield batch

    def _batches(self, this: Pass, numbers: range) -> Generator[Numbered, None, None]:
        """Read loads ahead, and cut them into batches."""
        share = self.budget
        loads = [list(some) for _, some in groupby(numbers, lambda number: number // share.load)]
        with closing(ahead(partial(self._read, this), loads, share.threads, share.depth)) as results:
            for load, batch in zip(loads, results, strict=True):
                sizes = [len(self.order.batch(this.order, number)) for number in load]
                yield from zip(load, split(batch, sizes), strict=True)

    def _prepare(self, batch: Batch) -> Batch:
        """Make a batch that was sent to the device what a model takes."""
        return self.finish(self.source.fill(batch) if isinstance(self.source, OnDevice) else batch, self._begins)

    @property
    def _begins(self) -> bool:
        """Whether the threads that read begin to finish batches: on a processor, where they are as near as it gets."""
        return self.device.type == "cpu" and not isinstance(self.source, OnDevice)

    def _read(self, this: Pass, load: list[int]) -> Batch:
        index = np.concatenate([self.order.batch(this.order, number) for number in load])
        flip = this.flip if isinstance(this.flip, bool) else this.flip[index]
        first = len(self.order.batch(this.order, load[0])) if load[0] == this.first else 0
        # Signals are filled while they are read, once it was told how much of them is.
        fill = 0.0 if self._begins and self.finish.fills_first and not first else math.nan
        try:
            batch = self.source.read(index, this.shift[index], flip, fill=fill)
        except Exception as error:
            error.add_note(f"while batch {load[0]} of epoch {this.epoch} was read")
            raise
        if self._begins:
            self.finish.begin(batch, first)
        if self.weights is not None:
            batch.weight = self.weights[index]
        return tensors(batch, pin=self.device.type == "cuda")


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


def find_device(device: str | torch.device) -> torch.device:
    """Resolve a device, and check that it is there."""
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise QueryError(f"{device!r} is not a device that torch knows: {error}") from error
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise QueryError(f"device is {device!r}, and torch finds no CUDA device here; use device='cpu'")
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise QueryError(f"device is {device!r}, and torch finds {torch.cuda.device_count()} CUDA devices here")
    return chosen


def _weights(windows: Windows, weights: ArrayLike | str) -> NDArray[np.float32]:
    if isinstance(weights, str):
        if weights not in windows.genes:
            raise NotFoundError(f"weights names no column of windows.genes; {nearest(weights, windows.genes.columns)}")
        values = windows.genes[weights].to_numpy()[windows.selection.gene]
    else:
        values = np.asarray(weights)
    if values.shape != (len(windows),) or values.dtype.kind not in "iufb":
        raise QueryError(
            f"weights are {values.dtype} {values.shape}; there is to be a number for each of {len(windows):,} samples"
        )
    return values.astype(np.float32)
