"""Tables of values by gene: features, expression, splits; CSV or TSV, gzip too."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from genostore.errors import SourceError, nearest
from ingest.sources.annotation import split_version
from ingest.sources.reading import expect_text, opened, shorten

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "."})
_LISTED = 6

Column = str | int


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes
    ----------
    path
        Where it was read.
    frame
        The chosen columns as str, under the names they were asked for by; the index is the line number.
    """

    path: Path
    frame: pd.DataFrame

    def line(self, row: int) -> int:
        """Line of the file that a row ends in."""
        return int(self.frame.index[row])

    def numbers(self, column: str) -> pd.Series:
        """Give a column as float64, missing cells as NaN.

        Raises
        ------
        SourceError
            If a cell is neither a number nor one of :data:`MISSING`; row and column are named.
        """
        text = self.frame[column]
        missing = text.isin(MISSING)
        values = pd.to_numeric(text.mask(missing), errors="coerce").astype(np.float64)
        wrong = np.flatnonzero(values.isna() & ~missing)
        if wrong.size:
            more = f" ({wrong.size:,} cells of the column are not)" if wrong.size > 1 else ""
            raise SourceError(
                f"{self.path}: line {self.line(int(wrong[0]))}, column {column!r}: {text.iloc[wrong[0]]!r} is no "
                f"number{more}; a missing value is an empty cell or NA"
            )
        return values


@dataclass(frozen=True)
class GeneValues:
    """Columns of a table, brought into the order of the genes.

    Attributes
    ----------
    values
        One row a gene, in the order of the genes that were given; NaN, or None for text, where the table has none.
    unknown
        Identifiers in the table that are no gene's, in its order.
    ambiguous
        Symbols in the table that several genes share, so that their rows are not used.
    missing
        How many genes the table does not name.
    """

    values: pd.DataFrame
    unknown: list[str]
    ambiguous: list[str]
    missing: int


def read_table(path: str | PathLike[str], columns: Mapping[str, Column], separator: str | None = None) -> Table:
    """Read some columns of a table as text.

    Parameters
    ----------
    path
        CSV or TSV, plain or gzip (told by content). A first line that begins with ``#`` is a header still; lines
        before it that begin with ``##`` are skipped.
    columns
        The wanted name of each column to its name in the file; or all to positions from 0, for a file without header.
    separator
        Between columns. None takes the comma for .csv; else tab, comma, semicolon or spaces, the first of these that
        the first line holds.

    Raises
    ------
    SourceError
        If the file is no text, has no row, lacks a column (the nearest names are listed) or has rows of unequal
        length (the line is named).
    """
    path = Path(path)
    expect_text(path, "a table")
    header = not (columns and all(isinstance(column, int) for column in columns.values()))
    rows = _rows(path, separator)
    number, first = next(rows, (1, []))
    if not first:
        raise SourceError(f"{path}: is a table without rows")
    names: list[Column] = [name.strip() for name in first] if header else list(range(len(first)))
    if header:
        names[0] = str(names[0]).removeprefix("#").strip()
    at = [_position(path, column, names) for column in columns.values()]
    chosen = [] if header else [(number, *(first[i] for i in at))]
    for number, row in rows:
        if len(row) != len(names):
            hint = (
                "; if the first column has no name, as in tables written by R, name it in the header"
                if header and len(row) == len(names) + 1
                else ""
            )
            raise SourceError(
                f"{path}: line {number} has {len(row)} columns, where the {'header' if header else 'first line'} has "
                f"{len(names)}{hint}: {shorten((separator or ' ').join(row))}"
            )
        chosen.append((number, *(row[i] for i in at)))
    if not chosen:
        raise SourceError(f"{path}: is a table without rows")
    frame = pd.DataFrame(chosen, columns=["line", *columns], dtype=object).set_index("line")
    return Table(path, frame.map(str.strip))


