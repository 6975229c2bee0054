"""The sequence, from FASTA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from genostore.schema import ArraySchema, position_array
from ingest.nodes.base import Node, Values
from ingest.nodes.layout import Layout
from ingest.sources.fasta import OTHER, SOFT_MASKED, Fasta


@dataclass(frozen=True)
class SequenceNode(Node):
    """``sequence``: one code a position.

    Attributes
    ----------
    fasta
        The source, whose names are the assembly's.
    """

    kind: ClassVar[str] = "sequence"

    fasta: Fasta

    @property
    def arrays(self) -> dict[str, ArraySchema]:
        """One array along the genome axis; 4 between contigs."""
        return {"": position_array(self.genome.length, self.genome.alignment, "uint8", OTHER)}

    @property
    def options(self) -> dict[str, Any]:
        """None: the contigs are part of every digest."""
        return {}

    def read(self, name: str, block: int) -> Values:
        """Read the codes of one shard, and count the bases that are not A, C, G or T."""
        where = self.arrays[name].slices(block)[0]
        codes = np.full(where.stop - where.start, OTHER, dtype=np.uint8)
        counts: dict[str, float] = {"soft_masked": 0}
        for piece in Layout(self.genome).pieces(where.start, where.stop):
            bases = piece.contig.name, piece.start, piece.end
            found = self.fasta.codes(*bases)
            codes[piece.into] = found
            counts["soft_masked"] += int(np.count_nonzero(found & SOFT_MASKED))
            if (found & OTHER).any():
                for letter, n in self.fasta.others(*bases).items():
                    counts[letter] = counts.get(letter, 0) + n
        return Values(codes, counts)

    def attributes(self) -> dict[str, Any]:
        """Give the provenance; the counts of letters are summed by staging."""
        kept = {c.name for c in self.genome}
        left_out = [name for name in self.fasta.contigs if name not in kept]
        return {"provenance": self.provenance({"contigs_left_out": len(left_out)} if left_out else {})}
