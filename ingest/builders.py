"""From an entry of the catalogue and its file to the nodes of the store; each source is opened and checked here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from genostore.errors import SourceError
from genostore.genome import Genome
from ingest.catalogue import Contacts, ExpressionSignal, ExpressionTable, Features, Regions, Track
from ingest.catalogue.entries import GeneTable, GeometricMean
from ingest.genes import GeneAxis, check_known
from ingest.nodes.base import SourceFile
from ingest.nodes.columns import ExpressionNode, FeatureNode, RegionsNode, text
from ingest.nodes.contacts import ContactsNode
from ingest.nodes.encoding import Encoding
from ingest.nodes.expression import SignalExpressionNode
from ingest.nodes.track import TrackNode
from ingest.sources.base import SignalSource
from ingest.sources.bed import read_bed
from ingest.sources.contigs import ContigMatch, match
from ingest.sources.hic import open_contacts
from ingest.sources.tables import GeneValues, read_gene_values
from ingest.sources.tracks import open_signal
from ingest.wording import counted, listed

RECORDED = 20  # names kept in attributes


@dataclass
class Builder:
    """Makes nodes on one genome.

    Attributes
    ----------
    genome
        The store's.
    aliases
        Names of contigs in any source -> names in the assembly.
    scratch
        Folder for what is derived from sources.
    known
        Sha256 of the files that the store is made from, which were checked through and through then.
    notes
        What a user should know of what was left out, a line each; grows as nodes are made.
    """

    genome: Genome
    aliases: Mapping[str, str] = field(default_factory=dict)
    scratch: Path | None = None
    known: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)

    def track(self, entry: Track, file: SourceFile) -> TrackNode:
        """Make a track.

        Raises
        ------
        SourceError
            If the file is damaged, of another format, or of another assembly.
        """
        path = f"tracks/{entry.cell_type}/{entry.node}"
        signal, contigs = self._signal(entry, file, path)
        labels = entry.model_dump(include={"cell_type", "assay", "strand", "replicate", "role", "unit"})
        encoding = Encoding(entry.dtype, entry.bitround)
        return TrackNode(path, self.genome, (file,), signal, contigs, encoding, labels, _stated(entry))

    def contacts(self, entry: Contacts, file: SourceFile) -> ContactsNode:
        """Make contacts; the file's index is checked against all of its pixels.

        Raises
        ------
        SourceError
            As for a track; and if the bin size or a weight is not there.
        """
        path = f"contacts/{entry.cell_type}/{entry.assay}/{entry.bin_size}"
        matrix = open_contacts(file.path, entry.bin_size)
        if not self.known or file.fingerprint.sha256 not in self.known:
            matrix.validate()
        contigs = self._match(matrix.extents, entry.aliases, file, path, entry.allow_length_mismatch)
        names = None if entry.weights == "all" else entry.weights
        weights = tuple(matrix.weights(names, entry.divisive))
        labels = entry.model_dump(include={"cell_type", "assay", "role", "unit"})
        return ContactsNode(
            path,
            self.genome,
            (file,),
            matrix,
            contigs,
            entry.max_distance,
            weights,
            dict(entry.divisive),
            labels,
            _stated(entry),
        )

    def features(self, entry: Features, file: SourceFile, axis: GeneAxis) -> Iterator[FeatureNode]:
        """Make the features of one table.

        Raises
        ------
        SourceError
            If a cell is no number, a gene has two rows, no row is of a gene of the store, or rows of unknown genes
            are there and the entry says that they are an error.
        """
        folder = f"features/{entry.cell_type}" if entry.cell_type else "features"
        wanted: list[str] = []
        for column in entry.columns.values():
            wanted += column.geometric_mean if isinstance(column, GeometricMean) else [column]
        found = self._gene_values(entry, file, dict.fromkeys(wanted), axis, folder)
        for name, column in entry.columns.items():
            if isinstance(column, GeometricMean):
                try:
                    values = column.of(*(found.values[c] for c in column.geometric_mean))
                except ValueError as error:
                    raise SourceError(f"{file.path}: feature {name!r}: {error}") from None
                stated: dict[str, Any] = {"geometric_mean": list(column.geometric_mean)}
            else:
                values, stated = found.values[column].to_numpy(), {"column": column}
            labels = {"cell_type": entry.cell_type, **_told(found)}
            yield FeatureNode(
                f"{folder}/{name}",
                self.genome,
                (file,),
                {"": _float32(values, file, name)},
                {**stated, "gene_id": entry.gene_id, "match": entry.match, "genes": axis.digest},
                labels,
                stated,
            )

    def expression_table(self, entry: ExpressionTable, file: SourceFile, axis: GeneAxis) -> Iterator[ExpressionNode]:
        """Make the expression of one table, one node a cell type.

        Raises
        ------
        SourceError
            As for features; and if a value is outside the domain of the transform.
        """
        folder = f"expression/{entry.assay}"
        found = self._gene_values(entry, file, dict.fromkeys(entry.columns.values()), axis, folder)
        for cell_type, column in entry.columns.items():
            values = _float32(found.values[column].to_numpy(), file, column)
            if entry.transform != "none" and (low := np.nanmin(values, initial=0.0)) <= -1:
                raise SourceError(
                    f"{file.path}: column {column!r} holds {low}, of which {entry.transform} is not defined; is it "
                    "transformed already? Then say transform: none"
                )
            labels = {
                "assay": entry.assay,
                "cell_type": cell_type,
                "transform": _transform(entry),
                "unit": entry.unit,
                "measured": int(np.count_nonzero(~np.isnan(values))),
                **_told(found),
            }
            yield ExpressionNode(
                f"{folder}/{cell_type}",
                self.genome,
                (file,),
                {"": values},
                {"column": column, "gene_id": entry.gene_id, "match": entry.match, "genes": axis.digest},
                labels,
                {"column": column},
            )

    def expression_signal(self, entry: ExpressionSignal, file: SourceFile, axis: GeneAxis) -> SignalExpressionNode:
        """Make expression that is computed from a signal.

        Raises
        ------
        SourceError
            As for a track.
        """
        path = f"expression/{entry.assay}/{entry.cell_type}"
        signal, contigs = self._signal(entry, file, path)
        return SignalExpressionNode(
            path,
            self.genome,
            (file,),
            signal,
            contigs,
            axis.frame["contig"].to_numpy(dtype=object),
            axis.frame["tss"].to_numpy(),
            axis.digest,
            entry.aggregate,
            entry.flank,
            entry.uncovered,
            entry.model_dump(include={"assay", "cell_type", "unit"}) | {"transform": _transform(entry)},
            _stated(entry),
        )

    def regions(self, entry: Regions, file: SourceFile) -> RegionsNode:
        """Make a set of intervals, in the order of the file.

        Raises
        ------
        SourceError
            If the file is no BED, or an interval passes the end of its contig.
        """
        path = f"regions/{entry.name}"
        frame = read_bed(file.path)
        contigs = self._match(dict.fromkeys(frame["contig"]), entry.aliases, file, path)
        frame["contig"] = frame["contig"].map(contigs.mapping)
        kept = frame[frame["contig"].notna()]
        lengths = kept["contig"].map({c.name: c.length for c in self.genome})
        past = kept[kept["end"] > lengths]
        if len(past):
            row = past.iloc[0]
            raise SourceError(
                f"{file.path}: {row['contig']}:{row['start']}-{row['end']} passes the end of its contig"
                f"{f', and so do {len(past) - 1} more intervals' if len(past) > 1 else ''}; is it of another assembly?"
            )
        columns = {
            "contig": text(kept["contig"]),
            "start": kept["start"].to_numpy(),
            "end": kept["end"].to_numpy(),
            "name": text(kept["name"]),
        }
        labels = {"n": len(kept), "columns": list(columns), "left_out": len(frame) - len(kept)}
        return RegionsNode(path, self.genome, (file,), columns, {"contigs": contigs.reverse}, labels, {})

    def _signal(self, entry: Track | ExpressionSignal, file: SourceFile, path: str) -> tuple[SignalSource, ContigMatch]:
        signal = open_signal(file.path, self.scratch)
        signal.validate()
        extents_only = signal.contigs is None
        return signal, self._match(signal.extents, entry.aliases, file, path, entry.allow_length_mismatch, extents_only)

    def _match(
        self,
        contigs: Mapping[str, int | None],
        aliases: Mapping[str, str],
        file: SourceFile,
        path: str,
        allow_length_mismatch: bool = False,
        lengths_are_extents: bool = False,
    ) -> ContigMatch:
        found = match(
            contigs,
            self.genome,
            aliases={**self.aliases, **aliases},
            allow_length_mismatch=allow_length_mismatch,
            lengths_are_extents=lengths_are_extents,
            where=file.path,
        )
        if found.extra:
            self.notes.append(
                f"{path}: left out {counted(len(found.extra), 'contig')} of {file.name} that the assembly lacks: "
                f"{listed(found.extra)}"
            )
        return found

    def _gene_values(
        self, entry: GeneTable, file: SourceFile, columns: Mapping[str, Any], axis: GeneAxis, path: str
    ) -> GeneValues:
        genes = axis.frame
        if entry.match == "name":  # no id is called so
            genes = genes.assign(id="\0" + genes["id"])
        found = read_gene_values(file.path, entry.gene_id, list(columns), genes)
        check_known(found, entry, file, len(genes))
        if found.unknown or found.ambiguous:
            self.notes.append(
                f"{path}: left out {counted(len(found.unknown), 'gene')} of {file.name} that the store lacks"
                + (f": {listed(found.unknown)}" if found.unknown else "")
                + (f"; {counted(len(found.ambiguous), 'name')} of several genes: {listed(found.ambiguous)}"
                   if found.ambiguous else "")
            )  # fmt: skip
        return found


def _stated(entry: Track | Contacts | ExpressionSignal) -> dict[str, Any]:
    """What an entry says of contigs."""
    return entry.model_dump(include={"aliases", "allow_length_mismatch"}, exclude_defaults=True)


def _transform(entry: ExpressionTable | ExpressionSignal) -> str | None:
    return None if entry.transform == "none" else entry.transform


def _told(found: GeneValues) -> dict[str, Any]:
    """What the attributes say of rows that found no gene."""
    unknown = {"count": len(found.unknown), "first": found.unknown[:RECORDED]}
    return {"unknown_genes": unknown, "ambiguous_names": len(found.ambiguous), "missing_genes": found.missing}


def _float32(values: NDArray[np.float64] | pd.Series, file: SourceFile, column: str) -> NDArray[np.float32]:
    exact = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        out = exact.astype(np.float32)
    lost = np.isinf(out) & np.isfinite(exact)
    if lost.any():
        raise SourceError(f"{file.path}: column {column!r} holds {exact[np.argmax(lost)]}, which overflows float32")
    return out
