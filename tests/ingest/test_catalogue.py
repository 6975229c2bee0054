"""Reading a catalogue: what is right becomes entries, what is wrong is reported whole, with lines."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genostore.errors import CatalogueError
from ingest.catalogue import (
    Catalogue,
    ColumnSplit,
    Contacts,
    ContigSplit,
    ExpressionSignal,
    ExpressionTable,
    Features,
    GeometricMean,
    Problem,
    Track,
    load,
    report,
)
from ingest.catalogue import document as documents

ROOT = Path(__file__).resolve().parents[2]
HEAD = "version: 1\nassembly: {name: hg38, fasta: hg38.fa}\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a catalogue beside the files it names."""

    def write(text: str, *files: str) -> Path:
        for name in ("hg38.fa", *files):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("")
        path = tmp_path / "catalog.yaml"
        path.write_text(text)
        return path

    return write


def problems(path: Path, **options: bool) -> list[str]:
    """The lines of the report, without the file's name and folder."""
    with pytest.raises(CatalogueError) as caught:
        load(path, **options)
    lines = str(caught.value).replace(str(path.parent) + os.sep, "").splitlines()
    return [re.sub(r"^catalog.yaml:(?=\d)", "", line.strip()) for line in (lines[1:] or lines)]


# --- what is right --------------------------------------------------------------------------------------------------

WHOLE = """\
version: 1
assembly: {name: hg38, fasta: hg38.fa, contigs: [chr21, 22], alignment: 16_384, aliases: {2micron: plasmid}}
genes: {source: genes.gtf, biotypes: [protein_coding], tss: canonical}
features:
  - {source: t.csv, gene_id: ENSID, columns: [UTR5GC, CDSGC]}
  - source: t.csv
    gene_id: symbol
    match: name
    cell_type: K562
    columns:
      promoter_activity: {geometric_mean: [H3K27ac.RPM.TSS1Kb, DHS.RPM.TSS1Kb]}
      other: a column
splits: {test: [22], valid: [chr21]}
tracks:
  - {cell_type: K562, assay: DNase, source: a.bw, role: background, unit: RPM, replicate: 1, bitround: 10}
  - cell_type: NO
    assay: RNA
    strand: "-"
    source: a.bw
    accession: ENCFF000AAA
    sha256: AB000000000000000000000000000000000000000000000000000000000000FF
    dtype: float16
    aliases: {1: chr1}
    allow_length_mismatch: true
    role:
contacts:
  - {cell_type: K562, assay: hic, source: a.hic, bin_size: 5_000}
  - {cell_type: K562, assay: hic, source: a.hic, bin_size: 10000, weights: [VC, SCALE], divisive: {SCALE: true}}
expression:
  - {assay: CAGE, source: t.csv, gene_id: ENSID, columns: {K562: "K562_CAGE_128*3_sum"}, transform: log10p1}
  - {assay: CAGE, cell_type: H1, source: a.bw, aggregate: sum, flank: 192, unknown_genes: error}
regions:
  - {name: blacklist, source: a.bed}
"""


def test_every_section(write: Write, tmp_path: Path) -> None:
    path = write(WHOLE.replace(", unknown_genes: error", ""), "genes.gtf", "t.csv", "a.bw", "a.hic", "a.bed")
    catalogue = load(path)
    assert catalogue.version == 1
    assert catalogue.assembly.contigs == ("chr21", "22")
    assert catalogue.assembly.alignment == 16_384
    assert catalogue.assembly.source == str(tmp_path / "hg38.fa")
    assert catalogue.genes is not None
    assert catalogue.genes.tss == "canonical"
    assert catalogue.features[0].columns == {"UTR5GC": "UTR5GC", "CDSGC": "CDSGC"}
    assert isinstance(catalogue.features[1].columns["promoter_activity"], GeometricMean)
    assert catalogue.features[1].columns["other"] == "a column"
    assert isinstance(catalogue.splits, ContigSplit)
    assert catalogue.splits.test == ("22",)
    first, second = catalogue.tracks
    assert (first.node, first.role, first.bitround, first.dtype) == ("DNase.rep1", "background", 10, "float32")
    assert (second.cell_type, second.node, second.role, second.aliases) == ("NO", "RNA-", None, {"1": "chr1"})
    assert second.sha256 is not None
    assert second.sha256.startswith("ab0")
    assert second.allow_length_mismatch
    assert [c.weights for c in catalogue.contacts] == ["all", ("VC", "SCALE")]
    assert catalogue.contacts[0].max_distance == 2_000_000
    assert catalogue.contacts[1].divisive == {"SCALE": True}
    table, signal = catalogue.expression
    assert isinstance(table, ExpressionTable)
    assert isinstance(signal, ExpressionSignal)
    assert (table.transform, signal.aggregate, signal.flank) == ("log10p1", "sum", 192)
    assert catalogue.regions[0].name == "blacklist"


