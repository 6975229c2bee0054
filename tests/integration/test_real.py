"""Stores of public files hold what pyBigWig, pyfaidx and plain parsing find in them, value for value."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyBigWig
import pyfaidx
import pytest

import genostore
from genostore.store import Store

pytestmark = pytest.mark.real

Real = Callable[[str], Any]
BASES = np.full(256, 4, dtype=np.uint8)
BASES[list(b"acgtn")] = [8, 9, 10, 11, 12]
BASES[list(b"ACGT")] = range(4)

WITH_DATA = {"II", "IV", "XVI"}  # of the yeast bigWigs but ATAC
TRACKS = [
    ("yeast", "derived/yeast_ATAC_SRR1822137.fragcov.sacCer3.UCSCnames.bw", "yeast", "ATAC"),
    ("yeast", "MNase.bw", "yeast", "MNase"),
    ("yeast", "Scc1.bw", "yeast", "Scc1"),
    ("yeast", "PolII.bw", "yeast", "PolII"),
    ("yeast", "RNA.fwd.bw", "yeast", "RNA+"),
    ("yeast", "RNA.rev.bw", "yeast", "RNA-"),
    ("k562_hg38", "derived/K562_DNase_ENCFF860XAE.chr22.hg38.elementcounts_per_bp.bw", "K562", "DNase"),
    ("k562_hg38", "derived/K562_H3K27ac_ENCFF790GFL.chr22.hg38.elementcounts_per_bp.bw", "K562", "H3K27ac"),
    ("k562_hg38", "reads.chr22.bw", "K562", "RNA"),
    ("k562_hg19", "derived/K562_DNase_UwRep1.chr22.hg19.elementcounts_per_bp.bw", "K562", "DNase.rep1"),
    ("k562_hg19", "derived/K562_DNase_UwRep2.chr22.hg19.elementcounts_per_bp.bw", "K562", "DNase.rep2"),
    ("k562_hg19", "derived/K562_H3K27ac_ENCFF384ZZM.chr22.hg19.elementcounts_per_bp.bw", "K562", "H3K27ac"),
]
FASTA = {
    "yeast": "Saccharomyces_cerevisiae.R64-1-1.dna.toplevel.fa.gz",
    "k562_hg38": "derived/chr22_15-22M.lifted_from_hg19.hg38.fa.gz",
    "k562_hg19": "chr22_part.fa.gz",
}


def read_fasta(path: Path) -> dict[str, bytes]:
    records = gzip.decompress(path.read_bytes()).split(b">")[1:]
    split = (record.partition(b"\n") for record in records)
    return {header.split()[0].decode(): body.replace(b"\n", b"") for header, _, body in split}


def name_in(source: dict[str, int], contig: str) -> str | None:
    """What a file calls a contig, if it has it; the spellings of these files only."""
    tried = [contig, contig.removeprefix("chr"), f"chr{contig}", {"Mito": "chrM"}.get(contig, "")]
    return next((name for name in tried if name in source), None)


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal, NaN where NaN is, and -0 is not 0."""
    np.testing.assert_array_equal(got, expected)
    assert np.array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(expected[~np.isnan(expected)]))


def gtf_genes(path: Path) -> pd.DataFrame:
    rows = []
    with gzip.open(path, "rt") as file:
        for line in file:
            fields = line.rstrip("\n").split("\t")
            if len(fields) == 9 and fields[2] == "gene":
                keys = dict(re.findall(r'(\w+) "([^"]*)"', fields[8]))
                tss = int(fields[3]) - 1 if fields[6] == "+" else int(fields[4]) - 1
                rows.append((keys["gene_id"], keys["gene_biotype"], fields[0], tss, fields[6]))
    return pd.DataFrame(rows, columns=["id", "biotype", "contig", "tss", "strand"]).set_index("id")


@pytest.mark.parametrize("name", FASTA)
def test_every_base(real: Real, name: str) -> None:
    found = real(name)
    store, records = found.open(), read_fasta(found.data / FASTA[name])
    assert len(records) == len(store.contigs)
    for (contig, length), record in zip(store.contigs.items(), records.values(), strict=True):  # the FASTA's order
        assert length == len(record)
        codes = BASES[np.frombuffer(record, dtype=np.uint8)]
        assert np.array_equal(store.sequence(contig, soft_mask=True), codes)
        assert np.array_equal(store.sequence(contig), codes & 7)
    masked = sum(sum(map(record.count, (b"a", b"c", b"g", b"t", b"n"))) for record in records.values())
    assert store.entries["sequence"]["counts"]["soft_masked"] == masked
    assert (masked > 0) == (name != "yeast")


