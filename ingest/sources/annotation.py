"""Genes of GTF and GFF3, in the dialects of GENCODE, Ensembl and NCBI.

One row a gene; exons and coding sequences are passed over unread, so that a whole GENCODE takes seconds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from genostore.errors import SourceError, nearest
from ingest.sources.reading import expect_text, lines, shorten

Tss = Literal["gene", "canonical"]

_GTF_PAIR = re.compile(r'([\w.\-]+)\s+(?:"([^"]*)"|([^\s";]+))\s*(?:;|$)')
_GENE_TYPES = frozenset({b"gene", b"ncRNA_gene", b"pseudogene"})  # Ensembl's GFF3 has all three
_PARTS = frozenset(
    b"exon CDS start_codon stop_codon UTR five_prime_utr three_prime_utr five_prime_UTR three_prime_UTR Selenocysteine "
    b"region chromosome scaffold supercontig biological_region stop_codon_redefined_as_selenocysteine intron".split()
)
_VERSION = re.compile(r"(ENS\w*\d{6,})\.(\d+)(_PAR_Y)?")


@dataclass
class Gene:
    """One gene as the annotation has it, in 0-based half-open coordinates."""

    id: str
    version: str
    name: str
    contig: str
    start: int
    end: int
    strand: str
    biotype: str
    line: int
    key: str  # what its transcripts call it
    tss: int = -1
    rank: tuple[int, int] | None = None  # of the transcript that gave the TSS

    def __post_init__(self) -> None:
        self.tss = first_base(self.start, self.end, self.strand)


def first_base(start: int, end: int, strand: str) -> int:
    """Return the first transcribed base of ``[start, end)``, 0-based."""
    return end - 1 if strand == "-" else start


def split_version(identifier: str) -> tuple[str, str]:
    """Split an Ensembl identifier from its version: ``ENSG00000223972.5`` is ``("ENSG00000223972", "5")``.

    The copy that GENCODE puts on the Y's pseudoautosomal region stays distinct: ``ENSG00000182378.15_PAR_Y`` is
    ``("ENSG00000182378_PAR_Y", "15")``. Other identifiers may have dots of their own and are left as they are.
    """
    parts = _VERSION.fullmatch(identifier)
    return (parts[1] + (parts[3] or ""), parts[2]) if parts else (identifier, "")


def read_annotation(path: Path, biotypes: Collection[str] | None, tss: Tss) -> list[Gene]:
    """Read the genes of a GTF or GFF3 file, in its order; see :func:`ingest.sources.genes.read_genes`."""
    expect_text(path, "a GTF or GFF3")
    dialect = _Gff3() if _is_gff3(path) else _Gtf()
    genes: dict[str, Gene] = {}
    by_key: dict[str, Gene] = {}
    seen_types: Counter[str] = Counter()
    seen_biotypes: Counter[str] = Counter()
    for number, line, kind in _features(path):
        if kind in dialect.gene_types:
            gene = _gene(path, number, line, dialect)
            seen_biotypes[gene.biotype] += 1
            if biotypes is not None and gene.biotype not in biotypes:
                continue
            if gene.strand not in ("+", "-"):
                raise SourceError(
                    f"{path}: line {number}: gene {gene.id!r} has strand {gene.strand!r}, so it has no TSS; remove it, "
                    f"or choose biotypes without it: {shorten(line)}"
                )
            if gene.id in genes:
                raise SourceError(
                    f"{path}: gene {gene.id!r} is given twice, in lines {genes[gene.id].line} and {number}; its "
                    "identifier must be unique"
                )
            genes[gene.id] = by_key[gene.key] = gene
        elif tss == "canonical" and kind not in _PARTS:
            _offer_transcript(path, number, line, dialect, by_key)
        seen_types[kind.decode("utf-8", "replace")] += 1
    if not seen_biotypes:
        found = ", ".join(f"{kind} ({n:,})" for kind, n in seen_types.most_common(6)) or "no feature at all"
        raise SourceError(f"{path}: has no feature of type 'gene'; it has {found}")
    if not genes:
        wanted = next(iter(biotypes or ()), "")
        there = ", ".join(f"{kind!r} ({n:,})" for kind, n in seen_biotypes.most_common(6))
        raise SourceError(
            f"{path}: has no gene of the biotypes {sorted(biotypes or ())}; it has {there}; "
            f"{nearest(wanted, seen_biotypes)}"
        )
    return list(genes.values())


def _features(path: Path) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (line number, line, type) of every feature, up to a GFF3's own FASTA."""
    for number, line in lines(path):
        if line.startswith(b"#"):
            if line.startswith(b"##FASTA"):
                return
            continue
        fields = line.split(b"\t", 3)
        if len(fields) == 4:
            yield number, line, fields[2]
        elif line.strip():
            raise SourceError(f"{path}: line {number} has no 9 fields separated by tabs: {shorten(line)}")