def test_lines_of_entries_and_problems_for_the_planner(write: Write) -> None:
    path = write(WHOLE.replace(", unknown_genes: error", ""), "genes.gtf", "t.csv", "a.bw", "a.hic", "a.bed")
    catalogue = load(path)
    assert catalogue.path == path
    assert catalogue.line_of("assembly", "fasta") == 2
    assert catalogue.line_of("tracks", 0) == 15
    assert catalogue.line_of("tracks", 1) == 16
    assert catalogue.line_of("tracks", 1, "source") == 19
    assert catalogue.line_of("tracks", 1, "unit") == 16, "an unwritten key is at its entry"
    assert catalogue.line_of("genes", "names") == 3
    found = catalogue.problem("no contig in common", "tracks", 1, "source")
    assert found == Problem(19, "tracks[1].source", "no contig in common")
    with pytest.raises(CatalogueError, match=r"^catalog.yaml:19: tracks\[1\].source: no contig in common$"):
        report(catalogue.path, [found])
    report(catalogue.path, [])
    assert pickle.loads(pickle.dumps(catalogue)).line_of("tracks", 1) == 16


def test_sources_are_all_named(write: Write) -> None:
    path = write(WHOLE.replace(", unknown_genes: error", ""), "genes.gtf", "t.csv", "a.bw", "a.hic", "a.bed")
    locations = [location for location, _ in load(path).sources()]
    assert locations[:4] == [("assembly",), ("genes",), ("features", 0), ("features", 1)]
    assert len(locations) == len(set(locations)) == 11


def test_a_catalogue_made_in_python(tmp_path: Path) -> None:
    track = Track(cell_type="K562", assay="DNase", source="/x.bw", replicate=2)
    catalogue = Catalogue(version=1, assembly={"name": "hg38", "fasta": "hg38.fa"}, tracks=(track,))
    assert catalogue.path is None
    assert catalogue.line_of("tracks", 0) is None
    with pytest.raises(CatalogueError, match=r"^catalogue: tracks\[0\]: no$"):
        report(None, [catalogue.problem("no", "tracks", 0)])


def test_splits_by_columns_and_genes_by_a_table(write: Write) -> None:
    text = HEAD + (
        "genes: {source: g.tsv, columns: {id: symbol, contig: chr, tss: tss, strand: strand}, tss_convention: bed_end,"
        " names: {source: n.csv, gene_id: ENSID, column: Gene name}}\n"
        "splits: {source: s.csv, gene_id: ENSID, columns: [fold_11]}\n"
    )
    catalogue = load(write(text, "g.tsv", "n.csv", "s.csv"))
    assert isinstance(catalogue.splits, ColumnSplit)
    assert catalogue.splits.columns == {"fold_11": "fold_11"}
    assert [where for where, _ in catalogue.sources()] == [("assembly",), ("genes",), ("genes", "names"), ("splits",)]


def test_the_geometric_mean_of_two_is_the_root_of_their_product() -> None:
    mean = GeometricMean(geometric_mean=("a", "b"))
    np.testing.assert_array_equal(mean.of([4.0, 0.0, np.nan], [9.0, 5.0, 1.0]), [6.0, 0.0, np.nan])
    np.testing.assert_allclose(GeometricMean(geometric_mean=("a", "b", "c")).of([2.0], [4.0], [8.0]), [4.0])
    with pytest.raises(ValueError, match="row 1 of a, b is negative"):
        mean.of([1.0, 2.0], [1.0, -2.0])


