"""Expression computed from a signal about each TSS."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genostore.genome import window_starts
from genostore.schema import ArraySchema, column_array
from ingest.nodes.base import Node, Values
from ingest.sources.base import SignalSource
from ingest.sources.contigs import ContigMatch

_APART = 1 << 16  # windows this near each other are read together


@dataclass(frozen=True)
class SignalExpressionNode(Node):
    """``expression/<assay>/<cell_type>``: the sum or mean of a signal over ``[tss - flank, tss + flank)``.

    Attributes
    ----------
    signal, contigs
        The source, and which of its contigs is which of the assembly.
    gene_contig, tss
        ``(n,)`` of the store's genes.
    axis
        Digest of the gene axis.
    aggregate
        ``sum`` or ``mean``.
    flank
        In bases.
    uncovered
        What a base without a value counts as: ``zero``, or ``nan``: nothing, and a window of none but such bases
        is not measured. The bases past a contig's end count as nothing, and genes on a contig that the source
        lacks are not measured, either way.
    labels
        Attributes that the entry gives: assay, cell_type, transform, unit.
    stated
        What the entry says of contigs, for the provenance.
    """

    kind: ClassVar[str] = "expression"

    signal: SignalSource
    contigs: ContigMatch
    gene_contig: NDArray[np.object_] = field(repr=False)
    tss: NDArray[np.int64] = field(repr=False)
    axis: str
    aggregate: str
    flank: int
    uncovered: str
    labels: dict[str, Any]
    stated: dict[str, Any]

    @property
    def arrays(self) -> dict[str, ArraySchema]:
        """One column."""
        return {"": column_array(len(self.tss), "gene", "float32")}

    @property
    def _window(self) -> dict[str, Any]:
        return {"aggregate": self.aggregate, "flank": self.flank, "uncovered": self.uncovered}

    @property
    def options(self) -> dict[str, Any]:
        """The window, what is done over it, and the genes."""
        return {**self._window, "genes": self.axis, "contigs": self.contigs.reverse, "labels": self.labels}

    def read(self, name: str, block: int) -> Values:
        """Compute the column."""
        return Values(self._values)

    @cached_property
    def _values(self) -> NDArray[np.float32]:
        out = np.full(len(self.tss), np.nan, dtype=np.float32)
        lengths = {c.name: c.length for c in self.genome}
        for ours, theirs in self.contigs.reverse.items():
            rows = np.flatnonzero(self.gene_contig == ours)
            rows = rows[np.argsort(self.tss[rows], kind="stable")]
            start = window_starts(self.tss[rows], 2 * self.flank)
            low, high = np.maximum(start, 0), np.minimum(start + 2 * self.flank, lengths[ours])
            breaks = np.flatnonzero(np.diff(low) > _APART) + 1
            for group in np.split(np.arange(len(rows)), breaks):
                if not group.size:
                    continue
                first = int(low[group[0]])
                values = self.signal.values(theirs, first, int(high[group].max()))
                for i in group.tolist():
                    out[rows[i]] = self._reduce(values[low[i] - first : high[i] - first])
        return out

    def _reduce(self, window: NDArray[np.float32]) -> float:
        known = window[~np.isnan(window)].astype(np.float64)
        n = len(window) if self.uncovered == "zero" else len(known)
        if n == 0:
            return np.nan
        return float(known.sum() / (n if self.aggregate == "mean" else 1))

    def attributes(self) -> dict[str, Any]:
        """Give labels, how many genes are measured, and provenance."""
        measured = int(np.count_nonzero(~np.isnan(self._values)))
        return {
            **self.labels,
            "measured": measured,
            "provenance": self.provenance({**self._window, **self.stated}, self.contigs),
        }
