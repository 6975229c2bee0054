from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyBigWig
import pytest

from genostore.errors import SourceError
from ingest.sources.base import SignalSource
from ingest.sources.bigwig import BigWig
from ingest.sources.tracks import open_signal

Write = Callable[[str, str | bytes], Path]


def make(path: Path, contigs: dict[str, int], starts: list[int], ends: list[int], values: list[float]) -> Path:
    with pyBigWig.open(str(path), "w") as out:
        out.addHeader(list(contigs.items()))
        name = next(iter(contigs))
        out.addEntries([name] * len(starts), starts, ends=ends, values=values)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    values = [1.5, -2.0, float("inf"), -0.0]
    return make(tmp_path / "small.bw", {"chr1": 1000, "chr2": 50}, [10, 20, 40, 900], [20, 30, 50, 1000], values)


def test_values(small: Path) -> None:
    source = BigWig(small)
    assert isinstance(source, SignalSource)
    assert source.contigs == source.extents == {"chr1": 1000, "chr2": 50}
    values = source.values("chr1", 5, 45)
    assert values.dtype == np.float32
    assert np.isnan(values[:5]).all()
    assert (values[5:15] == 1.5).all()
    assert (values[15:25] == -2).all()
    assert np.isnan(values[25:35]).all()
    assert np.isposinf(values[35:]).all()
    assert np.signbit(source.values("chr1", 900, 901))[0]
    assert np.isnan(source.values("chr2", 0, 50)).all()
    assert source.values("chr1", 7, 7).shape == (0,)


def test_past_the_end_is_silence(small: Path) -> None:
    values = BigWig(small).values("chr1", 990, 1010)
    assert values.shape == (20,)
    assert (values[:10] == 0).all()
    assert np.isnan(values[10:]).all()
    assert np.isnan(BigWig(small).values("chr2", 60, 70)).all()


def test_pickles_and_serves_threads(small: Path) -> None:
    source = BigWig(small)
    first = source.values("chr1", 0, 1000)
    assert np.array_equal(pickle.loads(pickle.dumps(source)).values("chr1", 0, 1000), first, equal_nan=True)
    with ThreadPoolExecutor(4) as pool:
        for values in pool.map(lambda _: source.values("chr1", 0, 1000), range(16)):
            assert np.array_equal(values, first, equal_nan=True)


def test_every_truncation_is_refused(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    cut = tmp_path / "cut.bw"
    for size in [5, 40, 63, 64, 65, 100, 300, len(whole) // 2, len(whole) - 40, len(whole) - 4, len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=r"cut\.bw: is truncated.*fetch it again"):
            BigWig(cut).validate()
        with pytest.raises(SourceError, match="truncated"):
            BigWig(cut).values("chr1", 0, 10)


def test_old_version_without_end_mark_is_judged_by_its_indexes(small: Path, tmp_path: Path) -> None:
    whole = bytearray(small.read_bytes())
    struct.pack_into("<H", whole, 4, 3)
    old = tmp_path / "old.bw"
    old.write_bytes(whole[:-4])
    BigWig(old).validate()
    index = struct.unpack_from("<Q", whole, 24)[0]
    old.write_bytes(whole[: index + 50])
    with pytest.raises(SourceError, match="truncated"):
        BigWig(old).validate()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("chr1\t0\t10\t1\n", r"is not a bigWig: it is text that begins 'chr1\\t0\\t10\\t1'; if it is a bedGraph"),
        ("", "it is empty"),
        ("<html><body>Not found</body></html>", "web page, as a failed download leaves"),
        (b"\x1f\x8b\x08\x00" + bytes(60), "it is a gzip file"),
        ((0x8789F2EB).to_bytes(4, "little") + bytes(60), "it is a bigBed, which holds intervals and no signal"),
        ((0x888FFC26).to_bytes(4, "big") + bytes(60), "other byte order"),
    ],
)
def test_not_a_bigwig(write: Write, content: str | bytes, message: str) -> None:
    path = write("named.bw", content)
    with pytest.raises(SourceError, match=message) as caught:
        open_signal(path).validate()
    assert str(path) in str(caught.value)


def test_without_contigs(tmp_path: Path) -> None:
    whole = bytearray(make(tmp_path / "a.bw", {"chr1": 100}, [1], [2], [1.0]).read_bytes())
    tree = struct.unpack_from("<Q", whole, 8)[0]
    struct.pack_into("<H", whole, tree + 32 + 2, 0)  # the root node of the contig tree has no items
    struct.pack_into("<Q", whole, tree + 16, 0)
    empty = tmp_path / "empty.bw"
    empty.write_bytes(whole)
    with pytest.raises(SourceError, match="bigWig without contigs"):
        BigWig(empty).validate()


def test_damaged_block(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    starts = list(range(0, 50_000, 5))
    ends = [s + 5 for s in starts]
    path = make(tmp_path / "a.bw", {"chr1": 50_000}, starts, ends, rng.normal(size=len(starts)).tolist())
    whole = bytearray(path.read_bytes())
    data = struct.unpack_from("<Q", whole, 16)[0]
    for at in range(data + 200, data + 260):
        whole[at] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(SourceError, match=r"chr1:0-50,000 cannot be decoded, so the file is damaged"):
        BigWig(path).values("chr1", 0, 50_000)


def test_absent_contig(small: Path) -> None:
    with pytest.raises(SourceError, match=r"has no contig '1'"):
        BigWig(small).values("1", 0, 10)


def test_format_is_told_by_name_then_content(small: Path, write: Write, tmp_path: Path) -> None:
    other = tmp_path / "signal"
    other.write_bytes(small.read_bytes())
    assert isinstance(open_signal(other), BigWig)
    with pytest.raises(SourceError, match=r"neither a bigWig nor named like a bedGraph.*text that begins 'fixedStep"):
        open_signal(write("a.wig", "fixedStep chrom=chr1 start=1\n1\n"))


@pytest.mark.real
@pytest.mark.parametrize("name", ["test.bw", "bigwig_chrx_2e6_5e6_with_negative.bw", "bigwig2_X_2.5e6_3.5e6.bw",
                                  "nozooms.bw", "fixedStep.bw", "valid.bigWig"])  # fmt: skip
def test_odd_bigwigs_equal_pybigwig(data: Path, name: str) -> None:
    path = data / "odd_bigwig" / name
    source = BigWig(path)
    source.validate()
    with pyBigWig.open(str(path)) as reference:
        assert source.contigs == reference.chroms()
        for contig, length in source.contigs.items():
            first = reference.intervals(contig, 0, length)
            at = first[0][0] if first else 0
            span = (max(at - 1000, 0), min(at + 200_000, length))
            expected = reference.values(contig, *span, numpy=True)
            assert np.array_equal(source.values(contig, *span), expected, equal_nan=True)
