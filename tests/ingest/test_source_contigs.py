from __future__ import annotations

from pathlib import Path

import pytest

from genostore.errors import SourceError
from genostore.genome import Genome
from ingest.sources.bigwig import BigWig
from ingest.sources.contigs import match
from ingest.sources.fasta import Fasta
from ingest.sources.hic import open_contacts

HG = Genome.build("hg", {"chr1": 1000, "chr2": 500, "chrX": 300, "chrM": 16}, 64)
YEAST = Genome.build("sacCer3", {"I": 230, "II": 813, "Mito": 85}, 64)


def test_names_spellings_extra_and_missing() -> None:
    found = match({"2": 500, "chr1": 1000, "MT": 16, "chrEBV": 171, "phiX": 5386}, HG)
    assert found.mapping == {"2": "chr2", "chr1": "chr1", "MT": "chrM"}
    assert found.reverse == {"chr2": "2", "chr1": "chr1", "chrM": "MT"}
    assert found.extra == ["chrEBV", "phiX"]
    assert found.missing == ["chrX"]
    assert found.mismatched == []


def test_roman_numerals_are_names_like_others() -> None:
    assert match({"chrII": 813, "chrM": 85, "chr2": 1}, YEAST).mapping == {"chrII": "II", "chrM": "Mito"}
    assert match(["chrMito", "chrI"], YEAST).mapping == {"chrMito": "Mito", "chrI": "I"}


def test_aliases_go_first() -> None:
    found = match({"NC_000001": 1000, "chr1": 77}, HG, aliases={"NC_000001": "chr1", "not here": "chr2"})
    assert found.mapping == {"NC_000001": "chr1"}
    assert found.extra == ["chr1"]
    with pytest.raises(SourceError, match=r"a.bw: alias 'a': 'chrx1' names no contig of assembly hg; did you mean"):
        match({"a": 1}, HG, aliases={"a": "chrx1"}, where="a.bw")


def test_the_exact_name_goes_before_the_other_spelling() -> None:
    found = match({"1": 999, "chr1": 1000}, HG)
    assert found.mapping == {"chr1": "chr1"}
    assert found.extra == ["1"]


def test_two_claims_and_two_candidates() -> None:
    with pytest.raises(SourceError, match=r"contigs 'M', 'MT' are all 'chrM'.*aliases"):
        match({"MT": 16, "M": 16}, HG)
    both = Genome.build("odd", {"chrM": 16, "MT": 16, "a": 1}, 1)
    with pytest.raises(SourceError, match=r"contig 'M' could be any of 'chrM', 'MT'.*aliases"):
        match({"M": 16}, both)


def test_lengths() -> None:
    message = r"x.cool: has other contig lengths than assembly hg: '1' is of 990 bases where .* 'chr1' is of 1,000"
    with pytest.raises(SourceError, match=message + ".*allow_length_mismatch: true"):
        match({"1": 990, "2": 500}, HG, where="x.cool")
    found = match({"1": 990, "2": 500}, HG, allow_length_mismatch=True)
    assert found.mapping == {"1": "chr1", "2": "chr2"}
    assert found.mismatched == [("1", 990, "chr1", 1000)]
    assert match({"chr1": None, "chr2": 500}, HG).mismatched == []


def test_extents_may_only_be_shorter() -> None:
    assert match({"chr1": 990}, HG, lengths_are_extents=True).mapping == {"chr1": "chr1"}
    with pytest.raises(SourceError, match="'chr1' reaches 1,001 bases where"):
        match({"chr1": 1001}, HG, lengths_are_extents=True)


def test_nothing_in_common() -> None:
    with pytest.raises(SourceError, match=r"no contig in common with assembly hg: it has 'I', 'II'.*'chr1', 'chr2'"):
        match(["I", "II"], HG, allow_length_mismatch=True)


@pytest.mark.real
def test_yeast_sources(data: Path, tmp_path: Path) -> None:
    lengths = Fasta(data / "yeast" / "Saccharomyces_cerevisiae.R64-1-1.dna.toplevel.fa.gz", tmp_path).contigs
    genome = Genome.build("R64-1-1", lengths, 16_384)
    atac = BigWig(data / "yeast" / "derived" / "yeast_ATAC_SRR1822137.fragcov.sacCer3.UCSCnames.bw")
    found = match(atac.contigs, genome)
    assert found.mapping["chrM"] == "Mito"
    assert (len(found.mapping), found.extra, found.missing) == (17, [], [])
    assert match(BigWig(data / "yeast" / "PolII.bw").contigs, genome).missing[:2] == ["I", "III"]
    contacts = open_contacts(data / "yeast" / "yeast.10kb.cool")
    with pytest.raises(
        SourceError, match=r"yeast.10kb.cool: has other contig lengths than assembly R64-1-1: 'chrMito'"
    ):
        match(contacts.contigs, genome, where=contacts.path)
    found = match(contacts.contigs, genome, allow_length_mismatch=True)
    assert found.extra == ["chr2-micron"]
    assert len(found.mapping) == 17
    human = BigWig(data / "odd_bigwig" / "valid.bigWig")
    with pytest.raises(SourceError, match="no contig in common"):
        match(human.contigs, genome, where=human.path)
