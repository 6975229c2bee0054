"""Open a file of one value a base, whichever format it is of."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

from genostore.errors import SourceError
from ingest.sources.base import SignalSource
from ingest.sources.bedgraph import BedGraph
from ingest.sources.bigwig import BigWig
from ingest.sources.reading import BIGWIG, describe, head

_BIGWIG_NAME = re.compile(r"\.(bw|bigwig)$", re.IGNORECASE)
_BEDGRAPH_NAME = re.compile(r"\.(bedgraph|bdg|bg)(\.b?gz)?$", re.IGNORECASE)


def open_signal(path: str | PathLike[str], scratch: str | PathLike[str] | None = None) -> SignalSource:
    """Open a bigWig or a bedGraph.

    Parameters
    ----------
    path
        A file named .bw or .bigWig is a bigWig, one named .bedGraph, .bdg or .bg (.gz too) a bedGraph. Any other is
        a bigWig if it begins like one.
    scratch
        Folder for what a bedGraph is parsed into; see :class:`~ingest.sources.bedgraph.BedGraph`.

    Returns
    -------
    SignalSource
        Not yet read; its ``validate()`` is what looks for damage.

    Raises
    ------
    SourceError
        If the file is absent, or its format cannot be told.
    """
    path = Path(path)
    first = head(path)
    if _BIGWIG_NAME.search(path.name) or first.startswith(BIGWIG):
        return BigWig(path)
    if _BEDGRAPH_NAME.search(path.name):
        return BedGraph(path, scratch)
    raise SourceError(
        f"{path}: is neither a bigWig nor named like a bedGraph (.bedGraph, .bdg, .bg, .gz or not): {describe(first)}"
    )
