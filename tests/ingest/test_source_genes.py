from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from genostore.errors import SourceError
from genostore.genome import Genome
from ingest.sources.annotation import split_version
from ingest.sources.contigs import match
from ingest.sources.genes import COLUMNS, place_genes, read_genes

Write = Callable[[str, str | bytes], Path]

GENCODE = """##description: evidence-based annotation
##format: gtf
chr1\tHAVANA\tgene\t101\t200\t.\t+\t.\tgene_id "ENSG00000000001.5"; gene_type "protein_coding"; gene_name "AAA";
chr1\tHAVANA\ttranscript\t101\t200\t.\t+\t.\tgene_id "ENSG00000000001.5"; transcript_id "ENST1.1"; tag "basic";
chr1\tHAVANA\ttranscript\t121\t190\t.\t+\t.\tgene_id "ENSG00000000001.5"; tag "basic"; tag "Ensembl_canonical";
chr1\tHAVANA\texon\t121\t190\t.\t+\t.\tgene_id "ENSG00000000001.5";
chr1\tHAVANA\tgene\t301\t400\t.\t-\t.\tgene_id "ENSG00000000002.1"; gene_type "lncRNA"; gene_name "BBB";
chrX\tHAVANA\tgene\t5\t9\t.\t+\t.\tgene_id "ENSG00000000003.7"; gene_type "protein_coding"; gene_name "CCC";
chrY\tHAVANA\tgene\t5\t9\t.\t+\t.\tgene_id "ENSG00000000003.7_PAR_Y"; gene_type "protein_coding"; gene_name "CCC";
"""

ENSEMBL = """#!genome-build GRCh38
1\tensembl\tgene\t101\t200\t.\t-\t.\tgene_id "ENSG00000000001"; gene_version "5"; gene_biotype "protein_coding";
1\tensembl\ttranscript\t111\t200\t.\t-\t.\tgene_id "ENSG00000000001"; transcript_id "ENST1"; tag "basic";
1\tensembl\ttranscript\t101\t160\t.\t-\t.\tgene_id "ENSG00000000001"; transcript_id "ENST2";
IV\tsgd\tgene\t1802\t2953\t.\t+\t.\tgene_id "YDL248W"; gene_name "COS7"; gene_biotype "protein_coding";
"""

GFF3 = """##gff-version 3
##sequence-region 1 1 1000
1\tensembl\tgene\t101\t200\t.\t+\t.\tID=gene:ENSG00000000001;Name=AAA;biotype=protein_coding;gene_id=ENSG00000000001;version=5
1\tensembl\tmRNA\t101\t200\t.\t+\t.\tID=transcript:ENST1;Parent=gene:ENSG00000000001;tag=basic
1\tensembl\tmRNA\t111\t190\t.\t+\t.\tID=transcript:ENST2;Parent=gene:ENSG00000000001;tag=basic,MANE_Select
1\tensembl\texon\t101\t200\t.\t+\t.\tParent=transcript:ENST1
1\tensembl\tncRNA_gene\t301\t400\t.\t-\t.\tID=gene:ENSG00000000002;Name=B%2CB;biotype=lncRNA;gene_id=ENSG00000000002
NC_2\tBestRefSeq\tpseudogene\t11\t20\t.\t+\t.\tID=gene-DDX11L1;Dbxref=GeneID:1;Name=DDX11L1;gene_biotype=pseudogene
##FASTA
>1
ACGT
"""


