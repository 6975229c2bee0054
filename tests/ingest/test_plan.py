"""A plan finds all that is wrong before anything is written, and says what it leaves out."""

from __future__ import annotations

from pathlib import Path

import cooler
import numpy as np
import pandas as pd
import pytest

import genostore
import ingest
from genostore.errors import CatalogueError, ConflictError, FormatError

from .small import BIN, CONTIGS, EVERYTHING, GENES, TRACKS, Small, write_bigwig


def plan(small: Small, sections: str, assembly: str = "", **options: object) -> ingest.Plan:
    return ingest.plan(small.catalogue(sections, assembly), small.folder.parent / "s.zarr", **options)


def refused(small: Small, sections: str, assembly: str = "") -> str:
    with pytest.raises(CatalogueError) as caught:
        plan(small, sections, assembly)
    assert not (small.folder.parent / "s.zarr").exists()
    return str(caught.value)


def track(source: str, more: str = "") -> str:
    return f"  - {{cell_type: K562, assay: {source.replace('.', '')}, source: {source}{more}}}\n"


def test_nodes_come_in_order_and_nothing_is_written(small: Small) -> None:
    planned = plan(small, EVERYTHING)
    assert [n.path for n in planned.nodes] == [
        "sequence",
        "genes",
        "features/length",
        "features/K562/activity",
        "expression/CAGE/K562",
        "expression/SUM/K562",
        "regions/blacklist",
        "tracks/K562/DNase",
        "tracks/K562/RNA+",
        f"contacts/K562/hic/{BIN}",
    ]
    assert not (small.folder.parent / "s.zarr").exists()
    assert planned.size == sum(n.size for n in planned.nodes) > 9_000 * 9


def test_what_is_left_out_is_said(small: Small) -> None:
    notes = plan(small, EVERYTHING).notes
    assert "genes: left out 1 gene of genes.gtf (1 contig not in the assembly): G5" in notes
    assert "features: left out 1 gene of table.csv that the store lacks: G9" in notes
    assert "regions/blacklist: left out 1 contig of blacklist.bed that the assembly lacks: chrUn" in notes


def test_all_problems_come_at_once_with_their_lines(small: Small) -> None:
    folder = small.folder
    (folder / "cut.bw").write_bytes((folder / "dnase.bw").read_bytes()[:-200])
    (folder / "text.bw").write_text("chr1\t0\t5\t1\n")
    longer = {c: n + 1 for c, n in CONTIGS.items()}
    write_bigwig(folder / "other.bw", longer, small.dnase)
    write_bigwig(folder / "mouse.bw", {"scaffold_1": 5_000}, {"scaffold_1": small.dnase["chr1"]})
    tracks = "tracks:\n" + "".join(track(s) for s in ("cut.bw", "text.bw", "dnase.bw", "other.bw", "mouse.bw"))
    contacts = f"contacts:\n  - {{cell_type: K562, assay: hic, source: hic.cool, bin_size: {BIN}, weights: [KR]}}\n"
    message = refused(small, tracks + contacts + "splits: {test: [chr9]}\n" + GENES)
    lines = message.splitlines()
    assert lines[0].startswith("6 problems in")
    assert "catalog.yaml:4: tracks[0]: " in lines[1]
    assert "cut.bw: is truncated" in lines[1]
    assert "catalog.yaml:5: tracks[1]: " in lines[2]
    assert "text.bw: is not a bigWig: it is text" in lines[2]
    assert "catalog.yaml:7: tracks[3]: " in lines[3]
    assert "'chr1' is of 5,001 bases where the assembly's 'chr1' is of 5,000" in lines[3]
    assert "allow_length_mismatch" in lines[3]
    assert "mouse.bw: has no contig in common with assembly small" in lines[4]
    assert "hic.cool: has no weights 'KR'; it has 'weight'" in lines[5]
    assert "catalog.yaml:11: splits: assembly small has no contig 'chr9'" in lines[6]


def test_a_length_mismatch_may_be_allowed_and_is_recorded(small: Small) -> None:
    longer = {c: n + 1 for c, n in CONTIGS.items()}
    write_bigwig(small.folder / "other.bw", longer, {c: np.append(v, 7) for c, v in small.dnase.items()})
    planned = plan(small, "tracks:\n" + track("other.bw", ", allow_length_mismatch: true"))
    ingest.run(planned)
    store = genostore.open(planned.store)
    got = store.array("tracks/K562/otherbw").read(slice(0, 5_000))
    np.testing.assert_array_equal(got, small.dnase["chr1"])
    contigs = store.entries["tracks/K562/otherbw"]["provenance"]["contigs"]
    assert contigs["mismatched"][0] == ["chr1", 5_001, "chr1", 5_000]


