"""Hi-C contacts, from .cool, .mcool and .hic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genostore.schema import ArraySchema, band_array, column_array
from ingest.nodes.base import Node, Values
from ingest.nodes.layout import Layout, Piece
from ingest.sources.base import ContactSource, Weight
from ingest.sources.contigs import ContigMatch


@dataclass(frozen=True)
class ContactsNode(Node):
    """``contacts/<cell_type>/<assay>/<bin_size>``: a band of raw counts, and balancing weights.

    Attributes
    ----------
    matrix, contigs
        The source, and which of its contigs is which of the assembly.
    max_distance
        Greatest distance of two bins' starts to keep, in bases.
    weight_names
        Which to keep.
    divisive
        Conventions that the entry states.
    labels
        Attributes that the entry gives: cell_type, assay, role, unit.
    stated
        What the entry says of contigs, for the provenance.
    """

    kind: ClassVar[str] = "contacts"

    matrix: ContactSource
    contigs: ContigMatch
    max_distance: int
    weight_names: tuple[str, ...]
    divisive: dict[str, bool]
    labels: dict[str, Any]
    stated: dict[str, Any]

    @property
    def _bin_size(self) -> int:
        return self.matrix.bin_size

    @property
    def _n_offsets(self) -> int:
        longest = max(c.n_bins(self._bin_size) for c in self.genome)
        return min(self.max_distance // self._bin_size + 1, longest)

    @cached_property
    def arrays(self) -> dict[str, ArraySchema]:
        """The band in the source's own type of count, and one column a weight."""
        n_bins = self.genome.n_bins(self._bin_size)
        band = band_array(n_bins, self._n_offsets, str(self.matrix.dtype))
        return {"band": band} | {f"weights/{w}": column_array(n_bins, "bin", "float64") for w in self.weight_names}

    @property
    def options(self) -> dict[str, Any]:
        """The extent of the band, the weights and the names of contigs."""
        return {
            "bin_size": self._bin_size,
            "max_distance": self.max_distance,
            "weights": list(self.weight_names),
            "divisive": self.divisive,
            "contigs": self.contigs.reverse,
            "labels": self.labels,
        }

    def read(self, name: str, block: int) -> Values:
        """Read one shard of the band, or one vector of weights."""
        if name == "band":
            rows = self.arrays[name].slices(block)[0]
            return self._band(rows.start, rows.stop)
        return Values(self._column(self._weights[name.removeprefix("weights/")].values))

    def _band(self, start: int, stop: int) -> Values:
        band = np.zeros((stop - start, self._n_offsets), dtype=self.matrix.dtype)
        counts: dict[str, float] = {"beyond_pixels": 0, "beyond_sum": 0.0}
        for piece, theirs in self._pieces(start, stop):
            found = self.matrix.band(theirs, piece.start, piece.end, self._n_offsets)
            counts["beyond_pixels"] += found.beyond_pixels
            counts["beyond_sum"] += found.beyond_sum
            values, n_bins = found.values, piece.contig.n_bins(self._bin_size)
            if self._n_bins(theirs) > n_bins:  # of a contig that is longer in the source
                bins = np.arange(piece.start, piece.end)[:, None] + np.arange(self._n_offsets)
                values = np.where(bins < n_bins, values, 0).astype(values.dtype, copy=False)
                lost = int(np.count_nonzero(found.values)) - int(np.count_nonzero(values))
                if piece.end == n_bins:
                    below = self.matrix.band(theirs, n_bins, self._n_bins(theirs), self._n_offsets)
                    lost += int(np.count_nonzero(below.values)) + below.beyond_pixels
                counts["past_contig_pixels"] = counts.get("past_contig_pixels", 0) + lost
            band[piece.into] = values
        return Values(band, counts)

    def _pieces(self, start: int, stop: int) -> list[tuple[Piece, str]]:
        theirs = self.contigs.reverse
        pieces = Layout(self.genome, self._bin_size).pieces(start, stop)
        return [(p, theirs[p.contig.name]) for p in pieces if p.contig.name in theirs]

    def _n_bins(self, contig: str) -> int:
        return -(-self.matrix.contigs[contig] // self._bin_size)

    @cached_property
    def _weights(self) -> dict[str, Weight]:
        return self.matrix.weights(self.weight_names, self.divisive)

    def _column(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Put a vector in the source's order of contigs into the assembly's; NaN for contigs that it lacks."""
        n_bins = self.genome.n_bins(self._bin_size)
        counts = [self._n_bins(name) for name in self.matrix.contigs]
        first = dict(zip(self.matrix.contigs, np.cumsum([0, *counts]).tolist(), strict=False))
        out = np.full(n_bins, np.nan)
        for piece, theirs in self._pieces(0, n_bins):
            n = min(piece.end - piece.start, self._n_bins(theirs))
            out[piece.at : piece.at + n] = values[first[theirs] : first[theirs] + n]
        return out

    def attributes(self) -> dict[str, Any]:
        """Give labels, geometry and provenance."""
        stated = {"max_distance": self.max_distance, **self.stated}
        if self.divisive:
            stated["divisive"] = self.divisive
        return {
            **self.labels,
            "bin_size": self._bin_size,
            "max_distance": (self._n_offsets - 1) * self._bin_size,
            "weights": list(self.weight_names),
            "provenance": self.provenance(stated, self.contigs),
        }

    def array_attributes(self) -> dict[str, dict[str, Any]]:
        """Say of each vector of weights whether counts are divided by it."""
        return {f"weights/{name}": {"divisive": weight.divisive} for name, weight in self._weights.items()}
