"""Tracks, sequence, contacts, features and target held as tensors on a device: a batch is one gather there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genostore import shared
from genostore.batch import Batch
from genostore.errors import QueryError
from genostore.resident import DTYPES, ContactTable, ResidentDtype, blocks, cast, check_resident, nodes
from genostore.sequence import SOFT_MASK, UNKNOWN

if TYPE_CHECKING:
    from genostore.windows import Windows


class OnDevice:
    """The data of windows on a device.

    :meth:`read` says where the windows of a batch lie, on the processor; :meth:`fill` gathers them, on the device.

    Parameters
    ----------
    windows
        Of a store.
    device
        Where to hold the data.
    dtype
        Of the tracks; batches are float32 whatever it is.
    turned
        Whether a batch may hold windows of the reverse strand.

    Raises
    ------
    QueryError
        If it would not fit in the memory that is free, with the sizes named.
    """

    def __init__(self, windows: Windows, device: torch.device, dtype: ResidentDtype, turned: bool) -> None:
        check_resident(windows, dtype)
        self.windows, self.device, self.turned = windows, device, turned
        query, chosen = windows.query, windows.selection
        self._tracks = nodes(windows)
        length = windows.store.genome.length
        margin = self._margin = query.width + query.jitter  # so that each window lies on the axis, whatever its pads
        self._table = ContactTable(windows) if "contacts" in windows.parts else None
        sizes = dict.fromkeys(self._tracks, (length + 2 * margin) * DTYPES[dtype].itemsize)
        sizes |= {"sequence": length + 2 * margin} if query.sequence else {}
        sizes |= {"contacts": 4 * int(np.prod(self._table.shape))} if self._table else {}
        shared.check_room(sizes, _free(device), str(device))

        self.signal = self._axes(len(self._tracks), getattr(torch, dtype), float("nan"))
        for node, place in self._tracks.items():
            for start, stop, values in blocks(windows.store.array(node)):
                cast(values, DTYPES[dtype], node)  # refuses what does not fit
                self.signal[place, margin + start : margin + stop] = torch.from_numpy(values).to(device)
        self.sequence = self._axes(1 if query.sequence else 0, torch.uint8, UNKNOWN)
        if query.sequence:
            for start, stop, values in blocks(windows.store.array("sequence")):
                codes = torch.from_numpy(values & np.uint8(SOFT_MASK - 1))
                self.sequence[0, margin + start : margin + stop] = codes.to(device)
        self.contacts = self._contacts()
        self.features = self._send(chosen.feature_values)
        self.target = self._send(chosen.target)
        self._offset, self._length = self._send(chosen.contig_offset), self._send(chosen.contig_length)
        places = [[self._tracks.get(f"tracks/{c}/{a}", -1) for a in chosen.assays] for c in chosen.cell_types]
        self._places = torch.tensor(places, device=device)
        self._swapped = torch.tensor(windows.swapped, device=device)
        first = chosen.anchor - query.width // 2
        over = (first < query.jitter) | (first + query.width + query.jitter > chosen.contig_length)
        self._padded = bool(over.any())

    def _axes(self, n: int, dtype: torch.dtype, fill: float) -> Tensor:
        """Make n genome axes with a margin on either side."""
        length = self.windows.store.genome.length + 2 * self._margin if n else 0
        return torch.full((n, length), fill, dtype=dtype, device=self.device)

    def _send(self, values: Any) -> Any:
        return None if values is None else torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _contacts(self) -> Tensor | None:
        if self._table is None:
            return None
        values = np.empty(self._table.shape, dtype=np.float32)
        self._table.fill(values)
        return torch.from_numpy(values).to(self.device)

    def read(
        self, indices: ArrayLike, shift: ArrayLike = 0, flip: ArrayLike = False, *, fill: float = math.nan
    ) -> Batch:
        """Say where samples lie; :meth:`fill` brings the rest, NaN and all."""
        chosen = self.windows.selection
        index = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        self.windows.check(index)
        moved = np.broadcast_to(np.asarray(shift, dtype=np.int64), index.shape)
        batch = self.windows.frame(chosen.gene[index], chosen.cell_type[index], moved, flip)
        batch.index, batch.features, batch.target = index, None, None
        if self._table is not None:
            batch.contacts = self._table.bins(batch)
        if batch.reverse.any() and not self.turned:
            raise QueryError("these resident data were made for windows of the forward strand")
        return batch

    def fill(self, batch: Batch) -> Batch:
        """Gather the windows of a batch that :meth:`read` gave, on the device."""
        windows, width = self.windows, self.windows.width
        row, cell, reverse = batch.gene, batch.cell_type, batch.reverse
        at = self._offset[row] + batch.start + self._margin
        outside = None
        if self._padded:
            position = batch.start[:, None] + torch.arange(width, device=self.device)
            outside = (position < 0) | (position >= self._length[row][:, None])
        if windows.query.sequence:
            codes = self.sequence[0].unfold(0, width, 1)[at]
            if outside is not None:
                codes.masked_fill_(outside, UNKNOWN)
            if self.turned:
                other = torch.where(codes < UNKNOWN, 3 - codes, codes).flip(1)
                codes = torch.where(reverse[:, None], other, codes)
            batch.sequence = codes
        if windows.assays:
            batch.signal = self._signal(cell, at, reverse, outside)
        if self.contacts is not None:
            bins, table = batch.contacts, self.contacts[row, cell]
            if table.ndim == 2:
                batch.contacts = table.gather(1, bins)
            else:
                batch.contacts = table[
                    torch.arange(len(row), device=self.device)[:, None, None], bins[:, :, None], bins[:, None]
                ]
        batch.features = None if self.features is None else self.features[row, cell]
        batch.target = None if self.target is None else self.target[row, cell]
        return batch

    def _signal(self, cell: Tensor, at: Tensor, reverse: Tensor, outside: Tensor | None) -> Tensor:
        query = self.windows.query
        places = self._places[cell]  # (B, channel)
        if self.turned:
            places = torch.where(reverse[:, None], places[:, self._swapped], places)
        # A view of all windows there could be; what is picked of it is copied row by row, without an index a base.
        signal = self.signal.unfold(1, query.width, 1)[places.clamp(min=0), at[:, None]].float()
        if len(self._tracks) < self._places.numel():
            signal.masked_fill_((places < 0)[..., None], float("nan"))
        if outside is not None:
            signal.masked_fill_(outside[:, None], float("nan"))
        if self.turned:
            signal = torch.where(reverse[:, None, None], signal.flip(2), signal)
        if query.resolution > 1:
            bins = signal.unflatten(2, (-1, query.resolution)).double()
            signal = (bins.nanmean(3) if query.aggregate == "mean" else _nansum(bins)).float()
        return signal.transpose(1, 2)


def _nansum(bins: Tensor) -> Tensor:
    return bins.nansum(3).masked_fill_(torch.isnan(bins).all(3), float("nan"))


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return shared.free()
