from __future__ import annotations

import gzip
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyfaidx import Fasta as PyFasta

from genostore.errors import SourceError
from ingest.sources.fasta import Fasta

Write = Callable[[str, str | bytes], Path]

SMALL = ">one first sequence\nACGTacgt\nNnRyX\n>two\nGG\n>three\nTTTTTTTT\n"
ONE = [0, 1, 2, 3, 8, 9, 10, 11, 4, 12, 4, 12, 4]


def bgzip(data: bytes, block: int = 7) -> bytes:
    """Compress as bgzip does: small gzip members that state their size, then an empty one."""
    out = b""
    for part in [data[i : i + block] for i in range(0, len(data), block)] + [b""]:
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(part) + deflate.flush()
        size = len(body) + 25
        out += b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x06\x00BC\x02\x00" + struct.pack("<H", size)
        out += body + struct.pack("<II", zlib.crc32(part), len(part))
    return out


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bgzip], ids=["plain", "gzip", "bgzip"])
def test_codes_of_every_compression(write: Write, compress: Callable[[bytes], bytes]) -> None:
    fasta = Fasta(write("any.name", compress(SMALL.encode())))
    assert fasta.contigs == {"one": 13, "two": 2, "three": 8}
    codes = fasta.codes("one", 0, 13)
    assert codes.dtype == np.uint8
    assert codes.tolist() == ONE
    assert fasta.codes("one", 7, 10).tolist() == ONE[7:10]
    assert fasta.codes("two", 1, 1).size == 0
    assert fasta.counts == {"N": 2, "R": 1, "X": 1, "Y": 1}
    fasta.validate()


def test_compression_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "plain.fa.gz"
    path.write_text(SMALL)
    assert Fasta(path).codes("two", 0, 2).tolist() == [2, 2]


def test_nothing_is_written_beside_a_read_only_source(tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    path = folder / "genome.fa"
    path.write_text(SMALL)
    folder.chmod(0o555)
    try:
        assert Fasta(path).contigs["one"] == 13
        assert [p.name for p in folder.iterdir()] == ["genome.fa"]
    finally:
        folder.chmod(0o755)


def test_scratch_is_shared_and_follows_the_source(tmp_path: Path) -> None:
    path, scratch = tmp_path / "genome.fa.gz", tmp_path / "scratch"
    path.write_bytes(gzip.compress(SMALL.encode()))
    fasta = Fasta(path, scratch)
    assert fasta.contigs["one"] == 13
    folders = [p for p in scratch.iterdir() if p.is_dir()]
    assert len(folders) == 1
    copy = pickle.loads(pickle.dumps(fasta))
    assert copy.codes("one", 0, 13).tolist() == ONE
    assert [p for p in scratch.iterdir() if p.is_dir()] == folders
    path.write_bytes(gzip.compress(b">one\nAC\n"))
    assert Fasta(path, scratch).contigs == {"one": 2}


def test_wrapped_lines_blank_lines_and_windows_ends(write: Write) -> None:
    assert Fasta(write("a.fa", ">a\r\nACGT\r\nAC\r\n>b\r\nGG\r\n")).codes("a", 2, 6).tolist() == [2, 3, 0, 1]
    assert Fasta(write("b.fa", ">a\nACGT\n\n>b\nAC")).codes("b", 0, 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (">a\nACGT\n>b\nAC\n>a\nGG\n", r"record 'a' is given twice"),
        (">a\n>b\nACGT\n", r"record 'a' has no sequence"),
        (">a\nACGT\nAC\nACGT\n", r"record 'a' has lines of unequal length \(line 3\)"),
        (">a\nACGT\nACGTAC\n>b\nAC\n", r"last line of record 'a' is longer"),
        (">a\nACGT\nACGTAC\n", r"last line of record 'a' is longer"),
        (">a\nACGT\nACGTACGT\n", r"last line of record 'a' is longer"),
        (">\nACGT\n", r"no name after its '>'"),
        ("hello\nworld\n", r"is not FASTA.*text that begins 'hello'"),
        ("<!DOCTYPE html>\n", r"is not FASTA.*web page"),
        ("", r"is not FASTA.*it is empty"),
        (b">a\n\xff\xfe\xfd\n", r"is not FASTA.*not text"),
        (b"\x00\x01\x02\x03", r"is not FASTA.*bytes 00 01 02 03"),
    ],
)
def test_refusals(write: Write, content: str | bytes, message: str) -> None:
    path = write("bad.fa", content)
    with pytest.raises(SourceError, match=message) as caught:
        _ = Fasta(path).contigs
    assert str(path) in str(caught.value)


