"""From what was read to what a model takes: bases one-hot, signals transformed, gaps filled; on the device."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from genostore.batch import Batch
from genostore.errors import QueryError
from genostore.loader.transforms import Transform

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
    _reported: bool = False

    def to(self, device: torch.device) -> None:
        """Keep on a device what is used there."""
        self.transforms = [t.to(device) for t in self.transforms]

    def __call__(self, batch: Batch) -> Batch:
        """Finish a batch of tensors, in place where that is possible."""
        if self.missing == "error":
            self._refuse(batch)
        if batch.sequence is not None and self.onehot:
            batch.sequence = one_hot(batch.sequence)
        if batch.signal is not None:
            if self.missing in ("zero", "mask") and not self._reported:
                self._report(batch.signal)
            if self.missing == "mask":
                batch.mask = ~torch.isnan(batch.signal)
            for transform in self.transforms:
                transform.apply(batch.signal, batch.cell_type)
        if self.expand and batch.contacts is not None:
            batch.contacts = expand(batch, self.windows.width)
        if self.missing in ("zero", "mask"):
            for values in (batch.signal, batch.contacts, batch.features):
                if values is not None:
                    values.nan_to_num_(nan=0.0, posinf=float("inf"), neginf=float("-inf"))
        return batch

    def _report(self, signal: Tensor) -> None:
        self._reported = True
        share = float(torch.isnan(signal).float().mean())
        if share:
            log.info("missing=%r fills %.1f%% of the first batch's signal", self.missing, 100 * share)

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
    rows = torch.eye(5, 4, dtype=torch.float32, device=codes.device)
    if codes.device.type != "cpu":
        return rows[codes.int()]
    # A row of four floats is looked up as one number: a third of the time.
    found = rows.view(torch.complex128).view(-1).index_select(0, codes.reshape(-1).int())
    return torch.view_as_real(found).view(torch.float32).view(*codes.shape, 4)


def expand(batch: Batch, width: int) -> Tensor:
    """Give each base of the windows the value of its bin.

    Returns
    -------
    Tensor
        ``(B, W)`` float32; NaN where the profile does not reach.
    """
    assert batch.bin_size is not None
    base = torch.arange(width, device=batch.contacts.device)
    bins = (batch.contact_origin[:, None] + base).div(batch.bin_size, rounding_mode="floor")
    n = batch.contacts.shape[1]
    values: Tensor = batch.contacts.gather(1, bins.clamp(0, n - 1))
    return values.masked_fill_((bins < 0) | (bins >= n), float("nan"))