def test_a_matrix_of_slightly_other_lengths_may_be_allowed(small: Small) -> None:
    bins = pd.DataFrame({"chrom": "chr1", "start": [*range(0, 5_100, BIN)], "end": [*range(BIN, 5_100, BIN), 5_050]})
    pixels = pd.DataFrame({"bin1_id": [0, 48, 49, 50], "bin2_id": [1, 50, 49, 50], "count": [5, 6, 7, 8]})
    cooler.create_cooler(str(small.folder / "long.cool"), bins, pixels, ordered=True)
    entry = f"cell_type: K562, assay: hic, source: long.cool, bin_size: {BIN}, allow_length_mismatch: true"
    planned = plan(small, f"contacts:\n  - {{{entry}}}\n")
    ingest.run(planned)
    band = genostore.open(planned.store).array(f"contacts/K562/hic/{BIN}/band")
    values = band.read()
    assert values.sum() == 12
    assert values[0, 1] == 5
    assert values[49, 0] == 7
    assert band.attributes["counts"]["past_contig_pixels"] == 2


def test_extra_contigs_do_not_stop_it_and_are_recorded(small: Small) -> None:
    lengths = {**CONTIGS, "chrEBV": 100}
    write_bigwig(small.folder / "ebv.bw", lengths, {**small.dnase, "chrEBV": np.ones(100, dtype=np.float32)})
    planned = plan(small, "tracks:\n" + track("ebv.bw"))
    assert planned.notes == ("tracks/K562/ebvbw: left out 1 contig of ebv.bw that the assembly lacks: chrEBV",)
    assert planned.nodes[1].attributes()["provenance"]["contigs"]["extra"] == ["chrEBV"]


def test_aliases_map_names(small: Small) -> None:
    write_bigwig(small.folder / "odd.bw", {"one": 5_000}, {"one": small.dnase["chr1"]})
    assert "no contig in common" in refused(small, "tracks:\n" + track("odd.bw"))
    here = plan(small, "tracks:\n" + track("odd.bw", ", aliases: {one: chr1}"))
    everywhere = plan(small, "tracks:\n" + track("odd.bw"), "aliases: {one: chr1}")
    for planned in (here, everywhere):
        assert planned.nodes[1].contigs.mapping == {"one": "chr1"}


def test_some_contigs_of_the_fasta_in_the_order_asked_for(small: Small) -> None:
    planned = plan(small, TRACKS, "contigs: [chrM, chr1]")
    assert planned.genome.names == ["chrM", "chr1"]
    assert planned.notes == ("tracks/K562/DNase: left out 1 contig of dnase.bw that the assembly lacks: chr2",)
    message = refused(small, TRACKS, "contigs: [chr1, chr22]")
    assert "catalog.yaml:2: assembly.contigs: genome.fa has no contig 'chr22'; did you mean 'chr2'" in message


def test_a_gtf_of_unknown_contigs_only(small: Small) -> None:
    text = (small.folder / "genes.gtf").read_text()
    for contig in CONTIGS:
        text = text.replace(f"{contig}\t", f"scaffold_{contig}\t")
    (small.folder / "genes.gtf").write_text(text)
    message = refused(small, GENES)
    assert "catalog.yaml:3: genes: " in message
    assert "genes.gtf: has no contig in common with assembly small: it has 'scaffold_chr1'" in message


def test_genes_past_the_end_of_their_contig_are_left_out(small: Small) -> None:
    path = small.folder / "genes.gtf"
    path.write_text(path.read_text().replace("chrM\tx\tgene\t1\t50", "chrM\tx\tgene\t701\t750"))
    planned = plan(small, GENES)
    dropped = planned.nodes[1].attributes()["dropped"]
    assert dropped == {"TSS past the contig's end": 1, "contig not in the assembly": 1}


def test_expression_of_unknown_genes_may_be_an_error(small: Small) -> None:
    entry = "assay: CAGE, source: table.csv, gene_id: gene, columns: {K562: cage}"
    message = refused(small, f"{GENES}expression:\n  - {{{entry}, unknown_genes: error}}\n")
    assert "catalog.yaml:5: expression[0]: " in message
    assert "1 value of column 'gene' are no gene of the store, or of several: G9" in message
    (small.folder / "table.csv").write_text("gene,cage\nX1,1\nX2,2\n")
    assert "no value of column 'gene' is a gene of the store; it has X1, X2" in refused(
        small, f"{GENES}expression:\n  - {{{entry}}}\n"
    )


def test_names_are_matched_only_as_asked(small: Small) -> None:
    (small.folder / "table.csv").write_text("gene,x\nG2,1\nthree,2\n")
    entry = "source: table.csv, gene_id: gene, columns: [x], match: name"
    planned = plan(small, f"{GENES}features:\n  - {{{entry}}}\n")
    np.testing.assert_array_equal(planned.nodes[2].read("", 0).values, [np.nan, 2, np.nan, np.nan])