def test_protein_is_refused_where_it_is_read(write: Write) -> None:
    fasta = Fasta(write("protein.fa", ">p53\nMEEPQSDPSV\n"))
    with pytest.raises(SourceError, match=r"record 'p53' has 'E' at position 1.*proteins"):
        fasta.validate()


def test_truncated_gzip_names_the_record(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bases = ["".join(rng.choice(list("ACGT"), 60)) for _ in range(2000)]
    text = ">first\n" + "\n".join(bases[:1000]) + "\n>second\n" + "\n".join(bases[1000:]) + "\n"
    path = tmp_path / "cut.fa.gz"
    path.write_bytes(gzip.compress(text.encode())[:-2000])
    with pytest.raises(SourceError, match=r"cut.fa.gz: the gzip stream ends early.*truncated.*'second'"):
        _ = Fasta(path, tmp_path / "scratch").contigs
    assert not [p for p in (tmp_path / "scratch").iterdir() if p.is_dir()]


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b">a\n" + b"ACGT" * 1000))
    whole[20] ^= 0xFF
    path = tmp_path / "bad.fa.gz"
    path.write_bytes(whole)
    with pytest.raises(SourceError, match=r"gzip stream is damaged"):
        _ = Fasta(path).contigs


def test_absent_file_contig_and_range(write: Write, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no such file"):
        _ = Fasta(tmp_path / "none.fa").contigs
    fasta = Fasta(write("a.fa", SMALL))
    with pytest.raises(SourceError, match=r"no record 'too'; did you mean 'two'"):
        fasta.codes("too", 0, 1)
    with pytest.raises(SourceError, match=r"one:10-14 passes an end.*13 bases"):
        fasta.codes("one", 10, 14)


@pytest.mark.real
def test_yeast_equals_pyfaidx(data: Path, tmp_path: Path) -> None:
    path = data / "yeast" / "Saccharomyces_cerevisiae.R64-1-1.dna.toplevel.fa.gz"
    fasta = Fasta(path, tmp_path)
    assert sum(fasta.contigs.values()) == 12_157_105
    assert list(fasta.contigs)[:2] == ["I", "II"]
    assert fasta.counts == {}
    plain = tmp_path / "whole.fa"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    reference = PyFasta(str(plain), as_raw=True)
    lookup = np.full(256, 4, np.uint8)
    for i, base in enumerate("ACGT"):
        lookup[ord(base)] = i
    for contig, length in fasta.contigs.items():
        expected = lookup[np.frombuffer(str(reference[contig][:]).encode(), np.uint8)]
        assert np.array_equal(fasta.codes(contig, 0, length), expected)
    reference.close()


@pytest.mark.real
def test_soft_masked_hg19(data: Path) -> None:
    fasta = Fasta(data / "k562_chr22_hg19" / "chr22_part.fa.gz")
    assert fasta.contigs == {"22": 22_000_000}
    codes = fasta.codes("22", 16_050_000, 22_000_000)
    assert set(np.unique(codes & 7)) <= {0, 1, 2, 3, 4}
    assert 0.4 < np.mean(codes[codes & 7 < 4] >= 8) < 0.5  # 46% soft-masked
    assert fasta.counts == {"N": 16_300_021}
