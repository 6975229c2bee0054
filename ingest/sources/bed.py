"""Intervals of BED files."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import pandas as pd

from genostore.bed import fields_of
from genostore.errors import SourceError
from ingest.sources.reading import expect_text, lines, shorten


def read_bed(path: str | PathLike[str]) -> pd.DataFrame:
    """Read the intervals of a BED file of 3 columns or more, in its order.

    Parameters
    ----------
    path
        BED, narrowPeak and the like, plain or gzip (told by content); lines are read as by
        :func:`genostore.bed.fields_of`.

    Returns
    -------
    pandas.DataFrame
        ``contig`` as the file calls it, ``start`` and ``end`` (int64, 0-based, half-open), ``name`` (empty where there
        is none), ``score`` (float64, NaN where there is none or it is no number), ``strand`` (``.`` where none).

    Raises
    ------
    SourceError
        If a line is no interval, which is named, or there is none at all.
    """
    path = Path(path)
    expect_text(path, "a BED file")
    rows = []
    for number, line in lines(path):
        fields = fields_of(line.decode("utf-8", "replace"))
        if fields is None:
            continue
        if len(fields) < 3:
            raise SourceError(
                f"{path}: line {number} has {len(fields)} fields, where BED has 3 or more: {shorten(line)}"
            )
        try:
            start, end = int(fields[1]), int(fields[2])
        except ValueError:
            raise SourceError(f"{path}: line {number} has no whole numbers as start and end: {shorten(line)}") from None
        if not 0 <= start < end:
            raise SourceError(
                f"{path}: line {number} is no interval: start {start} and end {end} are not 0 <= start < end: "
                f"{shorten(line)}"
            )
        name, score, strand = [*fields[3:6], "", "", ""][:3]
        rows.append((fields[0], start, end, name, score, strand if strand in ("+", "-") else "."))
    if not rows:
        raise SourceError(f"{path}: is a BED file without intervals")
    frame = pd.DataFrame(rows, columns=["contig", "start", "end", "name", "score", "strand"])
    frame["score"] = pd.to_numeric(frame["score"], errors="coerce").astype("float64")
    return frame
