"""Tracks, from bigWig and bedGraph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genostore.errors import SourceError
from genostore.schema import ArraySchema, position_array
from ingest.nodes.base import Node, Values
from ingest.nodes.encoding import Encoding, OverflowingError
from ingest.nodes.layout import Layout, Piece
from ingest.sources.base import SignalSource
from ingest.sources.contigs import ContigMatch


@dataclass(frozen=True)
class TrackNode(Node):
    """``tracks/<cell_type>/<assay>``: one value a position, NaN where the source is silent.

    Attributes
    ----------
    signal, contigs
        The source, and which of its contigs is which of the assembly.
    encoding
        How values are kept.
    labels
        Attributes that the entry gives: cell_type, assay, strand, replicate, role, unit.
    stated
        What the entry says of contigs, for the provenance.
    """

    kind: ClassVar[str] = "track"

    signal: SignalSource
    contigs: ContigMatch
    encoding: Encoding
    labels: dict[str, Any]
    stated: dict[str, Any]

    @property
    def arrays(self) -> dict[str, ArraySchema]:
        """One array along the genome axis."""
        return {"": position_array(self.genome.length, self.genome.alignment, self.encoding.dtype, math.nan)}

    @property
    def options(self) -> dict[str, Any]:
        """Encoding and names of contigs."""
        return {**self.encoding.options, "contigs": self.contigs.reverse, "labels": self.labels}

    def read(self, name: str, block: int) -> Values:
        """Read one shard, and encode it."""
        where = self.arrays[name].slices(block)[0]
        values, pieces = self._values(where.start, where.stop)
        if self.encoding.lossless:
            return Values(values)
        try:
            encoded = self.encoding.apply(values)
        except OverflowingError as error:
            raise SourceError(
                f"{self.signal.path}: the value at {_place(pieces, error.index)}, {error}; keep {self.path} as float32"
            ) from None
        return Values(encoded, maxima=self.encoding.errors(values, encoded))

    def _values(self, start: int, stop: int) -> tuple[NDArray[np.float32], list[Piece]]:
        theirs = self.contigs.reverse
        pieces = [p for p in Layout(self.genome).pieces(start, stop) if p.contig.name in theirs]
        if len(pieces) == 1 and pieces[0].into == slice(0, stop - start):  # spares a copy of the shard
            only = pieces[0]
            return self.signal.values(theirs[only.contig.name], only.start, only.end), pieces
        values = np.full(stop - start, np.nan, dtype=np.float32)
        for piece in pieces:
            values[piece.into] = self.signal.values(theirs[piece.contig.name], piece.start, piece.end)
        return values, pieces

    def attributes(self) -> dict[str, Any]:
        """Give labels and provenance."""
        return {**self.labels, "provenance": self.provenance({**self.encoding.options, **self.stated}, self.contigs)}


def _place(pieces: list[Piece], index: int) -> str:
    piece = next(p for p in pieces if p.into.start <= index < p.into.stop)
    return f"{piece.contig.name}:{piece.start + index - piece.at:,}"
