"""The entries of a catalogue, version 1: one frozen model each, whose fields are the keys of the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from genostore.schema import track_name
from ingest.catalogue.problems import described
from ingest.fetch import portal_accession

Text = Annotated[str, Field(min_length=1)]
Role = Literal["foreground", "background"]
Transform = Literal["none", "log10p1", "log2p1", "log1p"]

_NAME = re.compile(r"[A-Za-z0-9._+-]+")


def _name(value: str) -> str:
    """Check a name that becomes a node of the store."""
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name; use letters, digits and . _ + - only")
    if not value.strip(".") or value.startswith("__") or value == "zarr.json":
        raise ValueError(f"{value!r} cannot be a name, because Zarr keeps it for itself; choose another")
    if value.startswith("."):
        raise ValueError(f"{value!r} begins with a dot, and so would be hidden; choose another name")
    return value


def _digest(digits: int) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", value):
            raise ValueError(f"expected {digits} hexadecimal digits, got {described(value)} ({len(value)} long)")
        return value.lower()

    return AfterValidator(check)


def _list(value: object) -> object:
    """Refuse text where a list is due, which would otherwise be read letter by letter."""
    if isinstance(value, str):
        raise ValueError(f"expected a list, got {described(value)}; write [{value}]")
    return value


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"{', '.join(map(repr, twice))} is listed twice; keep one")
    return values


def _mapping(value: object) -> object:
    """Read a list of columns as columns that keep their names."""
    if isinstance(value, str):
        raise ValueError(f"expected a list of columns, or a mapping of name: column, got {described(value)}")
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        _distinct(tuple(value))
        for column in value:
            if not _NAME.fullmatch(column):
                raise ValueError(f"{column!r} is no name; give it one: columns: {{name: {column!r}}}")
        return {column: column for column in value}
    return value


Name = Annotated[str, AfterValidator(_name)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_list), Field(min_length=1), AfterValidator(_distinct)]
Columns = Annotated[dict[Name, Text], BeforeValidator(_mapping), Field(min_length=1)]
Aliases = dict[Text, Text]


class Entry(BaseModel):
    """Anything with keys in a catalogue; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Provenance(Entry):
    """What every entry with a file may carry."""

    source_key: ClassVar[str] = "source"

    sha256: Annotated[str, _digest(64)] | None = None
    md5: Annotated[str, _digest(32)] | None = None
    accession: Text | None = None
    description: Text | None = None


