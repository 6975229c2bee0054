"""Several processes, one a GPU (or a share of a processor), started by ``torchrun``."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import distributed, nn


@dataclass(frozen=True)
class Place:
    """Where this process stands among those of a launch."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """Machines."""
        return self.world // self.local_world

    def device(self, kind: str) -> str:
        """The device of this process: ``cpu``, or its own GPU."""
        return f"cuda:{self.local_rank}" if kind == "cuda" and self.world > 1 else kind


def place() -> Place:
    """Read from what ``torchrun`` tells its processes; alone when it started none."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if any(name not in os.environ for name in names):
        return Place()
    return Place(*(int(os.environ[name]) for name in names))


def current() -> Place:
    """Of this process in the group it has joined; alone outside of one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Place()
    at = place()
    return replace(at, rank=distributed.get_rank(), world=distributed.get_world_size())


@contextmanager
def group(at: Place, kind: str) -> Iterator[None]:
    """Work as one of a launch: gloo on processors, NCCL on GPUs; nothing to do for a process alone.

    The group is joined once and left when the process ends: a second one of the same launch would find the first
    one's addresses in the launcher's store. All leave together, so that what the first process wrote is there for all.
    """
    if at.world == 1:
        yield
        return
    if not distributed.is_initialized():
        if kind == "cuda":
            torch.cuda.set_device(at.local_rank)
        distributed.init_process_group("nccl" if kind == "cuda" else "gloo", rank=at.rank, world_size=at.world)
        atexit.register(_leave)
    yield
    distributed.barrier()


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait for the others."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


def gather(mine: Any) -> list[Any]:
    """What every process holds, in the order of their ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    shares: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, mine)
    return shares


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's running means of batch normalisation, so that they score one model."""
    if distributed.is_available() and distributed.is_initialized():
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)
