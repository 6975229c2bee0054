"""Open a file of contacts, whichever format it is of."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from genostore.errors import SourceError
from ingest.sources.base import ContactSource
from ingest.sources.cool import CoolerSource
from ingest.sources.dothic import HicSource
from ingest.sources.reading import HDF5, HIC, describe, head


def open_contacts(path: str | PathLike[str], bin_size: int | None = None) -> ContactSource:
    """Open contacts of one bin size; the format is told by content.

    Parameters
    ----------
    path
        A .cool, .mcool or .hic file, or a group of one of the former as ``file.mcool::/resolutions/5000``.
    bin_size
        In bases. None takes the only one there is.

    Returns
    -------
    ContactSource
        Its head is read and checked; the rest of the file is checked by its ``validate()``.

    Raises
    ------
    SourceError
        If the file is of another format, truncated, or not a matrix that a store can hold: bins of variable size
        or not from 0, square storage, single cells, the bin size absent (those there are listed).
    """
    file = Path(str(path).partition("::")[0])
    first = head(file)
    source: ContactSource
    if first.startswith(HDF5):
        source = CoolerSource(path, bin_size)
    elif first.startswith(HIC):
        source = HicSource(path, bin_size)
    else:
        raise SourceError(f"{file}: is no .cool, .mcool or .hic file: {describe(first)}")
    _ = source.bin_size
    return source
