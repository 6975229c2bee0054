"""The genome axis: contigs laid end to end on one ``position`` axis, and regions on them.

Coordinates are 0-based and half-open everywhere, region strings too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genostore.errors import FormatError, NotFoundError, RegionError, nearest

_REGION = re.compile(r"^(?P<contig>.+):(?P<start>[\d,_]+)-(?P<end>[\d,_]*)$")
_MITOCHONDRIA = ("M", "MT", "Mito", "Mt")


@dataclass(frozen=True)
class Contig:
    """One contig of an assembly.

    Attributes
    ----------
    name
        As the assembly's FASTA spells it.
    length
        In bases.
    offset
        Where its first base lies on the genome axis; a multiple of the alignment.
    """

    name: str
    length: int
    offset: int

    def n_bins(self, bin_size: int) -> int:
        """Count the bins of ``bin_size`` bases; the last may be short (as cooler numbers them)."""
        return -(-self.length // bin_size)


@dataclass(frozen=True)
class Region:
    """A half-open interval of one contig, in 0-based coordinates of the contig."""

    contig: Contig
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.contig.name}:{self.start}-{self.end}"

    @property
    def span(self) -> tuple[int, int]:
        """First and one-past-last position on the genome axis."""
        return self.contig.offset + self.start, self.contig.offset + self.end


RegionLike = str | tuple[str, int, int] | Region


def spellings(name: str) -> Iterator[str]:
    """Yield the other names by which files call the same contig (``1`` and ``chr1``, ``MT`` and ``chrM``)."""
    bare = name[3:] if name.lower().startswith("chr") else name
    for core in _MITOCHONDRIA if bare in _MITOCHONDRIA else (bare,):
        for other in (core, f"chr{core}"):
            if other != name:
                yield other


@dataclass(frozen=True)
class Genome:
    """The contigs of an assembly and the axis they share.

    Attributes
    ----------
    name
        Of the assembly, such as ``hg38``.
    contigs
        In the order of the axis.
    alignment
        Every contig starts at a multiple of it, in bases.
    """

    name: str
    contigs: tuple[Contig, ...]
    alignment: int
    _by_name: Mapping[str, Contig] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {c.name: c for c in self.contigs})
        if len(self._by_name) != len(self.contigs):
            raise FormatError(f"assembly {self.name!r} names a contig twice: {[c.name for c in self.contigs]}")

    @classmethod
    def build(cls, name: str, lengths: Mapping[str, int], alignment: int) -> Genome:
        """Lay contigs of the given lengths end to end, each starting at a multiple of ``alignment``."""
        contigs, offset = [], 0
        for contig, length in lengths.items():
            contigs.append(Contig(contig, int(length), offset))
            offset += -(-int(length) // alignment) * alignment
        return cls(name, tuple(contigs), alignment)

    @property
    def names(self) -> list[str]:
        """Contig names in the order of the axis."""
        return list(self._by_name)

    @cached_property
    def length(self) -> int:
        """Length of the genome axis in positions, the gaps between contigs included."""
        if not self.contigs:
            return 0
        last = self.contigs[-1]
        return last.offset + -(-last.length // self.alignment) * self.alignment

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Contig]:
        return iter(self.contigs)

    def __len__(self) -> int:
        return len(self.contigs)

    def resolve(self, name: str) -> Contig:
        """Find a contig by its name, or by another spelling where that is unambiguous.

        Raises
        ------
        NotFoundError
            If no contig, or more than one, is called so.
        """
        exact = self._by_name.get(name)
        if exact is not None:
            return exact
        found = [self._by_name[s] for s in dict.fromkeys(spellings(name)) if s in self._by_name]
        if len(found) == 1:
            return found[0]
        if found:
            raise NotFoundError(
                f"contig {name!r} could be any of {[c.name for c in found]} of assembly {self.name}; write one of these"
            )
        raise NotFoundError(f"assembly {self.name} has no contig {name!r}; {nearest(name, self._by_name)}")

    def region(self, region: RegionLike) -> Region:
        """Parse a region and check that it lies on its contig.

        Parameters
        ----------
        region
            ``"chr1:1,000-2,000"``, ``"chr1:1000-"``, ``"chr1"``, a tuple ``(contig, start, end)`` or a
            :class:`Region`; 0-based, half-open.

        Raises
        ------
        RegionError
            If it cannot be parsed, is empty or reversed, or passes an end of its contig.
        """
        if isinstance(region, Region):
            return region
        contig, start, end = self._split(region)
        end = contig.length if end is None else end
        if not 0 <= start < end <= contig.length:
            why = "is empty or reversed" if start >= end else f"passes an end of {contig.name}"
            raise RegionError(
                f"region {contig.name}:{start:,}-{end:,} {why}; {contig.name} is {contig.length:,} bases, "
                "and regions are 0-based and half-open: 0 <= start < end <= length"
            )
        return Region(contig, start, end)

    def _split(self, region: Any) -> tuple[Contig, int, int | None]:
        if isinstance(region, tuple) and len(region) == 3:
            return self.resolve(str(region[0])), int(region[1]), int(region[2])
        if not isinstance(region, str):
            raise RegionError(f"a region is a string or (contig, start, end), not {region!r}")
        text = region.strip()
        if text in self._by_name:
            return self._by_name[text], 0, None
        parts = _REGION.match(text)
        if parts is None:
            if ":" in text and not any(text == s for c in self._by_name for s in spellings(c)):
                raise RegionError(f"cannot read region {region!r}; write it as 'chr1:1,000-2,000' or 'chr1'")
            return self.resolve(text), 0, None
        start, end = (parts[k].replace(",", "").replace("_", "") for k in ("start", "end"))
        if not start:
            raise RegionError(f"cannot read the start of region {region!r}")
        return self.resolve(parts["contig"]), int(start), int(end) if end else None

    def bin_offsets(self, bin_size: int) -> dict[str, int]:
        """Number of the first bin of each contig when bins run through the contigs in order."""
        starts = np.cumsum([0] + [c.n_bins(bin_size) for c in self.contigs])
        return {c.name: int(s) for c, s in zip(self.contigs, starts, strict=False)}

    def n_bins(self, bin_size: int) -> int:
        """Count the bins of ``bin_size`` bases of all contigs."""
        return sum(c.n_bins(bin_size) for c in self.contigs)

    def columns(self, names: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Offsets and lengths of the named contigs, each ``(n,)`` int64."""
        cache: dict[str, Contig] = {}
        found = [cache.get(n) or cache.setdefault(n, self.resolve(n)) for n in names]
        return (
            np.array([c.offset for c in found], dtype=np.int64),
            np.array([c.length for c in found], dtype=np.int64),
        )


def window_starts(anchor: ArrayLike, width: int) -> NDArray[np.int64]:
    """First position of the windows of ``width`` bases about each anchor: ``anchor - width // 2``."""
    return np.asarray(anchor, dtype=np.int64) - width // 2