def test_a_transform_of_what_it_is_not_defined_for(small: Small) -> None:
    (small.folder / "table.csv").write_text("gene,cage\nG2,-3\n")
    entry = "assay: CAGE, source: table.csv, gene_id: gene, columns: {K562: cage}, transform: log10p1"
    assert "holds -3.0, of which log10p1 is not defined" in refused(small, f"{GENES}expression:\n  - {{{entry}}}\n")


def test_splits_from_a_table(small: Small) -> None:
    splits = "splits: {source: table.csv, gene_id: gene, columns: [fold_1]}\n"
    planned = plan(small, GENES + splits)
    genes = planned.nodes[1]
    assert list(genes.columns["fold_1"]) == ["test", "valid", "", "train"]
    assert genes.attributes()["splits"] == ["fold_1"]
    assert "genes: 1 of 4 are in no split" in planned.notes
    table = small.folder / "table.csv"
    table.write_text(table.read_text().replace("valid", "dev"))
    message = refused(small, GENES + splits)
    assert "column 'fold_1' holds 'dev', where a split is one of train, valid, test" in message


def test_a_blacklist_of_another_assembly(small: Small) -> None:
    (small.folder / "blacklist.bed").write_text("chr1\t4900\t5100\n")
    message = refused(small, "regions:\n  - {name: blacklist, source: blacklist.bed}\n")
    assert "chr1:4900-5100 passes the end of its contig" in message


def test_a_store_of_another_assembly_is_left_alone(small: Small) -> None:
    ingest.run(plan(small, TRACKS))
    with pytest.raises(ConflictError, match="holds assembly small"):
        plan(small, TRACKS, "contigs: [chr1]")


def test_a_folder_that_is_no_store_is_left_alone(small: Small) -> None:
    planned = plan(small, TRACKS)
    Path(planned.store).mkdir()
    Path(planned.store, "thesis.tex").write_text("precious")
    with pytest.raises(ConflictError, match="is a folder with other things in it"):
        ingest.run(planned)
    Path(planned.store, "zarr.json").write_text("{")
    with pytest.raises(FormatError, match="are damaged"):
        plan(small, TRACKS)


def test_what_is_not_here_is_listed_and_not_fetched(small: Small) -> None:
    remote = f"https://example.invalid/a.bw, sha256: {'0' * 64}"
    planned = plan(small, TRACKS + f"  - {{cell_type: K562, assay: x, source: {remote}}}\n", download=False)
    assert planned.to_fetch == ("https://example.invalid/a.bw",)
    assert [n.path for n in planned.nodes] == ["sequence", "tracks/K562/DNase"]
    with pytest.raises(CatalogueError, match="1 source still to fetch"):
        ingest.run(planned)


def test_a_wrong_checksum_is_a_problem_of_its_entry(small: Small) -> None:
    message = refused(small, TRACKS.replace("role", f"sha256: {'0' * 64}, role"))
    assert "catalog.yaml:4: tracks[0]: " in message
    assert "expected 000000" in message


def test_derived_files_are_gone_after_a_run(small: Small) -> None:
    planned = plan(small, EVERYTHING)
    scratch = Path(planned.scratch)
    assert any(scratch.iterdir())
    ingest.run(planned)
    assert not scratch.exists()


def test_what_was_checked_when_it_was_written_is_not_read_through_again(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest.run(plan(small, EVERYTHING))

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("ingest.sources.cool.CoolerSource.validate", never)
    monkeypatch.setattr("ingest.sources.fasta.Fasta.contigs", property(never))
    again = plan(small, EVERYTHING)
    assert again.genome.names == list(CONTIGS)
    assert ingest.run(again).written == ()


def test_sources_that_no_store_can_hold(small: Small) -> None:
    bins = pd.DataFrame({"chrom": "chr1", "start": [0, 100, 350], "end": [100, 350, 5_000]})
    pixels = pd.DataFrame({"bin1_id": [0], "bin2_id": [1], "count": [5]})
    cooler.create_cooler(str(small.folder / "fragments.cool"), bins, pixels, ordered=True)
    contacts = f"contacts:\n  - {{cell_type: K562, assay: hic, source: fragments.cool, bin_size: {BIN}}}\n"
    message = refused(small, contacts)
    assert "catalog.yaml:4: contacts[0]: " in message
    assert "has bins of variable size" in message
    (small.folder / "genome.fa").write_text(">chr1\nACGT\n>chr1\nACGT\n")
    message = refused(small, contacts)
    assert "catalog.yaml:2: assembly: " in message
    assert "record 'chr1' is given twice" in message
