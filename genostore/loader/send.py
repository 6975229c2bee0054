"""From numpy to tensors on a device; to a GPU through pinned memory, on a stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from genostore.batch import Batch

Numbered = tuple[int, Batch]


def tensors(batch: Batch, pin: bool = False) -> Batch:
    """Take a batch of arrays for tensors, without a copy where the arrays may be written to.

    Parameters
    ----------
    batch
        Of numpy arrays.
    pin
        Copy them to pinned memory. torch keeps such memory for the next batches, and gives it out again only when the
        copies to a device that were begun from it have ended.
    """
    out = replace(batch)
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, np.ndarray):
            tensor = torch.from_numpy(value if value.flags.writeable else value.copy())
            setattr(out, field.name, tensor.pin_memory() if pin else tensor)
    return out


def split(batch: Batch, sizes: list[int]) -> Iterator[Batch]:
    """Cut a batch of tensors into consecutive ones of some sizes, which share its memory."""
    names = [f.name for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)]
    pieces = zip(*(getattr(batch, name).split_with_sizes(sizes) for name in names), strict=True)
    for piece in pieces:
        yield replace(batch, **dict(zip(names, piece, strict=True)))


class Sender:
    """Moves batches to a device, one ahead of whoever uses them.

    On a GPU, the copies and all that ``finish`` does run on a side stream, so that they go on while the model works
    on the batch before; the stream of the model waits for its batch, and for no other.

    Parameters
    ----------
    device
        Where to.
    finish
        Applied to a batch on the device.
    """

    def __init__(self, device: torch.device, finish: Callable[[Batch], Batch]) -> None:
        self.device, self.finish = device, finish

    def __call__(self, batches: Iterable[Numbered]) -> Generator[Numbered, None, None]:
        """Send batches, in order."""
        if self.device.type == "cuda":
            yield from self._overlapped(batches)
            return
        for number, batch in batches:
            yield number, self.finish(batch if self.device.type == "cpu" else batch.to(self.device))

    def _overlapped(self, batches: Iterable[Numbered]) -> Generator[Numbered, None, None]:
        stream = torch.cuda.Stream(self.device)
        waiting: tuple[int, Batch, Any] | None = None
        for number, batch in batches:
            with torch.cuda.stream(stream):
                there = self.finish(batch.to(self.device, non_blocking=True))
                ready = stream.record_event()
            if waiting is not None:
                yield self._hand_over(*waiting)
            waiting = number, there, ready
        if waiting is not None:
            yield self._hand_over(*waiting)

    def _hand_over(self, number: int, batch: Batch, ready: Any) -> Numbered:
        current = torch.cuda.current_stream(self.device)
        current.wait_event(ready)
        for field in fields(batch):
            value = getattr(batch, field.name)
            if isinstance(value, torch.Tensor):
                value.record_stream(current)  # its memory is not given out again before this stream is done with it
        return number, batch
