"""A small genome with one file of every format, and the arrays that a store of it must give back."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig

CONTIGS = {"chr1": 5_000, "chr2": 3_001, "chrM": 700}
BIN = 100
CODES = {"A": 0, "C": 1, "G": 2, "T": 3}
TRACKS = "tracks:\n  - {cell_type: K562, assay: DNase, source: dnase.bw, role: background, unit: reads}\n"
GENES = "genes: {source: genes.gtf}\n"
EVERYTHING = f"""\
{GENES}features:
  - {{source: table.csv, gene_id: gene, columns: [length]}}
  - {{source: table.csv, gene_id: gene, cell_type: K562, columns: {{activity: {{geometric_mean: [a, b]}}}}}}
splits: {{test: [chr2], valid: [M]}}
{TRACKS}  - {{cell_type: K562, assay: RNA, strand: "+", source: rna.bedgraph}}
contacts:
  - {{cell_type: K562, assay: hic, source: hic.cool, bin_size: {BIN}, max_distance: 1000}}
expression:
  - {{assay: CAGE, source: table.csv, gene_id: gene, columns: {{K562: cage}}, transform: log10p1}}
  - {{assay: SUM, cell_type: K562, source: dnase.bw, aggregate: sum, flank: 20}}
regions:
  - {{name: blacklist, source: blacklist.bed}}
"""


@dataclass
class Small:
    """The files, and the truth.

    Attributes
    ----------
    folder
        Of the files.
    sequence
        Text by contig.
    dnase, rna
        Values by contig, NaN where the file is silent.
    matrix
        Symmetric counts by contig.
    weights
        ``weight`` of all bins, multiplicative.
    """

    folder: Path
    sequence: dict[str, str]
    dnase: dict[str, np.ndarray]
    rna: dict[str, np.ndarray]
    matrix: dict[str, np.ndarray]
    weights: np.ndarray

    def catalogue(self, sections: str = TRACKS, assembly: str = "") -> Path:
        """Write a catalogue with these sections."""
        path = self.folder / "catalog.yaml"
        more = f", {assembly}" if assembly else ""
        head = f"version: 1\nassembly: {{name: small, fasta: genome.fa, alignment: 256{more}}}\n"
        path.write_text(head + textwrap.dedent(sections))
        return path

    def codes(self, contig: str) -> np.ndarray:
        """Codes of a contig, 8 added where soft-masked."""
        return np.array([CODES.get(b.upper(), 4) + 8 * b.islower() for b in self.sequence[contig]], dtype=np.uint8)


def write_bigwig(path: Path, lengths: dict[str, int], values: dict[str, np.ndarray]) -> None:
    """Write the runs of equal values that are not NaN."""
    file = pyBigWig.open(str(path), "w")
    file.addHeader(list(lengths.items()))
    for contig, track in values.items():
        first = np.flatnonzero(np.diff(track, prepend=np.inf) != 0)
        last = np.append(first[1:], len(track))
        kept = ~np.isnan(track[first])
        if kept.any():
            start, end = first[kept].tolist(), last[kept].tolist()
            file.addEntries([contig] * len(start), start, ends=end, values=track[first[kept]].astype(float).tolist())
    file.close()


def signal(rng: np.random.Generator, length: int) -> np.ndarray:
    """Steps of random values, a third of them silent."""
    steps = np.repeat(rng.gamma(1.0, 3.0, length), rng.integers(1, 30, length))[:length].astype(np.float32)
    gaps = np.repeat(rng.random(length) < 0.3, 50)[:length]
    steps[gaps] = np.nan
    return steps


def build_small(folder: Path, seed: int = 0) -> Small:
    """Write the files."""
    rng = np.random.default_rng(seed)
    sequence = {c: "".join(rng.choice(list("ACGTacgtNNRy"), n)) for c, n in CONTIGS.items()}
    (folder / "genome.fa").write_text("".join(f">{c}\n{textwrap.fill(s, 60)}\n" for c, s in sequence.items()))
    dnase = {c: signal(rng, n) for c, n in CONTIGS.items()}
    dnase["chr1"][:100] = np.arange(100)  # one value a base
    write_bigwig(folder / "dnase.bw", CONTIGS, dnase)
    rna = {c: np.full(n, np.nan, dtype=np.float32) for c, n in CONTIGS.items()}
    rna["chr1"][10:20], rna["chr2"][2_990:3_001] = -1.5, 4
    (folder / "rna.bedgraph").write_text("1\t10\t20\t-1.5\n2\t2990\t3001\t4\n")
    matrix, weights = write_cool(folder / "hic.cool", rng)
    write_tables(folder)
    return Small(folder, sequence, dnase, rna, matrix, weights)


def write_cool(path: Path, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Write a .cool with weights; contigs are in another order than the FASTA's."""
    import cooler

    order = ["chrM", "chr1", "chr2"]
    bins, pixels, matrices, low = [], [], {}, 0
    for contig in order:
        n = -(-CONTIGS[contig] // BIN)
        starts = np.arange(n) * BIN
        ends = np.minimum(starts + BIN, CONTIGS[contig])
        bins.append(pd.DataFrame({"chrom": contig, "start": starts, "end": ends}))
        upper = np.triu(rng.poisson(1.0, (n, n)))
        matrices[contig] = upper + np.triu(upper, 1).T
        row, column = np.nonzero(upper)
        pixels.append(pd.DataFrame({"bin1_id": row + low, "bin2_id": column + low, "count": upper[row, column]}))
        low += n
    frame = pd.concat(bins, ignore_index=True)
    frame["weight"] = rng.uniform(0.5, 2.0, len(frame))
    frame.loc[3, "weight"] = np.nan
    cooler.create_cooler(str(path), frame, pd.concat(pixels, ignore_index=True), ordered=True)
    by_contig = dict(zip(order, np.split(frame["weight"].to_numpy(), [7, 57]), strict=True))
    return matrices, np.concatenate([by_contig[c] for c in CONTIGS])


def write_tables(folder: Path) -> None:
    """Write genes, a table of values by gene, and a blacklist."""
    genes = [
        ("chr1", 101, 400, "+", "G1.2", "one"),
        ("1", 601, 900, "-", "G2", "two"),
        ("chr2", 2_901, 3_001, "-", "G3", "three"),
        ("chrM", 1, 50, "+", "G4", "four"),
        ("chrUn_scaffold", 1, 50, "+", "G5", "five"),
    ]
    (folder / "genes.gtf").write_text(
        "".join(
            f'{c}\tx\tgene\t{a}\t{b}\t.\t{s}\t.\tgene_id "{i}"; gene_name "{n}"; gene_type "protein_coding";\n'
            for c, a, b, s, i, n in genes
            if c != "1"
        )
        + 'chr1\tx\tgene\t601\t900\t.\t-\t.\tgene_id "G2"; gene_name "two"; gene_type "lncRNA";\n'
    )
    (folder / "table.csv").write_text(
        "gene,length,a,b,cage,fold_1\nG2,2.5,4,9,10,train\nG1.2,1.5,1,1,,test\nthree,3.5,0,4,0.5,valid\nG9,1,1,1,1,train\n"
    )
    (folder / "blacklist.bed").write_text("chr1\t100\t200\tHigh Signal\nchrUn\t0\t5\t.\nchr2\t3000\t3001\tEnd\n")