def test_accessions_are_taken_from_the_source(write: Write) -> None:
    text = HEAD + (
        "tracks:\n"
        '  - {cell_type: K562, assay: DNase, source: "encode:ENCFF414OGC"}\n'
        '  - {cell_type: K562, assay: ATAC, source: "encode:ENCFF414OGC", accession: ENCSR000EOT}\n'
    )
    first, second = load(write(text)).tracks
    assert (first.source, first.accession) == ("encode:ENCFF414OGC", "ENCFF414OGC")
    assert second.accession == "ENCSR000EOT"
    assert Track(cell_type="a", assay="b", source="4dn:4DNFITUOMFUQ").accession == "4DNFITUOMFUQ"


def test_paths_start_at_the_catalogue(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "d")
    text = (
        HEAD
        + "tracks:\n"
        + "".join(
            f"  - {{cell_type: K562, assay: {assay}, source: {source!r}}}\n"
            for assay, source in zip(
                "abcd", ("d/a.bw", "~/d/a.bw", "${DATA}/a.bw", str(tmp_path / "d/a.bw")), strict=True
            )
        )
    )
    write(text, "d/a.bw")
    assert {track.source for track in load("../catalog.yaml").tracks} == {str(tmp_path / "d" / "a.bw")}


def test_anchors_repeat_what_is_written_once(write: Write) -> None:
    text = HEAD + (
        "tracks:\n"
        "  - {cell_type: K562, assay: a, source: a.bw, aliases: &names {22: chr22}}\n"
        "  - cell_type: K562\n    assay: b\n    source: a.bw\n    aliases: *names\n"
    )
    catalogue = load(write(text, "a.bw"))
    assert catalogue.tracks[1].aliases == {"22": "chr22"}
    assert catalogue.line_of("tracks", 1, "aliases") == 8


def test_what_is_written_is_what_is_meant(write: Write) -> None:
    """No text turns into a number, a date or a truth value on the way."""
    names = ["NO", "on", "1.10", "1e5", "0x1F", "2025-03-01", "12.30", "1_000", "null.", "true"]
    text = HEAD + "tracks:\n" + "".join(f"  - {{cell_type: {n}, assay: x, source: a.bw}}\n" for n in names)
    assert [track.cell_type for track in load(write(text, "a.bw")).tracks] == names


def test_the_json_schema_is_there_for_editors() -> None:
    schema = Catalogue.model_json_schema()
    assert set(schema["properties"]) >= {"version", "assembly", "tracks", "contacts"}
    assert schema["additionalProperties"] is False


# --- globs ----------------------------------------------------------------------------------------------------------


def test_a_glob_fills_the_keys(write: Write, tmp_path: Path) -> None:
    text = HEAD + (
        "tracks:\n"
        '  - {cell_type: K562, assay: RNA, source: "tracks/GM12878.ATAC.bw"}\n'
        '  - {source: "tracks/{cell_type}.{assay}.bw", role: foreground}\n'
        '  - {source: "more/{cell_type}/*/{assay}_{cell_type}.bw", role: background}\n'
        "contacts:\n"
        '  - {assay: hic, bin_size: 5000, source: "{cell_type}.hic"}\n'
    )
    files = [
        "tracks/GM12878.ATAC.bw", "tracks/K562.DNase.bw", "tracks/.hidden.K562.bw", "tracks/K562.DNase.txt",
        "more/K562/run1/CTCF_K562.bw", "more/K562/run1/CTCF_H1.bw", "more/K562/CTCF_K562.bw", "K562.hic", "H1.hic",
    ]  # fmt: skip
    catalogue = load(write(text, *files))
    assert [(t.cell_type, t.assay, t.role, Path(t.source).name) for t in catalogue.tracks] == [
        ("K562", "RNA", None, "GM12878.ATAC.bw"),
        ("GM12878", "ATAC", "foreground", "GM12878.ATAC.bw"),
        ("K562", "DNase", "foreground", "K562.DNase.bw"),
        ("K562", "CTCF", "background", "CTCF_K562.bw"),
    ]
    assert [c.cell_type for c in catalogue.contacts] == ["H1", "K562"]
    assert catalogue.line_of("tracks", 2) == 5
    assert catalogue.problem("x", "tracks", 3, "source") == Problem(6, "tracks[2].source", "x")


