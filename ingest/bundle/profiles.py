"""The bundle's Hi-C profiles, turned back into the contacts that they were cut from.

The release keeps, for each TSS, one value a base: the VC-balanced contact of the base's 5 kb bin with the TSS's, plus a
pseudocount that depends on the distance alone. Taking the pseudocount off and keeping one value a bin gives the
TSS's row of the contact matrix back. A store that holds these rows answers a query for the profile of a TSS as one
that was made from the .hic does; it knows nothing of rows without a TSS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import cooler
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genostore.errors import SourceError

BIN = 5_000
FLANK = 100_000
GAMMA = 0.87
SCALE = -4.80 + 11.63 * GAMMA
REFERENCE = 1_000_000
_TOLERANCE = 1e-9  # of a value's size: what float64 loses in adding and taking off


def pseudocount(distance: NDArray[np.int64]) -> NDArray[np.float64]:
    """What the release adds to a contact at a distance from the TSS (in bases): a power law, or its value at 1 Mb."""

    def law(d: NDArray[np.int64] | int) -> NDArray[np.float64]:
        return np.asarray(np.exp(SCALE - GAMMA * np.log(np.maximum(d, BIN) + 1.0)))

    return np.minimum(law(distance), law(REFERENCE))


def row_of(
    profile: NDArray[np.float64], tss: int, length: int, where: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The contacts of a TSS's bin.

    Parameters
    ----------
    profile
        ``(200_000,)``: base ``i`` lies at ``tss - 100_000 + i``.
    tss
        0-based.
    length
        Of the contig; bases off it are 0 in the profile.
    where
        What to call the profile in errors.

    Returns
    -------
    tuple
        Numbers of bins on the contig, ascending, and their contacts; none for a profile without a value.

    Raises
    ------
    SourceError
        If it has another length, or is not level within bins after the pseudocount is taken off.
    """
    if profile.shape != (2 * FLANK,):
        raise SourceError(f"{where} has shape {profile.shape}; expected ({2 * FLANK},), one value a base")
    if np.isnan(profile).any():  # bases off the contig stay 0
        return np.empty(0, np.int64), np.empty(0)
    start, stop = max(tss - FLANK, 0), min(tss + FLANK, length)
    bins = np.arange(start // BIN, -(-stop // BIN))
    first, last = np.maximum(bins * BIN, start), np.minimum((bins + 1) * BIN, stop) - 1  # positions
    contacts, again = (profile[at - tss + FLANK] - pseudocount(np.abs(at - tss)) for at in (first, last))
    size = np.maximum(np.abs(contacts), 1.0)
    uneven = np.flatnonzero(~(np.abs(contacts - again) <= _TOLERANCE * size))
    if uneven.size:
        at = int(bins[uneven[0]])
        raise SourceError(
            f"{where} is no profile of {BIN:,} bp bins with the release's pseudocount: within bin {at} "
            f"({at * BIN:,}-{(at + 1) * BIN:,}) contacts would be {contacts[uneven[0]]:g} and {again[uneven[0]]:g}"
        )
    contacts[np.abs(contacts) <= _TOLERANCE] = 0.0
    return bins, contacts


def recover_contacts(files: Mapping[str, Path], lengths: Mapping[str, int], out: Path) -> int:
    """Write the contacts of one cell type's profiles as a .cool of 5 kb bins.

    Parameters
    ----------
    files
        Contig to ``hic_feat_<contig>.h5``, with a data set ``<contig>_<tss>`` a TSS.
    lengths
        Of the contigs; they become the .cool's, in this order.
    out
        The .cool.

    Returns
    -------
    int
        How many profiles there were.

    Raises
    ------
    SourceError
        If a file is damaged, holds something else, or two profiles disagree on a contact.
    """
    bins = cooler.binnify(pd.Series(lengths), BIN)
    offsets = dict(zip(lengths, np.cumsum([0, *(-(-n // BIN) for n in lengths.values())]), strict=False))
    parts: list[pd.DataFrame] = []
    seen = 0
    for contig, path in files.items():
        if contig not in lengths:
            raise SourceError(f"{path}: chr_length.json has no contig {contig!r}")
        for tss, profile in _profiles(path, contig):
            seen += 1
            other, contacts = row_of(profile, tss, lengths[contig], f"{path}: {contig}_{tss}")
            keep = contacts != 0
            mine, other = np.full(int(keep.sum()), tss // BIN), other[keep]
            parts.append(
                pd.DataFrame(
                    {
                        "bin1_id": np.minimum(mine, other) + offsets[contig],
                        "bin2_id": np.maximum(mine, other) + offsets[contig],
                        "count": contacts[keep],
                    }
                )
            )
    if not seen:
        raise SourceError(f"{', '.join(map(str, files.values()))} hold no profile")
    pixels = pd.concat(parts).groupby(["bin1_id", "bin2_id"])["count"].agg(["min", "max"]).reset_index()
    apart = pixels[(pixels["max"] - pixels["min"]) > 1e-6 * pixels["max"].abs().clip(lower=1.0)]
    if len(apart):
        row = apart.iloc[0]
        raise SourceError(
            f"two profiles disagree on the contact of bins {int(row['bin1_id'])} and {int(row['bin2_id'])} of "
            f"{', '.join(sorted({str(p.parent) for p in files.values()}))}: {row['min']:g} and {row['max']:g}"
        )
    pixels = pixels.rename(columns={"min": "count"})[["bin1_id", "bin2_id", "count"]]
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    cooler.create_cooler(str(part), bins, pixels, dtypes={"count": np.float64}, ordered=True, assembly="hg38")
    part.replace(out)
    return seen


def _profiles(path: Path, contig: str) -> Iterable[tuple[int, NDArray[np.float64]]]:
    try:
        with h5py.File(path, "r") as file:
            for key, data in file.items():
                match = re.fullmatch(rf"{re.escape(contig)}_(\d+)", key)
                if match is None or not isinstance(data, h5py.Dataset):
                    raise SourceError(f"{path}: {key!r} is no data set {contig}_<tss>")
                yield int(match[1]), np.asarray(data, dtype=np.float64)
    except OSError as error:
        raise SourceError(f"{path} cannot be read as HDF5: {error}") from error
