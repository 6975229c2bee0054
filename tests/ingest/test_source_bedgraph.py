from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genostore.errors import SourceError
from ingest.sources import bedgraph, reading
from ingest.sources.base import SignalSource
from ingest.sources.bedgraph import BedGraph
from ingest.sources.tracks import open_signal

Write = Callable[[str, str | bytes], Path]

SMALL = """track type=bedGraph name="x"
# a comment
chr1 0 5 1.5
chr1\t5\t7\t-0

browser position chr1
chr1\t10\t12\tinf
chr2\t3\t4\t2e-3
"""


@pytest.mark.parametrize("name", ["a.bedGraph", "a.bdg.gz"])
def test_values(write: Write, name: str) -> None:
    source = open_signal(write(name, SMALL))
    assert isinstance(source, SignalSource)
    assert source.contigs is None
    assert source.extents == {"chr1": 12, "chr2": 4}
    nan = np.nan
    values = source.values("chr1", 3, 14)
    assert values.dtype == np.float32
    assert np.array_equal(values, np.float32([1.5, 1.5, -0.0, -0.0, nan, nan, nan, np.inf, np.inf, nan, nan]),
                          equal_nan=True)  # fmt: skip
    assert np.signbit(values[2])
    assert source.values("chr1", 4, 4).shape == (0,)
    assert np.isnan(source.values("chr1", 7, 10)).all()
    assert np.isnan(source.values("chr1", 100, 103)).all()
    assert source.values("chr2", 3, 4)[0] == np.float32(2e-3)
    source.validate()


def test_nan_is_a_value_and_means_nothing(write: Write) -> None:
    source = BedGraph(write("a.bg", "chr1\t1\t2\tnan\nchr1\t2\t3\t4\n"))
    assert np.array_equal(source.values("chr1", 0, 4), np.float32([np.nan, np.nan, 4, np.nan]), equal_nan=True)


def test_blocks_join_seamlessly(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    edges = np.cumsum(rng.integers(1, 9, 2000))
    truth = {c: np.full(edges[-1] + 5, np.nan, np.float32) for c in ("a", "b")}
    text = ""
    for contig, values in truth.items():
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            value = np.float32(rng.normal())
            values[start:end] = value
            text += f"{contig}\t{start}\t{end}\t{value!s}\n"
    monkeypatch.setattr(bedgraph, "blocks", lambda path: reading.blocks(path, size=97))
    source = BedGraph(write("a.bg", text))
    for contig, values in truth.items():
        assert np.array_equal(source.values(contig, 0, len(values)), values, equal_nan=True)
        assert np.array_equal(source.values(contig, 1001, 1777), values[1001:1777], equal_nan=True)


def test_scratch_is_shared_by_pickled_copies(write: Write, tmp_path: Path) -> None:
    source = BedGraph(write("a.bg", SMALL), tmp_path / "scratch")
    source.validate()
    folders = [p for p in (tmp_path / "scratch").iterdir() if p.is_dir()]
    copy = pickle.loads(pickle.dumps(source))
    assert copy.values("chr1", 0, 1)[0] == 1.5
    assert [p for p in (tmp_path / "scratch").iterdir() if p.is_dir()] == folders


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# c\nchr1\t1\t2\t3\nchr1\t2\t3\tx\n", r"line 3 has no number.*'chr1\\t2\\t3\\tx'"),
        ("chr1\t1\t2\t3\n\nchr1\t2.5\t3\t1\n", r"line 3 has no number"),
        ("chr1\t1\t1_0\t3\n", r"line 1 has no number"),
        ("track a\nchr1\t5\t6\t1\nchr1\t1\t2\t1\n", r"line 3 overlaps or precedes.*ends at 6; sort the file"),
        ("chr1\t1\t6\t1\nchr1\t5\t7\t1\n", r"line 2 overlaps or precedes"),
        ("a 1 2 3\nb 1 2 3\na 3 4 5\n", r"line 3 returns to contig 'a' after 'b'; sort the file"),
        ("chr1\t1\t2\t3\t4\n", r"line 1 has 5 fields, where a bedGraph has 4"),
        ("chr1\t1\t2\t3\nchr1\t2\t3\n", r"line 2 has 3 fields"),
        ("chr1\t-1\t2\t3\n", r"line 1 starts before 0"),
        ("chr1\t5\t5\t3\n", r"line 1 is empty or reversed"),
        ("chr1\t5\t6\t1e39\n", r"line 1 has a value past what float32 holds"),
        ("variableStep chrom=chr1\n1 2\n", r"line 1 is of a wiggle file; convert it"),
        ("track a\n", r"bedGraph without intervals"),
        ("", r"is not a bedGraph: it is empty"),
        ((0x888FFC26).to_bytes(4, "little") + bytes(9), r"is not a bedGraph: it is a bigWig"),
    ],
)
def test_refusals(write: Write, content: str | bytes, message: str) -> None:
    path = write("bad.bedgraph", content)
    with pytest.raises(SourceError, match=message) as caught:
        BedGraph(path).validate()
    assert str(path) in str(caught.value)


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "cut.bg.gz"
    path.write_bytes(gzip.compress("".join(f"chr1\t{i}\t{i + 1}\t{i}\n" for i in range(5000)).encode())[:-100])
    with pytest.raises(SourceError, match=r"cut.bg.gz: the gzip stream ends early, so the file is truncated"):
        BedGraph(path).validate()


def test_absent_contig(write: Write) -> None:
    with pytest.raises(SourceError, match=r"has no contig 'chr3'; did you mean"):
        BedGraph(write("a.bg", SMALL)).values("chr3", 0, 1)


@pytest.mark.real
def test_real_element_counts(data: Path) -> None:
    path = data / "k562_chr22_hg38" / "Enhancers.DHS.ENCFF860XAE.chr22.sorted.se.bam.CountReads.bedgraph"
    source = BedGraph(path)
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert source.extents == {"chr22": max(int(r[2]) for r in rows)}
    values = source.values("chr22", 0, source.extents["chr22"])
    for _, start, end, value in rows[::97]:
        assert (values[int(start) : int(end)] == np.float32(value)).all()
    assert np.count_nonzero(~np.isnan(values)) == sum(int(r[2]) - int(r[1]) for r in rows)