def test_globs_that_do_not_work(write: Write) -> None:
    text = HEAD + (
        "tracks:\n"
        '  - {source: "t/{cell_typ}.{assay}.bw"}\n'
        '  - {source: "none/{cell_type}.{assay}.bw"}\n'
        '  - {source: "u/{cell_type}.{assay}.bw"}\n'
        '  - {source: "t/{cell_type}.{assay}.bw", assay: DNase}\n'
        '  - {cell_type: K562, assay: x, source: "t/*.bw"}\n'
        '  - {source: "t/{cell_type}.{assay}.bw", md5: 00000000000000000000000000000000}\n'
        '  - {cell_type: GM12878, source: "t/{assay}.D*.bw"}\n'
        'regions:\n  - {name: blacklist, source: "*.bed"}\n'
    )
    assert problems(write(text, "t/a b.DNase.bw", "t/K562.DNase.bw", "u/H1.hESC.DNase.bw")) == [
        "4: tracks[0].source: unknown field {cell_typ} in 't/{cell_typ}.{assay}.bw'; did you mean 'cell_type'?",
        "5: tracks[1].source: no file matches none/{cell_type}.{assay}.bw",
        "6: tracks[2].source: H1.hESC.DNase.bw can be read as cell_type 'H1', assay 'hESC.DNase' or cell_type "
        "'H1.hESC', assay 'DNase'; write an entry for each such file instead",
        "7: tracks[3].assay: is given twice: here and by {assay} in the source; keep one",
        "8: tracks[4]: track K562 x is given twice, first by the same glob (K562.DNase.bw and a b.DNase.bw)",
        "9: tracks[5].md5: is of one file, but the source matches 2",
        "10: tracks[6].assay: 'a b' is no name; use letters, digits and . _ + - only",
        "12: regions[0].source: is a glob; only tracks and contacts may have one",
    ]


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_all_problems_come_together_with_lines_and_nearest_names(write: Write) -> None:
    text = """\
version: 1
assembly: {name: hg38, fasta: hg38.fa, contigs: [chr21, chr21]}
gens: {source: x}
genes: {source: genes.gtf, biotypes: protein_coding, tss: genes}
features:
  - {source: t.csv, gene_id: ENSID, columns: [UTR5LEN, "a b"]}
  - {source: t.csv, gene_id: ENSID, columns: {K562: x, y: {geometric_mean: [a]}, z: [1]}}
splits: {test: [chr22], valid: [chr22]}
tracks:
  - {cell_type: K562, asay: DNase, source: a.bw, rolle: background}
  - {cell_type: K562, assay: DN/ase, source: ENCFF414OGC.bw, replicate: one}
  - cell_type: K562
    assay: DNase
    source: b.bw
    role: fg
  - just text
contacts:
  - {cell_type: K562, assay: hic, source: a.hic, bin_size: 5k, weights: VC}
  - {cell_type: K562, assay: hic, source: a.hic, bin_size: 5000, max_distance: 10, divisive: {VC: 3}}
expression:
  - {assay: CAGE, source: t.csv, gene_id: ENSID, columns: {K562: x}, transform: log10}
  - {assay: CAGE, cell_type: K562, source: a.bw, aggregate: sum, flank: 0}
regions: {name: blacklist}
"""
    assert problems(write(text, "genes.gtf", "t.csv", "a.bw", "ENCFF414OGC.bigWig", "a.hic")) == [
        "2: assembly.contigs: 'chr21' is listed twice; keep one",
        "3: gens: unknown key; did you mean 'genes'?",
        "4: genes.biotypes: expected a list, got 'protein_coding'; write [protein_coding]",
        "4: genes.tss: expected 'gene' or 'canonical', got 'genes'",
        "6: features[0].columns: 'a b' is no name; give it one: columns: {name: 'a b'}",
        "7: features[1].columns.y.geometric_mean: expected 2 or more, got a list of 1",
        "7: features[1].columns.z: expected text, got a list of 1",
        "8: splits: chr22 is in both test and valid; keep it in one",
        "10: tracks[0].asay: unknown key; did you mean 'assay'?",
        "10: tracks[0].rolle: unknown key; did you mean 'role'?",
        "11: tracks[1].assay: 'DN/ase' is no name; use letters, digits and . _ + - only",
        "11: tracks[1].replicate: expected a whole number, got 'one'",
        "11: tracks[1].source: no such file: ENCFF414OGC.bw; did you mean 'ENCFF414OGC.bigWig'?",
        "14: tracks[2].source: no such file: b.bw; did you mean 'a.bw'?",
        "15: tracks[2].role: expected 'foreground' or 'background', got 'fg'",
        "16: tracks[3]: expected a mapping of key: value, got 'just text'",
        "18: contacts[0].bin_size: expected a whole number, got '5k'",
        "18: contacts[0].weights: expected a list of weight names, or all, got 'VC'",
        "19: contacts[1].divisive.VC: expected true or false, got '3'",
        "21: expression[0].transform: expected 'none', 'log10p1', 'log2p1' or 'log1p', got 'log10'",
        "22: expression[1].flank: expected 1 or more, got '0'",
        "23: regions: expected a list of entries, each after a '- ', got a mapping with the keys name",
    ]