@pytest.mark.parametrize(("name", "file", "cell_type", "assay"), TRACKS)
def test_every_base_of_a_track(real: Real, name: str, file: str, cell_type: str, assay: str) -> None:
    found = real(name)
    store = found.open()
    track, covered = store.track(cell_type, assay), 0
    with pyBigWig.open(str(found.data / file)) as bigwig:
        contigs = bigwig.chroms()
        for contig in store.genome:
            theirs = name_in(contigs, contig.name)
            expected = np.full(contig.length, np.nan, dtype=np.float32)
            if theirs is not None:
                n = min(contig.length, contigs[theirs])
                expected[:n] = bigwig.values(theirs, 0, n, numpy=True)
            if name == "yeast" and assay != "ATAC":
                assert np.isnan(expected).all() == (contig.name not in WITH_DATA)
            assert_same(track.read(slice(contig.offset, contig.offset + contig.length)), expected)
            if not np.isnan(expected).all():
                middle = int(np.flatnonzero(~np.isnan(expected)).mean())
                low, high = max(middle - 2_000, 0), min(middle + 2_000, contig.length)
                lazy = store.signal((contig.name, low, high), [cell_type], [assay])
                assert_same(lazy.to_numpy()[0, 0], expected[low:high])
            covered += int(np.count_nonzero(~np.isnan(expected)))
    assert store.entries[f"tracks/{cell_type}/{assay}"]["statistics"]["covered"] == covered
    assert np.count_nonzero(~np.isnan(track.read())) == covered  # nothing between contigs


def test_bedgraph(real: Real) -> None:
    found = real("k562_hg38")
    store, contig = found.open(), found.open().genome.resolve("22")
    expected = np.full(contig.length, np.nan, dtype=np.float32)
    file = found.data / "Enhancers.DHS.ENCFF860XAE.chr22.sorted.se.bam.CountReads.bedgraph"
    lines = file.read_text().splitlines()
    for line in lines:
        name, start, end, value = line.split("\t")
        assert name == "chr22"
        expected[int(start) : int(end)] = float(value)
    assert len(lines) == 17_732
    got = store.track("K562", "DNase_counts").read(slice(contig.offset, contig.offset + contig.length))
    assert_same(got, expected)


def test_yeast_genes_and_labels(real: Real) -> None:
    found = real("yeast")
    store = found.open()
    genes = gtf_genes(found.data / "Saccharomyces_cerevisiae.R64-1-1.96.gtf.gz")
    coding = genes[genes["biotype"] == "protein_coding"]
    ours = store.genes.set_index("id")
    assert len(ours) == len(coding) == 6_600
    for column in ("contig", "tss", "strand"):
        assert (ours[column] == coding[column].reindex(ours.index)).all()
    split = ours["contig"].map({"XVI": "test", "II": "valid"}).fillna("train")
    assert (ours["split"] == split).all()

    table = pd.read_csv(found.data / "derived" / "yeast_gene_expression_II_IV_XVI.tsv", sep="\t", index_col="gene_id")
    windows = store.windows(expression="RNA", assays=[], sequence=False)
    batch = windows.read(np.arange(len(windows)))
    assert len(windows) == len(table) == 1_803
    label = table["mean_RNA_sense"].reindex(windows.genes["id"].iloc[batch.gene]).to_numpy()
    np.testing.assert_allclose(batch.target, np.log10(1 + label), rtol=1e-6)
    assert (table["tss"] == ours["tss"].reindex(table.index)).all()


