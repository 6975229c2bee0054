from __future__ import annotations

import gzip
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from genostore.errors import SourceError, WriteError
from ingest.sources import reading
from ingest.sources.reading import PerThread, blocks, describe, expect_text, head, lines
from ingest.sources.scratch import derived

Write = Callable[[str, str | bytes], Path]


def test_lines_are_numbered_across_blocks(write: Write) -> None:
    text = "a\n\nlonger line\r\nlast without end"
    for name in ("a.txt", "a.txt.gz"):
        path = write(name, text)
        assert list(lines(path)) == [(1, b"a"), (2, b""), (3, b"longer line"), (4, b"last without end")]
        for size in (3, 4, 7, 100):
            parts = list(blocks(path, size))
            assert b"".join(part for _, part in parts) == text.encode()
            before = b""
            for number, part in parts:
                assert number == before.count(b"\n") + 1
                before += part


def test_a_line_without_end_is_no_table(write: Write) -> None:
    with pytest.raises(SourceError, match=r"line 1 has over .* bytes, so this is no text table"):
        list(blocks(write("a.txt", b"x" * 1000), size=10))


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"", "it is empty"),
        (gzip.compress(b"x", mtime=0), "it is a gzip file"),
        (b"\x89HDF\r\n\x1a\n...", "it is an HDF5 file (.cool, .mcool)"),
        (b"HIC\0\x08", "it is a .hic file"),
        (b"PK\x03\x04", "it is a zip archive"),
        (b"\n <HTML>", "it is a web page, as a failed download leaves"),
        (b"chr1\t5\nx", r"it is text that begins 'chr1\t5'"),
        (b"\xff\xfe\x00", "it begins with the bytes ff fe 00"),
    ],
)
def test_describe(first: bytes, words: str) -> None:
    assert describe(first) == words


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no such file"):
        head(tmp_path / "none")
    with pytest.raises(SourceError, match="is a folder, where a file is expected"):
        expect_text(tmp_path, "a table")


class Opened:
    def __init__(self, path: str) -> None:
        self.path, self.thread = path, threading.get_ident()


def test_a_handle_belongs_to_one_thread_and_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = PerThread("x", Opened)
    first = handle()
    assert handle() is first
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handle).result() is not first
    copy = pickle.loads(pickle.dumps(handle))
    assert copy() is not first
    assert copy().path == "x"
    monkeypatch.setattr(reading, "getpid", lambda: -1)  # as a forked child sees it
    assert handle() is not first


def test_derived_files_are_made_once_by_whoever_comes_first(write: Write, tmp_path: Path) -> None:
    source, made = write("a.txt", "x"), []

    def build(folder: Path) -> None:
        made.append(folder)
        (folder / "copy").write_text("y")

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: derived(source, "kind", build, tmp_path / "scratch"), range(8)))
    assert len(folders) == len(made) == 1
    assert (folders.pop() / "copy").read_text() == "y"


def test_a_failed_derivation_leaves_nothing(write: Write, tmp_path: Path) -> None:
    source, scratch = write("a.txt", "x"), tmp_path / "scratch"

    def fail(folder: Path) -> None:
        (folder / "half").write_text("y")
        raise SourceError("bad")

    with pytest.raises(SourceError, match="bad"):
        derived(source, "kind", fail, scratch)
    assert not [p for p in scratch.iterdir() if p.is_dir()]

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        WriteError, match=r"scratch: cannot hold the files derived from a.txt \(No space left on device"
    ):
        derived(source, "kind", full, scratch)
    with pytest.raises(WriteError, match="name a scratch folder with more space"):
        derived(source, "kind", fail, source / "below a file")
