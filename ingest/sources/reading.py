"""Bytes and lines of source files, plain or gzip, with errors that name the file."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike, getpid
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from genostore.contained import note
from genostore.errors import SourceError

Handle = TypeVar("Handle")

GZIP = b"\x1f\x8b"
HDF5 = b"\x89HDF\r\n\x1a\n"
BIGWIG = (0x888FFC26).to_bytes(4, "little")
BIGBED = (0x8789F2EB).to_bytes(4, "little")
HIC = b"HIC\x00"
BLOCK = 1 << 23  # bytes of text parsed at once

_KINDS = {
    GZIP: "a gzip file",
    HDF5: "an HDF5 file (.cool, .mcool)",
    BIGWIG: "a bigWig",
    BIGWIG[::-1]: "a bigWig of the other byte order",
    BIGBED: "a bigBed",
    HIC: "a .hic file",
    b"PK\x03\x04": "a zip archive",
    b"BAM\x01": "a BAM file",
}


def head(path: Path, size: int = 64) -> bytes:
    """Return the first bytes of a file.

    Raises
    ------
    SourceError
        If the file is absent, a folder, or may not be read.
    """
    with naming(path), path.open("rb") as file:
        return file.read(size)


def describe(first: bytes) -> str:
    """Say in words what a file that begins so seems to be, for the end of an error message."""
    if not first:
        return "it is empty"
    for magic, kind in _KINDS.items():
        if first.startswith(magic):
            return f"it is {kind}"
    if re.match(rb"\s*<(!doctype|html|\?xml)", first, re.IGNORECASE):
        return "it is a web page, as a failed download leaves"
    try:  # incremental, as the last character may be cut
        text = codecs.getincrementaldecoder("utf-8")().decode(first)
    except UnicodeDecodeError:
        text = "\0"
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return f"it begins with the bytes {first[:8].hex(' ')}"
    return f"it is text that begins {text.lstrip().partition(chr(10))[0][:40]!r}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn the errors of reading ``path`` into a :class:`SourceError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise SourceError(f"{path}: is a folder, where a file is expected") from None
    except PermissionError:
        raise SourceError(f"{path}: may not be read (permission denied)") from None
    except EOFError:
        raise SourceError(f"{path}: the gzip stream ends early, so the file is truncated; fetch it again") from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{path}: the gzip stream is damaged ({error}); fetch the file again") from None


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading bytes, decompressing gzip and bgzip; told by content, not by name.

    Raises
    ------
    SourceError
        If the file is absent or may not be read, or its gzip stream is truncated or damaged.
    """
    compressed = head(path).startswith(GZIP)
    with naming(path), path.open("rb") as raw:
        if not compressed:
            yield raw
        else:
            with gzip.GzipFile(fileobj=raw) as stream:
                yield cast(io.BufferedReader, stream)


def blocks(path: Path, size: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """Yield ``(number of the first line, whole lines)`` of a text file, about ``size`` bytes a time."""
    first, rest = 1, b""
    with opened(path) as file:
        while data := file.read(size):
            cut = data.rfind(b"\n") + 1
            if not cut:
                rest += data
                if len(rest) > 8 * size:
                    raise SourceError(f"{path}: line {first} has over {len(rest):,} bytes, so this is no text table")
                continue
            block, rest = rest + data[:cut], data[cut:]
            yield first, block
            first += block.count(b"\n")
        if rest:
            yield first, rest


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield ``(line number from 1, line without its end)`` of a text file."""
    for first, block in blocks(path):
        for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), first):
            yield number, line.removesuffix(b"\r")


def expect_text(path: Path, what: str) -> None:
    """Raise :class:`SourceError` if the file is empty, binary or a web page where a text format is expected."""
    with opened(path) as file:
        first = file.read(512)
    found = describe(first)
    if not found.startswith("it is text"):
        raise SourceError(f"{path}: is not {what}: {found}")


def shorten(line: bytes | str, limit: int = 80) -> str:
    """Quote a line for an error message."""
    text = line if isinstance(line, str) else line.decode("utf-8", "replace")
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


class PerThread(Generic[Handle]):
    """An open handle that is made on demand and never shared by two threads or processes.

    Pickles without the handle, and a forked child opens its own.
    """

    def __init__(self, path: str | PathLike[str], opener: Callable[[str], Handle]) -> None:
        self._path, self._opener = str(path), opener
        self._local = threading.local()

    def __call__(self) -> Handle:
        """Return this thread's handle, opening it the first time."""
        note(self._path)
        held = getattr(self._local, "held", None)
        if held is None or held[0] != getpid():
            held = self._local.held = (getpid(), self._opener(self._path))
        return cast(Handle, held[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_opener": self._opener}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local())