def test_expression_computed_from_a_track(real: Real) -> None:
    found = real("k562_hg38")
    store = found.open()
    windows = store.windows(expression="RNA", assays=[], sequence=False, missing_target="keep")
    batch = windows.read(np.arange(len(windows)))
    with pyBigWig.open(str(found.data / "reads.chr22.bw")) as bigwig:
        for row, tss in enumerate(windows.genes["tss"]):
            covered = bigwig.values("22", tss - 500, tss + 500, numpy=True)
            covered = covered[~np.isnan(covered)]
            expected = np.log10(1 + covered.mean(dtype=np.float64)) if covered.size else np.nan
            assert batch.target[row] == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_gene_features(real: Real) -> None:
    found = real("k562_hg38")
    table = pd.read_csv(found.data / "GeneList.txt", sep="\t").set_index("symbol")
    windows = found.open().windows(features="all", assays=[], sequence=False)
    batch = windows.read(np.arange(len(windows)))
    expected = np.sqrt(table["H3K27ac.RPM.TSS1Kb"] * table["DHS.RPM.TSS1Kb"]).reindex(windows.genes["id"])
    np.testing.assert_allclose(batch.features[:, 0], expected, rtol=1e-6)


def whole(store: Store, genome: pyfaidx.Fasta, flank: int = 1_000) -> list[str]:
    """Genes whose window of the FASTA holds no N."""
    contig = genome["chr22"]
    ends = ((row.id, row.tss - flank, row.tss + flank) for row in store.genes.itertuples())
    return [gene for gene, low, high in ends if "N" not in contig[low:high].seq.upper()]


def test_windows_of_genes(real: Real, tmp_path: Path) -> None:
    """Windows of the 101 genes that have all their bases, against the sources, on both orientations."""
    found = real("k562_hg38")
    store = found.open()
    plain = tmp_path / "chr22.fa"  # pyfaidx writes its index beside the FASTA, and the public folder is read-only
    plain.write_bytes(gzip.decompress((found.data / FASTA["k562_hg38"]).read_bytes()))
    genome = pyfaidx.Fasta(str(plain), rebuild=True)
    genes = whole(store, genome)
    assert len(genes) == 101
    assays = ["H3K27ac", "DNase", "RNA"]
    files = [next(f for n, f, _, a in TRACKS if n == "k562_hg38" and a == assay) for assay in assays]
    bigwigs = [pyBigWig.open(str(found.data / file)) for file in files]
    reference = store.windows(genes, assays=assays)
    oriented = store.windows(genes, assays=assays, orient="gene")
    forward, turned = (w.read(np.arange(len(genes))) for w in (reference, oriented))
    assert reference.genes["id"].tolist() == genes
    for i, row in enumerate(reference.genes.itertuples()):
        low, high = row.tss - 1_000, row.tss + 1_000
        bases = genome["chr22"][low:high]
        signal = [b.values(name_in(b.chroms(), "chr22"), low, high, numpy=True) for b in bigwigs]
        signal = np.stack(signal, axis=1)
        assert genostore.decode(forward.sequence[i]) == bases.seq.upper()
        assert_same(forward.signal[i], signal)
        minus = row.strand == "-"
        assert genostore.decode(turned.sequence[i]) == (-bases if minus else bases).seq.upper()
        assert_same(turned.signal[i], signal[::-1] if minus else signal)
        assert forward.anchor[i] == 1_000
        assert turned.anchor[i] == (999 if minus else 1_000)


def test_tss_of_the_gene_list_is_that_of_the_gtf(real: Real) -> None:
    """The list puts a minus-strand TSS at the BED end; ``tss_convention: bed_end`` makes it the first base."""
    found = real("k562_hg38")
    table = pd.read_csv(found.data / "GeneList.txt", sep="\t").set_index("symbol")
    gtf = gtf_genes(found.data / "Homo_sapiens.GRCh38.90.chr22.gtf.gz")
    genes = found.open().genes.set_index("id").join(table[["Ensembl_ID", "tss"]].add_prefix("table_"))
    genes = genes.join(gtf[["tss"]].add_prefix("gtf_"), on="table_Ensembl_ID", how="inner")
    same_gene = (genes["table_tss"] - genes["gtf_tss"]).isin([0, 1])  # others have another first transcript
    for strand, n, written in (("+", 13, 0), ("-", 17, 1)):
        rows = genes[same_gene & (genes["strand"] == strand)]
        exact = rows[rows["table_tss"] - rows["gtf_tss"] == written]
        assert len(exact) == n
        assert (exact["tss"] == exact["gtf_tss"]).all()
    plus, minus = (genes[genes["strand"] == strand] for strand in "+-")
    assert (plus["tss"] == plus["table_tss"]).all()
    assert (minus["tss"] == minus["table_tss"] - 1).all()
    assert not (minus["table_tss"] == minus["gtf_tss"]).any()