def test_the_report_is_one_line_for_one_problem_and_counts_more(write: Write) -> None:
    path = write(HEAD + "trakcs: []\n")
    with pytest.raises(CatalogueError, match=r"^catalog.yaml:3: trakcs: unknown key; did you mean 'tracks'\?$"):
        load(path)
    path = write(HEAD + "trakcs: []\nregion: []\n")
    with pytest.raises(CatalogueError, match=r"^2 problems in /.*catalog.yaml\n  catalog.yaml:3: .*\n  catalog.yaml:4"):
        load(path)


def test_things_given_twice(write: Write) -> None:
    text = (
        HEAD
        + """\
genes: {source: genes.gtf}
features:
  - {source: t.csv, gene_id: id, columns: [a, b]}
  - {source: t.csv, gene_id: id, columns: {b: c}}
  - {source: t.csv, gene_id: id, columns: {b: c}, cell_type: K562}
  - {source: t.csv, gene_id: id, columns: {K562: c}}
splits: {source: t.csv, gene_id: id, columns: [strand]}
tracks:
  - {cell_type: K562, assay: RNA, strand: "+", source: a.bw}
  - {cell_type: K562, assay: RNA+, source: a.bw}
  - {cell_type: K562, assay: RNA, strand: "+", replicate: 1, source: gone.bw}
  - {cell_type: K562, assay: RNA, strand: "+", replicate: 1, source: gone.bw}
contacts:
  - {cell_type: K562, assay: hic, bin_size: 5000, source: a.bw}
  - {cell_type: K562, assay: hic, bin_size: 10000, source: a.bw}
  - {cell_type: K562, assay: hic, bin_size: 5000, source: a.bw}
expression:
  - {assay: CAGE, source: t.csv, gene_id: id, columns: {K562: x, H1: y}}
  - {assay: CAGE, cell_type: H1, source: a.bw, aggregate: sum, flank: 192}
regions:
  - {name: blacklist, source: a.bw}
  - {name: blacklist, source: a.bw}
"""
    )
    found = problems(write(text, "genes.gtf", "t.csv", "a.bw"))
    assert [line for line in found if "gone" not in line] == [
        "6: features[1]: feature b is given twice, first by features[0] at line 5",
        "8: features[3].columns.K562: the feature 'K562' has the name of a cell type; call it something else",
        "9: splits.columns.strand: 'strand' is a column of the genes; call the fold something else",
        "12: tracks[1]: track K562 RNA+ is given twice, first by tracks[0] at line 11",
        "14: tracks[3]: track K562 RNA+.rep1 is given twice, first by tracks[2] at line 13",
        "18: contacts[2]: contacts K562 hic at 5000 bp is given twice, first by contacts[0] at line 16",
        "21: expression[1]: expression CAGE H1 is given twice, first by expression[0] at line 20",
        "24: regions[1]: regions blacklist is given twice, first by regions[0] at line 23",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["catalog.yaml: expected a catalogue, which starts with 'version: 1', got nothing"]),
        ("- a\n", ["catalog.yaml: expected a catalogue, which starts with 'version: 1', got a list of 1"]),
        (
            "tracks: []\n",
            [
                "catalog.yaml: the key 'version' is missing; start with 'version: 1'",
                "catalog.yaml: assembly: the key 'assembly' is missing; give the genome's name and its fasta",
            ],
        ),
        (
            HEAD.replace("version: 1", "version: 2"),
            ["1: version: this program reads version 1 of the catalogue, got '2'"],
        ),
        ("version: 1\nassembly: hg38\n", ["2: assembly: expected a mapping of key: value, got 'hg38'"]),
        ("version: 1\nassembly: {name: hg38}\n", ["2: assembly: the key 'fasta' is missing"]),
        (
            "version: 1\nassembly: {nam: hg38, fasta: hg38.fa}\n",
            ["2: assembly.nam: unknown key; did you mean 'name'?"],
        ),
        (
            HEAD + "regions: [{name: .., source: hg38.fa}, {name: __x, source: hg38.fa}, {name: , source: hg38.fa}]",
            [
                "3: regions[0].name: '..' cannot be a name, because Zarr keeps it for itself; choose another",
                "3: regions[1].name: '__x' cannot be a name, because Zarr keeps it for itself; choose another",
                "3: regions[2].name: expected text, got nothing",
            ],
        ),
        (
            HEAD + "expression: [{assay: a, source: hg38.fa, gene_id: x, columns: {b: c}}]",
            ["3: expression: needs genes; add a genes: section"],
        ),
        (
            HEAD + "regions: [{name: a, source: hg38.fa, md5: abc}]",
            ["3: regions[0].md5: expected 32 hexadecimal digits, got 'abc' (3 long)"],
        ),
        (
            HEAD + "contacts: [{cell_type: a, assay: b, source: hg38.fa, bin_size: 5000, max_distance: 100}]",
            ["3: contacts[0]: max_distance 100 is below the bin_size 5,000"],
        ),
        (
            HEAD + "contacts: [{cell_type: a, assay: b, source: x.mcool::/resolutions/5000, bin_size: 5000}]",
            [
                "3: contacts[0].source: no such file: x.mcool::/resolutions/5000; name the file alone, bin_size "
                "chooses what is read in it"
            ],
        ),
        (
            HEAD + "genes: {source: hg38.fa, columns: {id: a, tts: b, contig: c}}",
            ["3: genes.columns.tts: unknown key; did you mean 'tss'?"],
        ),
        (
            HEAD + "genes: {source: hg38.fa, columns: {id: a, contig: c}}",
            ["3: genes: columns lacks 'strand', 'tss' (or 'start' and 'end'); a table of genes needs them"],
        ),
        (
            HEAD + "genes: {source: hg38.fa, tss_convention: bed_end}",
            ["3: genes: tss_convention is of a table's tss column; give columns, or leave it out"],
        ),
        (
            HEAD + "genes: {source: hg38.fa, names: {source: n.csv, gene_id: a}}",
            [
                "3: genes.names: the key 'column' is missing",
                "3: genes.names.source: no such file: n.csv",
            ],
        ),
        (
            HEAD + "genes: {source: hg38.fa}\nsplits: {tset: [chr1]}",
            ["4: splits.tset: unknown key; did you mean 'test'?"],
        ),
    ],
)
def test_wrong_in_one_way(write: Write, text: str, expected: list[str]) -> None:
    assert problems(write(text)) == expected


