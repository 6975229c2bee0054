"""bigWig, read with pyBigWig after its structure has been checked.

pyBigWig ends the interpreter on some truncated files and reads others without a word, so the header, the
indexes and the end mark are looked at first. Their layout is that of Kent et al., Bioinformatics 26:2204
(2010), supplement, and of ``bbiFile.h``.
"""

from __future__ import annotations

import struct
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genostore.errors import SourceError, nearest
from ingest.sources.reading import BIGBED, BIGWIG, PerThread, describe, head, naming

_HEADER = struct.Struct("<IHHQQQHHQQIQ")
_ZOOM = struct.Struct("<IIQQ")  # bases per summary, reserved, offset of the data, offset of the index
_TREE = struct.Struct("<IIQIIIIQII")
_TREE_MAGIC = 0x2468ACE0
_CONTIGS = struct.Struct("<IIIIQQ")  # magic, items per block, bytes of a key, bytes of a value, contigs, reserved
_CONTIGS_MAGIC = 0x78CA8C91
_LONGEST_NAME = 4_096
_MARKED = 4  # version from which the magic is repeated at the end; older files are judged by their indexes
_LEAF = np.dtype([("bases", "<u4", 4), ("offset", "<u8"), ("size", "<u8")])
_BRANCH = np.dtype([("bases", "<u4", 4), ("offset", "<u8")])


class _Header(NamedTuple):
    """Field by field; those that end in ``_at`` are offsets in the file."""

    magic: int
    version: int
    zooms: int
    contigs_at: int
    data_at: int
    index_at: int
    fields: int
    defined_fields: int
    sql_at: int
    summary_at: int
    buffer: int
    extension_at: int


