"""Match the contigs of a source with those of the assembly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from genostore.errors import SourceError, nearest
from genostore.genome import Genome, spellings

_LISTED = 6


@dataclass(frozen=True)
class ContigMatch:
    """Which contig of the assembly each contig of a source is.

    Attributes
    ----------
    mapping
        Source name to assembly name, in the source's order. No two have the same assembly contig.
    extra
        Contigs of the source that the assembly lacks (spike-ins, decoys, plasmids); they are left out.
    missing
        Contigs of the assembly of which the source says nothing.
    mismatched
        ``(source name, length in the source, assembly name, length in the assembly)`` where the lengths differ,
        which was allowed.
    """

    mapping: dict[str, str]
    extra: list[str]
    missing: list[str]
    mismatched: list[tuple[str, int, str, int]]

    @property
    def reverse(self) -> dict[str, str]:
        """Assembly name to source name."""
        return {target: source for source, target in self.mapping.items()}


def match(
    source_contigs: Mapping[str, int | None] | Iterable[str],
    genome: Genome,
    *,
    aliases: Mapping[str, str] | None = None,
    allow_length_mismatch: bool = False,
    lengths_are_extents: bool = False,
    where: object = "the source",
) -> ContigMatch:
    """Find the assembly's contig for each contig of a source.

    A name is looked for in ``aliases``, then as it is, then in its other spelling (``1`` and ``chr1``, ``MT`` and
    ``chrM``) where that is unambiguous. A contig that is found by none of these is extra.

    Parameters
    ----------
    source_contigs
        Names, or lengths by name; a length may be None where the source states none.
    genome
        The assembly.
    aliases
        Source name to assembly name. Those whose source name does not occur are for other files and ignored.
    allow_length_mismatch
        Whether a contig may have another length in the source.
    lengths_are_extents
        The lengths are the last position that occurs, so that only a longer one is a mismatch.
    where
        Names the source in errors.

    Raises
    ------
    SourceError
        If an alias names no contig of the assembly, two contigs of the source are the same one of the assembly, a
        length differs and may not, or nothing is in common.
    """
    if isinstance(source_contigs, Mapping):
        lengths: dict[str, int | None] = dict(source_contigs)
    else:
        lengths = dict.fromkeys(source_contigs)
    named = dict(aliases or {})
    for source, target in named.items():
        if source in lengths and target not in genome:
            raise SourceError(
                f"{where}: alias {source!r}: {target!r} names no contig of assembly {genome.name}; "
                f"{nearest(target, genome.names)}"
            )
    mapping, extra = _assign(lengths, genome, named, where)
    if not mapping:
        raise SourceError(
            f"{where}: has no contig in common with assembly {genome.name}: it has {_some(lengths)}, the assembly has "
            f"{_some(genome.names)}; is it of another assembly or species? If only the names differ, map them with "
            "aliases"
        )
    mismatched = []
    for source, target in mapping.items():
        length, expected = lengths[source], genome.resolve(target).length
        if length is not None and (length > expected if lengths_are_extents else length != expected):
            mismatched.append((source, length, target, expected))
    if mismatched and not allow_length_mismatch:
        verb = "reaches" if lengths_are_extents else "is of"
        shown = "; ".join(
            f"{source!r} {verb} {length:,} bases where the assembly's {target!r} is of {expected:,}"
            for source, length, target, expected in mismatched[:_LISTED]
        )
        more = f"; and {len(mismatched) - _LISTED} more" if len(mismatched) > _LISTED else ""
        raise SourceError(
            f"{where}: has other contig lengths than assembly {genome.name}: {shown}{more}. It is probably of another "
            "assembly; if it is not, say allow_length_mismatch: true"
        )
    taken = set(mapping.values())
    return ContigMatch(mapping, extra, [name for name in genome.names if name not in taken], mismatched)


def _assign(
    names: Iterable[str], genome: Genome, aliases: Mapping[str, str], where: object
) -> tuple[dict[str, str], list[str]]:
    """Give each source contig its assembly contig, the surest claims first."""
    names = list(names)
    claims: dict[str, list[tuple[int, str]]] = {}  # by assembly contig: how sure, source contig
    for name in names:
        if name in aliases:
            claims.setdefault(aliases[name], []).append((0, name))
        elif name in genome:
            claims.setdefault(name, []).append((1, name))
        else:
            others = [other for other in dict.fromkeys(spellings(name)) if other in genome]
            if len(others) > 1:
                raise SourceError(
                    f"{where}: contig {name!r} could be any of {_some(others)} of assembly {genome.name}; say which "
                    "with aliases"
                )
            for other in others:
                claims.setdefault(other, []).append((2, name))
    found = {}
    for target, claimants in claims.items():
        claimants.sort()
        best = [name for rank, name in claimants if rank == claimants[0][0]]
        if len(best) > 1:
            raise SourceError(
                f"{where}: contigs {_some(best)} are all {target!r} of assembly {genome.name}; name one with aliases "
                "or remove the others"
            )
        found[best[0]] = target
    return {name: found[name] for name in names if name in found}, [name for name in names if name not in found]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(map(repr, listed[:_LISTED])) + more
