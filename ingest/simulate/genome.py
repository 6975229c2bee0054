"""The simulated genome: contigs, gene models, sequence with planted motifs, and what cannot be mapped."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ingest.simulate.settings import CONTIG_SHARES, MRNA_FEATURES, Settings, split_of

TELOMERE = 10_000  # bp of N at either end of a contig, as in hg38
GAP_SLOT, GAP_N = 30_000, 22_000  # an assembly gap in the middle of every contig
SLOT_MARGIN = 2_000  # no gene starts or ends closer to its slot's edge: TSSs lie at least 4 kb apart
MAX_GENE = 18_000
MOTIF_SPAN = (-400, 100)  # of the TSS, in the direction of transcription
N, SOFT = np.uint8(4), np.uint8(8)


@dataclass(frozen=True)
class Transcript:
    """A gene's only transcript: 0-based half-open intervals on the contig, in the order of transcription."""

    exons: list[tuple[int, int]]
    utr5: tuple[int, int]
    cds: list[tuple[int, int]]
    utr3: tuple[int, int]


@dataclass(frozen=True)
class SimulatedGenome:
    """Everything that is the same in all cell types.

    Attributes
    ----------
    contigs
        Name to length in bp.
    sequence
        Contig to ``(length,)`` uint8 codes: 0-3 = A C G T, 4 = N, 8 added where soft-masked.
    unmappable
        Contig to ``(n, 2)`` sorted, disjoint intervals that no read maps to; the N runs are among them.
    neighbourhoods
        ``contig, start, end``; they tile the contigs.
    genes
        The protein-coding genes: ``id, name, contig, start, end, tss, strand, biotype, split,
        neighbourhood``.
    transcripts
        One a gene.
    noncoding
        lncRNA genes, with the columns of ``genes`` up to ``biotype``; nothing is said of their expression.
    features
        ``(gene, 8)``, columns as ``MRNA_FEATURES``.
    motif_sites
        ``gene`` (row number), ``motif, contig, start, end, strand``.
    motif_counts
        ``(gene, motif)`` int.
    """

    contigs: dict[str, int]
    sequence: dict[str, np.ndarray]
    unmappable: dict[str, np.ndarray]
    neighbourhoods: pd.DataFrame
    genes: pd.DataFrame
    transcripts: list[Transcript]
    noncoding: pd.DataFrame
    features: pd.DataFrame
    motif_sites: pd.DataFrame
    motif_counts: np.ndarray


def draw_genome(settings: Settings) -> SimulatedGenome:
    """Draw the genome of a simulated world."""
    contigs, slots, gaps = _layout(settings)
    neighbourhoods = _neighbourhoods(settings, contigs, slots)
    genes, transcripts, noncoding = _genes(settings, slots)
    genes["neighbourhood"] = _containing(neighbourhoods, genes)
    unmappable = {name: _unmappable(settings, name, length, gaps[name]) for name, length in contigs.items()}
    sequence = {
        name: _sequence(settings, name, length, gaps[name], genes[genes.contig == name].tss.to_numpy())
        for name, length in contigs.items()
    }
    sites, counts = _plant_motifs(settings, genes, sequence)
    features = _features(transcripts, genes, sequence)
    return SimulatedGenome(
        contigs, sequence, unmappable, neighbourhoods, genes, transcripts, noncoding, features, sites, counts
    )


