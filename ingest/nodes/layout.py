"""Where the bases of a source go on the genome axis, and its bins among the store's."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from genostore.genome import Contig, Genome


@dataclass(frozen=True)
class Piece:
    """A stretch of one contig inside a stretch of the axis.

    Attributes
    ----------
    contig
        Of the assembly.
    start, end
        On the contig: bases or bins, as the layout has.
    at
        Where it begins within the stretch of the axis.
    """

    contig: Contig
    start: int
    end: int
    at: int

    @property
    def into(self) -> slice:
        """Its place within the stretch of the axis."""
        return slice(self.at, self.at + self.end - self.start)


@dataclass(frozen=True)
class Layout:
    """The contigs along an axis, of bases or of bins.

    Attributes
    ----------
    genome
        Whose contigs.
    bin_size
        1 for the axis of positions, on which contigs are aligned; otherwise bins follow each other without gaps.
    """

    genome: Genome
    bin_size: int = 1

    @cached_property
    def _starts(self) -> list[int]:
        if self.bin_size == 1:
            return [c.offset for c in self.genome]
        return [0, *accumulate(c.n_bins(self.bin_size) for c in self.genome)][:-1]

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """Yield the parts of contigs that lie in ``[start, stop)`` of the axis, in order."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        for offset, contig in zip(self._starts[first:], self.genome.contigs[first:], strict=True):
            if offset >= stop:
                return
            low, high = max(start - offset, 0), min(stop - offset, contig.n_bins(self.bin_size))
            if low < high:
                yield Piece(contig, low, high, offset + low - start)