def test_sources_that_could_never_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOPE", raising=False)
    text = (
        HEAD
        + """\
tracks:
  - {cell_type: K562, assay: a, source: "https://u:hunter2@x.org/a.bw?sig=hunter3"}
  - {cell_type: K562, assay: b, source: "${NOPE}/a.bw"}
  - {cell_type: K562, assay: c, source: "encode:ENCSR000EOT"}
  - {cell_type: K562, assay: d, source: "file:///etc/passwd"}
  - {cell_type: K562, assay: e, source: .}
  - {cell_type: K562, assay: f, source: nowhere/a.bw}
  - {cell_type: K562, assay: g, source: ""}
"""
    )
    path = write(text)
    found = problems(path)
    assert found == [
        "4: tracks[0].source: https://x.org/a.bw?... has no checksum; add sha256: or md5:, as its publisher states it "
        "or as sha256sum prints it for a copy that you trust",
        "5: tracks[1].source: the environment variable NOPE in '${NOPE}/a.bw' is not set",
        "6: tracks[2].source: 'encode:ENCSR000EOT' is no accession of a file; expected encode:ENCFF414OGC (a file, not "
        "an experiment)",
        "7: tracks[3].source: unknown scheme 'file:' in 'file:///etc/passwd'; expected http:, https:, ftp:, s3:, gs:, "
        "encode:, 4dn:, hf: or a path (./...)",
        f"8: tracks[4].source: {path.parent} is a folder; expected a file",
        "9: tracks[5].source: no such file: nowhere/a.bw; there is no folder nowhere",
        "10: tracks[6].source: is empty",
    ]
    assert not any("hunter" in line for line in found)