def rows(genes: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(
        genes[["id", "name", "contig", "start", "end", "tss", "strand", "biotype"]].itertuples(index=False, name=None)
    )


@pytest.mark.parametrize("name", ["a.gtf", "a.gtf.gz"])
def test_gencode(write: Write, name: str) -> None:
    genes = read_genes(write(name, GENCODE))
    assert tuple(genes.columns) == COLUMNS
    assert rows(genes) == [
        ("ENSG00000000001", "AAA", "chr1", 100, 200, 100, "+", "protein_coding"),
        ("ENSG00000000002", "BBB", "chr1", 300, 400, 399, "-", "lncRNA"),
        ("ENSG00000000003", "CCC", "chrX", 4, 9, 4, "+", "protein_coding"),
        ("ENSG00000000003_PAR_Y", "CCC", "chrY", 4, 9, 4, "+", "protein_coding"),
    ]
    assert genes["version"].tolist() == ["5", "1", "7", "7"]
    assert genes["tss"].dtype == "int64"
    assert read_genes(write(name, GENCODE), biotypes=["lncRNA"])["id"].tolist() == ["ENSG00000000002"]


def test_ensembl(write: Write) -> None:
    assert rows(read_genes(write("a.gtf", ENSEMBL))) == [
        ("ENSG00000000001", "ENSG00000000001", "1", 100, 200, 199, "-", "protein_coding"),
        ("YDL248W", "COS7", "IV", 1801, 2953, 1801, "+", "protein_coding"),
    ]
    assert read_genes(write("a.gtf", ENSEMBL))["version"].tolist() == ["5", ""]


def test_gff3_of_ensembl_and_ncbi(write: Write) -> None:
    assert rows(read_genes(write("a.gff3", GFF3))) == [
        ("ENSG00000000001", "AAA", "1", 100, 200, 100, "+", "protein_coding"),
        ("ENSG00000000002", "B,B", "1", 300, 400, 399, "-", "lncRNA"),
        ("DDX11L1", "DDX11L1", "NC_2", 10, 20, 10, "+", "pseudogene"),
    ]
    assert read_genes(write("a.gff3", GFF3), tss="canonical")["tss"].tolist() == [110, 399, 10]


def test_canonical_tss(write: Write) -> None:
    assert read_genes(write("a.gtf", GENCODE), tss="canonical")["tss"].tolist() == [120, 399, 4, 4]
    assert read_genes(write("b.gtf", ENSEMBL), tss="canonical")["tss"].tolist() == [199, 1801]


@pytest.mark.parametrize(
    ("tags", "best"),
    [
        (["basic", "Ensembl_canonical", "MANE_Select"], 1),
        (["appris_principal_1", "MANE_Select", "basic"], 1),
        (["appris_principal_3", "appris_principal_1", "appris_alternative_1"], 1),
        (["appris_alternative_2", "basic", "appris_alternative_1"], 2),
        (["x", "basic", "x"], 1),
        (["x", "x", "x"], 2),  # the longest
        (["basic", "basic", "x"], 1),  # the longer of those
    ],
)
def test_rank_of_transcripts(write: Write, tags: list[str], best: int) -> None:
    text = 'chr1\tx\tgene\t1\t1000\t.\t+\t.\tgene_id "g";\n'
    for i, tag in enumerate(tags):  # each is longer than the one before
        text += f'chr1\tx\ttranscript\t{100 - i}\t900\t.\t+\t.\tgene_id "g"; transcript_id "t{i}"; tag "{tag}";\n'
    assert read_genes(write("a.gtf", text), tss="canonical")["tss"].tolist() == [99 - best]


def test_versions() -> None:
    assert split_version("ENSG00000223972.5") == ("ENSG00000223972", "5")
    assert split_version("ENSMUSG00000000001.12") == ("ENSMUSG00000000001", "12")
    assert split_version("ENSG00000182378.15_PAR_Y") == ("ENSG00000182378_PAR_Y", "15")
    assert split_version("Y74C9A.3") == ("Y74C9A.3", "")
    assert split_version("YDL247W-A") == ("YDL247W-A", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("chr1\tx\texon\t1\t9\t.\t+\t.\tgene_id \"g\";\n", r"no feature of type 'gene'; it has exon \(1\)"),
        ("chr1\tx\tgene\t0\t9\t.\t+\t.\tgene_id \"g\";\n", r"line 1 has start 0 and end 9, which is no interval"),
        ("#c\nchr1\tx\tgene\ta\t9\t.\t+\t.\tgene_id \"g\";\n", r"line 2 has no numbers as start and end"),
        ("chr1\tx\tgene\t1\t9\t.\t.\t.\tgene_id \"g\";\n", r"line 1: gene 'g' has strand '.', so it has no TSS"),
        ("chr1\tx\tgene\t1\t9\t.\t+\t.\tgene_name \"g\";\n", r"line 1: the gene has no gene_id"),
        ("chr1\tx\tgene\t1\t9\t.\t+\n", r"line 1 has 7 fields, where 9 are expected"),
        ("chr1 x gene 1 9\n", r"line 1 has no 9 fields separated by tabs"),
        ("#only\n#comments\n", r"has no feature: every line is a comment"),
        ("", r"is not a GTF or GFF3: it is empty"),
        (b"\x1f\x8b\x08\x00aaaa", r"gzip stream"),
        (GENCODE + GENCODE.splitlines()[2] + "\n", r"gene 'ENSG00000000001' is given twice, in lines 3 and 10"),
    ],
)  # fmt: skip
def test_refusals(write: Write, content: str | bytes, message: str) -> None:
    path = write("bad.gtf", content)
    with pytest.raises(SourceError, match=message) as caught:
        read_genes(path)
    assert str(path) in str(caught.value)


def test_unknown_biotype_lists_those_there(write: Write) -> None:
    with pytest.raises(
        SourceError, match=r"no gene of the biotypes \['protein-coding'\].*did you mean 'protein_coding'"
    ):
        read_genes(write("a.gtf", GENCODE), biotypes=["protein-coding"])


TABLE = "symbol\tchr\tbeg\tstop\ttss\tdir\nENSG00000000001.2\tchr1\t100\t200\t100\t+\nB\tchr1\t300\t400\t400\t-\n"
MAPPING = {"id": "symbol", "contig": "chr", "start": "beg", "end": "stop", "tss": "tss", "strand": "dir"}