def _layout(settings: Settings) -> tuple[dict[str, int], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Contig lengths, the start of every gene's slot, and the runs of N, ``(3, 2)`` a contig."""
    shares = np.array(list(CONTIG_SHARES.values())) * settings.genes
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: settings.genes - counts.sum()]] += 1
    contigs, slots, gaps = {}, {}, {}
    rng = settings.stream("layout")
    for name, count in zip(CONTIG_SHARES, counts, strict=True):
        starts = TELOMERE + np.arange(count) * settings.gene_spacing
        middle = TELOMERE + (count // 2) * settings.gene_spacing
        starts[count // 2 :] += GAP_SLOT
        # The odd remainder makes the last Hi-C bin a partial one.
        length = int(starts[-1]) + settings.gene_spacing + int(rng.integers(1, 5_000)) + TELOMERE
        inset = (GAP_SLOT - GAP_N) // 2
        contigs[name], slots[name] = length, starts
        gaps[name] = np.array([(0, TELOMERE), (middle + inset, middle + inset + GAP_N), (length - TELOMERE, length)])
    return contigs, slots, gaps


def _neighbourhoods(settings: Settings, contigs: dict[str, int], slots: dict[str, np.ndarray]) -> pd.DataFrame:
    rows = []
    for name, length in contigs.items():
        edges = list(slots[name][:: settings.genes_a_neighbourhood])
        if len(slots[name]) % settings.genes_a_neighbourhood == 1 and len(edges) > 1:
            edges.pop()  # no neighbourhood of one gene
        edges = [0, *edges[1:], length]
        rows += [(name, int(a), int(b)) for a, b in itertools.pairwise(edges)]
    return pd.DataFrame(rows, columns=["contig", "start", "end"])


def _containing(intervals: pd.DataFrame, genes: pd.DataFrame) -> np.ndarray:
    """The row of ``intervals`` that holds each gene's TSS."""
    found = np.empty(len(genes), np.int64)
    for name, rows in intervals.groupby("contig"):
        mine = (genes.contig == name).to_numpy()
        at = np.searchsorted(rows.start.to_numpy(), genes.tss.to_numpy()[mine], side="right") - 1
        found[mine] = rows.index.to_numpy()[at]
    return found


def _genes(settings: Settings, slots: dict[str, np.ndarray]) -> tuple[pd.DataFrame, list[Transcript], pd.DataFrame]:
    rows, transcripts, noncoding = [], [], []
    number = 0
    for name, starts in slots.items():
        rng = settings.stream("genes", name)
        for slot in starts:
            number += 1
            strand = "+" if rng.random() < 0.5 else "-"
            lengths = _exon_lengths(rng)
            total = lengths["total"]
            room = settings.gene_spacing - 2 * SLOT_MARGIN - 6_000 - total
            start = int(slot) + SLOT_MARGIN + int(rng.integers(0, room))
            transcript = _place(lengths, start, strand)
            tss = start if strand == "+" else start + total - 1
            identity = f"SIMG{number:011d}", f"SIM{number}"
            rows.append((*identity, name, start, start + total, tss, strand, "protein_coding", split_of(name)))
            transcripts.append(transcript)
            if rng.random() < 0.15:  # an lncRNA in what is left of the slot
                size = int(rng.integers(400, 3_000))
                end = int(slot) + settings.gene_spacing - SLOT_MARGIN
                noncoding.append(
                    (
                        f"SIMG{90_000_000 + number:011d}",
                        f"LNC-SIM{number}",
                        name,
                        end - size,
                        end,
                        "+",
                        "lncRNA",
                    )
                )
    columns = ["id", "name", "contig", "start", "end", "tss", "strand", "biotype", "split"]
    return (
        pd.DataFrame(rows, columns=columns),
        transcripts,
        pd.DataFrame(noncoding, columns=["id", "name", "contig", "start", "end", "strand", "biotype"]),
    )


def _exon_lengths(rng: np.random.Generator) -> dict:
    """Lengths in bp of a transcript's parts, each about as in human genes but with short introns."""
    exons = int(rng.integers(2, 10))
    utr5 = int(np.clip(rng.lognormal(np.log(150), 0.6), 20, 900))
    utr3 = int(np.clip(rng.lognormal(np.log(800), 0.7), 60, 4_000))
    coding = np.clip(rng.lognormal(np.log(150), 0.4, exons), 30, 600).astype(int)
    coding[-1] += -coding.sum() % 3
    introns = np.clip(rng.lognormal(np.log(1_000), 0.7, exons - 1), 80, 6_000)
    room = MAX_GENE - utr5 - utr3 - coding.sum()
    introns = np.maximum(introns * min(1.0, room / introns.sum()), 70).astype(int)
    total = int(utr5 + utr3 + coding.sum() + introns.sum())
    return {"utr5": utr5, "utr3": utr3, "coding": coding, "introns": introns, "total": total}


def _place(lengths: dict, start: int, strand: str) -> Transcript:
    """Lay a transcript's parts out from its 5' end; on the minus strand they are mirrored."""
    exons, cds, at = [], [], 0
    last = len(lengths["coding"]) - 1
    for i, coding in enumerate(lengths["coding"].tolist()):
        coding_start = at + (lengths["utr5"] if i == 0 else 0)
        coding_end = coding_start + coding
        end = coding_end + (lengths["utr3"] if i == last else 0)
        exons.append((at, end))
        cds.append((coding_start, coding_end))
        at = end + (int(lengths["introns"][i]) if i < last else 0)

    def onto(interval: tuple[int, int]) -> tuple[int, int]:
        a, b = interval
        return (start + a, start + b) if strand == "+" else (start + at - b, start + at - a)

    return Transcript(
        [onto(e) for e in exons],
        onto((0, lengths["utr5"])),
        [onto(c) for c in cds],
        onto((cds[-1][1], at)),
    )


def _unmappable(settings: Settings, name: str, length: int, gaps: np.ndarray) -> np.ndarray:
    """The gaps of the assembly and about 2% of the rest, in stretches of 100 bp to 2.5 kb, most of them short."""
    rng = settings.stream("unmappable", name)
    starts = rng.integers(TELOMERE, length - TELOMERE - 2_500, length // 20_000)
    lengths = np.minimum(100 + rng.exponential(350, len(starts)), 2_500).astype(np.int64)
    stretches = np.stack([starts, starts + lengths], axis=1)
    return merge(np.concatenate([gaps, stretches]))


def merge(intervals: np.ndarray) -> np.ndarray:
    """Sort ``(n, 2)`` intervals and join those that overlap or touch."""
    ordered = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ordered[:, 1])
    first = np.concatenate([[True], ordered[1:, 0] > reach[:-1]])
    return np.stack([ordered[first, 0], reach[np.append(np.flatnonzero(first)[1:] - 1, len(reach) - 1)]], axis=1)


def _sequence(settings: Settings, name: str, length: int, gaps: np.ndarray, tss: np.ndarray) -> np.ndarray:
    """Bases with regional GC content, GC-rich promoters, N in the gaps, and soft-masked repeats."""
    rng = settings.stream("sequence", name)
    knots = np.arange(0, length + 50_000, 50_000)
    gc = np.interp(np.arange(length), knots, rng.uniform(0.36, 0.50, len(knots))).astype(np.float32)
    bump = (0.20 * np.exp(-0.5 * (np.arange(-1_500, 1_501) / 500.0) ** 2)).astype(np.float32)
    for at in tss:
        gc[at - 1_500 : at + 1_501] += bump
    strong = rng.random(length, dtype=np.float32) < gc
    second = rng.random(length, dtype=np.float32) < 0.5
    codes = np.where(strong, np.where(second, 1, 2), np.where(second, 0, 3)).astype(np.uint8)
    count = length // 1_100
    starts = np.cumsum(rng.exponential(1_100, count)).astype(np.int64)
    for a, b in zip(starts, starts + rng.exponential(400, count).astype(np.int64), strict=True):
        codes[a:b] |= SOFT
    for a, b in gaps:
        codes[a:b] = N
    return codes


def _plant_motifs(
    settings: Settings, genes: pd.DataFrame, sequence: dict[str, np.ndarray]
) -> tuple[pd.DataFrame, np.ndarray]:
    """Write motif sites into the sequence around every TSS, on either strand, none over another."""
    motifs = settings.motifs
    cell = 2 * max(len(m.consensus) for m in motifs)
    cells = np.arange(MOTIF_SPAN[0], MOTIF_SPAN[1] - cell + 1, cell)
    counts = np.empty((len(genes), len(motifs)), np.int64)
    sites = []
    for row, gene in enumerate(genes.itertuples()):
        rng = settings.stream("motifs", gene.id)
        counts[row] = np.minimum(rng.poisson([m.mean_sites for m in motifs]), 3)
        where = rng.choice(cells, counts[row].sum(), replace=False)
        for motif, offset in zip(np.repeat(np.arange(len(motifs)), counts[row]), where, strict=True):
            bases = np.array(["ACGT".index(base) for base in motifs[motif].consensus], np.uint8)
            drawn = rng.random(len(bases)) >= settings.motif_fidelity
            bases = np.where(drawn, (bases + rng.integers(1, 4, len(bases))) % 4, bases).astype(np.uint8)
            forward = rng.random() < 0.5
            start = gene.tss + offset if gene.strand == "+" else gene.tss - offset - len(bases) + 1
            window = sequence[gene.contig][start : start + len(bases)]
            window[:] = (window & SOFT) | (bases if forward else 3 - bases[::-1])
            sites.append((row, motifs[motif].name, gene.contig, start, start + len(bases), "+" if forward else "-"))
    return pd.DataFrame(sites, columns=["gene", "motif", "contig", "start", "end", "strand"]), counts


def _features(transcripts: list[Transcript], genes: pd.DataFrame, sequence: dict[str, np.ndarray]) -> pd.DataFrame:
    """The eight features, measured on the gene models and the sequence as they are written."""

    def length(intervals: list[tuple[int, int]]) -> int:
        return sum(b - a for a, b in intervals)

    def gc(contig: str, intervals: list[tuple[int, int]]) -> float:
        bases = np.concatenate([sequence[contig][a:b] for a, b in intervals]) & 7
        return float(np.isin(bases, (1, 2)).mean())

    rows = []
    for contig, t in zip(genes.contig, transcripts, strict=True):
        cds = length(t.cds)
        intron = max(b for _, b in t.exons) - min(a for a, _ in t.exons) - length(t.exons)
        lengths = [np.log10(n) for n in (length([t.utr5]), cds, intron, length([t.utr3]))]
        shares = [gc(contig, part) for part in ([t.utr5], t.cds, [t.utr3])]
        rows.append([*lengths, *shares, (len(t.cds) - 1) / (cds / 1_000)])
    table = pd.DataFrame(rows, columns=list(MRNA_FEATURES))
    for name in MRNA_FEATURES[:4]:
        table[name] = (table[name] - table[name].mean()) / table[name].std(ddof=0)
    return table