def test_files_need_not_be_there_when_only_the_text_is_checked(write: Write) -> None:
    path = write(HEAD + "tracks: [{cell_type: a, assay: b, source: gone.bw}]")
    assert load(path, check_files=False).tracks[0].source == str(path.parent / "gone.bw")


# --- the YAML itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: b: c", '1: not YAML: mapping values are not allowed in this context; a text with ": " in it needs'),
        ("a:\n\t- b", "2: not YAML: .*cannot start any token; indent with spaces, not tabs"),
        ("strand: -", '1: not YAML: .*; a lone "-" needs quotes'),
        ("a: {x: ${Y}/z}", "1: not YAML: .*a text with { } \\[ \\] or , in it needs quotes here"),
        ("source: {cell_type}.bw", "1: not YAML: .*a text that starts with { or \\[ needs quotes"),
        ("source: *.bw", "1: not YAML: .*a text that starts with \\* needs quotes"),
        ("a: [1\nb: 2", r"\d: not YAML: .*\(it began at line 1\)"),
        ("a: *x", r"1: \*x names no &x that ends before this line"),
        ("a: &x [*x]", r"1: \*x names no &x"),
        ("a: 1\n---\nb: 2", "2: a second document starts here"),
        ("? [a, b]\n: c", "1: a key must be text"),
        ("[" * 100_000, "1: nested more than 16 deep"),
        ("a: \x07", r"catalog.yaml: holds the character '\\x07', which YAML does not allow"),
    ],
)
def test_what_is_not_yaml(write: Write, text: str, expected: str) -> None:
    (message,) = problems(write(text))
    assert re.match(expected, message), message


def test_keys_given_twice_are_reported_with_both_lines(write: Write) -> None:
    text = HEAD + "tracks:\n  - cell_type: K562\n    assay: a\n    cell_type: H1\n    source: hg38.fa\ntracks: []\n"
    assert problems(write(text)) == [
        "6: tracks[0].cell_type: this key is given twice, first at line 4; keep one",
        "8: tracks: this key is given twice, first at line 3; keep one",
    ]


def test_nothing_executes(write: Write, tmp_path: Path) -> None:
    text = HEAD + f"regions:\n  - !!python/object/apply:os.system ['touch {tmp_path}/owned']\n  - !env HOME\n"
    found = problems(write(text))
    assert "4: the tag !!python/object/apply:os.system is not allowed; a catalogue is plain data" in found
    assert "5: the tag !env is not allowed; a catalogue is plain data" in found
    assert not (tmp_path / "owned").exists()


def test_aliases_are_counted_at_their_expanded_size(write: Write) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (message,) = problems(write("\n".join(levels)))
    assert message == "6: more than 1,000,000 values once its aliases are expanded"


def test_files_that_are_no_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "catalog.yaml"
    with pytest.raises(CatalogueError, match=r"^catalog.yaml: cannot be read: no such file or directory \(/.*yaml\)"):
        load(path)
    with pytest.raises(CatalogueError, match="cannot be read: is a directory"):
        load(tmp_path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n\xff")
    with pytest.raises(CatalogueError, match="is not text: byte 0 is no UTF-8; expected a YAML catalogue"):
        load(path)
    monkeypatch.setattr(documents, "_MOST_BYTES", 4)
    with pytest.raises(CatalogueError, match="holds 9 bytes; a catalogue is text of at most 4"):
        load(path)


def test_a_byte_order_mark_and_windows_lines_are_fine(write: Write) -> None:
    path = write("")
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.replace("\n", "\r\n").encode())
    assert load(path).assembly.name == "hg38"