class BigWig:
    """The values of a bigWig, one a base.

    Parameters
    ----------
    path
        The file. It is opened on first use, checked then, and never shared between threads or processes.

    Raises
    ------
    SourceError
        On first use: not a bigWig, truncated, or without contigs.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._handle = PerThread(path, _open)

    @cached_property
    def contigs(self) -> dict[str, int]:
        """Lengths by name, in the order of the file."""
        check_structure(self.path)
        try:
            found: dict[str, int] = self._handle().chroms()
        except RuntimeError as error:
            raise SourceError(f"{self.path}: its contigs cannot be read ({error}); fetch the file again") from None
        if not found:
            raise SourceError(f"{self.path}: is a bigWig without contigs, so it holds no value")
        return dict(found)

    @property
    def extents(self) -> dict[str, int]:
        """The lengths, which a bigWig states."""
        return self.contigs

    def values(self, contig: str, start: int, end: int) -> NDArray[np.float32]:
        """Values of ``[start, end)`` of a contig, as the file has them: inf and -0 are kept.

        Returns
        -------
        numpy.ndarray
            ``(end - start,)`` float32; NaN where the file has no value, and past the contig's end.

        Raises
        ------
        SourceError
            If there is no such contig, or a block of the file cannot be decoded.
        """
        length = self.contigs.get(contig)
        if length is None:
            raise SourceError(f"{self.path}: has no contig {contig!r}; {nearest(contig, self.contigs)}")
        if not 0 <= start <= end:
            raise SourceError(f"{self.path}: {contig}:{start}-{end} is no range of positions")
        stop = min(end, length)
        if stop <= start:
            return np.full(end - start, np.nan, dtype=np.float32)
        try:
            found: NDArray[np.float32] = self._handle().values(contig, start, stop, numpy=True)
        except RuntimeError:
            raise SourceError(
                f"{self.path}: a block of {contig}:{start:,}-{stop:,} cannot be decoded, so the file is "
                "damaged; fetch it again"
            ) from None
        return found if stop == end else np.pad(found, (0, end - stop), constant_values=np.nan)

    def validate(self) -> None:
        """Check that the file is a whole bigWig: header, contigs, index and end; see the class for errors."""
        self.__dict__.pop("contigs", None)
        _ = self.contigs


def _open(path: str) -> Any:
    import pyBigWig

    try:
        return pyBigWig.open(path)
    except RuntimeError as error:
        raise SourceError(f"{path}: cannot be opened as a bigWig ({error}); the file is damaged") from None


def check_structure(path: Path) -> None:
    """Check a bigWig's magic, the offsets of its header, and that nothing is missing at its end.

    Raises
    ------
    SourceError
        If the file is not a bigWig, or is truncated.
    """
    first = head(path, _HEADER.size)
    if not first.startswith(BIGWIG):
        why = describe(first)
        if first.startswith(BIGBED):
            why += ", which holds intervals and no signal"
        elif first.startswith(BIGWIG[::-1]):
            why += "; rewrite it with bigWigToBedGraph and bedGraphToBigWig"
        elif why.startswith("it is text"):
            why += "; if it is a bedGraph, name it .bedgraph"
        raise SourceError(f"{path}: is not a bigWig: {why}")
    size = path.stat().st_size
    if size < _HEADER.size:
        raise _truncated(path, size, _HEADER.size)
    header = _Header(*_HEADER.unpack(first))
    last = max(header.contigs_at, header.data_at, header.index_at, header.summary_at, header.extension_at)
    if last >= size:
        raise _truncated(path, size, last + 1)
    with naming(path), path.open("rb") as file:
        _check_contigs(file, path, size, header.contigs_at)
        _check_tree(file, path, size, header.index_at)
        file.seek(_HEADER.size)
        levels = [_ZOOM.unpack(_exactly(file, path, _ZOOM.size)) for _ in range(header.zooms)]
        for level in levels:
            if max(level[2], level[3]) >= size:
                raise _truncated(path, size, max(level[2], level[3]) + 1)
        file.seek(-4, 2)
        if file.read(4) == BIGWIG:
            return
        for level in levels:
            _check_tree(file, path, size, level[3])
    if header.version >= _MARKED:
        raise SourceError(
            f"{path}: is truncated: its {size:,} bytes do not end with the mark that ends a bigWig; fetch it again"
        )


def _check_contigs(file: BinaryIO, path: Path, size: int, offset: int) -> None:
    """Walk the tree of contigs, of which a damaged one ends pyBigWig: every key a name, every number its own."""
    damaged = SourceError(f"{path}: its list of contigs at byte {offset:,} is damaged; fetch the file again")
    file.seek(offset)
    magic, _, key, value, count, _ = _CONTIGS.unpack(_exactly(file, path, _CONTIGS.size))
    if magic != _CONTIGS_MAGIC or not 0 < key <= _LONGEST_NAME or value != 8 or count * (key + value) > size:
        raise damaged
    names, numbers, seen = set(), set(), set()
    nodes = [file.tell()]
    while nodes:
        at = nodes.pop()
        if at in seen or at >= size:
            raise damaged
        seen.add(at)
        file.seek(at)
        is_leaf, _, items = struct.unpack("<BBH", _exactly(file, path, 4))
        if is_leaf > 1:
            raise damaged
        for _ in range(items):
            name, first, second = struct.unpack(f"<{key}sII", _exactly(file, path, key + 8))
            if is_leaf:
                if second == 0:
                    raise damaged
                names.add(name.rstrip(b"\0"))
                numbers.add(first)
            else:
                nodes.append(first | second << 32)
    if len(names) != count or numbers != set(range(count)) or not all(map(_is_name, names)):
        raise damaged


def _is_name(name: bytes) -> bool:
    return bool(name) and name.isascii() and name.decode().isprintable()


def _check_tree(file: BinaryIO, path: Path, size: int, offset: int) -> None:
    """Walk an R-tree and check that every node and every block it points to lies within the file."""
    file.seek(offset)
    if _TREE.unpack(_exactly(file, path, _TREE.size))[0] != _TREE_MAGIC:
        raise SourceError(f"{path}: the index at byte {offset:,} is damaged; fetch the file again")
    nodes, seen = [offset + _TREE.size], set()
    while nodes:
        at = nodes.pop()
        if at in seen:
            raise SourceError(f"{path}: the index at byte {offset:,} leads back to itself; fetch the file again")
        seen.add(at)
        file.seek(at)
        is_leaf, _, count = struct.unpack("<BBH", _exactly(file, path, 4))
        kind = _LEAF if is_leaf else _BRANCH
        items = np.frombuffer(_exactly(file, path, count * kind.itemsize), dtype=kind)
        reach = items["offset"] + items["size"] if is_leaf else items["offset"] + np.uint64(4)
        if count and int(reach.max()) > size:
            raise _truncated(path, size, int(reach.max()))
        if not is_leaf:
            nodes.extend(int(child) for child in items["offset"])


def _exactly(file: BinaryIO, path: Path, size: int) -> bytes:
    needed = file.tell() + size
    data = file.read(size)
    if len(data) < size:
        raise _truncated(path, path.stat().st_size, needed)
    return data


def _truncated(path: Path, size: int, needed: int) -> SourceError:
    return SourceError(
        f"{path}: is truncated: it has {size:,} bytes, while its own offsets need {needed:,}; fetch it again"
    )
