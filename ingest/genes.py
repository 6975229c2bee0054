"""The gene axis: genes on the contigs of the assembly, and the splits of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from genostore.errors import SourceError
from genostore.genome import Genome
from ingest.catalogue import ColumnSplit, ContigSplit, Genes, GeneTable
from ingest.nodes.base import SourceFile
from ingest.nodes.columns import GenesNode, text
from ingest.sources.contigs import ContigMatch, match
from ingest.sources.genes import place_genes, read_genes
from ingest.sources.tables import GeneValues, read_gene_values
from ingest.wording import counted, listed

COLUMNS = ("id", "name", "contig", "start", "end", "tss", "strand", "biotype")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class GeneAxis:
    """The genes of a store, in its order.

    Attributes
    ----------
    frame
        One row a gene, with the columns ``COLUMNS``.
    dropped
        The genes of the source that the assembly has no place for, with the reason.
    contigs
        How the contigs of the source and of the assembly met.
    """

    frame: pd.DataFrame
    dropped: pd.DataFrame
    contigs: ContigMatch

    @cached_property
    def digest(self) -> str:
        """Sha256 of the genes: what every array along the axis depends on."""
        lines = self.frame[list(COLUMNS)].astype(str).agg("\t".join, axis=1)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def gene_axis(
    entry: Genes, file: SourceFile, names: SourceFile | None, genome: Genome, aliases: Mapping[str, str]
) -> GeneAxis:
    """Read the genes and bring them onto the assembly.

    Genes on contigs that the assembly lacks, and those whose TSS lies past their contig's end, are left out and
    counted: annotations know scaffolds that an assembly for training leaves out.

    Parameters
    ----------
    entry, file
        Of the catalogue.
    names
        The table of ``entry.names``.
    genome, aliases
        Of the store.

    Raises
    ------
    SourceError
        If the file is malformed, no contig is in common with the assembly, or no gene is left.
    """
    genes = read_genes(
        file.path,
        columns={str(k): v for k, v in entry.columns.items()} if entry.columns is not None else None,
        biotypes=entry.biotypes,
        tss=entry.tss,
        tss_convention=entry.tss_convention,
    )
    contigs = match(dict.fromkeys(genes["contig"]), genome, aliases={**aliases, **entry.aliases}, where=file.path)
    kept, dropped = place_genes(genes, contigs, genome)
    if kept.empty:
        first = dropped.iloc[0]
        raise SourceError(
            f"{file.path}: none of its {len(dropped):,} genes lies on assembly {genome.name}; the first, "
            f"{first['id']}, has its TSS at {first['contig']}:{first['tss']:,} ({first['reason']})"
        )
    if entry.names is not None and names is not None:
        found = read_gene_values(names.path, entry.names.gene_id, {"name": entry.names.column}, kept, numeric=False)
        kept["name"] = found.values["name"].fillna(kept["name"])
    return GeneAxis(kept[list(COLUMNS)], dropped, contigs)


def contig_split(entry: ContigSplit, axis: GeneAxis, genome: Genome, aliases: Mapping[str, str]) -> pd.DataFrame:
    """Split the genes by lists of contigs; those in no list train.

    Raises
    ------
    NotFoundError
        If a contig is not of the assembly.
    """
    column = np.full(len(axis.frame), "train", dtype=object)
    for label in ("test", "valid"):
        for name in getattr(entry, label) or ():
            contig = genome.resolve(aliases.get(name, name))
            column[(axis.frame["contig"] == contig.name).to_numpy()] = label
    return pd.DataFrame({"split": column})


def column_split(entry: ColumnSplit, file: SourceFile, axis: GeneAxis) -> pd.DataFrame:
    """Split the genes by columns of a table; a gene without a row, or with an empty cell, is in no split.

    Raises
    ------
    SourceError
        If a cell is none of train, valid and test.
    """
    genes = axis.frame
    found = read_gene_values(file.path, entry.gene_id, dict(entry.columns), genes, numeric=False)
    check_known(found, entry, file, len(genes))
    for fold, column in entry.columns.items():
        strange = sorted(set(found.values[fold].dropna()) - set(SPLITS))
        if strange:
            raise SourceError(
                f"{file.path}: column {column!r} holds {', '.join(map(repr, strange[:5]))}, where a split is one of "
                f"{', '.join(SPLITS)}"
            )
    return found.values.fillna("")


def genes_node(
    genome: Genome, sources: Sequence[SourceFile], axis: GeneAxis, splits: pd.DataFrame, stated: dict[str, Any]
) -> GenesNode:
    """Make the ``genes`` node.

    Parameters
    ----------
    genome
        Of the store.
    sources
        Of the genes first, then of names and splits.
    axis, splits
        The genes, and a column a split, row by row.
    stated
        What the entries say, for the provenance.
    """
    columns = {c: text(axis.frame[c]) for c in COLUMNS}
    columns |= {c: axis.frame[c].to_numpy(dtype=np.int64) for c in ("start", "end", "tss")}
    columns |= {str(c): text(splits[c]) for c in splits}
    reasons = axis.dropped["reason"].value_counts().to_dict() if len(axis.dropped) else {}
    labels = {
        "n": len(axis.frame),
        "columns": list(columns),
        "splits": [str(c) for c in splits],
        "dropped": {str(k): int(v) for k, v in sorted(reasons.items())},
        "extra_contigs": axis.contigs.extra,
    }
    content = hashlib.sha256("\n".join(splits.astype(str).agg("\t".join, axis=1)).encode()).hexdigest()
    settings = {"genes": axis.digest, "splits": content}
    return GenesNode("genes", genome, tuple(sources), columns, settings, labels, stated)


def check_known(found: GeneValues, entry: GeneTable, file: SourceFile, n_genes: int) -> None:
    """Refuse a table of which nothing is of the store's genes, or not all where the entry asks for all."""
    if found.missing == n_genes:
        raise SourceError(
            f"{file.path}: no value of column {entry.gene_id!r} is a gene of the store; it has "
            f"{listed(found.unknown + found.ambiguous)}. Name the column of ids as gene_id, or say match: name"
        )
    if entry.unknown_genes == "error" and (found.unknown or found.ambiguous):
        unknown = found.unknown + found.ambiguous
        raise SourceError(
            f"{file.path}: {counted(len(unknown), 'value')} of column {entry.gene_id!r} are no gene of the store, or "
            f"of several: {listed(unknown, 20)}; remove these rows, or say unknown_genes: drop"
        )