def _rows(path: Path, separator: str | None) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) of the lines that are not blank."""
    with opened(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        skipped = 0
        try:
            while (line := text.readline()).startswith("##"):
                skipped += 1
            mark = separator or _separator(path, line)
            if mark is None:
                numbered = ((n, row.split()) for n, row in enumerate(chain([line], text), skipped + 1))
                yield from ((n, row) for n, row in numbered if row)
                return
            reader = csv.reader(chain([line], text), delimiter=mark)
            yield from ((skipped + reader.line_num, row) for row in reader if any(row))
        except UnicodeDecodeError:
            raise SourceError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
        except csv.Error as error:
            raise SourceError(f"{path}: cannot be read as a table near line {reader.line_num} ({error})") from None


def _position(path: Path, column: Column, names: list[Column]) -> int:
    if names.count(column) > 1:
        raise SourceError(f"{path}: has two columns {column!r}")
    if column not in names:
        if isinstance(column, int):
            raise SourceError(f"{path}: has no column {column}; it has {len(names)}, counted from 0")
        raise SourceError(f"{path}: has no column {column!r}; {nearest(column, map(str, names))}")
    return names.index(column)


def read_gene_values(
    path: str | PathLike[str],
    gene_id: Column,
    columns: Mapping[str, Column] | Sequence[str],
    genes: pd.DataFrame,
    *,
    numeric: bool = True,
    separator: str | None = None,
) -> GeneValues:
    """Read values by gene: features, expression or, with ``numeric=False``, the labels of a split.

    Parameters
    ----------
    path
        The table; see :func:`read_table`.
    gene_id
        The column that names the gene: an identifier with or without version, or a symbol, row by row.
    columns
        The columns of values; a mapping gives the wanted name of each first.
    genes
        With the columns ``id`` and ``name``.
    numeric
        Whether the values are numbers; else they are kept as text, the missing as None.

    Returns
    -------
    GeneValues
        The values, float64 or object, and which rows and genes found no partner.

    Raises
    ------
    SourceError
        See :func:`read_table`; and if a cell is no number (row and column are named), or two rows are of one gene.
    """
    wanted: dict[str, Column] = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
    key = "\0gene"  # no column of a file is called so
    table = read_table(path, {key: gene_id, **wanted}, separator)
    names = table.frame[key]
    rows, unknown, ambiguous = _resolve(names, genes)
    _refuse_duplicates(table, rows, names, genes)
    found = np.flatnonzero(rows >= 0)
    values = pd.DataFrame(index=pd.RangeIndex(len(genes)))
    for name in wanted:
        if numeric:
            column = np.full(len(genes), np.nan)
            column[rows[found]] = table.numbers(name).to_numpy()[found]
            values[name] = column
        else:
            labels = np.full(len(genes), None, dtype=object)
            labels[rows[found]] = [None if t in MISSING else t for t in table.frame[name].iloc[found]]
            values[name] = pd.Series(labels, dtype=object)
    return GeneValues(values, unknown, ambiguous, len(genes) - len(found))


def _resolve(names: pd.Series, genes: pd.DataFrame) -> tuple[np.ndarray, list[str], list[str]]:
    """Give the gene's row for each name, -1 for none; and the names that are no gene's or several genes'."""
    by_id = {identifier: i for i, identifier in enumerate(genes["id"])}
    by_name: dict[str, int] = {}
    for i, name in enumerate(genes["name"]):
        by_name[name] = -2 if name in by_name else i
    rows = np.full(len(names), -1, dtype=np.int64)
    unknown, ambiguous = [], []
    for row, name in enumerate(names):
        at = by_id.get(name)
        if at is None:
            at = by_id.get(split_version(name)[0])
        if at is None:
            at = by_name.get(name, -1)
        if at == -1:
            unknown.append(name)
        elif at == -2:
            ambiguous.append(name)
        else:
            rows[row] = at
    return rows, list(dict.fromkeys(unknown)), list(dict.fromkeys(ambiguous))


def _refuse_duplicates(table: Table, rows: np.ndarray, names: pd.Series, genes: pd.DataFrame) -> None:
    known = pd.Series(rows[rows >= 0], index=np.flatnonzero(rows >= 0))
    doubled = known[known.duplicated(keep=False)]
    if doubled.empty:
        return
    shown = []
    for gene, group in list(doubled.groupby(doubled))[:_LISTED]:
        lines = [str(table.line(int(row))) for row in group.index]
        further = f" and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
        spelled = " or ".join(dict.fromkeys(names.iloc[row] for row in group.index))
        shown.append(f"{genes['id'].iloc[gene]} ({spelled}) in lines {', '.join(lines[:_LISTED])}{further}")
    count = doubled.nunique()
    more = f"; and {count - _LISTED} more" if count > _LISTED else ""
    raise SourceError(
        f"{table.path}: {count} gene{'s have' if count > 1 else ' has'} more than one row: {'; '.join(shown)}{more}; "
        "keep one row a gene"
    )


def _separator(path: Path, line: str) -> str | None:
    """Tell the separator; None is any run of spaces."""
    if path.name.lower().removesuffix(".gz").endswith(".csv") and "," in line:
        return ","
    return next((mark for mark in "\t,;" if mark in line), None)
