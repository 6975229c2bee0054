from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genostore.errors import SourceError
from ingest.sources.bed import read_bed

Write = Callable[[str, str | bytes], Path]


@pytest.mark.parametrize("name", ["a.bed", "a.bed.gz"])
def test_bed(write: Write, name: str) -> None:
    header = "track name=x\n#chr\tstart\tend\nbrowser hide all\n"
    text = header + "chr1\t0\t10\nchr2 5 6 a 7 -\n\nchr1\t3\t4\tHigh Signal\t.\t+\tx\n"
    bed = read_bed(write(name, text))
    assert bed["contig"].tolist() == ["chr1", "chr2", "chr1"]
    assert bed["start"].tolist() == [0, 5, 3]
    assert bed["end"].tolist() == [10, 6, 4]
    assert bed["start"].dtype == bed["end"].dtype == "int64"
    assert bed["name"].tolist() == ["", "a", "High Signal"]
    assert np.array_equal(bed["score"], [np.nan, 7, np.nan], equal_nan=True)
    assert bed["strand"].tolist() == [".", "-", "+"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("chr1\t1\t2\nchr1\t5\t5\n", r"line 2 is no interval: start 5 and end 5"),
        ("chr1\t-1\t2\n", r"line 1 is no interval"),
        ("#c\nchr1\t1\n", r"line 2 has 2 fields, where BED has 3 or more: 'chr1\\t1'"),
        ("chrom\tstart\tend\n", r"line 1 has no whole numbers"),
        ("#only\n", r"BED file without intervals"),
        ("", r"is not a BED file: it is empty"),
        (b"\x89HDF\r\n\x1a\n", r"is not a BED file: it is an HDF5 file"),
    ],
)
def test_refusals(write: Write, content: str | bytes, message: str) -> None:
    path = write("bad.bed", content)
    with pytest.raises(SourceError, match=message) as caught:
        read_bed(path)
    assert str(path) in str(caught.value)


@pytest.mark.real
def test_blacklist(data: Path) -> None:
    bed = read_bed(data / "annotation" / "hg38-blacklist.v2.bed.gz")
    assert len(bed) == 636
    assert set(bed["name"]) == {"High Signal Region", "Low Mappability"}
    assert len(read_bed(data / "yeast" / "Scc1-peaks.narrowPeak")) == 1340
