"""Hi-C as a signal: the contact profile of a TSS with a power-law pseudocount, as the Prism release computes it.

The rules are those of the ABC model's Hi-C step, at one value a base: a base has the contact of its bin with the
TSS's bin, a missing contact counts as 0, a TSS with next to no contacts of its own has no profile, and the power law's
value at 1 Mb (or further out its value there) is added.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from genostore.batch import Batch
from genostore.errors import QueryError

GAMMA = 0.87
"""Exponent of the power law."""
SCALE = -4.80 + 11.63 * GAMMA
"""Logarithm of its factor: a regression over cell types, made with bins of 5 kb."""
NEAREST = 5_000
"""Distances below this many bases count as this many."""
REFERENCE = 1_000_000
"""Distance from which on the pseudocount falls."""
OWN = 500
"""Bases on either side of the TSS, exclusive, whose contacts decide whether there is a profile."""
FEWEST = 0.01
"""Least sum of these contacts."""


def power_law(distance: ArrayLike) -> NDArray[np.float64]:
    """Expected contact at a distance in bases: ``exp(SCALE - GAMMA ln(max(d, 5000) + 1))``."""
    return np.exp(SCALE - GAMMA * np.log(np.maximum(np.asarray(distance, dtype=np.float64), NEAREST) + 1))


def hic_profile(
    bin1: ArrayLike,
    bin2: ArrayLike,
    contact: ArrayLike,
    bin_size: int,
    chrom_length: int,
    tss: int,
    flank: int,
) -> NDArray[np.float64]:
    """The contact profile around a TSS, base by base, from the pixels of one chromosome.

    Parameters
    ----------
    bin1, bin2
        Bins of each pixel on the chromosome, either order; each pair once.
    contact
        Normalised contact of each pixel; NaN counts as 0.
    bin_size
        In bases.
    chrom_length
        In bases; positions beyond are 0, without pseudocount.
    tss
        0-based position.
    flank
        Bases on either side.

    Returns
    -------
    numpy.ndarray
        ``(2 * flank,)`` float64 for positions ``tss - flank`` to ``tss + flank``; NaN throughout the chromosome when
        the contacts of the bases less than 500 from the TSS sum to less than 0.01.

    Raises
    ------
    genostore.errors.QueryError
        When the TSS is off the chromosome, or sizes are not positive.
    """
    if not 0 <= tss < chrom_length:
        raise QueryError(f"the TSS {tss} is not on a chromosome of {chrom_length} bases")
    if bin_size < 1 or flank < 1:
        raise QueryError(f"bin_size and flank must be positive, not {bin_size} and {flank}")
    left, right = np.asarray(bin1, dtype=np.int64), np.asarray(bin2, dtype=np.int64)
    values = np.nan_to_num(np.asarray(contact, dtype=np.float64), nan=0.0)
    own = tss // bin_size
    row = np.zeros(-(-chrom_length // bin_size))
    for this, other in ((left, right), (right, left)):
        mine = (this == own) & (other < len(row))
        row[other[mine]] = values[mine]

    position = np.arange(tss - flank, tss + flank)
    on_contig = (position >= 0) & (position < chrom_length)
    distance = np.abs(position - tss)
    profile = np.where(on_contig, row[np.clip(position, 0, chrom_length - 1) // bin_size], 0.0)
    if profile[distance < OWN].sum() < FEWEST:
        profile[:] = np.nan
    profile += np.minimum(power_law(distance), power_law(REFERENCE))
    profile[~on_contig] = 0.0
    return profile


def batch_profiles(batch: Batch) -> Tensor:
    """The profiles of a batch's windows, computed from its contact profiles on their device.

    Parameters
    ----------
    batch
        With ``contacts`` of kind profile, ``(B, bins)``, normalised, NaN or 0 where there is none.

    Returns
    -------
    Tensor
        ``(B, W)`` float64, as :func:`hic_profile` gives for each window.

    Raises
    ------
    genostore.errors.QueryError
        When the batch has no contact profiles or they do not cover the window.
    """
    if batch.contacts is None or batch.contacts.ndim != 2:
        raise QueryError(
            "the Hi-C signal needs contact profiles: query windows(contacts=Contacts(assay, kind='profile'))"
        )
    size = int(batch.bin_size or 0)
    contacts = torch.as_tensor(batch.contacts).double().nan_to_num(nan=0.0)
    origin, anchor, left, right = (
        torch.as_tensor(t, device=contacts.device)[:, None]
        for t in (batch.contact_origin, batch.anchor, batch.left_pad, batch.right_pad)
    )
    width = _width(batch)
    position = torch.arange(width, device=contacts.device)  # in the window
    bins = (origin + position) // size  # (B, W)
    if int(bins.min()) < 0 or int(bins.max()) >= contacts.shape[1]:
        raise QueryError(
            f"the contacts cover bins 0 to {contacts.shape[1] - 1} and the window needs {int(bins.min())} to "
            f"{int(bins.max())}: give Contacts a flank of at least {width // 2}, or none"
        )
    on_contig = (position >= left) & (position < width - right)
    profile = contacts.gather(1, bins) * on_contig
    distance = (position - anchor).abs()
    near = torch.arange(1 - OWN, OWN, device=contacts.device) + anchor  # may lie outside of the window
    near_bins = (origin + near).div(size, rounding_mode="floor")
    covered = (near_bins >= 0) & (near_bins < contacts.shape[1])
    own = (contacts.gather(1, near_bins.clamp(0, contacts.shape[1] - 1)) * covered).sum(1, keepdim=True)
    profile = torch.where(own < FEWEST, torch.nan, profile)
    expected = torch.exp(SCALE - GAMMA * torch.log(distance.clamp(min=REFERENCE).double() + 1))
    return torch.where(on_contig, profile + expected, 0.0)


def signals(batch: Batch) -> Tensor | None:
    """The signals that Prism takes: the tracks, then the logarithm of the Hi-C profile when there are contacts.

    Parameters
    ----------
    batch
        Of a loader (or of ``windows.read``), at a resolution of one base.

    Returns
    -------
    Tensor or None
        ``(B, W, S)`` float32: the channels of ``batch.signal``, then ``log10(1 + profile)`` with 0 where there is no
        profile. None when the batch has neither.

    Raises
    ------
    genostore.errors.QueryError
        When signals are binned, or silent positions were left NaN.
    """
    parts: list[Tensor] = []
    if batch.signal is not None:
        signal = torch.as_tensor(batch.signal)
        if batch.sequence is not None and signal.shape[1] != batch.sequence.shape[1]:
            raise QueryError(
                f"the signals have {signal.shape[1]} positions and the sequence {batch.sequence.shape[1]}: "
                f"Prism takes windows of resolution=1"
            )
        parts.append(signal.float())
    if batch.contacts is not None:
        parts.append(torch.log10(1 + batch_profiles(batch)).nan_to_num(nan=0.0).float()[..., None])
    if not parts:
        return None
    return torch.cat(parts, dim=-1)


def _width(batch: Batch) -> int:
    for part in (batch.sequence, batch.signal):
        if part is not None:
            return int(part.shape[1])
    raise QueryError("a batch of contacts alone has no width: query the sequence or a track as well")
