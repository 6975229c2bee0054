"""Genes and their TSSs, from GTF, GFF3 or a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from genostore.errors import SourceError
from genostore.genome import Genome
from ingest.sources.annotation import Gene, Tss, read_annotation, split_version
from ingest.sources.contigs import ContigMatch
from ingest.sources.tables import Column, Table, read_table

TssConvention = Literal["base", "bed_end"]

COLUMNS = ("id", "name", "contig", "start", "end", "tss", "strand", "biotype", "version")
_STRANDS = {"+": "+", "-": "-", "1": "+", "-1": "-"}


def read_genes(
    path: str | PathLike[str],
    *,
    columns: Mapping[str, Column] | None = None,
    biotypes: Collection[str] | None = None,
    tss: Tss = "gene",
    tss_convention: TssConvention = "base",
    separator: str | None = None,
) -> pd.DataFrame:
    """Read genes, one row each, in the order of the file.

    Parameters
    ----------
    path
        GTF or GFF3 (of GENCODE, Ensembl or NCBI), told apart by content; or, with ``columns``, a table. Plain or gzip.
    columns
        For a table: the columns ``id``, ``contig``, ``strand`` and either ``tss`` or both ``start`` and ``end``, and
        optionally ``name`` and ``biotype``, each to its name in the file, or all to positions from 0 where the file
        has no header. Coordinates are 0-based and half-open, as in BED.
    biotypes
        Which to keep; None keeps all.
    tss
        ``gene``: the first base of the gene's own extent. ``canonical``: that of its best transcript, the first of
        these that there is: tagged ``Ensembl_canonical``; tagged ``MANE_Select``; APPRIS principal, then alternative,
        the lower level first; tagged ``basic``; any. Of equals the one that spans most of the genome, then the first
        in the file. A gene without transcripts keeps its own. For GTF and GFF3 only.
    tss_convention
        Of a table's ``tss``: ``base`` is the first transcribed base, 0-based; ``bed_end`` is the same on the plus
        strand, while on the minus strand it is the end of a BED interval, one past that base.
    separator
        Of a table; None tells it from the file.

    Returns
    -------
    pandas.DataFrame
        ``id`` (Ensembl's without version), ``name`` (the id where there is none), ``contig`` as the file calls it,
        ``start``, ``end`` and ``tss`` (int64, 0-based, half-open, TSS = first transcribed base), ``strand`` (+ or -),
        ``biotype`` (empty where there is none), ``version`` (of the id, empty where there is none).

    Raises
    ------
    SourceError
        If the file is of another format or malformed (the line is named), an id is given twice, a gene has no strand,
        or no gene is left.
    """
    path = Path(path)
    if columns is not None:
        if tss != "gene":
            raise SourceError(f"{path}: tss: {tss} needs transcripts, which a table has not; give a GTF or GFF3")
        return _from_table(read_table(path, columns, separator), biotypes, tss_convention)
    return _frame(read_annotation(path, biotypes, tss))


def place_genes(genes: pd.DataFrame, contigs: ContigMatch, genome: Genome) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bring genes onto the contigs of the assembly.

    Parameters
    ----------
    genes
        As :func:`read_genes` gives them.
    contigs
        The match of their contigs with the assembly.
    genome
        The assembly.

    Returns
    -------
    kept : pandas.DataFrame
        The genes whose contig the assembly has and whose TSS lies on it, ``contig`` being the assembly's name.
    dropped : pandas.DataFrame
        The others as they were, with a column ``reason``.
    """
    named = genes["contig"].map(contigs.mapping)
    known = named.notna()
    lengths = named.map({contig.name: contig.length for contig in genome})
    on_contig = known & (genes["tss"] < lengths.fillna(0)) & (genes["tss"] >= 0)
    reason = np.where(known, "TSS past the contig's end", "contig not in the assembly")
    dropped = genes[~on_contig].assign(reason=reason[~on_contig.to_numpy()])
    kept = genes[on_contig].assign(contig=named[on_contig])
    return kept.reset_index(drop=True), dropped.reset_index(drop=True)


def _frame(genes: list[Gene]) -> pd.DataFrame:
    return pd.DataFrame({name: [getattr(gene, name) for gene in genes] for name in COLUMNS})


def _from_table(table: Table, biotypes: Collection[str] | None, convention: TssConvention) -> pd.DataFrame:
    given = table.frame
    path = table.path
    needed = {"id", "contig", "strand"} - set(given)
    unknown = set(given) - set(COLUMNS) - {"version"}
    if needed or not ("tss" in given or {"start", "end"} <= set(given)):
        raise SourceError(
            f"{path}: a table of genes needs the columns id, contig, strand and either tss or start and end; the "
            f"mapping gives {sorted(given)}"
        )
    if unknown:
        raise SourceError(f"{path}: {sorted(unknown)} is no column of genes; those are {', '.join(COLUMNS)}")
    split = [split_version(text) for text in given["id"]]
    strand = given["strand"].map(_STRANDS)
    _refuse(table, strand.isna(), given["strand"], "strand", "is neither + nor -")
    minus = (strand == "-").to_numpy()
    whole = {name: _whole(table, name) for name in ("start", "end", "tss") if name in given}
    tss = whole.get("tss")
    if tss is None:
        tss = np.where(minus, whole["end"] - 1, whole["start"])
    elif convention == "bed_end":
        tss = tss - minus
    frame = pd.DataFrame(
        {
            "id": [identifier for identifier, _ in split],
            "name": given.get("name", ""),
            "contig": given["contig"],
            "start": whole.get("start", tss),
            "end": whole.get("end", tss + 1),
            "tss": tss,
            "strand": strand,
            "biotype": given.get("biotype", ""),
            "version": [version for _, version in split],
        }
    )
    frame["name"] = frame["name"].where(frame["name"] != "", frame["id"])
    _refuse(table, frame["id"] == "", given["id"], "id", "is empty")
    _refuse(table, frame["start"] >= frame["end"], frame["end"], "end", "is not past the start")
    doubled = np.flatnonzero(frame["id"].duplicated())
    if doubled.size:
        identifier = frame["id"].iloc[doubled[0]]
        same = ", ".join(str(table.line(int(row))) for row in np.flatnonzero(frame["id"] == identifier))
        raise SourceError(
            f"{path}: gene {identifier!r} is given more than once, in lines {same}"
            + (f", and so are {frame['id'].iloc[doubled].nunique() - 1} more genes" if doubled.size > 1 else "")
            + "; its identifier must be unique"
        )
    if biotypes is not None:
        kept = frame[frame["biotype"].isin(list(biotypes))]
        if kept.empty:
            raise SourceError(
                f"{path}: has no gene of the biotypes {sorted(biotypes)}; it has {sorted(set(frame['biotype']))[:6]}"
            )
        frame = kept
    return frame.reset_index(drop=True)


def _whole(table: Table, column: str) -> np.ndarray:
    """Give a column of positions as int64."""
    values = table.numbers(column)
    wrong = values.isna() | (values % 1 != 0) | (values < 0)
    _refuse(table, wrong, table.frame[column], column, "is no position")
    return values.to_numpy().astype(np.int64)


def _refuse(table: Table, wrong: pd.Series, shown: pd.Series, column: str, why: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong.to_numpy()))
        raise SourceError(f"{table.path}: line {table.line(row)}, column {column!r}: {shown.iloc[row]!r} {why}")