class Source(_Provenance):
    """An entry that reads one file.

    Attributes
    ----------
    source
        A local path (absolute once `ingest.catalogue.load` has read it), a URL or a portal's accession.
    sha256, md5
        The file's checksum in hexadecimal.
    accession
        The file's name in its archive; taken from the source where that is an accession.
    description
        Free text.
    """

    source: Text

    @model_validator(mode="before")
    @classmethod
    def _accession_of_source(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("accession") and isinstance(data.get("source"), str):
            accession = portal_accession(data["source"])
            if accession is not None:
                return {**data, "accession": accession}
        return data


class Assembly(_Provenance):
    """The genome that everything is laid on.

    Attributes
    ----------
    name
        Such as ``hg38``.
    fasta
        The sequence: plain, gzip or bgzip.
    contigs
        Which contigs to keep, in this order; None keeps all, in the FASTA's.
    alignment
        Contigs start at multiples of this many bases on the genome axis; None is the store's default.
    aliases
        Names of contigs elsewhere -> names in the FASTA, for every source.
    """

    source_key: ClassVar[str] = "fasta"

    name: Name
    fasta: Text
    contigs: Names | None = None
    alignment: Annotated[int, Field(ge=1)] | None = None
    aliases: Aliases = {}

    @property
    def source(self) -> str:
        """The FASTA, under the name that every other entry gives its file."""
        return self.fasta


class GeneNames(Source):
    """Gene names from a second table, for a gene table that has none.

    Attributes
    ----------
    gene_id
        The column with the genes' ids.
    column
        The column with their names.
    """

    gene_id: Text
    column: Text


GeneColumn = Literal["id", "name", "contig", "start", "end", "tss", "strand", "biotype"]


class Genes(Source):
    """The genes, each with one TSS.

    Attributes
    ----------
    biotypes
        Which to keep; None keeps all.
    tss
        For a GTF or GFF3: the 5' end of the gene, or of its canonical transcript.
    columns
        For a table: our column -> the table's.
    tss_convention
        For a table: the TSS column holds the first transcribed base, 0-based, or the end of a BED interval,
        which on the minus strand is one past it.
    names
        A second table with the genes' names.
    aliases
        Names of contigs in this file -> names in the assembly.
    """

    biotypes: Names | None = None
    tss: Literal["gene", "canonical"] = "gene"
    columns: Annotated[dict[GeneColumn, Text], Field(min_length=1)] | None = None
    tss_convention: Literal["base", "bed_end"] = "base"
    names: GeneNames | None = None
    aliases: Aliases = {}

    @model_validator(mode="after")
    def _table_or_annotation(self) -> Genes:
        if self.columns is None:
            if self.tss_convention != "base":
                raise ValueError("tss_convention is of a table's tss column; give columns, or leave it out")
            return self
        lacking = [f"{column!r}" for column in ("id", "contig", "strand") if column not in self.columns]
        if "tss" not in self.columns and not {"start", "end"} <= self.columns.keys():
            lacking.append("'tss' (or 'start' and 'end')")
        if lacking:
            raise ValueError(f"columns lacks {', '.join(lacking)}; a table of genes needs them")
        if self.tss == "canonical":
            raise ValueError("tss: canonical needs the transcripts of a GTF or GFF3, and columns is of a table")
        if self.tss_convention == "bed_end" and "tss" not in self.columns:
            raise ValueError("tss_convention: bed_end is of a tss column, and columns has none")
        return self


class GeneTable(Source):
    """A table (CSV or TSV) with a row a gene.

    Attributes
    ----------
    gene_id
        The column that says which gene a row is.
    match
        ``id``: that column holds ids, with or without a version, or names where no id fits; ``name``: names only.
    unknown_genes
        What to do with rows of genes that the store does not have; they are counted either way.
    """

    gene_id: Text
    match: Literal["id", "name"] = "id"
    unknown_genes: Literal["drop", "error"] = "drop"


class GeometricMean(Entry):
    """A column computed as the geometric mean of others; of two, the square root of their product.

    Attributes
    ----------
    geometric_mean
        The table's columns, two or more.
    """

    geometric_mean: Annotated[tuple[Text, ...], BeforeValidator(_list), Field(min_length=2)]

    def of(self, *columns: ArrayLike) -> NDArray[np.float64]:
        """Compute it.

        Parameters
        ----------
        *columns
            The named columns in order, each ``(rows,)``, without negative values.

        Returns
        -------
        numpy.ndarray
            ``(rows,)`` float64; NaN where any column is NaN.

        Raises
        ------
        ValueError
            If a value is negative.
        """
        values = np.asarray(columns, dtype=np.float64)
        if (values < 0).any():
            row = int(np.argwhere((values < 0).any(axis=0))[0, 0])
            raise ValueError(f"row {row} of {', '.join(self.geometric_mean)} is negative; no geometric mean")
        return np.asarray(np.prod(values, axis=0) ** (1 / len(values)))


def _kind_of_column(value: object) -> str:
    return "geometric_mean" if isinstance(value, GeometricMean | Mapping) else "column"


FeatureColumn = Annotated[
    Annotated[Text, Tag("column")] | Annotated[GeometricMean, Tag("geometric_mean")], Discriminator(_kind_of_column)
]


class Features(GeneTable):
    """Numbers a gene, for every cell type or for one.

    Attributes
    ----------
    columns
        Feature -> column of the table, or `GeometricMean` of columns; a list keeps the columns' names.
    cell_type
        The cell type that the numbers belong to; None for all.
    """

    columns: Annotated[dict[Name, FeatureColumn], BeforeValidator(_mapping), Field(min_length=1)]
    cell_type: Name | None = None


class ContigSplit(Entry):
    """A split by contigs; those in neither list train.

    Attributes
    ----------
    test, valid
        Contigs.
    """

    test: Names
    valid: Names | None = None

    @model_validator(mode="after")
    def _disjoint(self) -> ContigSplit:
        both = sorted(set(self.test) & set(self.valid or ()))
        if both:
            raise ValueError(f"{', '.join(both)} is in both test and valid; keep it in one")
        return self


class ColumnSplit(GeneTable):
    """Splits by columns of a table, each value one of train, valid and test.

    Attributes
    ----------
    columns
        Fold -> column of the table; a list keeps the columns' names.
    """

    columns: Columns


class Track(Source):
    """One signal of one cell type along the genome.

    Attributes
    ----------
    cell_type, assay
        Whose signal, and of what.
    role
        Whether models should take it as foreground (marks active elements) or background (chromatin state).
    unit
        Of the values, such as ``fold change over control``.
    strand
        For stranded assays.
    replicate
        From 1.
    dtype
        float16 halves a resident genome and is lossy; values that overflow it are refused.
    bitround
        Keep this many bits of the mantissa; lossy. None keeps all.
    aliases
        Names of contigs in this file -> names in the assembly.
    allow_length_mismatch
        Accept contigs whose length differs from the assembly's.
    """

    cell_type: Name
    assay: Name
    role: Role | None = None
    unit: Text | None = None
    strand: Literal["+", "-"] | None = None
    replicate: Annotated[int, Field(ge=1)] | None = None
    dtype: Literal["float32", "float16"] = "float32"
    bitround: Annotated[int, Field(ge=1, le=23)] | None = None
    aliases: Aliases = {}
    allow_length_mismatch: bool = False

    @property
    def node(self) -> str:
        """The track's name in the store, below its cell type: ``DNase``, ``RNA+``, ``DNase.rep1``."""
        return track_name(self.assay, self.strand, self.replicate)


def _all_or_list(value: object) -> object:
    if value == "all" or isinstance(value, list | tuple):
        return value
    raise ValueError(f"expected a list of weight names, or all, got {described(value)}")


def _kind_of_weights(value: object) -> str:
    return "all" if value == "all" else "list"


Weights = Annotated[
    Annotated[Literal["all"], Tag("all")] | Annotated[Names, Tag("list")],
    Discriminator(_kind_of_weights),
    BeforeValidator(_all_or_list),
]


class Contacts(Source):
    """Hi-C contacts of one cell type at one bin size.

    Attributes
    ----------
    cell_type, assay
        Whose contacts, and of what.
    bin_size
        In bases; the file must hold it.
    weights
        Which balance weights to keep, by their names in the file; ``all`` keeps every one.
    divisive
        Weight -> whether raw counts are divided by it, for names whose convention is not known.
    max_distance
        Keep contacts up to this many bases apart; those beyond are counted.
    role, unit
        As for a track.
    aliases, allow_length_mismatch
        As for a track.
    """

    cell_type: Name
    assay: Name
    bin_size: Annotated[int, Field(ge=1)]
    weights: Weights = "all"
    divisive: dict[Text, bool] = {}
    max_distance: Annotated[int, Field(ge=1)] = 2_000_000
    role: Role | None = None
    unit: Text | None = None
    aliases: Aliases = {}
    allow_length_mismatch: bool = False

    @model_validator(mode="after")
    def _distance_spans_a_bin(self) -> Contacts:
        if self.max_distance < self.bin_size:
            raise ValueError(f"max_distance {self.max_distance:,} is below the bin_size {self.bin_size:,}")
        return self


class ExpressionTable(GeneTable):
    """Expression from a table.

    Attributes
    ----------
    assay
        Such as ``CAGE``.
    columns
        Cell type -> column of the table.
    transform
        Applied when values are read; the store keeps them raw.
    unit
        Of the raw values.
    """

    assay: Name
    columns: Columns
    transform: Transform = "none"
    unit: Text | None = None


class ExpressionSignal(Source):
    """Expression of one cell type computed from a signal around each TSS.

    Attributes
    ----------
    assay, cell_type
        Of what, and whose.
    aggregate
        The sum or the mean over the window.
    flank
        The window is ``[tss - flank, tss + flank)``, in bases.
    uncovered
        What a base without a value counts as. ``nan``: as nothing, and a gene whose window has no value at all is
        not measured; ``zero``: as 0, for a signal whose silence means none, as that of CAGE tags does.
    transform, unit
        As for a table.
    aliases, allow_length_mismatch
        As for a track.
    """

    assay: Name
    cell_type: Name
    aggregate: Literal["sum", "mean"]
    flank: Annotated[int, Field(ge=1)]
    uncovered: Literal["nan", "zero"] = "nan"
    transform: Transform = "none"
    unit: Text | None = None
    aliases: Aliases = {}
    allow_length_mismatch: bool = False


class Regions(Source):
    """A named set of intervals, such as a blacklist.

    Attributes
    ----------
    name
        Of the set.
    aliases
        Names of contigs in this file -> names in the assembly.
    """

    name: Name
    aliases: Aliases = {}
