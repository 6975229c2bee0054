"""The catalogue as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from ingest.catalogue.document import Document
from ingest.catalogue.entries import (
    Assembly,
    ColumnSplit,
    Contacts,
    ContigSplit,
    Entry,
    ExpressionSignal,
    ExpressionTable,
    Features,
    Genes,
    Regions,
    Source,
    Track,
)
from ingest.catalogue.problems import Location, Problem, place


class Catalogue(Entry):
    """Everything that goes into one store (version 1 of the form).

    Attributes
    ----------
    version
        1.
    assembly
        The genome.
    genes
        The genes; without them there are no features, splits and expression.
    features, tracks, contacts, expression, regions
        The entries, in the order of the file; globs are expanded.
    splits
        By contigs or by columns of a table.
    """

    version: Annotated[Literal[1], Field(description="the version of this form")]
    assembly: Assembly
    genes: Genes | None = None
    features: tuple[Features, ...] = ()
    splits: ContigSplit | ColumnSplit | None = None
    tracks: tuple[Track, ...] = ()
    contacts: tuple[Contacts, ...] = ()
    expression: tuple[ExpressionTable | ExpressionSignal, ...] = ()
    regions: tuple[Regions, ...] = ()

    _document: Document | None = PrivateAttr(None)
    _written: dict[tuple[str, int], int] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The file it was read from; None when it was made in Python."""
        return self._document.path if self._document is not None else None

    def sources(self) -> Iterator[tuple[Location, Source | Assembly]]:
        """Every entry that reads a file.

        Yields
        ------
        tuple
            The location, such as ``("tracks", 3)``, ``("genes",)`` or ``("genes", "names")``, and the entry.
        """
        yield ("assembly",), self.assembly
        if self.genes is not None:
            yield ("genes",), self.genes
            if self.genes.names is not None:
                yield ("genes", "names"), self.genes.names
        if isinstance(self.splits, ColumnSplit):
            yield ("splits",), self.splits
        for section in ("features", "tracks", "contacts", "expression", "regions"):
            for index, entry in enumerate(getattr(self, section)):
                yield (section, index), entry

    def _as_written(self, location: Location) -> Location:
        """Where an entry stands in the file; a glob's entries all stand at the glob."""
        match location:
            case (str(section), int(index), *rest):
                return (section, self._written.get((section, index), index), *rest)
        return location

    def line_of(self, *location: str | int) -> int | None:
        """Give the line of an entry, or of one of its keys.

        Parameters
        ----------
        *location
            ``line_of("tracks", 3)``, ``line_of("tracks", 3, "assay")``, ``line_of("assembly", "fasta")``: indices
            are those of this object's tuples.

        Returns
        -------
        int or None
            The line, from 1; of the entry where the key is not written; None without a file.
        """
        return self._document.line(self._as_written(location)) if self._document is not None else None

    def problem(self, message: str, *location: str | int) -> Problem:
        """Make a problem of an entry, or of one of its keys, for `report`.

        Parameters
        ----------
        message
            What was got, what was expected and what to do.
        *location
            As for `line_of`.

        Returns
        -------
        Problem
        """
        return Problem(self.line_of(*location), place(self._as_written(location)), message)