def test_table(write: Write) -> None:
    path = write("genes.tsv", TABLE)
    genes = read_genes(path, columns=MAPPING, tss_convention="bed_end")
    assert rows(genes) == [
        ("ENSG00000000001", "ENSG00000000001", "chr1", 100, 200, 100, "+", ""),
        ("B", "B", "chr1", 300, 400, 399, "-", ""),
    ]
    assert read_genes(path, columns=MAPPING)["tss"].tolist() == [100, 400]
    by_extent = {k: v for k, v in MAPPING.items() if k != "tss"}
    assert read_genes(path, columns=by_extent)["tss"].tolist() == [100, 399]
    by_tss = {k: v for k, v in MAPPING.items() if k not in ("start", "end")}
    point = read_genes(path, columns=by_tss, tss_convention="bed_end")
    assert point[["start", "end"]].to_numpy().tolist() == [[100, 101], [399, 400]]


def test_table_without_header(write: Write) -> None:
    path = write("genes.bed", "chr1\t100\t200\tA\t0\t+\nchr1\t300\t400\tB\t0\t-\n")
    columns = {"contig": 0, "start": 1, "end": 2, "id": 3, "strand": 5}
    assert read_genes(path, columns=columns)["tss"].tolist() == [100, 399]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (TABLE + "B\tchr2\t1\t2\t1\t+\n", MAPPING, r"gene 'B' is given more than once, in lines 3, 4"),
        (TABLE.replace("\t-\n", "\t.\n"), MAPPING, r"line 3, column 'strand': '.' is neither \+ nor -"),
        (TABLE.replace("300", "x"), MAPPING, r"line 3, column 'start': 'x' is no number"),
        (TABLE.replace("300", ""), MAPPING, r"line 3, column 'start': '' is no position"),
        (TABLE.replace("300", "500"), MAPPING, r"line 3, column 'end': .*400.* is not past the start"),
        (TABLE, {"id": "symbol", "contig": "chr", "strand": "dir"}, r"needs the columns id, contig, strand and either"),
        (TABLE, MAPPING | {"gc": "tss"}, r"\['gc'\] is no column of genes"),
        (TABLE, MAPPING | {"name": "symbl"}, r"no column 'symbl'; did you mean 'symbol'"),
    ],
)
def test_bad_tables(write: Write, content: str, columns: dict[str, str], message: str) -> None:
    path = write("genes.tsv", content)
    with pytest.raises(SourceError, match=message) as caught:
        read_genes(path, columns=columns)
    assert str(path) in str(caught.value)


def test_canonical_needs_an_annotation(write: Write) -> None:
    with pytest.raises(SourceError, match="tss: canonical needs transcripts"):
        read_genes(write("a.tsv", TABLE), columns=MAPPING, tss="canonical")


def test_genes_off_the_assembly_are_reported(write: Write) -> None:
    genes = read_genes(write("a.gtf", GENCODE))
    genome = Genome.build("toy", {"1": 350, "X": 100}, 1)
    kept, dropped = place_genes(genes, match(genes["contig"], genome), genome)
    assert kept[["id", "contig"]].to_numpy().tolist() == [["ENSG00000000001", "1"], ["ENSG00000000003", "X"]]
    assert dropped[["id", "reason"]].to_numpy().tolist() == [
        ["ENSG00000000002", "TSS past the contig's end"],
        ["ENSG00000000003_PAR_Y", "contig not in the assembly"],
    ]


@pytest.mark.real
def test_yeast_gtf_agrees_with_the_published_tss(data: Path) -> None:
    gtf = data / "yeast" / "Saccharomyces_cerevisiae.R64-1-1.96.gtf.gz"
    genes = read_genes(gtf)
    with gzip.open(gtf, "rt") as file:
        lines = [line.split("\t") for line in file if "\tgene\t" in line]
    assert len(genes) == len(lines) == 7036
    expected = [int(f[3]) - 1 if f[6] == "+" else int(f[4]) - 1 for f in lines]
    assert genes["tss"].tolist() == expected
    assert len(read_genes(gtf, biotypes=["protein_coding"])) == 6600
    table = read_genes(
        data / "yeast" / "derived" / "yeast_gene_expression_II_IV_XVI.tsv",
        columns={"id": "gene_id", "contig": "chrom", "start": "start", "end": "end", "tss": "tss", "strand": "strand"},
    )
    both = table.merge(genes, on="id", suffixes=("", "_gtf"))
    assert len(both) == 1803
    assert (both["tss"] == both["tss_gtf"]).all()


@pytest.mark.real
def test_abc_gene_list_is_bed_end(data: Path) -> None:
    """A minus-strand TSS of the ABC pipeline is one past the last base of the gene's own BED interval."""
    genes = read_genes(
        data / "k562_chr22_hg38" / "GeneList.txt",
        columns={"id": "symbol", "contig": "chr", "start": "start", "end": "end", "tss": "tss", "strand": "strand"},
        tss_convention="bed_end",
    )
    assert len(genes) == 517
    minus = genes["strand"] == "-"
    assert (genes["tss"][minus] == genes["end"][minus] - 1).all()
    assert (genes["tss"][~minus] == genes["start"][~minus]).all()