def test_the_python_parser_gives_the_same(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML was built without its C parser."""
    path = write(WHOLE)
    first = documents.Document.read(path)
    monkeypatch.setattr(documents, "_LOADER", documents.yaml.SafeLoader)
    assert documents.Document.read(path) == first


# --- large, and ours ------------------------------------------------------------------------------------------------


def test_thousands_of_tracks_take_moments(write: Write) -> None:
    text = (
        HEAD
        + "tracks:\n"
        + "".join(
            f"  - {{cell_type: c{i}, assay: DNase, source: a.bw, role: background, unit: RPM, md5: {i:032x}}}\n"
            for i in range(3_000)
        )
    )
    catalogue = load(write(text, "a.bw"))
    assert len(catalogue.tracks) == 3_000
    assert catalogue.line_of("tracks", 2_999) == 3_003


def test_our_own_catalogue_loads_and_is_the_benchmark() -> None:
    catalogue = load(ROOT / "catalog.yaml")
    assert catalogue.assembly.name == "hg38"
    roles = {(t.cell_type, t.assay): (t.role, t.accession) for t in catalogue.tracks}
    assert roles == {
        ("K562", "H3K27ac"): ("foreground", "ENCFF465GBD"),
        ("K562", "DNase"): ("background", "ENCFF414OGC"),
        ("GM12878", "H3K27ac"): ("foreground", "ENCFF798KYP"),
        ("GM12878", "DNase"): ("background", "ENCFF960FMM"),
        ("H1", "H3K27ac"): ("foreground", "ENCFF771GNB"),
        ("H1", "DNase"): ("background", "ENCFF232GUZ"),
    }
    assert all(track.unit for track in catalogue.tracks)
    hic = {c.cell_type: (c.accession, c.bin_size, c.weights, c.role) for c in catalogue.contacts}
    assert hic == {
        "K562": ("4DNFITUOMFUQ", 5_000, ("VC",), "background"),
        "GM12878": ("4DNFI1UEG1HD", 5_000, ("VC",), "background"),
        "H1": ("4DNFIFI6NIKJ", 5_000, ("VC",), "background"),
    }
    assert all("account" in (c.description or "") for c in catalogue.contacts)
    shared_by_all, *of_one = catalogue.features
    assert len(shared_by_all.columns) == 8
    assert {f.cell_type for f in of_one} == {"K562", "GM12878", "H1"}
    assert all(set(f.columns) == {"promoter_activity"} for f in of_one)
    assert isinstance(catalogue.splits, ColumnSplit)
    assert "fold_11" in catalogue.splits.columns
    cage = [e for e in catalogue.expression if e.assay == "CAGE"]
    assert {e.transform for e in cage} == {"log10p1"}
    assert [r.name for r in catalogue.regions] == ["blacklist"]


def test_our_own_blacklist_has_the_checksum_of_the_public_file(shared: Path) -> None:
    (blacklist,) = load(ROOT / "catalog.yaml").regions
    content = (shared / "data" / "annotation" / "hg38-blacklist.v2.bed.gz").read_bytes()
    assert blacklist.sha256 == hashlib.sha256(content).hexdigest()


def test_real_files_through_an_environment_variable(
    write: Write, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENOSTORE_SHARED", str(shared))
    text = """\
version: 1
assembly: {name: sacCer3, fasta: "${GENOSTORE_SHARED}/data/yeast/Saccharomyces_cerevisiae.R64-1-1.dna.toplevel.fa.gz"}
tracks:
  - {cell_type: yeast, source: "${GENOSTORE_SHARED}/data/yeast/{assay}.bw"}
contacts:
  - cell_type: yeast
    assay: hic
    source: ${GENOSTORE_SHARED}/data/yeast/yeast.10kb.cool
    bin_size: 10_000
    allow_length_mismatch: true
"""
    catalogue = load(write(text))
    assert [t.node for t in catalogue.tracks] == ["MNase", "PolII", "RNA.fwd", "RNA.rev", "Scc1"]


def test_importing_the_catalogue_is_light() -> None:
    heavy = "{'torch', 'dask', 'matplotlib', 'requests', 'zarr'}"
    code = f"import sys, ingest.catalogue; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize("cls", [Track, Contacts, Features])
def test_entries_are_frozen_and_refuse_unknown_keys(cls: type) -> None:
    assert cls.model_config["frozen"]
    assert cls.model_config["extra"] == "forbid"