class _Gtf:
    """Attributes as ``key "value"; key "value"``."""

    gene_types = frozenset({b"gene"})

    def attributes(self, text: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for key, quoted, bare in _GTF_PAIR.findall(text):
            found.setdefault(key, []).append(quoted or bare)
        return found

    def gene_key(self, attributes: dict[str, list[str]]) -> str | None:
        return attributes.get("gene_id", [None])[0]

    gene_of_transcript = gene_key


class _Gff3:
    """Attributes as ``key=value;key=value,value``, percent-encoded."""

    gene_types = _GENE_TYPES

    def attributes(self, text: str) -> dict[str, list[str]]:
        pairs = (pair.strip().partition("=") for pair in text.split(";"))
        return {key: [unquote(v) for v in value.split(",")] for key, mark, value in pairs if mark}

    def gene_key(self, attributes: dict[str, list[str]]) -> str | None:
        return attributes.get("ID", [None])[0]

    def gene_of_transcript(self, attributes: dict[str, list[str]]) -> str | None:
        return attributes.get("Parent", [None])[0]


def _is_gff3(path: Path) -> bool:
    """Tell by the first feature: GFF3 has ``key=value``, GTF ``key "value"``."""
    for _, line in lines(path):
        if line.startswith(b"##gff-version"):
            return line.split()[1:2] == [b"3"] or (len(line.split()) > 1 and line.split()[1].startswith(b"3."))
        if not line.startswith(b"#") and line.strip():
            last = line.split(b"\t")[-1]
            return re.match(rb"[^\s\"=]+=", last) is not None
    raise SourceError(f"{path}: has no feature: every line is a comment")


def _gene(path: Path, number: int, line: bytes, dialect: _Gtf | _Gff3) -> Gene:
    contig, start, end, strand, attributes = _fields(path, number, line, dialect)
    key = dialect.gene_key(attributes)

    def first(*names: str) -> str:
        return next((attributes[name][0] for name in names if attributes.get(name, [""])[0]), "")

    raw = first("gene_id") or re.sub(r"^gene[:\-]", "", key or "")
    if not key or not raw:
        raise SourceError(f"{path}: line {number}: the gene has no {'gene_id' if isinstance(dialect, _Gtf) else 'ID'}: "
                          f"{shorten(line, 160)}")  # fmt: skip
    identifier, version = split_version(raw)
    return Gene(
        id=identifier,
        version=version or first("gene_version", "version"),
        name=first("gene_name", "Name", "gene") or identifier,
        contig=contig,
        start=start,
        end=end,
        strand=strand,
        biotype=first("gene_type", "gene_biotype", "biotype"),
        line=number,
        key=key,
    )


def _fields(
    path: Path, number: int, line: bytes, dialect: _Gtf | _Gff3
) -> tuple[str, int, int, str, dict[str, list[str]]]:
    """Contig, start, end (0-based, half-open), strand and attributes of a line."""
    fields = line.decode("utf-8", "replace").split("\t")
    if len(fields) != 9:
        raise SourceError(f"{path}: line {number} has {len(fields)} fields, where 9 are expected: {shorten(line)}")
    try:
        start, end = int(fields[3]) - 1, int(fields[4])
    except ValueError:
        raise SourceError(f"{path}: line {number} has no numbers as start and end: {shorten(line)}") from None
    if not 0 <= start < end:
        raise SourceError(f"{path}: line {number} has start {start + 1} and end {end}, which is no interval: "
                          f"{shorten(line)}")  # fmt: skip
    return fields[0], start, end, fields[6], dialect.attributes(fields[8])


def _offer_transcript(path: Path, number: int, line: bytes, dialect: _Gtf | _Gff3, genes: dict[str, Gene]) -> None:
    """Let a transcript give its gene the TSS if it is the best yet."""
    contig, start, end, strand, attributes = _fields(path, number, line, dialect)
    gene = genes.get(dialect.gene_of_transcript(attributes) or "")
    if gene is None or (contig, strand) != (gene.contig, gene.strand):
        return
    rank = (_standing(attributes), start - end)  # the longest first; of equals the first in the file
    if gene.rank is None or rank < gene.rank:
        gene.rank, gene.tss = rank, first_base(start, end, strand)


def _standing(attributes: dict[str, list[str]]) -> int:
    """How little a transcript stands for its gene: 0 is the canonical one."""
    tags = {tag for value in attributes.get("tag", []) for tag in value.split(",")}
    if "Ensembl_canonical" in tags:
        return 0
    if tags & {"MANE_Select", "MANE Select"}:  # as Ensembl and as NCBI write it
        return 1
    appris = [re.fullmatch(r"appris_(principal|alternative)_?(\d?)", tag) for tag in tags]
    levels = [(2 if a[1] == "principal" else 8) + int(a[2] or 1) for a in appris if a]
    if levels:
        return min(levels)
    return 20 if tags & {"basic", "gencode_basic"} else 30
