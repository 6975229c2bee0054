from __future__ import annotations

import pytest

from genostore.errors import FormatError, NotFoundError, RegionError
from genostore.genome import Genome, window_starts

GENOME = Genome.build("toy", {"chr1": 1_000, "chr2": 16, "X": 5, "chrM": 7, "HLA-A*01:01": 50}, 16)


def test_contigs_start_at_multiples_of_the_alignment() -> None:
    assert [c.offset for c in GENOME] == [0, 1_008, 1_024, 1_040, 1_056]
    assert GENOME.length == 1_056 + 64


@pytest.mark.parametrize(
    ("name", "contig"),
    [("1", "chr1"), ("chr1", "chr1"), ("chrX", "X"), ("MT", "chrM"), ("Mito", "chrM"), ("2", "chr2")],
)
def test_other_spellings_resolve(name: str, contig: str) -> None:
    assert GENOME.resolve(name).name == contig


def test_an_ambiguous_spelling_is_refused() -> None:
    both = Genome.build("odd", {"M": 5, "chrMT": 5}, 4)
    assert both.resolve("M").name == "M"
    with pytest.raises(NotFoundError, match=r"could be any of \['M', 'chrMT'\]"):
        both.resolve("chrM")


def test_an_unknown_contig_names_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="no contig 'chr11'; did you mean 'chr1'"):
        GENOME.resolve("chr11")


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("chr1:1-20", 1, 20),
        ("1:1,0-9_9", 10, 99),
        ("chr1", 0, 1_000),
        ("chr1:990-", 990, 1_000),
        ("HLA-A*01:01:3-9", 3, 9),
    ],
)
def test_regions_parse(text: str, start: int, end: int) -> None:
    region = GENOME.region(text)
    assert (region.start, region.end) == (start, end)


def test_a_contig_whose_name_has_a_colon_is_whole() -> None:
    assert len(GENOME.region("HLA-A*01:01")) == 50


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("chr1:20-20", "is empty or reversed"),
        (("chr1", -1, 5), "passes an end of chr1"),
        ("chr1:0-1001", "passes an end of chr1; chr1 is 1,000 bases"),
        ("chr1:a-b", "cannot read region"),
        (5, "a region is a string or"),
    ],
)
def test_bad_regions_say_why(region: object, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        GENOME.region(region)  # type: ignore[arg-type]


def test_bins_are_numbered_through_the_contigs() -> None:
    assert GENOME.bin_offsets(10) == {"chr1": 0, "chr2": 100, "X": 102, "chrM": 103, "HLA-A*01:01": 104}
    assert GENOME.n_bins(10) == 109


def test_a_contig_named_twice_is_refused() -> None:
    with pytest.raises(FormatError, match="names a contig twice"):
        Genome("twice", (*GENOME.contigs, GENOME.contigs[0]), 16)


def test_windows_of_odd_width_have_the_anchor_in_the_middle() -> None:
    assert window_starts([100], 5).tolist() == [98]
    assert window_starts([100], 4).tolist() == [98]
