"""From what was read to what a model takes: bases one-hot, signals transformed, gaps filled; on the device."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from genostore import batch_kernels, buffers
from genostore.batch import Batch
from genostore.errors import QueryError
from genostore.loader.transforms import Transform
from genostore.windows import fill_gaps

if TYPE_CHECKING:
    from genostore.windows import Windows

log = logging.getLogger("genostore")
Missing = Literal["zero", "mask", "nan", "error"]


@dataclass
class Finish:
    """Make a batch what the options of a loader ask for.

    Attributes
    ----------
    windows
        For the names in messages, and the width.
    onehot, missing, transforms, expand
        What to do; see :class:`genostore.loader.Loader`.
    """

    windows: Windows
    onehot: bool
    missing: Missing
    transforms: list[Transform] = field(default_factory=list)
    expand: bool = False
    reported: bool = False

    @property
    def fills_first(self) -> bool:
        """Whether gaps may be filled before anything else is done, and so while they are read."""
        return self.missing == "zero" and not self.transforms

    def begin(self, batch: Batch, first: int) -> None:
        """Do to arrays what needs no torch: fill gaps if that comes first, spell bases, spread contacts.

        If the signal begins with the ``first`` samples of a pass, it is not filled yet, and the share that is filled of
        them is reported, if none was; else it was filled when it was read.
        """
        if self.fills_first:
            if batch.signal is not None and first:
                values = batch.signal.transpose(0, 2, 1)  # as it lies in memory
                filled = fill_gaps(values[:first], 0)
                fill_gaps(values[first:], 0)
                self._report(filled / values[:first].size)
            if batch.features is not None:
                fill_gaps(batch.features, 0)
            if batch.contacts is not None:
                fill_gaps(batch.contacts, 0)
        if batch.sequence is not None and self.onehot:
            batch.sequence = batch_kernels.one_hot(batch.sequence)
        if self.expand and batch.contacts is not None:
            out = buffers.empty((len(batch), self.windows.width), np.float32)
            beyond = np.float32(0 if self.fills_first else np.nan)
            batch_kernels.spread_bins(batch.contacts, batch.contact_origin, batch.bin_size, beyond, out)
            batch.contacts = out

    def to(self, device: torch.device) -> None:
        """Keep on a device what is used there."""
        self.transforms = [t.to(device) for t in self.transforms]

    def __call__(self, batch: Batch, begun: bool = False) -> Batch:
        """Finish a batch of tensors, in place where that is possible; ``begun`` if :meth:`begin` has seen it."""
        if self.missing == "error":
            self._refuse(batch)
        if batch.sequence is not None and self.onehot and not begun:
            batch.sequence = one_hot(batch.sequence)
        if self.expand and batch.contacts is not None and not begun:
            batch.contacts = expand(batch, self.windows.width)
        if begun and self.fills_first:
            return batch
        if batch.signal is not None:
            if self.missing in ("zero", "mask") and not self.reported:
                self._report(float(torch.isnan(batch.signal).float().mean()))
            if self.missing == "mask":
                batch.mask = ~torch.isnan(batch.signal)
            for transform in self.transforms:
                transform.apply(batch.signal, batch.cell_type)
        if self.missing in ("zero", "mask"):
            for values in (batch.signal, batch.contacts, batch.features):
                if values is not None:
                    values.nan_to_num_(nan=0.0, posinf=float("inf"), neginf=float("-inf"))
        return batch

    def _report(self, share: float) -> None:
        if share and not self.reported:
            log.info("missing=%r fills %.1f%% of the first batch's signal", self.missing, 100 * share)
        self.reported = True

    def _refuse(self, batch: Batch) -> None:
        for name, labels in (("signal", self.windows.assays), ("features", self.windows.features)):
            values = getattr(batch, name)
            if values is None or not bool(torch.isnan(values).any()):
                continue
            where = torch.isnan(values).nonzero()[0].tolist()
            row = self.windows.genes.iloc[int(batch.gene[where[0]])]
            cell_type = self.windows.cell_types[int(batch.cell_type[where[0]])]
            raise QueryError(
                f"{name} {labels[where[-1]]!r} of {cell_type} has no value for "
                f"{row.get('id', row['contig'])}, and missing='error'; choose 'zero', 'mask' or 'nan'"
            )


def one_hot(codes: Tensor) -> Tensor:
    """Make ``(..., 4)`` float32 of uint8 codes: A C G T, and zeros for code 4."""
    if codes.device.type == "cpu":
        return torch.from_numpy(batch_kernels.one_hot(codes.contiguous().numpy()))
    return torch.eye(5, 4, dtype=torch.float32, device=codes.device)[codes.int()]


def expand(batch: Batch, width: int) -> Tensor:
    """Give each base of the windows the value of its bin.

    Returns
    -------
    Tensor
        ``(B, W)`` float32; NaN where the profile does not reach.
    """
    assert batch.bin_size is not None
    base = torch.arange(width, device=batch.contacts.device)
    places = (batch.contact_origin[:, None] + base).div(batch.bin_size, rounding_mode="floor")
    n = batch.contacts.shape[1]
    values: Tensor = batch.contacts.gather(1, places.clamp(0, n - 1))
    return values.masked_fill_((places < 0) | (places >= n), float("nan"))
