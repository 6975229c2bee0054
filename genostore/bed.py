"""BED files: regions as text, one a line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd

from genostore.errors import NotFoundError, RegionError

COLUMNS = ("contig", "start", "end", "name", "score", "strand")
HEADERS = ("#", "track ", "track\t", "browser ", "browser\t")
SHOWN = 5
"""Bad lines that a message names."""


def fields_of(line: str) -> list[str] | None:
    """The columns of a line, parted by tabs, or where it has none by spaces; None for a header and an empty line."""
    if not line.strip() or line.startswith(HEADERS):
        return None
    return line.split("\t") if "\t" in line else line.split()


def read_bed(path: str | Path) -> pd.DataFrame:
    """Read the first six columns of a BED file, which may be gzipped.

    Parameters
    ----------
    path
        Lines are read as by :func:`fields_of`.

    Returns
    -------
    pandas.DataFrame
        contig, start, end and as many of name, score, strand as the fullest line has, missing in others. Its
        ``attrs`` hold ``source``, the path, and ``lines``, the number of each row's line, which messages name.

    Raises
    ------
    NotFoundError
        When there is no such file.
    RegionError
        When it has no regions, or lines that are none; the first of them are shown.
    """
    path = Path(path)
    rows: list[list[str]] = []
    lines: list[int] = []
    bad: list[str] = []
    wrong = 0
    try:
        with gzip.open(path, "rt") if path.suffix in (".gz", ".bgz") else path.open() as file:
            for number, line in enumerate(file, 1):
                text = line.rstrip("\r\n")
                fields = fields_of(text)
                if fields is None:
                    continue
                problem = _problem(fields)
                if problem:
                    wrong += 1
                    bad += [f"line {number}: {text[:80]!r}: {problem}"] if wrong <= SHOWN else []
                    continue
                rows.append(fields[: len(COLUMNS)])
                lines.append(number)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}, which should be a BED file of regions") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RegionError(f"{path} cannot be read as BED, which is text: {error}") from error
    if bad:
        more = f"\nand {wrong - SHOWN} more" if wrong > SHOWN else ""
        raise RegionError(
            f"{path}: {wrong} lines are not BED (contig, start, end, parted by tabs):\n" + "\n".join(bad) + more
        )
    if not rows:
        raise RegionError(f"{path} holds no regions: a BED file has a line of contig, start, end for each")
    width = max(map(len, rows))
    table = pd.DataFrame([row + [None] * (width - len(row)) for row in rows], columns=list(COLUMNS[:width]))
    table = table.astype({"start": "int64", "end": "int64"})
    table.attrs = {"source": str(path), "lines": lines}
    return table


def _problem(fields: list[str]) -> str | None:
    if len(fields) < 3:
        return f"{len(fields)} columns"
    wrong = [name for name, value in zip(COLUMNS[1:3], fields[1:3], strict=True) if not value.strip().isdecimal()]
    return f"the {wrong[0]} is not a whole number" if wrong else None


def where(table: pd.DataFrame, row: int) -> str:
    """Where a row was read, for the start of a message: of a BED file its line, else its number."""
    found = table.attrs
    return f"{found['source']}, line {found['lines'][row]}" if "lines" in found else f"region {row}"
